"""A search as the command line shows it: progress while it runs, then the ranking and the overrides of the fastest."""

import functools
import sys
from pathlib import Path
from typing import Any

from tigerjax.config import RunConfig
from tigerjax.errors import ConfigError
from tigerjax.mesh import AXES
from tigerjax.plan.search import Result, search
from tigerjax.plan.topology import Topology
from tigerjax.terminal import show

SHOWN = 20


def rank(
    base: RunConfig, config: Path, topology: Topology, *, words: list[str], work: Path, budget_s: float
) -> dict[str, Any]:
    """Searches, prints the ranking, and returns what `--json` writes: `ranking`, fastest first, with `override`s.

    `words` are the overrides that turned the config file into `base`. ConfigError when nothing fits.
    """
    command = self_command(config, topology, words)
    bar = _bar() if sys.stdout.isatty() else None
    echo = show if bar is None else functools.partial(bar.console.print, markup=False)
    task = bar.add_task(f"{base.name} on {topology.name}", total=None) if bar is not None else None

    def progress(done: int, total: int) -> None:
        if bar is not None and task is not None:
            bar.update(task, completed=done, total=total)

    if bar is not None:
        bar.start()
    try:
        results = search(
            base,
            topology,
            command=command,
            work=work,
            budget_s=budget_s,
            echo=echo,
            on_result=lambda result: echo(line(result)),
            on_progress=progress,
        )
    finally:
        if bar is not None:
            bar.stop()
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
    best = " ".join(fitting[0].candidate.overrides(base))
    show(f"\noverride of {config}:\n{best or '(none: it is the best already)'}")
    ranking = [
        r.figures | {"override": " ".join(r.candidate.overrides(base)), "rows": r.candidate.rows} for r in results
    ]
    return {"topology": topology.name, "slices": topology.slices, "override": best, "ranking": ranking}


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
