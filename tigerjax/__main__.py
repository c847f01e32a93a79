"""The program `tigerjax`, also as `python -m tigerjax`.

It imports the command line inside of `main`: the imports take a second, in which Ctrl-C may come already.
"""

import sys


def main() -> int:
    """Runs the command line and returns its exit code."""
    try:
        from tigerjax.command import cli

        return cli.main()
    except KeyboardInterrupt:
        print("tigerjax: interrupted; run the same command again to continue", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
