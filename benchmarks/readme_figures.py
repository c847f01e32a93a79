"""Writes the quick start's figures into README.md, between its `<!-- quickstart -->` and `<!-- stages -->` marks.

python benchmarks/readme_figures.py runs/quickstart/report.json
"""

import argparse
import json
import re
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
        ("winners chosen by", ", ".join(f"{who} {n}" for who, n in last["winners"].items())),
        ("held-out pairs that the reward model orders rightly", f"{100 * last['rm_pair_accuracy']:.1f}%"),
        ("largest logit difference to transformers", f"{report['hf_max_abs_logit_diff']:.2g}"),
        ("greedy answers equal to transformers", "{equal} of {prompts}".format(**report["hf_greedy_equal"])),
    ]
    return "\n".join(["| figure | value |", "|---|---|", *(f"| {k} | {v} |" for k, v in rows)])


def stages(report: dict[str, Any]) -> str:
    """The rows of the stage table: stage, config, time."""
    rows = ["| stage | config | hardware | time | result |", "|---|---|---|---|---|"]
    for stage, seconds in report["seconds"].items():
        name = stage.removeprefix("train ")
        config = f"`configs/quickstart_{name}.py`" if stage.startswith("train ") else ""
        config = {
            "reward model": "`configs/quickstart_reward.py`",
            "rejection sampling round": "`configs/quickstart_rejection_sampled.py`",
            "control: as many steps, no winners": "`configs/quickstart_control.py`",
        }.get(stage, config)
        loss = report["curves"].get({"rejection sampling round": "rejection_sampled"}.get(stage, name))
        result = f"loss {loss[0][1]:.2f} → {loss[-1][1]:.2f} nats" if loss else ""
        rows.append(f"| {stage} | {config} | 2 CPU cores | {seconds:.0f} s | {result} |")
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("report", type=Path, nargs="?", default=Path("runs/quickstart/report.json"))
    report = json.loads(parser.parse_args().report.read_text(encoding="utf-8"))
    text = README.read_text(encoding="utf-8")
    for mark, body in (("quickstart", table(report)), ("stages", stages(report))):
        block = f"<!-- {mark} -->\n\n{body}\n\n<!-- /{mark} -->"
        text, found = re.subn(f"<!-- {mark} -->.*?<!-- /{mark} -->", lambda _, b=block: b, text, flags=re.DOTALL)
        if found != 1:
            raise SystemExit(f"{README.name} must hold <!-- {mark} --> … <!-- /{mark} --> once, found {found}")
    README.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
