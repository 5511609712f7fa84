"""GPT-2's byte-pair encoding, cut to its first merges, with a block of fact ids behind it."""
