"""report.json to one HTML page that needs nothing else: one function a section, empty when its figures are absent."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tigerjax.files import manifest, paths
from tigerjax.report.charts import Bar, bars, clean, curve, stacked
from tigerjax.report.figures import (
    duration,
    mean_true_reward_gain,
    number,
    percent,
    points,
    share_of,
    stage_name,
    stages,
    standard_error,
)
from tigerjax.report.lineage import graph
from tigerjax.report.parts import section, table
from tigerjax.report.rounds import rounds
from tigerjax.report.runs import speed
from tigerjax.report.style import CSS

Report = Mapping[str, Any]
NBSP = "\u00a0"
LANGUAGES = {"zh": "Chinese", "en": "English"}


def render(report: Report, out: Path) -> None:
    """Writes `out`, replacing it as a whole; keys that are absent leave their section out."""
    out.parent.mkdir(parents=True, exist_ok=True)
    paths.write_text(out, page(report))


def page(report: Report) -> str:
    parts = [tokenizer, data, shares, curves, speed, accuracy, rejection, rounds, samples, parity, time, graph]
    body = "\n".join(made for part in parts if (made := part(report)))
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><title>tigerjax report</title>'
        f"<style>{CSS}</style></head>\n<body><main>\n{header(report)}\n{body}\n{footer(report)}\n</main></body></html>\n"
    )


def language(key: str) -> str:
    return LANGUAGES.get(key, key)


def header(report: Report) -> str:
    facts = [f"tigerjax {clean(report['version'])}"]
    if "seed" in report:
        facts.append(f"seed {clean(report['seed'])}")
    config = report.get("config") or {}
    facts += [f"{number(config[k])} {k}" for k in ("parameters", "tokens") if k in config]
    if "total_seconds" in report:
        facts.append(duration(report["total_seconds"]))
    facts = [fact.replace(" ", NBSP) for fact in facts]
    cards = "".join(
        f"<div><dt>{clean(name)}</dt><dd>{clean(value)}<small>{clean(note)}</small></dd></div>"
        for name, value, note in verdict(report)
    )
    return (
        f'<header id="verdict"><h1>{clean(report.get("title", "From raw text to an aligned model"))}</h1>'
        f'<p class="soft">{" · ".join(facts)}. Every figure below was measured in this run.</p>'
        + (f'<dl class="verdict">{cards}</dl>' if cards else "")
        + "</header>"
    )


def verdict(report: Report) -> list[tuple[str, str, str]]:
    """The run in a few figures: (name, figure, what it is of)."""
    found = []
    told = report.get("accuracy") or {}
    order = [name for name in stages(told) if name != "control"]
    if order:
        first, last = told[order[0]], told[order[-1]]
        figure = f"{percent(first['overall'])} → {percent(last['overall'])}"
        note = f"{stage_name(order[0])} to {stage_name(order[-1])}, {number(last['n'])} questions"
        found.append(("held-out answers right", figure, note))
    if {"sft", "rejection_sampled"} <= set(told):
        gain = told["rejection_sampled"]["overall"] - told["sft"]["overall"]
        note = "rejection-sampled over SFT"
        if "control" in told:
            note += f"; {points(told['rejection_sampled']['overall'] - told['control']['overall'])} over the control"
        found.append(("gain of the round", points(gain), note))
    if rounds := report.get("true_reward"):
        note = "before and after " + ("the round" if len(rounds) == 1 else f"{len(rounds)} rounds")
        found.append(("mean true reward", mean_true_reward_gain(rounds), note))
    tok = report.get("tokenizer") or {}
    before, after = tok.get("chars_per_token_before", {}), tok.get("chars_per_token_after", {})
    if "zh" in before and "zh" in after:
        note = f"{number(tok['vocab_before'])} to {number(tok['vocab_after'])} entries" if "vocab_after" in tok else ""
        found.append(("Chinese characters a token", f"{number(before['zh'])} → {number(after['zh'])}", note))
    if (mix := report.get("shares")) and mix.get("wanted"):
        off = max(abs(mix["realised"].get(name, 0.0) - wanted) for name, wanted in mix["wanted"].items())
        found.append(("largest miss of a token share", f"{100 * off:.2f} points", f"{len(mix['wanted'])} sources"))
    if "hf_max_abs_logit_diff" in report:
        note = "largest logit difference to transformers"
        if greedy := report.get("hf_greedy_equal"):
            note += f"; {number(greedy['equal'])} of {number(greedy['prompts'])} greedy answers equal"
        found.append(("Hugging Face parity", number(report["hf_max_abs_logit_diff"]), note))
    return found


def tokenizer(report: Report) -> str:
    tok = report.get("tokenizer") or {}
    before, after = tok.get("chars_per_token_before", {}), tok.get("chars_per_token_after", {})
    if not after:
        return ""
    high = max([*before.values(), *after.values()])
    body = ""
    for lang in after:
        rows = [
            Bar(name, values[lang], f"{number(values[lang])} characters", name)
            for name, values in (("before", before), ("after", after))
            if lang in values
        ]
        body += f"<h3>{clean(language(lang))}</h3>" + bars(rows, 0.0, high)
    lead = "Characters that one token carries, before and after the vocabulary is extended"
    if "vocab_before" in tok and "vocab_after" in tok:
        lead += f" from {number(tok['vocab_before'])} to {number(tok['vocab_after'])} entries"
    return section("tokenizer", "Tokenizer efficiency", lead + ".", body)


def data(report: Report) -> str:
    rows = []
    for name, counts in (report.get("data") or {}).items():
        nested = counts if "in" not in counts else {"": counts}
        for part, c in nested.items():
            if not isinstance(c, Mapping) or "in" not in c:
                continue
            dropped = c.get("dropped") or {}
            why = ", ".join(f"{reason.replace('_', ' ')} {number(n)}" for reason, n in dropped.items() if n) or "none"
            label = {"against_sft": "against the instruction data", "sft": "instruction data, cleaned"}.get(name, name)
            rows.append([f"{label} {part}".strip(), number(c["in"]), number(c.get("out", 0)), why])
    if not rows:
        return ""
    lead = "Documents into and out of each step, and why the others went."
    return section("data", "Data", lead, table(["step", "in", "out", "dropped"], rows, words=True))


def shares(report: Report) -> str:
    mix = report.get("shares") or {}
    wanted, realised = mix.get("wanted") or {}, mix.get("realised") or {}
    if not wanted and not realised:
        return ""
    body = ""
    for source in [*wanted, *(s for s in realised if s not in wanted)]:
        rows = [
            Bar(name, values[source], percent(values[source], 2), name)
            for name, values in (("wanted", wanted), ("realised", realised))
            if source in values
        ]
        body += f"<h3>{clean(source)}</h3>" + bars(rows, 0.0, max([*wanted.values(), *realised.values(), 1e-9]))
    lead = "Of the tokens that the holistic run trained on." if wanted else "Of the tokens that the run trained on."
    return section("shares", "Shares of the mixture", lead, body)


def curves(report: Report) -> str:
    drawn = {name: points for name, points in (report.get("curves") or {}).items() if points}
    if not drawn:
        return ""
    body = ""
    for name in stages(drawn):
        line = [(float(step), float(loss)) for step, loss in drawn[name]]
        note = f"{number(line[0][1])} → {number(line[-1][1])} nats"
        label = clean(stage_name(name))
        plot = curve(line, f"{stage_name(name)}: loss in nats", name)
        body += f'<div><h3>{label}</h3><span class="note">{note}</span>{plot}</div>'
    lead = "Training loss in nats over steps; each run on its own scale. Thin: as logged; thick: its running mean."
    return section("curves", "Loss", lead, f'<div class="curves">{body}</div>')


def accuracy(report: Report) -> str:
    told = report.get("accuracy") or {}
    if not told:
        return ""
    rows, cells = [], []
    parts = {
        by: list(dict.fromkeys(k for a in told.values() for k in a.get(by) or {})) for by in ("by_lang", "by_task")
    }
    for name in stages(told):
        share, n = float(told[name]["overall"]), int(told[name]["n"])
        error = standard_error(share, n)
        rows.append(Bar(stage_name(name), share, f"{percent(share)} ± {100 * error:.1f}, n = {number(n)}", name, error))
        cells.append([stage_name(name), percent(share)])
        for by, keys in parts.items():
            own = told[name].get(by) or {}
            cells[-1] += [percent(share_of(own[k])) if k in own else "" for k in keys]
    heads = ["", "all", *map(language, parts["by_lang"]), *(t.replace("_", " ") for t in parts["by_task"])]
    lead = "Share of held-out questions answered rightly, decoded greedily. The whisker is one binomial standard error."
    if "control" in told:
        lead += " The control trains as many further steps as the rejection-sampled model, without the winners."
    return section("accuracy", "Accuracy by stage", lead, bars(rows, 0.0, 1.0) + table(heads, cells))


def rejection(report: Report) -> str:
    rounds, last = report.get("true_reward") or [], report.get("round") or {}
    if not rounds and not last:
        return ""
    body = ""
    values = [float(r[k]) for r in rounds for k in ("before", "after")]
    for r in rounds:
        rows = [Bar(k, float(r[k]), number(r[k]), k) for k in ("before", "after")]
        title = f"Mean true reward, round {clean(r['round'])} (n = {number(r['n'])})"
        body += f"<h3>{title}</h3>" + bars(rows, min([0.0, *values]), max([1e-9, *values]))
    winners = {k: float(v) for k, v in (last.get("winners") or {}).items()}
    if winners:
        names = {"rm": "reward model", "human": "human labels", "edit": "human edits"}
        parts = {names.get(k, k): v for k, v in winners.items()}
        total = sum(winners.values()) or 1.0
        said = {k: f"{number(int(v))} ({percent(v / total)})" for k, v in parts.items()}
        body += "<h3>Who chose the winners</h3>" + stacked(parts, said)
    names = {
        "prompts": "prompts",
        "candidates": "candidates",
        "rm_pair_accuracy": "pairs that the reward model orders rightly",
        "reward_before": "mean score by the reward model, before",
        "reward_after": "mean score by the reward model, after",
    }
    figures = [[names[k], percent(last[k]) if k == "rm_pair_accuracy" else number(last[k])] for k in names if k in last]
    if figures:
        body += table(["", ""], figures)
    lead = (
        "The true reward is the checker's verdict on the answers, not the reward model's score: it tells whether "
        "a higher score is a better answer."
    )
    return section("round", "True reward by round", lead, body)


def samples(report: Report) -> str:
    body = ""
    for sample in report.get("samples") or []:
        answers, right = sample.get("answers") or {}, sample.get("right") or {}
        lang, cells = clean(language(sample.get("lang", ""))), ""
        for name in stages(answers):
            mark = ""
            if name in right:
                mark = '<span class="right">✓ right</span>' if right[name] else '<span class="wrong">✗ wrong</span>'
            text = clean(answers[name]) if str(answers[name]).strip() else '<span class="empty">no answer</span>'
            cells += f"<div><dt><span>{clean(stage_name(name))}</span>{mark}</dt><dd>{text}</dd></div>"
        body += (
            f'<article class="sample"><div class="ask"><span class="lang">{lang}</span>'
            f'{clean(sample["prompt"])}</div><dl class="answers">{cells}</dl></article>'
        )
    lead = "Held-out questions, spread evenly over the file and not picked, with every stage's greedy answer."
    return section("samples", "Answers side by side", lead, body) if body else ""


def parity(report: Report) -> str:
    rows = []
    if "hf_max_abs_logit_diff" in report:
        rows.append(["largest absolute difference of a logit", number(report["hf_max_abs_logit_diff"])])
    if greedy := report.get("hf_greedy_equal"):
        rows.append(
            ["greedy answers equal token for token", f"{number(greedy['equal'])} of {number(greedy['prompts'])}"]
        )
    lead = "The exported model, loaded by <code>transformers</code>, against this run's own."
    return section("parity", "Hugging Face parity", lead, table(["", ""], rows)) if rows else ""


def time(report: Report) -> str:
    seconds = report.get("seconds") or {}
    if not seconds:
        return ""
    rows = [Bar(stage_name(name), float(s), duration(s), "time") for name, s in seconds.items()]
    lead = "Wall-clock time of each stage."
    if "total_seconds" in report:
        lead += f" The run that drew this page took {duration(report['total_seconds'])} in all."
    return section("time", "Time by stage", lead, bars(rows, 0.0, max([1e-9, *map(float, seconds.values())])))


def footer(report: Report) -> str:
    sha = hashlib.sha256(manifest.canonical(report)).hexdigest()
    line = " → ".join(clean(stage_name(name)) for name in report.get("seconds") or {})
    settings = "".join(f"{clean(k)} = {clean(v)}\n" for k, v in sorted((report.get("config") or {}).items()))
    return (
        f'<footer id="lineage"><p>Lineage: {line + " → this page. " if line else ""}'
        f"tigerjax {clean(report['version'])}, seed {clean(report.get('seed', 'not given'))}, "
        f"report.json sha256 {sha[:16]}…</p>"
        + (f"<details><summary>Configuration</summary><pre>{settings}</pre></details>" if settings else "")
        + "</footer>"
    )
