"""Runs a program that a model wrote, in a process of its own with limits. Only behind --allow-code-execution.

The limits keep an honest mistake from hurting: they are no sandbox against malice. Run it in a container for that.
"""

import resource
import subprocess
import sys
import tempfile

CPU_SECONDS, WALL_SECONDS = 10, 60  # a busy machine gives a program little of the second
MEMORY_BYTES = 4_000_000_000
FILE_BYTES = 1_000_000


def _limit() -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_FSIZE, (FILE_BYTES, FILE_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def passes(program: str) -> bool:
    """Whether the program ends by itself, with exit code 0, in time; it sees an empty folder and no environment."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            done = subprocess.run(
                [sys.executable, "-I", "-c", program],
                cwd=folder,
                env={},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                timeout=WALL_SECONDS,
                preexec_fn=_limit,
            )
        except subprocess.TimeoutExpired:
            return False
        except OSError as error:
            if error.errno == 7:  # E2BIG: the program does not fit on a command line
                return False
            raise
    return done.returncode == 0
