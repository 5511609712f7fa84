"""`python -m tokentrial`."""

from tokentrial.cli import main

if __name__ == "__main__":
    main()
