"""Repeats the quick start over seeds and reports the spread: is the gain of the round real?

    python benchmarks/studies/quickstart_seeds.py --seeds 0 1 2 3 4 --out runs/seeds --json runs/seeds/figures.json

The gain is the accuracy on held-out questions of the rejection-sampled model over that of the SFT model, and over a
control: the SFT model trained for as many steps on the same data without the winners. Finished seeds are not run again.
"""

import argparse
import json
import math
import statistics
from pathlib import Path

RUNS = {"sft": "sft", "control": "control", "rejection_sampled": "rounds_01_train_run"}
STAGES = ("base", "holistic", "sft", "control", "rejection_sampled")


def figures(reports: list[dict]) -> dict:
    """Mean and standard deviation over seeds of each accuracy and gain, and the values themselves."""
    values = {name: [r["accuracy"][name]["overall"] for r in reports] for name in STAGES}
    rejection = values["rejection_sampled"]
    for other in ("sft", "control"):
        values[f"gain over {other}"] = [a - b for a, b in zip(rejection, values[other], strict=True)]
    values["true reward gained"] = [r["true_reward"][0]["after"] - r["true_reward"][0]["before"] for r in reports]
    values["total seconds"] = [r["total_seconds"] for r in reports]
    return {
        name: {
            "mean": statistics.mean(v),
            "sd": statistics.stdev(v) if len(v) > 1 else None,
            "values": v,
        }
        for name, v in values.items()
    }


def errors_over_questions(folders: list[Path]) -> dict[str, float]:
    """Standard error of each mean gain if other questions were drawn for the same seeds, from each question's mean."""
    from tigerjax.evaluate import questions
    from tigerjax.quickstart.state import TEST, read

    asked = questions.load(TEST)

    def rights(folder: Path, name: str) -> list[bool]:
        answers = read(folder / "answers" / TEST.stem / RUNS[name] / "sample" / "candidates.jsonl")
        texts = questions.first_texts(answers)
        return [questions.judge(q, texts[q.id]) for q in asked]

    after = [rights(folder, "rejection_sampled") for folder in folders]
    out = {}
    for other in ("sft", "control"):
        before = [rights(folder, other) for folder in folders]
        gains = [[a - b for a, b in zip(*pair, strict=True)] for pair in zip(after, before, strict=True)]
        means = [statistics.mean(of_question) for of_question in zip(*gains, strict=True)]
        out[f"gain over {other}"] = statistics.stdev(means) / math.sqrt(len(means))
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--out", type=Path, default=Path("runs/seeds"))
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    from tigerjax.quickstart.run import quickstart

    reports = []
    for seed in args.seeds:
        done = args.out / str(seed) / "report.json"
        reports.append(
            json.loads(done.read_text(encoding="utf-8")) if done.is_file() else quickstart(done.parent, seed=seed)
        )
    result = figures(reports)
    for name, error in errors_over_questions([args.out / str(seed) for seed in args.seeds]).items():
        result[name]["standard_error_over_questions"] = error
    for name, row in result.items():
        sd = "" if row["sd"] is None else f" ± {row['sd']:.3f}"
        print(f"{name:22} {row['mean']:.3f}{sd}   {'  '.join(f'{v:.3f}' for v in row['values'])}")
        if (error := row.get("standard_error_over_questions")) is not None:
            print(f"{'':22} standard error over questions {error:.3f}")
    if args.json:
        args.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
