"""Pretraining: GPT-2, what feeds it, what trains it, and its way to Hugging Face."""
