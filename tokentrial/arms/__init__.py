"""Arms: one small file per treatment of the text."""
