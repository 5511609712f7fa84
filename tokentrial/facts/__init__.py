"""What the tokens are about."""
