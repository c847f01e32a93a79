"""The kinds of faults of `faults.py`: how each is made and undone, and how the run must end."""

import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

from drill import saved
from faulty_run import FATAL, PROCESSES, Drill, Kind, Wrong, nothing

CLOCK = """
import os, time
_real, _until = time.time, time.time() + float(os.environ["FAULT_CLOCK_AFTER_S"])
time.time = lambda: _real() + (86_400.0 if _real() > _until else 0.0)
"""


def one(drill: Drill, number: signal.Signals) -> Callable[[], object]:
    drill.draw.choice(drill.processes).send_signal(number)
    return nothing


def every(drill: Drill, number: signal.Signals) -> Callable[[], object]:
    for process in drill.processes:
        process.send_signal(number)
    return nothing


def flipped(drill: Drill, path: Path, *, kept: bool = False) -> Callable[[], object]:
    """One bit of a file is another one; it is put right afterwards where `kept`."""
    data = path.read_bytes()
    at = drill.draw.randrange(len(data))
    path.write_bytes(data[:at] + bytes([data[at] ^ 1 << drill.draw.randrange(8)]) + data[at + 1 :])
    return (lambda: path.write_bytes(data)) if kept else nothing


def newest(drill: Drill, pattern: str) -> Path:
    """A file of the newest checkpoint, which the fault then touches. Local saves are removed: they would be newer."""
    step = saved(drill.folder)[0]
    drill.touched.add(step)
    shutil.rmtree(drill.repo / "disks", ignore_errors=True)
    place = drill.folder / "checkpoints" / str(step)
    return max((p for p in place.rglob(pattern) if p.is_file()), key=lambda p: p.stat().st_size)


def removed(path: Path) -> Callable[[], object]:
    path.unlink()
    return nothing


def local_share(drill: Drill) -> Path:
    return drill.draw.choice(sorted((drill.repo / "disks").rglob("*.bin")))


def rows(drill: Drill) -> Path:
    return drill.draw.choice(sorted((drill.repo / "rows").rglob("*.rows")))


def moved(path: Path, fifo: bool = False) -> Callable[[], object]:
    """A file is not there, or never gives what is read of it; then it is back."""
    aside = path.with_name(f"{path.name}.aside")
    path.rename(aside)
    if fifo:
        os.mkfifo(path)
    return lambda: aside.replace(path)


def disk(drill: Drill, *numbers: int) -> Callable[[], object]:
    """Files of these processes cannot grow beyond 64 kB, as on a disk that is full."""
    drill.largest_file.update(dict.fromkeys(numbers, 1 << 16))
    return nothing


def fixed(drill: Drill, on: Path) -> Callable[[], object]:
    """Nothing can be written to a folder."""
    subprocess.run(["chattr", "+i", on], check=True)
    return lambda: subprocess.run(["chattr", "-i", on], check=True)


def second(drill: Drill) -> Callable[[], object]:
    """Another run is started in the folder, and is refused."""
    first, logs = drill.processes, drill.logs
    drill.logs = [drill.repo / f"second-{n}" for n in range(PROCESSES)]
    try:
        drill.processes = drill.start(drill.folder)
        codes = drill.ended()
        if set(codes) != {2} or "another process" not in drill.said():
            raise Wrong(f"a second run in the folder ended with {codes}: …{drill.said()[-1500:]}")
    finally:
        drill.kill()
        drill.processes, drill.logs = first, logs
    return nothing


def other(drill: Drill, option: str, name: str) -> Callable[[], object]:
    """One process reads a copy in which a file is another one."""
    copy = drill.repo / f"other-{name}"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(drill.repo / name, copy)
    text = next(p for p in sorted(copy.rglob("*.json")) if p.stat().st_size)
    text.write_text(text.read_text().replace("0", "1", 1))
    drill.words[drill.draw.randrange(1, PROCESSES)] = [option, f"other-{name}"]
    return nothing


def clock(drill: Drill) -> Callable[[], object]:
    """The clock of one process jumps by a day while it trains."""
    place = drill.repo / "clock"
    place.mkdir(exist_ok=True)
    (place / "sitecustomize.py").write_text(CLOCK)
    path = f"{place}{os.pathsep}{drill.repo}"
    drill.environment[drill.draw.randrange(PROCESSES)] = {"PYTHONPATH": path, "FAULT_CLOCK_AFTER_S": "8"}
    return nothing


KINDS = (
    Kind("a process is killed", "training", lambda d: one(d, signal.SIGKILL), frozenset(FATAL)),
    Kind("all are killed", "training", lambda d: every(d, signal.SIGKILL), frozenset(FATAL)),
    Kind("SIGTERM to one", "training", lambda d: one(d, signal.SIGTERM), frozenset({143}), "checkpoint saved"),
    Kind("a process is stopped", "training", lambda d: one(d, signal.SIGSTOP), frozenset(FATAL)),
    Kind("killed in a save", "saving", lambda d: one(d, signal.SIGKILL), frozenset(FATAL)),
    Kind("all killed in a save", "saving", lambda d: every(d, signal.SIGKILL), frozenset(FATAL)),
    Kind("killed in a restore", "restoring", lambda d: one(d, signal.SIGKILL), frozenset(FATAL)),
    Kind("a bit of the weights", "before", lambda d: flipped(d, newest(d, "d/*"))),
    Kind("a bit of meta.json", "before", lambda d: flipped(d, newest(d, "meta.json"))),
    Kind("a file of a checkpoint is gone", "before", lambda d: removed(newest(d, "d/*"))),
    Kind("a bit of a local share", "before", lambda d: flipped(d, local_share(d))),
    Kind("a local share is gone", "before", lambda d: removed(local_share(d))),
    Kind("a bit of the rows", "before", lambda d: flipped(d, rows(d), kept=True), frozenset({3}), "rows"),
    Kind("a file of rows is gone", "before", lambda d: moved(rows(d)), frozenset({2, 3}), "rows"),
    Kind("a read that hangs", "before", lambda d: moved(rows(d), fifo=True), frozenset({1, 3, *FATAL})),
    Kind("the disk of all is full", "before", lambda d: disk(d, *range(PROCESSES)), frozenset({3}), "full|too large"),
    Kind("the disk of one is full", "before", lambda d: disk(d, PROCESSES - 1), frozenset({3}), "full|too large"),
    Kind("a folder that cannot be written", "training", lambda d: fixed(d, d.folder / "checkpoints"),
         frozenset({1, 2, 3}), "checkpoints", needs_root=True),
    Kind("two runs in one folder", "training", second),
    Kind("other rows on one host", "before", lambda d: other(d, "--data.cache-dir", "rows"), frozenset({2, 3})),
    Kind("another tokenizer on one host", "before", lambda d: other(d, "--data.tokenizer", "tok"), frozenset({2, 3})),
    Kind("the clock of one jumps", "before", clock),
)  # fmt: skip
