"""Results for others: bundles, and models on the Hugging Face Hub."""
