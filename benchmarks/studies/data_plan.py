"""`tigerjax data plan` beside full runs of the same stages: how far off it is, at several sizes.

    python benchmarks/studies/data_plan.py [--sizes 20 60 180] [--stages clean exact near …] [--work DIR] [--json FILE]

Text is that of benchmarks/speed/corpus_growth.py. The plan is made once for each size, with the default sample of at
most 24 MB, and the stages are then run in full, each on what the one before left. CPU seconds are compared, as the
clock measures what else the machine does; of memory, disk and tokens the figures themselves. A figure is right within
25%.
"""

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "speed"))
from corpus_growth import EMBEDDED, SEQ_LEN, Stages, corpus_files, tokenizer

from tigerjax.plan import data_cost

RIGHT = 0.25
STAGES = ("clean", "exact", "near", "against-sft", "decontaminate", "cache")
MORE = ("language", "soft", "substrings")
"""Measured where --stages names them."""


def full(stages: Stages, wanted: data_cost.PlannedStages, files: list[Path], work: Path) -> tuple[dict[str, Any], int]:
    """(what each stage took over all of the files, the tokens)."""
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    taken, given = {}, list(files)
    for stage in wanted.stages:
        taken[stage] = data_cost.run(stage, given, work / stage, wanted)
        given = sorted((work / stage / "out").glob("*.jsonl"))
    tokens = data_cost.tokens_of(work / "cache" / "out") if "cache" in wanted.stages else 0
    shutil.rmtree(work)
    return taken, tokens


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=float, nargs="+", default=[20, 60, 180], help="MB of text")
    parser.add_argument("--stages", nargs="+", choices=(*STAGES, *MORE), default=STAGES)
    parser.add_argument("--work", type=Path, default=Path("runs/data_plan"))
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    work = args.work.resolve()
    stages = Stages(work, 1)
    work.mkdir(parents=True, exist_ok=True)
    made = work / "tokenizer"
    if "cache" in args.stages and not made.is_dir():
        tokenizer(work)
    of_stages: dict[str, Any] = {"sft": (EMBEDDED / "sft.jsonl",)} if "against-sft" in args.stages else {}
    of_stages |= {"evaluation_sets": (stages.questions(),)} if "decontaminate" in args.stages else {}
    of_stages |= {"tokenizer": made, "seq_len": SEQ_LEN} if "cache" in args.stages else {}
    wanted = data_cost.PlannedStages(stages=args.stages, **of_stages)
    raw: dict[str, Any] = {}
    worst = 0.0
    print(
        f"{'':8} {'stage':14} {'planned s':>10} {'full s':>10} {'off':>7}"
        f" {'planned GB':>11} {'peak GB':>8} {'disk off':>9}"
    )
    for size in args.sizes:
        files = corpus_files(work / "text", size)
        options = [word for name, value in of_stages.items() for word in (f"--{name.replace('_', '-')}", *(
            map(str, value) if isinstance(value, tuple) else [str(value)]))]  # fmt: skip
        words = ["data", "plan", "--input", *map(str, files), "--stages", *args.stages, *options]
        report = work / "plan.json"
        subprocess.run(
            [*stages.tigerjax, *words, "--json", str(report)], env=stages.env, check=True, stdout=subprocess.DEVNULL
        )
        planned = json.loads(report.read_text(encoding="utf-8"))
        taken, tokens = full(stages, wanted, files, work / "full")
        for stage, real in taken.items():
            guess = planned["stages"][stage]
            seconds = 3600 * guess["core_hours"]
            off = seconds / real.seconds - 1
            disk = 1e9 * guess["disk_gb"] / real.disk - 1
            worst = max(worst, abs(off))
            print(
                f"{size:5g} MB {stage:14} {seconds:10.1f} {real.seconds:10.1f} {off:+7.0%}"
                f" {guess['peak_gb_of_a_worker']:11.2f} {real.peak_gb:8.2f} {disk:+9.0%}",
                flush=True,
            )
            raw[f"{size:g} {stage}"] = {"planned": guess, "full": real.__dict__}
        if tokens:
            off = planned["tokens"] / tokens - 1
            print(f"{size:5g} MB tokens {planned['tokens']:,} planned, {tokens:,} made: {off:+.1%}")
            raw[f"{size:g} tokens"] = [planned["tokens"], tokens]
    print(f"largest error of the seconds: {worst:.0%}; {'within' if worst <= RIGHT else 'not within'} {RIGHT:.0%}")
    if args.json:
        args.json.write_text(json.dumps(raw, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
