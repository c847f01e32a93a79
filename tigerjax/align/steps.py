"""A step of a round: a folder written whole with a manifest, and what is left of it when it is interrupted.

In a run of several processes the folders are those of process 0, and all must see them. All processes walk through the
same steps and meet at the start and the end of each. What samples, scores or trains is done by all, on one mesh; the
rest by process 0 while the others wait.

In a bucket, which renames no folder, what a step keeps of its work folder is written in its place.
"""

import dataclasses
import hashlib
import os
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tigerjax.align.config import AlignConfig
from tigerjax.files import manifest, paths
from tigerjax.processes import hosts

STEPS = ("prompts", "sample", "score", "queue", "labels", "rank", "mix", "train", "gate")
COMPUTING = ("sample", "score", "train", "gate")  # with a model, so by all processes


def folders(rounds: Path) -> list[Path]:
    """Those of the rounds that have begun, in their order."""
    return [rounds / name for name in paths.names(rounds) if re.fullmatch("[0-9][0-9]", name)]


def status(folder: Path) -> list[dict[str, Any]]:
    """One {step, state: done | working | missing, counts} for each step of a round folder."""
    out, there = [], paths.names(folder)
    for step in STEPS:
        done = manifest.read(folder / step)
        working = step in there or any(name.startswith(f"{step}.work-") for name in there)
        state = "done" if done is not None else "working" if working else "missing"
        out.append({"step": step, "state": state, "counts": (done or {}).get("counts", {})})
    return out


@contextmanager
def shared_stage(out: str | Path, *, name: str, computes: bool, **what: Any) -> Iterator[manifest.Stage]:
    """`manifest.stage` (`what`: config, inputs, seed) of process 0; all leave it when its folder is whole.

    Where the stage `computes`, every process runs the body, and what the others write goes to a folder that is thrown
    away. Otherwise it is done already for all but process 0.
    """
    hosts.at(name)
    if hosts.is_writer():
        with manifest.stage(out, name=name, **what) as run:
            told = {key: run.manifest[key] for key in ("counts", "figures")} if run.manifest else None
            hosts.share(f"{name} begins", told)
            yield run
    else:
        told = hosts.share(f"{name} begins", None)[0]
        with tempfile.TemporaryDirectory() as scratch:
            yield manifest.Stage(Path(scratch), told if computes else told or {})
    hosts.barrier(f"{name} is done")


class Step:
    """A `shared_stage` of this round that can also keep a work folder over interruptions."""

    def __init__(
        self,
        folder: Path,
        index: int,
        config: AlignConfig,
        settings: Any,
        name: str,
        inputs: Sequence[Path],
        more: Mapping[str, Any] | None = None,
    ):
        used = {
            "align": dataclasses.asdict(config),
            "round": index,
            "settings": settings,
            **(more or {}),
        }
        self._folder, self._name, self._used, self._inputs = folder, name, used, list(inputs)
        self._rest: Path | None = None
        self._stage = shared_stage(
            folder / name,
            name=f"align {name}",
            computes=name in COMPUTING,
            config=used,
            inputs=self._inputs,
            seed=config.seed,
        )

    def __enter__(self) -> "Step":
        self._run = self._stage.__enter__()
        self.done, self.tmp = self._run.done, self._run.tmp
        self.counts: dict[str, Any] = {}
        self.figures: dict[str, Any] = {}
        return self

    def __exit__(self, *error: Any) -> bool | None:
        self._run.counts, self._run.figures = self.counts, self.figures
        handled = self._stage.__exit__(*error)
        if error[0] is None and self._rest is not None and hosts.is_writer():
            paths.clear(self._rest)
        return handled

    @contextmanager
    def working(self, keep_as: str | None = None) -> Iterator[Path]:
        """A folder that is still there after an interruption; it becomes `keep_as`, or goes when the step is done."""
        name = ""
        if hosts.is_writer():
            if keep_as is not None and paths.on_bucket(self._folder):
                name = str(self._run.in_place(keep_as).relative_to(self._folder))
            else:
                what = [self._used, [manifest.sha256(p) for p in self._inputs]]
                name = f"{self._name}.work-{hashlib.sha256(manifest.canonical(what)).hexdigest()[:12]}"
                (self._folder / name).mkdir(parents=True, exist_ok=True)
        place = self._folder / hosts.share("work folder of a step", name)[0]
        yield place
        hosts.barrier("work of a step is done")
        if keep_as is None:
            self._rest = place
        elif hosts.is_writer() and not paths.on_bucket(place):
            os.replace(place, self.tmp / keep_as)
