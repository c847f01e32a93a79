"""The program `tigerjax`, also as `python -m tigerjax`.

It imports the command line inside of `main`: the imports take a second, in which Ctrl-C may come already.
"""

import contextlib
import os
import sys

INTERRUPTED = 130


def main() -> int:
    """Runs the command line and returns its exit code."""
    try:
        from tigerjax.command import cli

        code = cli.main()
    except KeyboardInterrupt:
        print("tigerjax: interrupted; run the same command again to continue", file=sys.stderr)
        code = INTERRUPTED
    if code == INTERRUPTED:
        # At once: threads of libraries that are still at work would abort the process, with another exit code.
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):  # whoever read it may have ended before
                stream.flush()
        os._exit(code)
    return code


if __name__ == "__main__":
    sys.exit(main())
