"""Runs a program that a model wrote, in a process of its own with limits. Only behind --allow-code-execution.

The limits protect against mistakes, not against malice: this is no sandbox. Against malice run it in a container.
"""

import resource
import subprocess
import sys
import tempfile

CPU_SECONDS, WALL_SECONDS = 10, 60  # wall time is generous: on a busy machine a program gets little of it
MEMORY_BYTES = 4_000_000_000
FILE_BYTES = 1_000_000


def _limit() -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_FSIZE, (FILE_BYTES, FILE_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def passes(program: str) -> bool:
    """Whether the program ends with exit code 0 within the limits. It runs in an empty folder without environment."""
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
