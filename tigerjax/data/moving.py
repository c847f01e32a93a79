"""How the shares of a run's sources move over its steps, as figures and as a page."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tigerjax import pages
from tigerjax.data.loader import Loader
from tigerjax.data.schedule import Phase, needed
from tigerjax.pages.lines import MOST_LINES, lines, plot
from tigerjax.pages.numbers import number, percent

OTHERS = "others"


def points(phases: Sequence[Phase], name: str, batch_rows: int, steps: int) -> list[tuple[float, float]]:
    """(step, share) of a source at each bend of its line: it is straight between two of them."""
    out: list[tuple[float, float]] = []
    ends = [*(phase.first for phase in phases[1:]), steps * batch_rows]
    for phase, end in zip(phases, ends, strict=True):
        for row in sorted({phase.first, min(phase.first + phase.ramp, end), end}):
            if row <= steps * batch_rows:
                out.append((row // batch_rows, phase.share(name, row)))
    return out


def figures(loader: Loader, steps: int) -> dict[str, Any]:
    """Of a run of so many steps: the shares of its phases, and each source's share of all tokens and its epochs."""
    rows = needed(loader.phases, steps * loader.batch_rows)
    return {
        "steps": steps,
        "phases": [
            {
                "from_step": phase.first // loader.batch_rows,
                "whole_from_step": (phase.first + phase.ramp) // loader.batch_rows,
                "shares": {name: phase.share(name, phase.first + phase.ramp) for name in phase.names},
            }
            for phase in loader.phases
        ],
        "of_the_run": {name: rows.get(name, 0.0) / (steps * loader.batch_rows) for name in loader.names},
        "epochs": {source.name: rows.get(source.name, 0.0) / source.epoch_rows for source in loader.sources},
    }


def write_page(loader: Loader, mixture: str, steps: int, out: Path) -> None:
    """Draws the share of each source over the steps; of many sources the smallest are drawn as one line."""
    made = figures(loader, steps)
    largest = sorted(loader.names, key=lambda name: (-made["of_the_run"][name], name))
    own = largest if len(largest) <= MOST_LINES else largest[: MOST_LINES - 1]
    drawn = {name: points(loader.phases, name, loader.batch_rows, steps) for name in own}
    if rest := largest[len(own) :]:
        all_rest = [points(loader.phases, name, loader.batch_rows, steps) for name in rest]
        drawn[OTHERS] = [(at[0][0], sum(share for _, share in at)) for at in zip(*all_rest, strict=True)]
    bounds = (0.0, 1.05 * max(share for line in drawn.values() for _, share in line))
    rates = {source.name: source for source in loader.sources}
    cells = [
        [name, percent(made["of_the_run"][name], 2), number(made["epochs"][name]), number(rates[name].rows)]
        for name in largest
    ]
    out.parent.mkdir(parents=True, exist_ok=True)
    pages.write(
        out,
        "data/shares.html",
        title=f"Shares of {mixture}",
        steps=number(steps),
        chart=lines(plot(drawn, "step", "share", write=lambda share: percent(share, 0), bounds=bounds)),
        table=pages.Table(["source", "share of all tokens", "epochs", "cached rows"], cells),
    )
