"""Tasks: one file each, the same object for training, reward and evaluation."""
