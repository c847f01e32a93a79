"""Several real processes on loopback that share four fake devices, as the hosts of one run."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

TESTS = Path(__file__).resolve().parent
LIMIT_S = 500.0  # of a pair; a quiet machine needs about 20 s


@contextlib.contextmanager
def heeding_ctrl_c() -> Iterator[None]:
    """Processes that are started in this block are ended by SIGINT, as in a terminal.

    They inherit what this one does with it, and pytest in the background of a shell (`make test &`) ignores it. A
    function that handles it is not inherited: a new process then has the default."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


class Ended(NamedTuple):
    codes: list[int]
    errors: list[str]  # stderr of each


def run(words: list[object], log: Path, processes: int) -> Ended:
    """`python WORDS` in `processes` processes that share four devices, to their ends; stderr in LOG.PROCESS.err."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    devices = 4 // processes
    flags = re.sub(r"(device_count)=\d+", rf"\1={devices}", os.environ["XLA_FLAGS"])  # of conftest.py
    log.parent.mkdir(parents=True, exist_ok=True)
    started, errors = [], [log.with_name(f"{log.name}.{p}.err") for p in range(processes)]
    for process in range(processes):
        environment = os.environ | {
            "PYTHONPATH": f"{TESTS.parent}{os.pathsep}{TESTS}",
            "XLA_FLAGS": flags,
            "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}",
            "JAX_NUM_PROCESSES": str(processes),
            "JAX_PROCESS_ID": str(process),
        }
        with open(errors[process], "w") as err:
            command = [sys.executable, *map(str, words)]
            started.append(subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=err))
    until = time.monotonic() + LIMIT_S
    try:
        codes = [process.wait(max(until - time.monotonic(), 1)) for process in started]
    finally:
        for process in started:
            process.kill()
    return Ended(codes, [path.read_text() for path in errors])
