"""Cells of an experiment: each is run once and written to one JSON file; over the seeds they give a verdict.

A cell is one experiment, arm and seed. Its file is put in place by a rename when the cell is finished. So a cell that
was interrupted is run again, and no other; a cell whose settings differ from those in its file is run again too.
"""

import contextlib
import dataclasses
import hashlib
import json
import math
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from tigerjax.errors import TigerjaxError
from tigerjax.files import manifest


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cell:
    """One measurement. `run` returns its figures; `needs` names cells of the same seed that come first."""

    experiment: str
    arm: str
    seed: int
    settings: dict[str, Any]
    run: Callable[[], dict[str, Any]]
    needs: tuple[tuple[str, str], ...] = ()

    @property
    def name(self) -> str:
        return f"{self.experiment} / {self.arm} / seed {self.seed}"

    def path(self, out: Path) -> Path:
        return out / "cells" / self.experiment / f"{self.arm}.{self.seed}.json"


def keys(cells: Sequence[Cell]) -> dict[tuple[str, str, int], str]:
    """What each cell's file must say: a hash of its settings and of those of the cells that it needs."""
    collected: dict[tuple[str, str, int], str] = {}
    for cell in cells:
        before = [collected[experiment, arm, cell.seed] for experiment, arm in cell.needs]
        what = [cell.experiment, cell.arm, cell.seed, cell.settings, before]
        collected[cell.experiment, cell.arm, cell.seed] = hashlib.sha256(manifest.canonical(what)).hexdigest()
    return collected


def chosen(cells: Sequence[Cell], only: Iterable[str] | None) -> list[Cell]:
    """Those of the experiments `only` (None: all), and what they need, in the order given."""
    if only is None:
        return list(cells)
    wanted = {(c.experiment, c.arm, c.seed) for c in cells if c.experiment in set(only)}
    for cell in reversed(cells):
        if (cell.experiment, cell.arm, cell.seed) in wanted:
            wanted |= {(experiment, arm, cell.seed) for experiment, arm in cell.needs}
    return [c for c in cells if (c.experiment, c.arm, c.seed) in wanted]


def finished(cell: Cell, out: Path, key: str) -> dict[str, Any] | None:
    """The finished cell's record, or None when it has to be run."""
    path = cell.path(out)
    if not path.is_file():
        return None
    collected = json.loads(path.read_text(encoding="utf-8"))
    return collected if collected["key"] == key else None


def run(
    cells: Sequence[Cell], out: Path, *, commit: str, say: Callable[[str], None] = print
) -> tuple[list[dict[str, Any]], list[str]]:
    """The records of all cells, {experiment, arm, seed, settings, key, figures, seconds, commit}, and the names of
    those that failed or need one that did; runs what is missing.

    What a cell prints goes to OUT/log.txt. `say` gets one line for each cell, with the time that the rest will take.
    Calls for different experiments may run beside each other.
    """
    wanted, records, failed = keys(cells), [], dict[tuple[str, str, int], str]()
    have = {id(c): finished(c, out, wanted[c.experiment, c.arm, c.seed]) for c in cells}
    missing = sum(record is None for record in have.values())
    say(f"{len(cells)} cells, {len(cells) - missing} finished, {missing} to run")
    for number, cell in enumerate(cells, 1):
        where = (cell.experiment, cell.arm, cell.seed)
        record = have[id(cell)] = have[id(cell)] or finished(cell, out, wanted[where])  # by another call meanwhile
        if record is None:
            started = time.monotonic()
            if lost := [need for need in cell.needs if (*need, cell.seed) in failed]:
                failed[where] = f"{cell.name}: needs {' / '.join(lost[0])}, which failed"
                say(failed[where])
                continue
            cell.path(out).parent.mkdir(parents=True, exist_ok=True)
            try:
                with open(out / "log.txt", "a", encoding="utf-8") as log:
                    print(f"== {cell.name}", file=log, flush=True)
                    with contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
                        figures = cell.run()
            except (TigerjaxError, SystemExit) as error:  # the others go on: an hour is long
                if isinstance(error, SystemExit) and not isinstance(error.code, str):
                    raise  # a signal
                failed[where] = f"{cell.name}: {error}"
                say(failed[where])
                continue
            record = {
                "experiment": cell.experiment,
                "arm": cell.arm,
                "seed": cell.seed,
                "settings": cell.settings,
                "key": wanted[where],
                "figures": figures,
                "seconds": round(time.monotonic() - started, 1),
                "commit": commit,
            }
            manifest.write_json(cell.path(out), record)
            have[id(cell)] = record
            left = remaining(cells, have)
            say(f"{number:3}/{len(cells)}  {cell.name:44} {record['seconds']:6.1f} s   {clock(left)} to go")
        records.append(record)
    return records, list(failed.values())


def remaining(cells: Sequence[Cell], have: dict[int, dict[str, Any] | None]) -> float | None:
    """Seconds that the unfinished cells will take: each as the finished ones of its arm, else of its experiment, else
    of all; None when nothing is finished."""
    done = [record for record in have.values() if record is not None]
    if not done:
        return None
    total = 0.0
    for cell in cells:
        if have[id(cell)] is not None:
            continue
        same = [r for r in done if r["experiment"] == cell.experiment]
        like = [r for r in same if r["arm"] == cell.arm] or same or done
        total += statistics.mean(r["seconds"] for r in like)
    return total


def clock(seconds: float | None) -> str:
    if seconds is None:
        return "unknown"
    return f"{int(seconds) // 60}:{int(seconds) % 60:02}"


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Mean, standard deviation over seeds (None of one) and each seed's value."""
    values = [float(v) for v in values]
    return {
        "mean": statistics.mean(values),
        "sd": statistics.stdev(values) if len(values) > 1 else None,
        "values": values,
    }


VERDICTS = {
    "holds": "every seed gains, and the mean gain is above twice its standard deviation over seeds",
    "leans": "every seed gains, but the mean is within twice the deviation",
    "open": "seeds disagree, or nothing changes",
    "leans against": "every seed loses, within twice the deviation",
    "contradicted": "every seed loses, beyond twice the deviation",
    "too few": "fewer than two seeds could be compared",
}


def verdict(gains: Sequence[float]) -> str:
    """What gains over seeds (above 0: as claimed) say, one of VERDICTS."""
    if any(not math.isfinite(g) for g in gains):
        return "open"
    if len(gains) < 2:
        return "too few"
    mean, sd = statistics.mean(gains), statistics.stdev(gains)
    if all(g > 0 for g in gains):
        return "holds" if mean > 2 * sd else "leans"
    if all(g < 0 for g in gains):
        return "contradicted" if -mean > 2 * sd else "leans against"
    return "open"


def by_arm(records: Iterable[dict[str, Any]], experiment: str) -> dict[str, dict[int, dict[str, Any]]]:
    """{arm: {seed: figures}} of one experiment."""
    collected: dict[str, dict[int, dict[str, Any]]] = {}
    for record in records:
        if record["experiment"] == experiment:
            collected.setdefault(record["arm"], {})[record["seed"]] = record["figures"]
    return collected


def paired(after: dict[int, float], before: dict[int, float]) -> list[float]:
    """Differences by seed, of the seeds that both have."""
    return [after[seed] - before[seed] for seed in sorted(after.keys() & before.keys())]


def say(line: str) -> None:
    print(line, file=sys.__stdout__, flush=True)
