"""tokentrial: controlled trials of domain tokens, from text to verdict."""

__version__ = "0.1.0"
