"""Runs a program that a model wrote, shut in. Only behind --allow-code-execution.

Nothing that the program does can make it pass: the test runs in another process, and gets from the program's function
only what it returns, as plain data (`jail`, `calls`). An exit, a thread or a patched library ends or changes the
program alone.
"""

import contextlib
import functools
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tigerjax.errors import ConfigError
from tigerjax.evaluate import calls as talk
from tigerjax.evaluate import jail

CPU_SECONDS, WALL_SECONDS = 10, 60  # wall time is generous: on a busy machine a program gets little of it
MEMORY_BYTES = 2_000_000_000
FILE_BYTES = 1_000_000
PROCESSES, OPEN_FILES = 16, 64
END_SECONDS = 5
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}  # threads count as processes


class NotJudged(Exception):
    """A test that cannot be run on a program in another process. With `test` no program can pass it."""

    def __init__(self, why: str, *, test: bool):
        super().__init__(why)
        self.test = test


@dataclass(frozen=True, kw_only=True, slots=True)
class GeneratedCode:
    """A function that a model wrote, and the test of it: a text that defines check(function)."""

    prompt: str
    """What was given to the model; the test may use what it defines."""
    text: str
    """The whole program, which defines the function."""
    entry_point: str
    """The function's name."""
    test: str


def passes(program: GeneratedCode, *, allow_unconfined: bool = False) -> bool:
    """Whether the test passes within the limits; `allow_unconfined` as `confined` takes it. Raises NotJudged."""
    shut_in = confined(allow_unconfined)
    shared = {"entry_point": program.entry_point}
    calls, answers = os.pipe(), os.pipe()
    with contextlib.ExitStack() as stack:
        try:
            candidate = {"program": program.text} | shared
            stack.enter_context(_jail("candidate", candidate, (calls[0], answers[1]), shut_in))
            test = {"prompt": program.prompt, "test": program.test} | shared
            judging = stack.enter_context(_jail("tester", test, (answers[0], calls[1]), shut_in))
        finally:
            for pipe in (*calls, *answers):
                os.close(pipe)
        try:
            code = judging.wait(WALL_SECONDS)
        except subprocess.TimeoutExpired:
            return False
    if code == jail.CANNOT:
        raise OSError("a program could not be shut in, though that was possible before; evaluate again")
    if code == talk.NOT_PLAIN:
        raise NotJudged("its test hands over an object of a class, which cannot go to the program's process", test=True)
    if code == talk.OBJECT:
        raise NotJudged("its test looks into an object of a class that the program returned", test=False)
    return code == talk.PASSED


@functools.cache
def confined(allow_unconfined: bool) -> bool:
    """Whether programs are shut in here. Where that is not possible it is a ConfigError, unless the caller has accepted
    that a program may then use the network and read all that the user can read."""
    pipes = os.pipe()
    try:
        with _jail("probe", {}, pipes, True) as process:
            _, reason = process.communicate(timeout=WALL_SECONDS)
    finally:
        for pipe in pipes:
            os.close(pipe)
    if process.returncode == jail.SHUT:
        return True
    if not allow_unconfined:
        why = reason.decode(errors="replace").strip() or f"exit code {process.returncode}"
        raise ConfigError(
            f"--allow-code-execution: this machine cannot shut programs in ({why}); allow user namespaces, or accept"
            " with --allow-unconfined-code that what the model writes can use the network and read your files"
        )
    return False


@contextlib.contextmanager
def _jail(role: str, job: dict[str, str], pipes: tuple[int, int], shut_in: bool) -> Iterator["subprocess.Popen[bytes]"]:
    """A process of `jail` in an empty folder, without our environment. It is ended with all that it has started."""
    limits = {"CPU": CPU_SECONDS, "AS": MEMORY_BYTES, "FSIZE": FILE_BYTES, "CORE": 0, "NPROC": PROCESSES}
    how: dict[str, Any] = {"role": role, "confined": shut_in, "read": pipes[0], "write": pipes[1]}
    how["limits"] = limits | {"NOFILE": OPEN_FILES}
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile() as given:
        given.write(json.dumps(job).encode())
        given.seek(0)
        process = subprocess.Popen(
            [sys.executable, "-I", "-B", str(Path(jail.__file__).resolve()), json.dumps(how)],
            cwd=folder,
            env=ONE_THREAD,
            stdin=given,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE if role == "probe" else subprocess.DEVNULL,
            pass_fds=pipes,
            start_new_session=True,
        )
        try:
            yield process
        finally:
            _end(process)


def _end(process: "subprocess.Popen[bytes]") -> None:
    """Asks the process to end what it has started; then its group is killed."""
    if process.poll() is None:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(END_SECONDS)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
