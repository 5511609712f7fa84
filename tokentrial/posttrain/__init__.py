"""After pretraining: SFT and GRPO, the same for every arm."""
