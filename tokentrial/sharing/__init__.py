"""What is handed on: bundles, and models on the Hub."""
