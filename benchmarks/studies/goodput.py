"""The share of time that a large run spends in steps that count, when its machines fail: by formula and by simulation.

    python benchmarks/studies/goodput.py                        the tables of docs/SCALE.md, from the plans beside it
    python benchmarks/studies/goodput.py --write                the same, written into docs/SCALE.md
    python benchmarks/studies/goodput.py --step-s 18.64 --chips 256 --restart-s 300 --json goodput.json

Failures come at random, at a published rate per machine. A failure costs the restart, and the steps since the newest
save that is whole. A run saves to a bucket every so many steps, and may save on its machines' own disks more often
(`checkpoint.local_every_steps`). A failure that takes a disk and its copy with it leaves the bucket only.

A figure is compiled (by `tigerjax plan`), published, assumed (an option of this script), or simulated (here); the page
says which. Where there is one tier of saves, the expected time has a closed form, which the simulation must agree with:
J. T. Daly, "A higher order estimate of the optimum checkpoint interval for restart dumps", 2006.
"""

import argparse
import bisect
import math
import random
import statistics
import sys
from pathlib import Path
from typing import Any, NamedTuple

# Scripts import each other by file name; `tpu_table` is in the folder beside this one.
sys.path.append(str(Path(__file__).resolve().parents[1] / "tpu"))

from tpu_table import write

from tigerjax.files import manifest

PAGE = Path(__file__).resolve().parents[2] / "docs" / "SCALE.md"
DAY = 86_400.0
CHIPS_PER_HOST = 4
LLAMA_3 = 419 / 54 / 16_384
"""Unexpected interruptions per GPU and day: 419 in 54 days on 16,384 GPUs (arXiv 2407.21783, section 3.3.4)."""
RATES = {
    "Llama 3, per GPU": LLAMA_3 * CHIPS_PER_HOST,
    "Meta RSC-1, per node": 6.50e-3,
    "Meta RSC-2, per node": 2.34e-3,
}
"""Failures per machine and day. RSC: failures per node-day of 8 GPUs (arXiv 2410.21680)."""
RESTARTS_S = (120.0, 600.0, 1800.0)


class Saves(NamedTuple):
    """When a run saves, and what it costs. Times in seconds."""

    step_s: float
    every: int
    """Steps between saves in the bucket."""
    save_s: float
    """The steps wait so long for each of them."""
    write_s: float
    """After so long it is whole. Until then a restart takes the one before."""
    read_s: float = 0.0
    """A restart from the bucket takes so much longer than one from local saves."""
    local_every: int | None = None
    """Steps between saves on the machines' own disks; `every` is a multiple of it. None: there are none."""
    local_s: float = 0.0
    local_write_s: float = 0.0


class Faults(NamedTuple):
    """How a run fails. Times in seconds."""

    mean_s: float
    """Between two failures of the whole run."""
    restart_s: float
    """From a failure to the first step after it: noticed, another machine, the start, the restore."""
    lost: float = 0.0
    """The share of failures after which no local save can be put together."""


class _Clock:
    """Seconds of computing after which steps are done and saves begin, in a run without failures."""

    def __init__(self, saves: Saves):
        self._every, self._ends, now = saves.every, [0.0], 0.0
        for step in range(1, saves.every + 1):
            now += saves.step_s
            if saves.local_every is not None and step % saves.local_every == 0:
                now += saves.local_s
            if step == saves.every:
                now += saves.save_s
            self._ends.append(now)

    def at(self, step: int) -> float:
        """When the step is done, and its saves have begun."""
        periods, rest = divmod(step, self._every)
        return periods * self._ends[-1] + self._ends[rest]

    def done(self, seconds: float) -> int:
        """The steps that are done after so many seconds."""
        periods = int(seconds // self._ends[-1])
        return periods * self._every + bisect.bisect_right(self._ends, seconds - periods * self._ends[-1]) - 1


def simulated(saves: Saves, faults: Faults, days: float, seed: int) -> float:
    """The goodput of one run of so many days: seconds of the steps that count, divided by all seconds."""
    draws, clock = random.Random(seed), _Clock(saves)
    left, step = days * DAY, 0
    while True:
        began = clock.at(step)
        life = draws.expovariate(1 / faults.mean_s)
        if life >= left:
            return clock.done(began + left) * saves.step_s / (days * DAY)
        left -= life
        whole = _newest(clock, began + life, saves.every, saves.write_s)
        down = faults.restart_s + saves.read_s
        if saves.local_every is not None and draws.random() >= faults.lost:
            whole = max(whole, _newest(clock, began + life, saves.local_every, saves.local_write_s))
            down = faults.restart_s
        step = max(step, whole)
        while (again := draws.expovariate(1 / faults.mean_s)) < down:  # it fails again while it starts
            left -= again
        left -= down
        if left <= 0:
            return step * saves.step_s / (days * DAY)


def _newest(clock: _Clock, now: float, every: int, write_s: float) -> int:
    """The newest step that is saved every so many steps and whole by now."""
    step = clock.done(now) // every * every
    while step > 0 and clock.at(step) + write_s > now:
        step -= every
    return max(step, 0)


def formula(saves: Saves, faults: Faults) -> float:
    """Goodput of one tier of saves that are whole at once: the computing between two saves, divided by the time that
    Daly's model expects for it, M exp(R / M) (exp((work + save) / M) - 1)."""
    work, mean = saves.every * saves.step_s, faults.mean_s
    return work / (mean * math.exp(faults.restart_s / mean) * math.expm1((work + saves.save_s) / mean))


def interval(save_s: float, mean_s: float) -> float:
    """The best seconds between two saves that make the steps wait for `save_s` each (the estimate of Daly 2006)."""
    if save_s >= 2 * mean_s:
        return mean_s
    ratio = save_s / (2 * mean_s)
    return math.sqrt(2 * save_s * mean_s) * (1 + math.sqrt(ratio) / 3 + ratio / 9) - save_s


def goodput(saves: Saves, faults: Faults, days: float, runs: int) -> tuple[float, float]:
    """(mean, standard deviation) of the goodput over simulated runs."""
    each = [simulated(saves, faults, days, seed) for seed in range(runs)]
    return statistics.mean(each), statistics.stdev(each)


def rounds(seconds: float, saves: Saves) -> int:
    """The steps nearest to so many seconds, at least one."""
    return max(1, round(seconds / saves.step_s))


Table = tuple[list[str], list[list[str]], list[dict[str, Any]]]
"""The head and the rows of a table, and its numbers."""


def by_rate(args: argparse.Namespace) -> Table:
    """Goodput by published rate, restart and tiers of saves."""
    hosts = math.ceil(args.chips / CHIPS_PER_HOST)
    rows, records = [], []
    for name, rate in RATES.items():
        mean_s = DAY / (rate * hosts)
        often = Saves(args.step_s, args.every, args.save_s, args.write_s, args.read_s)
        best = rounds(interval(args.save_s, mean_s), often)
        local = rounds(interval(args.local_s, mean_s), often)
        two = often._replace(
            every=max(1, round(args.every / local)) * local,  # both tiers fall on the same step
            local_every=local,
            local_s=args.local_s,
            local_write_s=args.local_write_s,
        )
        tiers = {"bucket": often, "bucket_at_best": often._replace(every=best), "local_too": two}
        for restart_s in RESTARTS_S if args.restart_s is None else (args.restart_s,):
            faults = Faults(mean_s, restart_s, args.lost)
            found = {tier: goodput(saves, faults, args.days, args.runs) for tier, saves in tiers.items()}
            cells = [f"{mean:.1%} ± {sd:.1%}" for mean, sd in found.values()]
            rows.append([name, f"{mean_s / 3600:.1f}", f"{restart_s:,.0f}", *cells, f"{local}"])
            records.append(
                {"rate": name, "mean_s": mean_s, "restart_s": restart_s, "every": best, "local": local} | found
            )
    head = ["rate", "hours between failures", "restart s", f"bucket every {args.every:,} steps", "bucket at its best"]
    return [*head, "local saves too", "steps between them"], rows, records


def check(args: argparse.Namespace) -> Table:
    """The simulation beside the closed form, where there is one."""
    rows, records = [], []
    for hours in (1.0, 4.0, 12.0):
        saves, faults = Saves(args.step_s, 100, args.save_s, 0.0), Faults(hours * 3600, 600.0)
        mean, sd = goodput(saves, faults, args.days, args.runs)
        exact, error = formula(saves, faults), sd / math.sqrt(args.runs)
        rows.append([f"{hours:g}", f"{exact:.2%}", f"{mean:.2%}", f"{error:.2%}"])
        records.append({"hours": hours, "formula": exact, "simulated": mean, "error": error})
    return ["hours between failures", "formula", "simulated", "error of its mean"], rows, records


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chips", type=int, default=4096)
    parser.add_argument("--step-s", type=float, default=4.81, help="compiled: docs/SCALE.md")
    parser.add_argument("--every", type=int, default=500, help="steps between saves in the bucket")
    parser.add_argument("--save-s", type=float, default=2.0, help="assumed: the steps wait so long for each")
    parser.add_argument("--write-s", type=float, default=300.0, help="assumed: then it is whole")
    parser.add_argument("--read-s", type=float, default=120.0, help="assumed: a restart from it takes longer")
    parser.add_argument("--local-s", type=float, default=2.0, help="assumed")
    parser.add_argument("--local-write-s", type=float, default=30.0, help="assumed")
    parser.add_argument("--lost", type=float, default=0.1, help="assumed: failures that take a share and its copy")
    parser.add_argument("--restart-s", type=float, help="one in place of three")
    parser.add_argument("--days", type=float, default=30.0)
    parser.add_argument("--runs", type=int, default=50)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--write", action="store_true", help="write the tables into docs/SCALE.md")
    args = parser.parse_args()
    tables = {"goodput_check": check(args), "goodput": by_rate(args)}
    for name, (head, rows, _) in tables.items():
        print(name, *(" | ".join(row) for row in (head, *rows)), "", sep="\n")
        if args.write:
            write(PAGE, name, head, rows)
    if args.json:
        settings = {k: v for k, v in vars(args).items() if k not in ("json", "write")}
        manifest.write_json(args.json, {"settings": settings} | {k: records for k, (_, _, records) in tables.items()})


if __name__ == "__main__":
    main()
