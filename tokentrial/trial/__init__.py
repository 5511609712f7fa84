"""What is tried: settings, typed and strict, the YAML they are read from, and what is declared of them."""
