"""Writes the quick start's figures into README.md and README.zh.md, between `<!-- quickstart -->` and
`<!-- stages -->` marks.

python benchmarks/studies/readme_figures.py runs/quickstart/report.json
"""

import argparse
import json
import re
import subprocess
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
README, CHINESE = ROOT / "README.md", ROOT / "README.zh.md"
IN_CHINESE = {
    "held-out pairs that the reward model orders rightly": "奖励模型排对的留出对",
    "held-out questions answered rightly, rejection-sampled": "留出题答对的比例，拒绝采样后",
    "held-out questions answered rightly, holistic": "留出题答对的比例，整体式预训练后",
    "held-out questions answered rightly, control": "留出题答对的比例，对照组",
    "held-out questions answered rightly, base": "留出题答对的比例，基座",
    "held-out questions answered rightly, sft": "留出题答对的比例，SFT",
    "mean true reward, before and after the round": "平均真实奖励，该轮之前与之后",
    "greedy answers equal to a Llama in numpy": "与 numpy 版 Llama 一致的贪心回答",
    "largest logit difference to a Llama in numpy": "与 numpy 版 Llama 的 logit 最大差异",
    "greedy answers equal to transformers": "与 transformers 一致的贪心回答",
    "largest logit difference to transformers": "与 transformers 的 logit 最大差异",
    "control: as many steps, no winners": "对照：同样步数，没有胜出回答",
    "Hugging Face export and parity": "导出到 Hugging Face 并核对",
    "rejection sampling round": "一轮拒绝采样",
    "clean and deduplicate": "清洗与去重",
    "token shares realised": "实际的 token 份额",
    "winners chosen by": "胜出回答的选择者",
    "gate of the round": "该轮的关卡",
    "characters a token, zh": "每个 token 的字符数，中文",
    "characters a token, en": "每个 token 的字符数，英文",
    "train holistic": "整体式预训练",
    "train base": "训练基座",
    "train sft": "监督微调",
    "ask holistic": "向整体式模型提问",
    "ask base": "向基座提问",
    "ask sft": "向 SFT 模型提问",
    "reward model": "奖励模型",
    "2 CPU cores": "2 个 CPU 核心",
    "logits within": "logit 相差不超过",
    "vocabulary": "词表",
    "documents": "篇文档",
    "the same": "同上",
    "tokenizer |": "分词器 |",
    "| figure | value |": "| 数据 | 数值 |",
    "| stage | command | config | hardware |": "| 阶段 | 命令 | 配置 | 硬件 |",
    "| time | result | commit |": "| 时间 | 结果 | 提交 |",
    "accepted": "接受",
    "refused": "拒绝",
    "rejected": "拒绝",
    "entries": "个条目",
    " right": " 答对",
    "| loss ": "| 损失 ",
}
"""What a table says, the longer phrases first."""


def table(report: dict[str, Any]) -> str:
    """The verdict figures as a Markdown table."""
    tokens, accuracy = report["tokenizer"], report["accuracy"]
    before, after = tokens["chars_per_token_before"], tokens["chars_per_token_after"]
    last, reward = report["round"], report["true_reward"][0]
    peer = {"transformers": "transformers", "numpy": "a Llama in numpy"}[report["hf_compared_with"]]
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
        (f"largest logit difference to {peer}", f"{report['hf_max_abs_logit_diff']:.2g}"),
        (f"greedy answers equal to {peer}", "{equal} of {prompts}".format(**report["hf_greedy_equal"])),
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


def in_chinese(table: str) -> str:
    for english, chinese in IN_CHINESE.items():
        table = table.replace(english, chinese)
    return table


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
    head = ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"]
    commit = args.commit or subprocess.run(head, capture_output=True, text=True, check=True).stdout.strip()
    tables = {"quickstart": table(report), "stages": stages(report, commit)}
    for path, bodies in ((README, tables), (CHINESE, {mark: in_chinese(body) for mark, body in tables.items()})):
        text = path.read_text(encoding="utf-8")
        for mark, body in bodies.items():
            block = f"<!-- {mark} -->\n\n{body}\n\n<!-- /{mark} -->"
            parts = re.split(f"<!-- {mark} -->.*?<!-- /{mark} -->", text, flags=re.DOTALL)
            if len(parts) != 2:
                raise SystemExit(
                    f"{path.name} must hold <!-- {mark} --> … <!-- /{mark} --> once, found {len(parts) - 1}"
                )
            text = block.join(parts)
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
