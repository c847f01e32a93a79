"""Saves on the hosts' own disks, every few steps: what a run loses is then minutes and not the time since a checkpoint.

    LOCAL_DIR/RUN_ID/PLACE/STEP-START/     one save, of process PLACE of this machine: its share, and the
                                           share of another machine's process (`tigerjax.checkpoint.share`)
    RUN/checkpoints/local.json             the run's id, and which saves are valid

A restart takes the newest save of which every process finds its share, on its own disk or on another host's. START is a
number that rises by 1 at each start of the run, and where the run goes back to an earlier step. So shares of different
saves are never mixed. After a run has gone back, its saves of later steps must not be used any more: local.json has,
for each START, the last step whose saves are valid.
"""

import contextlib
import functools
import re
import secrets
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from tigerjax.checkpoint import share
from tigerjax.checkpoint.files import FOLDER, first_line
from tigerjax.config import CheckpointConfig
from tigerjax.errors import DataError
from tigerjax.files import manifest, paths
from tigerjax.files.own import fields, read_object
from tigerjax.processes import hosts
from tigerjax.processes.exchange import Exchange
from tigerjax.train.background import BackgroundSave
from tigerjax.train.state import TrainState

RECORD = "local.json"
KEY = re.compile(r"\d+-\d+")
STARTS = 8  # the newest ones; saves of older starts are not used
ADVICE = "remove it; the run then resumes from its newest checkpoint"


class LocalSaves:
    """The local saves of a run; none where `checkpoint.local_every_steps` is None. All processes call each method."""

    def __init__(self, saving: CheckpointConfig, run_dir: Path):
        self._every = saving.local_every_steps
        self._record = paths.absolute(run_dir) / FOLDER / RECORD
        self._exchange: Exchange | None = None
        self._buffer = np.empty(0, np.uint8)
        self._saving = BackgroundSave("local save", daemon=True)
        self._newest: int | None = None
        if self._every is None or saving.local_dir is None:
            if hosts.is_writer():  # saves of earlier starts are older than what this one does
                self._record.unlink(missing_ok=True)
            return
        known = hosts.share("record of local saves", self._known() if hosts.is_writer() else None)[0]
        self._run = known["run"]
        self._counts: dict[int, int | None] = {int(start): last for start, last in known["counts"].items()}
        self._start = max(self._counts, default=0) + 1
        machines = hosts.share("machines", socket.gethostname())
        here, count = hosts.place()
        self._from = _neighbour(machines, here)
        self.folder = Path(saving.local_dir).absolute() / self._run / str(machines[:here].count(machines[here]))
        if count > 1:
            self._exchange = Exchange(self.folder)

    def _known(self) -> dict[str, Any]:
        """{run: its id, counts: {START: the last step whose save is valid, or None for all}}."""
        if not self._record.is_file():
            return {"run": secrets.token_hex(8), "counts": {}}
        read = read_object(self._record, ADVICE)
        with fields(self._record, ADVICE):
            counts = {int(start): None if last is None else int(last) for start, last in read["counts"].items()}
            return {"run": str(read["run"]), "counts": counts}

    def begin(self, step: int) -> None:
        """The run continues after `step` now. Saves of later steps, which an earlier start made, are not valid any
        more."""
        if self._every is None:
            return
        self.wait()
        self._counts = {k: step if last is None else min(last, step) for k, last in self._counts.items()}
        self._start = max(self._counts, default=0) + 1
        self._counts = dict(sorted((self._counts | {self._start: None}).items())[-STARTS:])
        if hosts.is_writer():
            self._record.parent.mkdir(parents=True, exist_ok=True)
            manifest.write_json(self._record, {"run": self._run, "counts": self._counts})
        hosts.barrier("local saves begun")

    def due(self, step: int) -> bool:
        """Whether `step` is to be saved locally."""
        return self._every is not None and step % self._every == 0

    def save(self, step: int, state: TrainState, meta: dict[str, Any]) -> None:
        """Starts a save; returns when the arrays are copied off the devices. `meta` is that of `make_meta`.

        A save that fails, as on a full disk, is given up with a line that says so, and the run continues. HostsError
        where another host is lost."""
        self.wait()
        tree = _tree(state)
        layout = share.layout(tree)
        if len(self._buffer) != layout.bytes:
            self._buffer = np.empty(layout.bytes, np.uint8)
        share.copy(tree, layout, self._buffer)
        self._saving.start(lambda: self._finish(step, layout, meta | {"step": step}))

    def _finish(self, step: int, layout: share.Layout, meta: dict[str, Any]) -> None:
        key = f"{step}-{self._start}"
        folder = self.folder / key
        names = hosts.share("names of local shares", layout.name)

        def copy() -> None:
            if self._exchange is not None and names[self._from] not in _there(folder):
                self._fetch(self._from, key, names[self._from])

        whole = self._all("written", step, lambda: share.write(folder, layout, self._buffer, meta))
        if whole and self._all("copied", step, copy):
            self._newest = step
            old = [name for name in paths.names(self.folder) if name != key]
        else:
            old = [key]
        for name in old:
            paths.clear(self.folder / name)

    def _all(self, what: str, step: int, work: Callable[[], None]) -> bool:
        """Whether `work` succeeds on all hosts; where it does not, a line says on which one and why."""
        trouble = None
        try:
            work()
        except (DataError, OSError) as error:
            trouble = first_line(error)
        for host, found in enumerate(hosts.share(f"local share {what}", trouble)):
            if found is not None:
                last = "none is there" if self._newest is None else f"the newest is of step {self._newest}"
                hosts.say(
                    f"local save of step {step} is not {what} on host {host} ({found}); {last}, and the run continues"
                )
                return False
        return True

    def _fetch(self, host: int, key: str, name: str) -> None:
        assert self._exchange is not None
        for file in share.files(name):
            self._exchange.fetch(host, f"{key}/{file}", self.folder / key / file)

    def restore(
        self, abstract: TrainState, *, after: int, fits: Callable[[dict[str, Any], Path], None]
    ) -> tuple[TrainState, dict[str, Any]] | None:
        """The newest state past the step `after` of which every process finds its share, and its meta; None when there
        is none. `fits(meta, path)` raises where a save does not belong to this run.

        Every byte is checked; where a share is damaged, another host's copy of it is taken."""
        if self._every is None:
            return None
        layout = share.layout(_tree(abstract))
        names = hosts.share("names of local shares", layout.name)
        here = {key: _there(self.folder / key) for key in paths.names(self.folder) if self._counts_still(key)}
        there = hosts.share("local saves", here)
        keys = {_step(key): key for saves in there for key in saves if _step(key) > after}
        for step, key in sorted(keys.items(), reverse=True):
            having = [[host for host, saves in enumerate(there) if name in saves.get(key, ())] for name in names]
            if [] in having:
                lost = f"no host has the share of host {having.index([])} as this mesh cuts it"
                hosts.say(f"local save of step {step} is not taken: {lost}; looking for an older one")
                continue
            meta = self._taken(step, functools.partial(self._share, key, layout.name, having[hosts.place()[0]]))
            if meta is None:
                continue
            fits(meta, self.folder / key)
            tree = self._taken(step, functools.partial(share.read, self.folder / key, layout, _tree(abstract)))
            if tree is not None:
                counter = jax.device_put(np.int32(step), abstract.step.sharding)
                return TrainState(counter, tree["weights"], tree["opt_state"]), meta
        return None

    def _counts_still(self, key: str) -> bool:
        if not KEY.fullmatch(key) or (start := int(key.split("-")[1])) not in self._counts:
            return False
        last = self._counts[start]
        return last is None or _step(key) <= last

    def _taken(self, step: int, work: Callable[[], Any]) -> Any:
        """What `work` returns, where it succeeds on all hosts; else None, and a line says where it does not and why."""
        found = trouble = None
        try:
            found = work()
        except (DataError, OSError) as error:
            trouble = first_line(error)
        troubles = [f"host {host}: {t}" for host, t in enumerate(hosts.share("local share read", trouble)) if t]
        if troubles:
            hosts.say(f"local save of step {step} is not taken ({troubles[0]}); looking for an older one")
            return None
        return found

    def _share(self, key: str, name: str, having: list[int]) -> dict[str, Any]:
        """The meta of a share that lies whole in this process's folder, fetched from another host where needed."""
        here, _ = hosts.place()
        trouble: Exception | None = None
        for host in sorted(having, key=lambda host: host != here):
            try:
                if host != here:
                    self._fetch(host, key, name)
                return share.checked(self.folder / key, name)
            except (DataError, OSError) as error:
                trouble = trouble or error
        raise DataError(first_line(trouble or FileNotFoundError(name)))

    def wait(self) -> None:
        """Waits until the last save is on disk. Raises its error, once."""
        self._saving.wait()

    def settle(self) -> None:
        """Gives the last save some time to be on disk, when the run ends."""
        self._saving.settle()

    def close(self, *, ended: bool) -> None:
        """Gives nothing to other hosts any more. Where the run has `ended`, and nothing is left to resume, its saves
        are removed."""
        if self._exchange is not None:
            self._exchange.close()
        if ended and self._every is not None:
            shutil.rmtree(self.folder, ignore_errors=True)
            with contextlib.suppress(OSError):  # those of other processes are still there
                self.folder.parent.rmdir()


def _neighbour(machines: list[str], host: int) -> int:
    """The host whose share `host` keeps a copy of: on another machine where there is one, and another for each."""
    count = len(machines)
    apart = [n for n in range(1, count) if all(machines[i] != machines[(i + n) % count] for i in range(count))]
    return (host + (apart[0] if apart else 1)) % count


def _tree(state: TrainState) -> dict[str, Any]:
    return {"weights": state.weights, "opt_state": state.opt_state}


def _there(folder: Path) -> list[str]:
    """The names of the shares in the folder of one save."""
    names = set(paths.names(folder))
    return sorted(name[:-5] for name in names if name.endswith(".json") and f"{name[:-5]}.bin" in names)


def _step(key: str) -> int:
    return int(key.split("-")[0])
