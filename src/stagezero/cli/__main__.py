"""Runs the command line as ``python -m stagezero.cli``."""

from stagezero.cli import main

if __name__ == "__main__":
    main()
