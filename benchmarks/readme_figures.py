"""Writes the quick start's figures into README.md, between its `<!-- quickstart -->` and `<!-- stages -->` marks.

python benchmarks/readme_figures.py runs/quickstart/report.json
"""

import argparse
import json
import re
import subprocess
from pathlib import Path
from typing import Any

README = Path(__file__).resolve().parents[1] / "README.md"


def table(report: dict[str, Any]) -> str:
    """The verdict figures as a Markdown table."""
    tokens, accuracy = report["tokenizer"], report["accuracy"]
    before, after = tokens["chars_per_token_before"], tokens["chars_per_token_after"]
    last, reward = report["round"], report["true_reward"][0]
    shares = {name.split(".", 1)[1]: value for name, value in report["shares"]["realised"].items()}
    rows = [
        ("vocabulary", f"{tokens['vocab_before']:,} → {tokens['vocab_after']:,}"),
        ("characters a token, zh", f"{before['zh']:.3f} → {after['zh']:.3f}"),
        ("characters a token, en", f"{before['en']:.3f} → {after['en']:.3f}"),
        ("token shares realised", ", ".join(f"{name} {100 * value:.2f}%" for name, value in sorted(shares.items()))),
    ]
    rows += [
        (f"held-out questions answered rightly, {name.replace('_', '-')}", f"{100 * figures['overall']:.1f}%")
        for name, figures in accuracy.items()
    ]
    rows += [
        ("mean true reward, before and after the round", f"{reward['before']:.3f} → {reward['after']:.3f}"),
        ("gate of the round", last["gate"]),
        ("winners chosen by", ", ".join(f"{who} {n}" for who, n in sorted(last["winners"].items()))),
        ("held-out pairs that the reward model orders rightly", f"{100 * last['rm_pair_accuracy']:.1f}%"),
        ("largest logit difference to transformers", f"{report['hf_max_abs_logit_diff']:.2g}"),
        ("greedy answers equal to transformers", "{equal} of {prompts}".format(**report["hf_greedy_equal"])),
    ]
    return "\n".join(["| figure | value |", "|---|---|", *(f"| {k} | {v} |" for k, v in rows)])


def stages(report: dict[str, Any], commit: str) -> str:
    """The rows of the stage table; all stages are run by the one command, a training stage also by its own."""
    rows = [
        "| stage | command | config | hardware | time | result | commit |",
        "|---|---|---|---|---|---|---|",
    ]
    configs = {
        "reward model": "reward",
        "rejection sampling round": "rejection_sampled",
        "control: as many steps, no winners": "control",
    }
    command = f"`tigerjax quickstart --seed {report['seed']}`"
    for stage, seconds in report["seconds"].items():
        name = configs.get(stage, stage.removeprefix("train ") if stage.startswith("train ") else "")
        config = f"`configs/quickstart_{name}.py`" if name else ""
        cells = (stage, command, config, "2 CPU cores", f"{seconds:.0f} s", _result(report, stage, name), commit)
        rows.append(f"| {' | '.join(cells)} |")
        command = "the same"
    return "\n".join(rows)


def _result(report: dict[str, Any], stage: str, name: str) -> str:
    """What the report says of a stage, in a few words."""
    if stage.startswith("ask "):
        return f"{100 * report['accuracy'][stage.removeprefix('ask ')]['overall']:.1f}% right"
    if stage == "tokenizer":
        return f"{report['tokenizer']['vocab_after']:,} entries"
    if stage == "clean and deduplicate":
        counts = report["data"]
        return f"{counts['clean']['in']:,} → {counts['against_sft']['out']:,} documents"
    if loss := report["curves"].get(name):
        return f"loss {loss[0][1]:.2f} → {loss[-1][1]:.2f} nats"
    return f"logits within {report['hf_max_abs_logit_diff']:.1g}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("report", type=Path, nargs="?", default=Path("runs/quickstart/report.json"))
    parser.add_argument("--commit", help="of the code that made the report; default: the checkout's")
    args = parser.parse_args()
    report = json.loads(args.report.read_text(encoding="utf-8"))
    head = ["git", "-C", str(README.parent), "rev-parse", "--short", "HEAD"]
    commit = args.commit or subprocess.run(head, capture_output=True, text=True, check=True).stdout.strip()
    text = README.read_text(encoding="utf-8")
    for mark, body in (("quickstart", table(report)), ("stages", stages(report, commit))):
        block = f"<!-- {mark} -->\n\n{body}\n\n<!-- /{mark} -->"
        text, found = re.subn(f"<!-- {mark} -->.*?<!-- /{mark} -->", lambda _, b=block: b, text, flags=re.DOTALL)
        if found != 1:
            raise SystemExit(f"{README.name} must hold <!-- {mark} --> … <!-- /{mark} --> once, found {found}")
    README.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
