"""Fifty faults in one run of four processes: what each ends with, and whether the weights at the end are those without.

    python benchmarks/studies/faults.py [--faults 50] [--only NAME ...] [--seed 0] [--json FILE]

A small run of `tigerjax train` on cached rows goes through undisturbed. Then it is started again and again, and each
start has one fault of KINDS, in a drawn order. Some damage files between two starts; some hit processes that train,
save or restore; some give one process other files or another clock. A fault is either noticed, with the exit code and
the line that its kind has, or survived: the run continues by itself. After each fault its damage is undone, as a person
would do it, and nothing else. At the end the run is finished, and weights and optimiser state are compared bit by bit.

It prints each fault with what it ended in, and exits with 5 when a fault ended in another way than its kind should,
when a save that the fault did not touch was lost, or when the end differs. Kinds that need root are left out without
it, which is said.
"""

import argparse
import collections
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import drill_slurm
from drill import last_step, saved, state_sha256
from fault_kinds import KINDS
from faulty_run import PROCESSES, STEPS_OF_A_START, Drill, Kind, Wrong


def prepared(work: Path) -> Path:
    """A copy of the repository with the run's config, tokenizer and texts."""
    repo = drill_slurm.copied(work)
    config = drill_slurm.CONFIG.replace("fsdp=2", f"fsdp={PROCESSES}").replace("every_steps=100", "every_steps=8")
    (repo / "configs" / "drill.py").write_text(config.replace("local_every_steps=10", "local_every_steps=3"))
    tokenizer = ["tokenizer", "train", "--vocab-size", "950", "--out", "tok", "--input", *drill_slurm.TEXTS[:2]]
    env = os.environ | {"PYTHONPATH": str(repo)}
    subprocess.run([sys.executable, "-m", "tigerjax", *tokenizer], cwd=repo, env=env, check=True, capture_output=True)
    return repo


def order(count: int, draw: random.Random, root: bool, only: list[str]) -> list[Kind]:
    """So many kinds, each as often as the others, in a drawn order."""
    kinds = [kind for kind in KINDS if (root or not kind.needs_root) and (not only or kind.name in only)]
    rounds = [draw.sample(kinds, len(kinds)) for _ in range(-(-count // len(kinds)))]
    return [kind for one in rounds for kind in one][:count]


def faults(work: Path, *, count: int, seed: int, only: list[str]) -> dict[str, Any]:
    draw, repo = random.Random(seed), prepared(work)
    run = Drill(repo, (count + 2) * 2 * STEPS_OF_A_START, draw)
    whole, began = repo / "whole", time.monotonic()
    run.finish(whole)
    whole_s, outcomes, wrong = time.monotonic() - began, list[tuple[str, str]](), list[str]()
    run.until_saved()
    for number, kind in enumerate(order(count, draw, os.getuid() == 0, only), 1):
        try:
            outcome = run.fault(kind)
        except Wrong as error:
            outcome = "WRONG"
            wrong.append(f"{kind.name}: {error}")
            print(wrong[-1])
        outcomes.append((kind.name, outcome))
        print(f"{number:3} {kind.name:32} {outcome:20} step {last_step(run.folder)}", flush=True)
    run.finish(run.folder)
    counted = collections.Counter(outcomes)
    return {
        "faults": count,
        "kinds": len({name for name, _ in outcomes}),
        "outcomes": {f"{name}: {outcome}": n for (name, outcome), n in sorted(counted.items())},
        "wrong": wrong,
        "steps": run.steps,
        "newest_save": saved(run.folder)[0],
        "bit_identical": state_sha256(whole, run.steps) == state_sha256(run.folder, run.steps),
        "undisturbed_s": round(whole_s, 1),
        "disturbed_s": round(time.monotonic() - began - whole_s, 1),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faults", type=int, default=50)
    parser.add_argument("--only", nargs="+", default=[], choices=[kind.name for kind in KINDS], help="these kinds")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    os.environ["JAX_PLATFORMS"] = "cpu"
    if os.getuid():
        print("not root: a folder that cannot be written is left out")
    with tempfile.TemporaryDirectory() as work:
        figures = faults(Path(work), count=given.faults, seed=given.seed, only=given.only)
    for name, value in figures.items():
        for line in value if isinstance(value, list) else [value] if not isinstance(value, dict) else ():
            print(f"{name:16} {line}")
    if given.json is not None:
        given.json.write_text(json.dumps(figures, indent=1, ensure_ascii=False) + "\n")
    return 0 if figures["bit_identical"] and not figures["wrong"] else 5


if __name__ == "__main__":
    sys.exit(main())
