"""`python -m tigerjax` is the command `tigerjax`."""

import sys

from tigerjax.command.cli import main

if __name__ == "__main__":
    sys.exit(main())
