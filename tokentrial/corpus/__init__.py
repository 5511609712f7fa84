"""The corpus: documents in, shards for every arm out."""
