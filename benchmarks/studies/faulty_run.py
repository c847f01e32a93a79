"""The run of four processes that `faults.py` disturbs. A start has one fault, and what comes of it is checked."""

import contextlib
import dataclasses
import os
import random
import re
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from drill import last_step, saved

PROCESSES, EVERY, LOCAL_EVERY = 4, 8, 3
STEPS_OF_A_START = 12
"""The run does at least so many steps after each fault, so that it saves between two of them."""
STALL_S, HEARTBEAT_S, START_S = 40, 30, 90
END_S = STALL_S + HEARTBEAT_S + START_S
FATAL = {1, 134, 137, -6, -9}
"""Of a run that lost a process: its own line, or JAX's coordination service, which aborts."""


class Wrong(Exception):
    """A fault ended in another way than its kind should."""


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of fault. `hit` makes it and returns what undoes it. With `codes` the run must end with these, and say
    `line`; without codes it must continue by itself."""

    name: str
    moment: str
    """When: before the start, while it is training, saving or restoring."""
    hit: Callable[["Drill"], Callable[[], object]]
    codes: frozenset[int] | None = None
    line: str = ""
    needs_root: bool = False


class Drill:
    """The run that is disturbed."""

    def __init__(self, repo: Path, steps: int, draw: random.Random):
        self.repo, self.steps, self.draw = repo, steps, draw
        self.folder, self.processes = repo / "drilled", list[subprocess.Popen[bytes]]()
        self.words: dict[int, list[str]] = {}
        self.environment: dict[int, dict[str, str]] = {}
        self.largest_file: dict[int, int] = {}
        self.touched = set[int]()
        self.stopped: subprocess.Popen[bytes] | None = None
        self.logs = [repo / f"log-{n}" for n in range(PROCESSES)]

    def start(self, folder: Path, patience: float = 1.0) -> list[subprocess.Popen[bytes]]:
        """Starts all processes of the run, each with what a fault has given it alone. Their time limits are multiplied
        by `patience`."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        limits = {"start": START_S, "stall": STALL_S, "heartbeat": HEARTBEAT_S, "barrier": 2 * STALL_S}
        waits = {f"--hosts.{name}-timeout-s": str(round(seconds * patience)) for name, seconds in limits.items()}
        options = [word for pair in waits.items() for word in pair]
        started = []
        for number, log in enumerate(self.logs):
            command = [sys.executable, "-m", "tigerjax", "train", "configs/drill.py", "--out", str(folder)]
            command += ["--optim.total-steps", str(self.steps), *options, *self.words.get(number, ())]
            env = os.environ | {
                "JAX_PLATFORMS": "cpu", "XLA_FLAGS": "", "PYTHONPATH": str(self.repo),
                "JAX_COMPILATION_CACHE_DIR": str(self.repo / "compiled"),
                "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
                "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}", "JAX_NUM_PROCESSES": str(PROCESSES),
                "JAX_PROCESS_ID": str(number),
            } | self.environment.get(number, {})  # fmt: skip
            limit = self.largest_file.get(number)
            with open(log, "wb") as out:
                process = subprocess.Popen(command, env=env, cwd=self.repo, stdout=out, stderr=out)
            if limit is not None:
                resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (limit, limit))
            started.append(process)
        return started

    def said(self) -> str:
        return "\n".join(log.read_text(errors="replace") for log in self.logs)

    def lines(self) -> str:
        """What the processes said of their ends."""
        return " | ".join(dict.fromkeys(re.findall(r"^tigerjax: .*", self.said(), re.MULTILINE)))

    def until(self, fine: Callable[[], bool], what: str) -> None:
        """Returns when `fine()` is; Wrong when the run ends before, or after twice END_S."""
        end = time.monotonic() + 2 * END_S
        while not fine():
            if time.monotonic() > end or any(process.poll() is not None for process in self.processes):
                codes = [process.poll() for process in self.processes]
                raise Wrong(f"{what} did not happen (exit codes {codes}): {self.lines()}")
            time.sleep(0.02)

    def ended(self) -> list[int]:
        """The exit codes; Wrong where a process does not end. One that stands still continues after the others."""
        end = time.monotonic() + END_S
        try:
            for process in self.processes:
                if process is not self.stopped:
                    process.wait(max(end - time.monotonic(), 0.1))
            if self.stopped is not None:
                self.stopped.send_signal(signal.SIGCONT)
            return [process.wait(max(end - time.monotonic(), 0.1)) for process in self.processes]
        except subprocess.TimeoutExpired as error:
            raise Wrong(f"no end within {END_S} s: a hang") from error
        finally:
            self.kill()

    def kill(self) -> None:
        for process in self.processes:
            with contextlib.suppress(OSError):
                process.send_signal(signal.SIGCONT)
                process.kill()
            process.wait()

    def finish(self, folder: Path) -> None:
        """Runs to the last step, without a fault."""
        self.processes = self.start(folder, patience=20.0)
        codes = [process.wait() for process in self.processes]
        if any(codes):
            raise RuntimeError(f"a run without a fault ended with {codes}: {self.lines()}")

    def until_saved(self) -> None:
        """The run's first start, until it has two checkpoints and local saves."""
        self.processes = self.start(self.folder)
        self.until(lambda: len(saved(self.folder)) > 1, "saving twice")
        self.kill()

    def fault(self, kind: Kind) -> str:
        """One start with one fault: what it ended in."""
        before, reached, undo = saved(self.folder), last_step(self.folder), nothing
        self.touched.clear()
        try:
            if kind.moment == "before":
                undo = kind.hit(self)
            self.processes = self.start(self.folder, patience=1.0 if kind.codes else 5.0)
            if kind.moment != "before":
                self._reach(kind.moment, reached)
                undo = kind.hit(self)
            if kind.codes is None:
                self.until(lambda: last_step(self.folder) >= reached + STEPS_OF_A_START, "continuing")
                self.kill()
                outcome = "survived"
            else:
                codes = self.ended()
                if not set(codes) & kind.codes or 0 in codes:
                    raise Wrong(f"exit codes {codes} in place of {sorted(kind.codes)}: {self.lines()}")
                outcome = f"ended with {'/'.join(str(code) for code in sorted(set(codes)))}"
            if kind.line and not re.search(kind.line, self.said()):
                raise Wrong(f"no line says {kind.line!r}: {self.lines()}")
        finally:
            self.kill()
            self.stopped = None
            undo()
            for own in (self.words, self.environment, self.largest_file):
                own.clear()
        whole = [step for step in before if step not in self.touched]
        if whole and max(saved(self.folder), default=0) < whole[0]:
            raise Wrong(f"the save of step {whole[0]} is lost")
        return outcome

    def _reach(self, moment: str, reached: int) -> None:
        if moment == "restoring":
            self.until(lambda: "found each other" in self.said() or last_step(self.folder) > reached, "restoring")
            time.sleep(self.draw.uniform(0.0, 1.0))
            return
        self.until(lambda: last_step(self.folder) >= reached + STEPS_OF_A_START, "training")
        if moment == "saving":
            partial = self.folder / "checkpoints"
            self.until(lambda: any(p.name.endswith(".partial") for p in partial.iterdir()), "saving")


def nothing() -> object:
    """Undoes a fault of which nothing is left."""
    return None
