"""A process that imports the package once and then forks one child for each fault, so that a fault costs no import.

A fault happens at a *point*: the n-th time that Python opens a file below a folder for writing, renames, removes or
makes something there. At its point a child is killed, stopped, interrupted, or refused by the system with an error.
"""

import json
import os
import resource
import select
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path
from typing import Any, NamedTuple

TESTS = Path(__file__).resolve().parents[1]
WRITING = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.truncate", "shutil.rmtree")
SIGNALS = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP, "interrupt": signal.SIGINT}
LIMIT_S = 240.0  # of one child on a busy machine; it takes a tenth of a second


class Ended(NamedTuple):
    code: int  # the exit code; -9 for a child that was killed
    points: int  # how many points it has passed
    err: str


class Children:
    """The forking process, seen from a test."""

    def __init__(self, folder: Path, *modules: str):
        """Children write below `folder`; `modules` are imported before any is forked."""
        path = os.pathsep.join(
            [str(TESTS.parent), *(str(TESTS / name) for name in (".", "fuzz", "train", "checkpoint"))]
        )
        environment = os.environ | {"PYTHONPATH": path, "JAX_PLATFORMS": "cpu"}
        self._process = subprocess.Popen(
            [sys.executable, __file__, *modules],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=folder,
        )

    def start(self, words: list[object], below: Path, **fault: Any) -> dict[str, Any]:
        """Starts `tigerjax WORDS` in a child, and tells its number and where it writes.

        The fault is at=N with do="kill", do="stop", do="interrupt" (Ctrl-C) or
        do=ERRNO, and file_bytes=N, a limit on the size of files.
        """
        asked = {"words": [*map(str, words)], "below": str(below), **fault}
        assert self._process.stdin is not None and self._process.stdout is not None
        print(json.dumps(asked), file=self._process.stdin, flush=True)
        return json.loads(self._process.stdout.readline())

    def end(self, started: dict[str, Any]) -> Ended:
        """Waits for a child."""
        place, until = Path(started["place"]), time.monotonic() + LIMIT_S
        while not (place / "code").exists() and time.monotonic() < until:
            time.sleep(0.01)
        code = int((place / "code").read_text())
        return Ended(code, len((place / "points").read_text().splitlines()), (place / "err").read_text())

    def stopped(self, started: dict[str, Any]) -> bool:
        """Waits until a child with do="stop" stands at its point; False if it ended without passing it."""
        until = time.monotonic() + LIMIT_S
        while not (Path(started["place"]) / "code").exists() and time.monotonic() < until:
            try:
                state = Path(f"/proc/{started['pid']}/stat").read_text().rpartition(")")[2].split()[0]
            except OSError:  # it has ended meanwhile
                continue
            if state == "T":
                return True
            time.sleep(0.01)
        return False

    def run(self, words: list[object], below: Path, **fault: Any) -> Ended:
        return self.end(self.start(words, below, **fault))

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def _fault(asked: dict[str, Any], points: int) -> None:
    """Counts the points on the open file `points`, and does what was asked at the one that was asked for."""
    below, seen = asked["below"], 0

    def hook(event: str, args: Any) -> None:
        nonlocal seen
        if event == "open" and not (args[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            return
        if event not in ("open", *WRITING) or isinstance(args[0], int):
            return
        path = os.fspath(args[0])
        if not str(path).startswith(below):
            return
        seen += 1
        os.write(points, f"{event} {path}\n".encode())
        if seen != asked.get("at"):
            return
        if asked["do"] in SIGNALS:
            os.kill(os.getpid(), SIGNALS[asked["do"]])
        elif event != "shutil.rmtree":  # which itself reports no error where it is told so
            raise OSError(asked["do"], os.strerror(asked["do"]), path)

    sys.addaudithook(hook)


def _child(asked: dict[str, Any], place: Path) -> None:
    from tigerjax.command.cli import main

    signal.signal(signal.SIGINT, signal.default_int_handler)  # pytest in the background of a shell ignores it
    if "file_bytes" in asked:
        resource.setrlimit(resource.RLIMIT_FSIZE, (asked["file_bytes"], asked["file_bytes"]))
    else:
        _fault(asked, os.open(place / "points", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644))
    try:
        if asked["words"][0] == "call":
            module, name = asked["words"][1].split(":")
            getattr(__import__(module), name)(*asked["words"][2:])
            os._exit(0)
        os._exit(main(asked["words"]))
    except BaseException:
        traceback.print_exc()
        os._exit(70)


def _watch(child: int, said: int, place: Path) -> None:
    """Waits for a child, reads what it says meanwhile, and writes both down."""
    text, ended = b"", 0
    while not ended:
        if select.select([said], [], [], 0.02)[0]:
            text += os.read(said, 1 << 16)
        ended, status = os.waitpid(child, os.WNOHANG)
    while select.select([said], [], [], 0)[0] and (more := os.read(said, 1 << 16)):
        text += more
    (place / "err").write_bytes(text)
    (place / "code.part").write_text(str(os.waitstatus_to_exitcode(status)))
    (place / "code.part").rename(place / "code")


def _serve() -> None:
    """Forks a child for each line of standard input, and a process that waits for it, so that this one goes on."""
    for number, line in enumerate(sys.stdin):
        asked, place = json.loads(line), Path.cwd() / str(number)
        place.mkdir()
        (place / "points").touch()
        ready, begun = os.pipe()
        if not os.fork():
            said, says = os.pipe()  # not a file, to which a limit on the size of files would apply
            if not (child := os.fork()):
                for stream in (1, 2):
                    os.dup2(says, stream)
                for end in (said, says, ready, begun):
                    os.close(end)
                _child(asked, place)
            os.close(says)
            os.write(begun, str(child).encode())
            _watch(child, said, place)
            os._exit(0)
        child_id = int(os.read(ready, 20))
        for end in (ready, begun):
            os.close(end)
        print(json.dumps({"place": str(place), "pid": child_id}), flush=True)


if __name__ == "__main__":
    for module in sys.argv[1:]:
        __import__(module)
    _serve()
