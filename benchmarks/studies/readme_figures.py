"""Writes the quick start's figures into README and docs/QUICKSTART.md, in both languages.

    python benchmarks/studies/readme_figures.py runs/seeds/0/report.json runs/seeds/1/report.json …

Between `<!-- quickstart -->` marks: the figures of the first report, beside their mean and standard deviation over all.
Between `<!-- stages -->` marks: time and result of each stage of the first.
Between `<!-- gains -->` marks: what each step gained over another model, over all seeds.
"""

import argparse
import json
import re
import statistics
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PAGES = {
    "quickstart": (ROOT / "README.md", ROOT / "README.zh.md"),
    "stages": (ROOT / "docs" / "QUICKSTART.md", ROOT / "docs" / "zh" / "QUICKSTART.md"),
    "gains": (ROOT / "docs" / "QUICKSTART.md", ROOT / "docs" / "zh" / "QUICKSTART.md"),
}
"""By mark, the English page and the Chinese one."""
IN_CHINESE = {
    "| step | gain in points | by seed |": "| 步骤 | 提升（百分点） | 各种子 |",
    "rejection-sampled over control": "拒绝采样后相对对照组",
    "rejection-sampled over SFT": "拒绝采样后相对 SFT",
    "holistic base over base": "整体式预训练后相对基座模型",
    "SFT over holistic base": "SFT 相对整体式预训练后",
    "held-out pairs that the reward model orders correctly": "奖励模型在留出偏好对上的准确率",
    "test questions answered correctly: rejection-sampled": "留出测试集正确率：拒绝采样后",
    "test questions answered correctly: holistic base": "留出测试集正确率：整体式预训练后",
    "test questions answered correctly: control": "留出测试集正确率：对照组",
    "test questions answered correctly: base": "留出测试集正确率：基座模型",
    "test questions answered correctly: SFT": "留出测试集正确率：SFT",
    "true reward before and after the round": "本轮前后的平均真实奖励",
    "greedy answers equal to those of": "贪心解码结果完全一致，对比",
    "largest logit difference to": "logits 最大差异，对比",
    "control: as many steps, without winners": "对照：步数相同，不加入拒绝采样样本",
    "Hugging Face export and parity": "导出到 Hugging Face 并核对",
    "rejection sampling round": "一轮拒绝采样",
    "clean and deduplicate": "清洗与去重",
    "share of tokens: Chinese, English, instructions": "各类数据实际 token 占比：中文、英文、指令",
    "winners chosen by": "入选回答来源",
    "gate of the round": "本轮准入评估（gate）",
    "characters per token, Chinese": "每个 token 平均对应的字符数，中文",
    "characters per token, English": "每个 token 平均对应的字符数，英文",
    "train holistic": "整体式预训练",
    "train base": "训练基座模型",
    "train sft": "监督微调",
    "ask holistic": "评测整体式模型",
    "ask base": "评测基座模型",
    "ask sft": "评测 SFT 模型",
    "reward model,": "奖励模型",
    "reward model": "奖励模型",
    "people's ranking": "人工排序",
    "people's edit": "人工改写",
    "logits within": "logits 相差不超过",
    "vocabulary size": "词表大小",
    "a Llama in numpy": "numpy 版 Llama",
    "documents": "篇文档",
    "tokenizer |": "分词器 |",
    "| figure | seed": "| 指标 | 种子",
    "mean ± standard deviation of ": "均值 ± 标准差，",
    " seeds |": " 个种子 |",
    "| stage | time | result |": "| 阶段 | 时间 | 结果 |",
    "the same": "相同",
    "not passed": "未通过",
    "passed": "通过",
    "entries": "个条目",
    " correct": " 正确",
    "| loss ": "| 损失 ",
}
"""What a table says, the longer phrases first."""
SHORT = 30  # characters of a figure that is shown for all seeds
MODELS = {"holistic": "holistic base", "sft": "SFT", "rejection_sampled": "rejection-sampled"}
BY = {"rm": "reward model", "human": "people's ranking", "edit": "people's edit"}


def table(reports: list[dict[str, Any]]) -> str:
    """The figures of the first report, and their mean and standard deviation over all, as a Markdown table."""
    own = [_figures(report) for report in reports]
    rows = [
        f"| figure | seed {reports[0]['seed']} | mean ± standard deviation of {len(reports)} seeds |",
        "|---|---|---|",
    ]
    for name, (shown, value, unit) in own[0].items():
        values = [number for figures in own if name in figures and (number := figures[name][1]) is not None]
        if value is None:
            all_shown = [figures[name][0] for figures in own if name in figures]
            over = "the same" if set(all_shown) == {shown} else "; ".join(all_shown) if len(shown) < SHORT else ""
        else:
            over = f"{statistics.mean(values):.1f}{unit} ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
        rows.append(f"| {name} | {shown} | {over} |")
    return "\n".join(rows)


def _figures(report: dict[str, Any]) -> dict[str, tuple[str, float | None, str]]:
    """By name: the figure as it is shown, and the number whose mean is taken, with its unit."""
    tokens, last, reward = report["tokenizer"], report["round"], report["true_reward"][0]
    before, after = tokens["chars_per_token_before"], tokens["chars_per_token_after"]
    peer = {"transformers": "Transformers", "numpy": "a Llama in numpy"}[report["hf_compared_with"]]
    shares = {"zh": 0.0, "en": 0.0, "instruct": 0.0}
    for name, share in report["shares"]["realised"].items():
        shares[name.split(".")[1]] += share
    out: dict[str, tuple[str, float | None, str]] = {
        "vocabulary size": (f"{tokens['vocab_before']:,} → {tokens['vocab_after']:,}", None, ""),
        "characters per token, Chinese": (f"{before['zh']:.3f} → {after['zh']:.3f}", None, ""),
        "characters per token, English": (f"{before['en']:.3f} → {after['en']:.3f}", None, ""),
        "share of tokens: Chinese, English, instructions": (
            ", ".join(f"{100 * shares[part]:.2f}%" for part in ("zh", "en", "instruct")),
            None,
            "",
        ),
    }
    for name, figures in report["accuracy"].items():
        value = 100 * figures["overall"]
        out[f"test questions answered correctly: {MODELS.get(name, name)}"] = (f"{value:.1f}%", value, "%")
    pairs = 100 * last["rm_pair_accuracy"]
    winners = ", ".join(f"{BY[who]} {n}" for who, n in sorted(last["winners"].items(), reverse=True))
    equal = report["hf_greedy_equal"]
    return out | {
        "held-out pairs that the reward model orders correctly": (f"{pairs:.1f}%", pairs, "%"),
        "true reward before and after the round": (f"{reward['before']:.3f} → {reward['after']:.3f}", None, ""),
        "gate of the round": ("passed" if last["gate"] == "accepted" else "not passed", None, ""),
        "winners chosen by": (winners, None, ""),
        f"largest logit difference to {peer}": (f"{report['hf_max_abs_logit_diff']:.1g}", None, ""),
        f"greedy answers equal to those of {peer}": (f"{equal['equal']}/{equal['prompts']}", None, ""),
    }


GAINS = (("holistic", "base"), ("sft", "holistic"), ("rejection_sampled", "sft"), ("rejection_sampled", "control"))
"""Pairs of models, the later one first."""


def gains(reports: list[dict[str, Any]]) -> str:
    """In points of accuracy on the test questions, how far each model of GAINS is above the other."""
    rows = ["| step | gain in points | by seed |", "|---|---|---|"]
    for pair in GAINS:
        own = [100 * (r["accuracy"][pair[0]]["overall"] - r["accuracy"][pair[1]]["overall"]) for r in reports]
        spread = f" ± {statistics.stdev(own):.1f}" if len(own) > 1 else ""
        names = " over ".join(MODELS.get(name, name) for name in pair)
        rows.append(f"| {names} | {statistics.mean(own):+.1f}{spread} | {', '.join(f'{g:+.1f}' for g in own)} |")
    return "\n".join(rows)


def stages(report: dict[str, Any]) -> str:
    """Time and result of each stage."""
    rows = ["| stage | time | result |", "|---|---|---|"]
    for stage, seconds in report["seconds"].items():
        name = stage.replace("no winners", "without winners")
        rows.append(f"| {name} | {seconds:.0f} s | {_result(report, stage)} |")
    return "\n".join(rows)


def _result(report: dict[str, Any], stage: str) -> str:
    """What the report says of a stage, in a few words."""
    if stage.startswith("ask "):
        return f"{100 * report['accuracy'][stage.removeprefix('ask ')]['overall']:.1f}% correct"
    if stage == "tokenizer":
        return f"{report['tokenizer']['vocab_after']:,} entries"
    if stage == "clean and deduplicate":
        counts = report["data"]
        return f"{counts['clean']['in']:,} → {counts['against_sft']['out']:,} documents"
    curves = {"reward model": "reward", "rejection sampling round": "rejection_sampled"}
    name = "control" if stage.startswith("control") else curves.get(stage, stage.removeprefix("train "))
    if loss := report["curves"].get(name):
        return f"loss {loss[0][1]:.2f} → {loss[-1][1]:.2f} nats"
    return f"logits within {report['hf_max_abs_logit_diff']:.1g}"


def in_chinese(table: str) -> str:
    for english, chinese in IN_CHINESE.items():
        table = table.replace(english, chinese)
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("reports", type=Path, nargs="+")
    args = parser.parse_args()
    reports = [json.loads(path.read_text(encoding="utf-8")) for path in args.reports]
    made = {"quickstart": table(reports), "stages": stages(reports[0]), "gains": gains(reports)}
    for mark, (english, chinese) in PAGES.items():
        for path, body in ((english, made[mark]), (chinese, in_chinese(made[mark]))):
            text = path.read_text(encoding="utf-8")
            parts = re.split(f"<!-- {mark} -->.*?<!-- /{mark} -->", text, flags=re.DOTALL)
            if len(parts) != 2:
                raise SystemExit(f"{path} must hold <!-- {mark} --> … <!-- /{mark} --> once, found {len(parts) - 1}")
            path.write_text(f"<!-- {mark} -->\n\n{body}\n\n<!-- /{mark} -->".join(parts), encoding="utf-8")


if __name__ == "__main__":
    main()
