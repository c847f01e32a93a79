"""The steps of a round on disk: each is a folder that appears whole, with a manifest, or not at all.

In a run of several processes all of them go through the same steps and wait for each other at the start and the end
of each. The steps in COMPUTING use a model, so all processes compute them together on one mesh. The other steps are
done by process 0 alone. Only process 0 writes results, and all processes must be able to read them.

A step that takes long works in STEP.work-HASH, which survives an interruption. At the end this folder is renamed into
the step's folder, or removed. A bucket cannot rename a folder, so there the result is written at its final place.
"""

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
USES: dict[str, tuple[str, ...]] = {
    "prompts": ("prompt_fraction", "allow_fraction", "exclude_rounds", "seed"),
    "sample": ("seed",),
    "score": ("more_candidates", "min_spread"),
    "queue": ("rank_fraction", "edit_fraction", "edit_within_ranked", "seed", "people", "per_prompt", "gold_share"),
    "labels": ("allow_partial", "due_days", "min_gold", "set_aside", "min_agreement", "adjudicator"),
    "rank": ("min_spread",),
    "mix": (
        "top_m",
        "min_score",
        "beat_reference",
        "on_conflict",
        "rm_weight",
        "human_weight",
        "edit_weight",
        "control",
    ),
    "train": (),
    "gate": ("max_mean_loss_points", "max_task_loss_points", "min_win_rate", "control"),
}
"""The fields of AlignConfig that each step uses. A step is done again when one of these changes, and not otherwise."""
COMPUTING = ("sample", "score", "train", "gate")  # they use a model


def folders(rounds: Path) -> list[Path]:
    """The folders of the rounds that have begun, in their order."""
    return [rounds / name for name in paths.names(rounds) if re.fullmatch("[0-9][0-9]", name)]


def under_way(rounds: Path) -> int:
    """The number of the first round without a gate."""
    index = 1
    while manifest.read(rounds / f"{index:02d}" / "gate") is not None:
        index += 1
    return index


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
def shared_stage(
    out: str | Path, *, name: str, computes: bool, by_content: bool = False, **what: Any
) -> Iterator[manifest.Stage]:
    """A stage (see `manifest.stage`, which takes the rest: config, inputs, seed) in a run of several processes.

    Process 0 writes the folder, and no process goes on before it is whole. When the stage `computes`, every process
    runs its body, and what the others write is thrown away. Otherwise the others see a stage that is done already.
    """
    hosts.at(name)
    if hosts.is_writer():
        with manifest.stage(out, name=name, again=not computes, by_content=by_content, **what) as run:
            earlier = {key: run.manifest[key] for key in ("counts", "figures")} if run.manifest else None
            hosts.share(f"{name} begins", earlier)
            yield run
    else:
        earlier = hosts.share(f"{name} begins", None)[0]
        with tempfile.TemporaryDirectory() as scratch:
            yield manifest.Stage(Path(scratch), earlier if computes else earlier or {})
    hosts.barrier(f"{name} is done")


class Step:
    """A `shared_stage` for a step of a round. It can have a work folder that survives interruptions."""

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
        depends_on = {
            "align": {field: getattr(config, field) for field in USES[name]},
            "round": index,
            "settings": settings,
            **(more or {}),
        }
        self._folder, self._name, self._depends_on, self._inputs = folder, name, depends_on, list(inputs)
        self._work_to_remove: Path | None = None
        self._stage = shared_stage(
            folder / name,
            name=f"align {name}",
            computes=name in COMPUTING,
            by_content=True,  # the same project by another path, or moved, is not sampled again
            config=depends_on,
            inputs=self._inputs,
            seed=config.seed if "seed" in USES[name] else None,
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
        if error[0] is None and self._work_to_remove is not None and hosts.is_writer():
            paths.clear(self._work_to_remove)
        return handled

    @contextmanager
    def working(self, keep_as: str | None = None) -> Iterator[Path]:
        """A work folder that is still there after an interruption.

        When the step is done it becomes the folder `keep_as` of the result; without `keep_as` it is removed.
        """
        name = ""
        if hosts.is_writer():
            if keep_as is not None and paths.on_bucket(self._folder):
                name = str(self._run.in_place(keep_as).relative_to(self._folder))
            else:
                what = [self._depends_on, [manifest.sha256(p) for p in self._inputs]]
                name = f"{self._name}.work-{hashlib.sha256(manifest.canonical(what)).hexdigest()[:12]}"
                (self._folder / name).mkdir(parents=True, exist_ok=True)
        work = self._folder / hosts.share("work folder of a step", name)[0]
        yield work
        hosts.barrier("work of a step is done")
        if keep_as is None:
            self._work_to_remove = work
        elif hosts.is_writer() and not paths.on_bucket(work):
            os.replace(work, self.tmp / keep_as)
