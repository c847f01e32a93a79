"""A step of a round: a folder written whole with a manifest, and what is left of it when it is interrupted."""

import dataclasses
import hashlib
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tigerjax import manifest
from tigerjax.align.config import AlignConfig

STEPS = ("prompts", "sample", "score", "queue", "labels", "rank", "mix", "train", "gate")


def status(folder: str | Path) -> list[dict[str, Any]]:
    """One {step, state: done | working | missing, counts} for each step of a round folder."""
    out = []
    for step in STEPS:
        done = manifest.read(Path(folder) / step)
        working = any(Path(folder).glob(f"{step}.work-*"))
        state = "done" if done is not None else "working" if working else "missing"
        out.append({"step": step, "state": state, "counts": (done or {}).get("counts", {})})
    return out


class Step:
    """A manifest.stage of this round that can also keep a work folder over interruptions."""

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
        inputs = [Path(p) for p in inputs]
        self._stage = manifest.stage(folder / name, name=f"align {name}", config=used, inputs=inputs, seed=config.seed)
        what = [used, [manifest.sha256(p) for p in inputs if p.exists()]]
        self._place = folder / f"{name}.work-{hashlib.sha256(manifest.canonical(what)).hexdigest()[:12]}"

    def __enter__(self) -> "Step":
        self._run = self._stage.__enter__()
        self.done, self.tmp = self._run.done, self._run.tmp
        self.counts: dict[str, Any] = {}
        self.figures: dict[str, Any] = {}
        return self

    def __exit__(self, *error: Any) -> bool | None:
        self._run.counts, self._run.figures = self.counts, self.figures
        return self._stage.__exit__(*error)

    @contextmanager
    def working(self, keep_as: str | None = None) -> Iterator[Path]:
        """A folder that is still there after an interruption; at the end it becomes `keep_as`, or goes."""
        self._place.mkdir(parents=True, exist_ok=True)
        yield self._place
        if keep_as is None:
            shutil.rmtree(self._place)
        else:
            os.replace(self._place, self.tmp / keep_as)
