"""The kinds of faults of `faults.py`: how each is made and undone, and how the run must end."""

import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

from drill import saved
from faulty_run import FATAL, PROCESSES, Drill, Kind, Wrong, nothing

AFTER_S = 8
CLOCK = f"""
import time
_real, _until = time.time, time.time() + {AFTER_S}
time.time = lambda: _real() + (86_400.0 if _real() > _until else 0.0)
"""
HANG = f"""
import os, sys, time
_real, _until = os.pread, time.time() + {AFTER_S}
def pread(file, count, at):
    while time.time() > _until and os.readlink("/proc/self/fd/%d" % file).endswith(".rows"):
        time.sleep(1)
    return _real(file, count, at)
os.pread = pread
"""
"""Programs that one process runs when its Python starts."""


def one(drill: Drill, number: signal.Signals) -> Callable[[], object]:
    drill.draw.choice(drill.processes).send_signal(number)
    return nothing


def stopped(drill: Drill) -> Callable[[], object]:
    """One process stands still until the others have ended, and then continues."""
    drill.stopped = drill.draw.choice(drill.processes)
    drill.stopped.send_signal(signal.SIGSTOP)
    return nothing


def every(drill: Drill, number: signal.Signals) -> Callable[[], object]:
    for process in drill.processes:
        process.send_signal(number)
    return nothing


def flipped(drill: Drill, path: Path) -> Callable[[], object]:
    """One bit of a file is another one."""
    data = bytearray(path.read_bytes())
    data[drill.draw.randrange(len(data))] ^= 1 << drill.draw.randrange(8)
    path.write_bytes(data)
    return nothing


def damaged_rows(drill: Drill) -> Callable[[], object]:
    """A bit in every 32nd byte of a file of rows is another one, so that no row of it is whole; then they are as they
    were. A single bit is found as well: at the next start, or when its row is read, which may be long after."""
    path = rows(drill)
    kept = path.read_bytes()
    data = bytearray(kept)
    for at in range(drill.draw.randrange(32), len(data), 32):
        data[at] ^= 1 << drill.draw.randrange(8)
    path.write_bytes(data)
    return lambda: path.write_bytes(kept)


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


def moved(drill: Drill, path: Path) -> Callable[[], object]:
    """A file is not there; then it is back."""
    aside = drill.repo / f"{path.name}.aside"
    path.rename(aside)
    return lambda: aside.replace(path)


def hanging(drill: Drill) -> Callable[[], object]:
    """Reads of rows do not come back any more in one process, as from a server that does not answer."""
    own_start(drill, HANG)
    return nothing


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
        if set(codes) != {2} or "is in use by process" not in drill.said():
            raise Wrong(f"a second run in the folder ended with {codes}: {drill.lines()}")
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


def own_start(drill: Drill, program: str) -> None:
    """One process runs this when its Python starts."""
    place = drill.repo / "own_start"
    place.mkdir(exist_ok=True)
    (place / "sitecustomize.py").write_text(program)
    path = f"{place}{os.pathsep}{drill.repo}"
    drill.environment[drill.draw.randrange(PROCESSES)] = {"PYTHONPATH": path}


def clock(drill: Drill) -> Callable[[], object]:
    """The clock of one process jumps by a day while it trains."""
    own_start(drill, CLOCK)
    return nothing


FULL = "no space left|the disk is full"
KINDS = (
    Kind("a process is killed", "training", lambda d: one(d, signal.SIGKILL), frozenset(FATAL)),
    Kind("all are killed", "training", lambda d: every(d, signal.SIGKILL), frozenset(FATAL)),
    Kind("SIGTERM to one", "training", lambda d: one(d, signal.SIGTERM), frozenset({143}), "checkpoint saved"),
    Kind("a process is stopped", "training", stopped, frozenset(FATAL)),
    Kind("killed in a save", "saving", lambda d: one(d, signal.SIGKILL), frozenset(FATAL)),
    Kind("all killed in a save", "saving", lambda d: every(d, signal.SIGKILL), frozenset(FATAL)),
    Kind("killed in a restore", "restoring", lambda d: one(d, signal.SIGKILL), frozenset(FATAL)),
    Kind("a bit of the weights", "before", lambda d: flipped(d, newest(d, "d/*"))),
    Kind("a bit of meta.json", "before", lambda d: flipped(d, newest(d, "meta.json"))),
    Kind("a file of a checkpoint is gone", "before", lambda d: removed(newest(d, "d/*"))),
    Kind("a bit of a local share", "before", lambda d: flipped(d, local_share(d))),
    Kind("a local share is gone", "before", lambda d: removed(local_share(d))),
    Kind("bits of the rows", "before", damaged_rows, line="the stage is done again"),
    Kind("bits of the rows while it reads", "training", damaged_rows, frozenset({3}), "rows are damaged"),
    Kind("a file of rows is gone", "before", lambda d: moved(d, rows(d)), line="the stage is done again"),
    Kind("a read that hangs", "before", hanging, frozenset(FATAL), "no step finished"),
    Kind("the disk of all is full", "before", lambda d: disk(d, *range(PROCESSES)), frozenset({3}), FULL),
    Kind("the disk of one is full", "before", lambda d: disk(d, PROCESSES - 1), frozenset({3}), FULL),
    Kind("a folder that cannot be written", "training", lambda d: fixed(d, d.folder / "checkpoints"),
         frozenset({3}), "change the path or its permissions", needs_root=True),
    Kind("two runs in one folder", "training", second),
    Kind("other rows on one host", "before", lambda d: other(d, "--data.cache-dir", "rows"), frozenset({2, 3})),
    Kind("another tokenizer on one host", "before", lambda d: other(d, "--data.tokenizer", "tok"), frozenset({2, 3})),
    Kind("the clock of one jumps", "before", clock),
)  # fmt: skip
