"""A search as the command line shows it: progress, the ranking, what each step from the fastest on gains, and the
overrides and libtpu flags of the best."""

import contextlib
import functools
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tigerjax.config import RunConfig
from tigerjax.errors import ConfigError
from tigerjax.mesh import AXES
from tigerjax.plan import flags
from tigerjax.plan.refine import Attempt, Refinement
from tigerjax.plan.search import search
from tigerjax.plan.topology import Topology
from tigerjax.plan.trials import Result, Trials
from tigerjax.terminal import show

SHOWN = 20
MESHES_SHARE = 0.5
"""The part of the budget that the search of meshes may take [our choice]. What it leaves, the refinement has too."""
HEAD = (" static s", "attention s", "  step s", " peak GB")


def rank(
    base: RunConfig,
    config: Path,
    topology: Topology,
    *,
    words: list[str],
    work: Path,
    budget_s: float,
    given: dict[str, str] | None = None,
) -> dict[str, Any]:
    """Searches, prints the ranking, goes on from the fastest, and returns what `--json` writes: `ranking`, fastest
    first, with `override`s, the `refinement` step by step, and `override` and `libtpu_flags` of the best of all.

    `words` are the overrides that turned the config file into `base`; `given` are libtpu flags that differ from those
    of libtpu_flags/. ConfigError when nothing fits.
    """
    trials = Trials(
        base=base,
        topology=topology,
        command=self_command(config, topology, words),
        work=work,
        limit_s=max(60.0, 2 * budget_s),
        flags=given or {},
    )
    until = time.monotonic() + budget_s
    with _progress(f"{base.name} on {topology.name}") as (echo, progress):
        results = search(
            trials,
            budget_s=MESHES_SHARE * budget_s,
            echo=echo,
            on_result=lambda result: echo(line(result)),
            on_progress=progress,
        )
    fitting = [r for r in results if r.figures.get("fits")]
    if not fitting:
        large = sum(r.figures.get("fits") is False for r in results)
        raise ConfigError(
            f"none of the {len(results)} candidates that were tried fits {topology.name}: {large} need more memory, and"
            f" {len(results) - large} were not compiled (the lines above say why); give more chips, a shorter"
            " data.seq_len or a larger --budget-minutes"
        )
    show("\nranking, by the upper bound of tokens/s/chip")
    for place, result in enumerate(fitting[:SHOWN], 1):
        show(f"{place:3}  {line(result)}")
    show(f"\nfrom the fastest on, one thing at a time\n{'':56}{' '.join(HEAD)}")
    show(f"{'the fastest mesh':56}{_columns(fitting[0])}")
    with _progress(f"{base.name}, one thing at a time") as (echo, _):
        refinement = Refinement(
            trials=trials, best=fitting[0], until=until, echo=echo, on_step=lambda step: echo(step_line(step))
        )
        steps = refinement.steps()
    best = next((step.result for step in reversed(steps) if step.taken), fitting[0])
    override, options = " ".join(best.candidate.overrides(base)), trials.options(best.candidate)
    show(f"\noverride of {config}:\n{override or '(none: it is the best already)'}")
    if changed := trials.given(best.candidate):
        show(f"\nlibtpu flags, in the environment of the run or of launch/run.sh:\n{flags.line(options)}")
        pairs = " ".join(f"{name}={value}" for name, value in changed.items())
        show(f"\nthe same for tigerjax plan:\n--libtpu-flags {pairs}")
    return {
        "topology": topology.name,
        "slices": topology.slices,
        "override": override,
        "libtpu_flags": options,
        "ranking": [_shown(r, trials) for r in results],
        "refinement": [
            _shown(step.result, trials)
            | {"what": step.what, "choice": step.choice, "taken": step.taken, "gain_s": step.gain_s}
            for step in steps
        ],
    }


def _shown(result: Result, trials: Trials) -> dict[str, Any]:
    c = result.candidate
    return result.figures | {
        "override": " ".join(c.overrides(trials.base)),
        "rows": c.rows,
        "libtpu_flags": trials.options(c),
    }


def self_command(config: Path, topology: Topology, words: list[str]) -> list[str]:
    """The command line of `tigerjax plan CONFIG` for the slice, run by this Python."""
    plan = [sys.executable, "-m", "tigerjax", "plan", str(config)]
    return [*plan, "--topology", topology.name, "--slices", str(topology.slices), *words]


def line(result: Result) -> str:
    """One candidate and its result."""
    c, f = result.candidate, result.figures
    mesh = " x ".join(f"{axis} {n}" for axis, n in zip(AXES, c.mesh, strict=True) if n > 1) or "one device"
    what = f"{mesh:28} {c.config.compute.remat:14} {c.rows:2} rows"
    if c.config.mesh.stage > 1:
        what += f"  {c.config.pipeline.microbatches} microbatches x {c.config.pipeline.rounds} rounds"
    if f.get("fits") is None:
        return f"{what}  refused: {f['error'][:90]}"
    if not f["fits"]:
        return f"{what}  does not fit: {f['peak_gb']:.1f} GB"
    return (
        f"{what}  {f['tokens_per_s_per_chip']:7,.0f} tokens/s/chip  MFU {f['mfu_bound']:.1%}"
        f"  step {f['step_s']:.2f} s  {f['peak_gb']:.1f} GB"
    )


def step_line(step: Attempt) -> str:
    """One step of the refinement, and what it gains."""
    what, figures = f"{step.what} {step.choice}", step.result.figures
    if not figures.get("fits"):
        why = f"refused: {figures['error'][:90]}" if figures.get("fits") is None else "does not fit"
        return f"{what:56}  {why}" + (f": {figures['peak_gb']:.1f} GB" if figures.get("fits") is False else "")
    gain = step.before.figures["step_s"] - figures["step_s"]
    return f"{what:56}{_columns(step.result)}  {f'{gain:.3g} s less, taken' if step.taken else 'not taken'}"


def _columns(result: Result) -> str:
    cells = (f"{result.figures[name]:.4g}" for name in ("static_step_s", "attention_s", "step_s", "peak_gb"))
    return " ".join(f"{cell:>{len(head)}}" for cell, head in zip(cells, HEAD, strict=True))


@contextlib.contextmanager
def _progress(what: str) -> Iterator[tuple[Callable[[str], None], Callable[[int, int], None]]]:
    """What prints a line, and what moves a bar to (done, total), if this is a terminal."""
    if not sys.stdout.isatty():
        yield show, lambda done, total: None
        return
    with _bar() as bar:
        task = bar.add_task(what, total=None)
        yield (
            functools.partial(bar.console.print, markup=False),
            lambda done, total: bar.update(task, completed=done, total=total),
        )


def _bar() -> Any:
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = [TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn()]
    return Progress(*columns, TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(), transient=True)
