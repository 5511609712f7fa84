"""Arms: one small file a treatment of the text."""
