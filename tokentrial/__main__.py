"""`python -m tokentrial`."""

from tokentrial.cli.main import main

if __name__ == "__main__":
    main()
