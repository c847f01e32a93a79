"""What the benchmarks share: sides that run in turns, and rows of one table with our figure beside a peer's."""

import importlib
import json
import os
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple


class Row(NamedTuple):
    """One line of the table. `peer` is the figure of `beside`; None where there is nothing to compare with.

    `better` says which way is good: "more", "less", or "as is" for a figure that is shown and not judged.
    """

    figure: str
    unit: str
    ours: float
    peer: float | None = None
    beside: str = ""
    better: str = "more"

    @property
    def ratio(self) -> float | None:
        """Ours over theirs, turned so that above 1 is better."""
        if not self.peer or not self.ours:
            return None
        return self.peer / self.ours if self.better == "less" else self.ours / self.peer


def turns(repeats: int, sides: Mapping[str, Callable[[], float]]) -> dict[str, list[float]]:
    """What each side returned in each repeat. Sides take turns, so that other work on the machine slows all of them."""
    timed: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(repeats):
        for name, side in sides.items():
            timed[name].append(side())
    return timed


def medians(timed: Mapping[str, list[float]]) -> dict[str, float]:
    return {name: statistics.median(values) for name, values in timed.items()}


def clocked(work: Callable[[], Any]) -> float:
    """Seconds by the clock."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def cpu(work: Callable[[], Any]) -> float:
    """CPU seconds of this process, all threads: what else the machine does matters little."""
    started = time.process_time()
    work()
    return time.process_time() - started


def peer(package: str) -> Any:
    """The module of a peer, or an end with one line that says how to get it."""
    try:
        return importlib.import_module(package)
    except ImportError:
        raise SystemExit(f"peer not installed: pip install {package.partition('.')[0]}") from None


def cells(row: Row) -> tuple[str, str, str, str, str]:
    """What the table says of a row: figure and unit, ours, peer, ratio, beside."""

    def number(value: float | None) -> str:
        if value is None:
            return ""
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"

    ratio = "" if row.ratio is None or row.better == "as is" else f"{row.ratio:.2f}"
    what = f"{row.figure}, {row.unit}" if row.unit else row.figure
    return what, number(row.ours), number(row.peer), ratio, row.beside


def show(row: Row) -> str:
    """The row of the table."""
    what, ours, theirs, ratio, beside = cells(row)
    return f"{what:62} {ours:>10} {theirs:>10} {ratio:>7}  {beside}"


def commit() -> str:
    """The commit of the tree that the scripts are of, with a plus when files differ from it."""
    git = ["git", "-C", str(Path(__file__).parent)]
    head = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    changed = subprocess.run([*git, "status", "--porcelain", "-uno"], capture_output=True, text=True).stdout
    return (head or "unknown") + ("+" if changed else "")


HEAD = f"{'figure':62} {'ours':>10} {'peer':>10} {'ratio':>7}  beside"


def finish(rows: list[Row], raw: Mapping[str, Any], path: Path | None) -> None:
    """Prints the rows and keeps them with the repeats that they are medians of."""
    print(HEAD)
    for row in rows:
        print(show(row), flush=True)
    if path:
        written = {"rows": [row._asdict() for row in rows], "raw": raw, "load_average_1m": round(os.getloadavg()[0], 2)}
        path.write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")
