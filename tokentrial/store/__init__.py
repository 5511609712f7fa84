"""Where results are kept: folders that are whole or absent, what made them, one writer, and a lasting copy."""
