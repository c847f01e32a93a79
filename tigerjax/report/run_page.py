"""report.json to one HTML page. A function here gives the values of one section of `run.html`.

The words are in the template. What is computed, ordered or worded by its value is here. A section for which a function
gives nothing is left out of the page.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tigerjax import pages
from tigerjax.align.gate import remark
from tigerjax.files import manifest
from tigerjax.pages.charts import Bar, bars, curve, share_bars, stacked
from tigerjax.pages.numbers import duration, number, percent, points, standard_error
from tigerjax.report.examples import examples
from tigerjax.report.figures import export_reader, mean_true_reward_gain, share_of, stage_name, stages
from tigerjax.report.lineage import graph_section
from tigerjax.report.reasons import ONE_SEED, of_stages
from tigerjax.report.rounds import cards as round_cards
from tigerjax.report.rounds import rounds
from tigerjax.report.runs import speed
from tigerjax.report.validation import validation

Report = Mapping[str, Any]
Values = dict[str, Any]
NBSP = "\u00a0"
LANGUAGES = {"zh": "Chinese", "en": "English"}
CHOSEN_BY = {"rm": "reward model", "human": "human labels", "edit": "human edits"}
ROUND_FIGURES = {
    "prompts": "prompts",
    "candidates": "candidates",
    "gate": "verdict of the gate on the new model",
    "win_rate": "held-out answers that the reward model prefers to the old model's",
    "rm_pair_accuracy": "pairs that the reward model orders rightly",
    "reward_before": "mean score by the reward model, before",
    "reward_after": "mean score by the reward model, after",
}


def render(report: Report, out: Path) -> None:
    """Writes the page to `out`, replacing an old one as a whole. A section whose figures are absent is left out."""
    out.parent.mkdir(parents=True, exist_ok=True)
    sections = [
        tokenizer,
        data,
        shares,
        curves,
        validation,
        accuracy,
        true_reward,
        rounds,
        examples,
        samples,
        speed,
        parity,
        time,
    ]
    values = {section.__name__: section(report) for section in sections} | {"graph": graph_section(report)}
    present = [name for name, value in values.items() if value]
    pages.write(out, "report/run.html", **header(report), **values, present=present, **footer(report))


def language(key: str) -> str:
    return LANGUAGES.get(key, key)


def header(report: Report) -> Values:
    facts = [f"tigerjax {report['version']}"]
    if "seed" in report:
        facts.append(f"seed {report['seed']}")
    config = report.get("config") or {}
    facts += [f"{number(config[k])} {k}" for k in ("parameters", "tokens") if k in config]
    if "total_seconds" in report:
        facts.append(duration(report["total_seconds"]))
    return {
        "title": report.get("title", "tigerjax report"),
        "heading": report.get("title", "From raw text to an aligned model"),
        "facts": [fact.replace(" ", NBSP) for fact in facts],
        "verdict": verdict(report),
        "warning": ONE_SEED if report.get("accuracy") or report.get("align_rounds") else "",
    }


def verdict(report: Report) -> list[tuple[str, str, str]]:
    """The run in a few figures: (name, figure, what it is of)."""
    cards = round_cards(report)
    if gate := (report.get("round") or {}).get("gate"):
        wins = report["round"].get("win_rate")
        note = report["round"].get("note") or (remark(wins, None) if wins is not None and gate == "accepted" else "")
        rate = f"win rate {percent(wins)}" if wins is not None else ""
        cards.append(("gate of the round", gate, "; ".join(filter(None, (rate, note)))))
    scores = report.get("accuracy") or {}
    order = [name for name in stages(scores) if name != "control"]
    if order:
        first, last = scores[order[0]], scores[order[-1]]
        figure = f"{percent(first['overall'])} → {percent(last['overall'])}"
        note = f"{stage_name(order[0])} to {stage_name(order[-1])}, {number(last['n'])} questions"
        cards.append(("held-out answers right", figure, note))
    if {"sft", "rejection_sampled"} <= set(scores):
        gain = scores["rejection_sampled"]["overall"] - scores["sft"]["overall"]
        note = "rejection-sampled over SFT"
        if "control" in scores:
            over_control = scores["rejection_sampled"]["overall"] - scores["control"]["overall"]
            note += f"; {points(over_control)} over the control"
        cards.append(("gain of the round", points(gain), note))
    if rounds := report.get("true_reward"):
        note = "before and after " + ("the round" if len(rounds) == 1 else f"{len(rounds)} rounds")
        cards.append(("mean true reward", mean_true_reward_gain(rounds), note))
    tok = report.get("tokenizer") or {}
    before, after = tok.get("chars_per_token_before", {}), tok.get("chars_per_token_after", {})
    if "zh" in before and "zh" in after:
        note = f"{number(tok['vocab_before'])} to {number(tok['vocab_after'])} entries" if "vocab_after" in tok else ""
        cards.append(("Chinese characters per token", f"{number(before['zh'])} → {number(after['zh'])}", note))
    if (mix := report.get("shares")) and mix.get("wanted"):
        off = max(abs(mix["realised"].get(name, 0.0) - wanted) for name, wanted in mix["wanted"].items())
        cards.append(("largest miss of a token share", f"{100 * off:.2f} points", f"{len(mix['wanted'])} sources"))
    if "hf_max_abs_logit_diff" in report:
        note = f"largest logit difference to {export_reader(report)}"
        if greedy := report.get("hf_greedy_equal"):
            note += f"; {number(greedy['equal'])} of {number(greedy['prompts'])} greedy answers equal"
        cards.append(("Hugging Face parity", number(report["hf_max_abs_logit_diff"]), note))
    return cards


def tokenizer(report: Report) -> Values:
    tok = report.get("tokenizer") or {}
    before, after = tok.get("chars_per_token_before", {}), tok.get("chars_per_token_after", {})
    if not after:
        return {}
    high, charts = max([*before.values(), *after.values()]), []
    for lang in after:
        sides = [(name, values[lang]) for name, values in (("before", before), ("after", after)) if lang in values]
        drawn = [Bar(name, value, f"{number(value)} characters", name) for name, value in sides]
        last = lang == list(after)[-1]  # one axis, below the last chart
        charts.append((language(lang), bars(drawn, 0.0, high, scale="{:g}".format if last else None)))
    known = "vocab_before" in tok and "vocab_after" in tok
    entries = (number(tok["vocab_before"]), number(tok["vocab_after"])) if known else None
    return {"charts": charts, "entries": entries}


def data(report: Report) -> Values:
    rows = []
    for name, counts in (report.get("data") or {}).items():
        steps = counts if "in" not in counts else {"": counts}
        for step, c in steps.items():
            if not isinstance(c, Mapping) or "in" not in c:
                continue
            dropped = c.get("dropped") or {}
            why = ", ".join(f"{reason.replace('_', ' ')} {number(n)}" for reason, n in dropped.items() if n) or "none"
            label = {"against_sft": "against the instruction data", "sft": "instruction data, cleaned"}.get(name, name)
            rows.append([f"{label} {step}".strip(), number(c["in"]), number(c.get("out", 0)), why])
    return {"table": pages.Table(["step", "in", "out", "dropped"], rows)} if rows else {}


def shares(report: Report) -> Values:
    mix = report.get("shares") or {}
    wanted, realised = mix.get("wanted") or {}, mix.get("realised") or {}
    charts, sources = [], [*wanted, *(s for s in realised if s not in wanted)]
    for source in sources:
        sides = [(n, values[source]) for n, values in (("wanted", wanted), ("measured", realised)) if source in values]
        drawn = [Bar(name, value, percent(value, 2), name) for name, value in sides]
        charts.append((source, share_bars(drawn, scale=source == sources[-1])))
    run = "holistic run" if "holistic" in (report.get("curves") or {}) else "run"
    return {"charts": charts, "run": run} if charts else {}


def curves(report: Report) -> Values:
    logged = {name: points for name, points in (report.get("curves") or {}).items() if points}
    plots = []
    for name in stages(logged):
        line = [(float(step), float(loss)) for step, loss in logged[name]]
        note = f"{number(line[0][1])} → {number(line[-1][1])} nats"
        plots.append((stage_name(name), note, curve(line, f"{stage_name(name)}: loss in nats", name, "nats")))
    return {"plots": plots} if plots else {}


def accuracy(report: Report) -> Values:
    scores = report.get("accuracy") or {}
    if not scores:
        return {}
    drawn, rows = [], []
    parts = {
        by: list(dict.fromkeys(k for a in scores.values() for k in a.get(by) or {})) for by in ("by_lang", "by_task")
    }
    for name in stages(scores):
        share, n = float(scores[name]["overall"]), int(scores[name]["n"])
        error = standard_error(share, n)
        text = f"{percent(share)} ± {100 * error:.1f}, n = {number(n)}"
        drawn.append(Bar(stage_name(name), share, text, name, error))
        rows.append([stage_name(name), percent(share)])
        for by, keys in parts.items():
            own = scores[name].get(by) or {}
            rows[-1] += [percent(share_of(own[k])) if k in own else "" for k in keys]
    heads = ["", "all", *map(language, parts["by_lang"]), *(t.replace("_", " ") for t in parts["by_task"])]
    table = pages.Table(heads, rows)
    return {"chart": share_bars(drawn), "table": table, "control": "control" in scores, "why": of_stages(scores)}


def true_reward(report: Report) -> Values:
    rounds, last = report.get("true_reward") or [], report.get("round") or {}
    if not rounds and not last:
        return {}
    rewards = [float(r[k]) for r in rounds for k in ("before", "after")]
    low, high, charts = min([0.0, *rewards]), max([1e-9, *rewards]), []
    for r in rounds:
        drawn = [Bar(k, float(r[k]), number(r[k]), k) for k in ("before", "after")]
        charts.append((r["round"], number(r["n"]), bars(drawn, low, high)))
    winners = {CHOSEN_BY.get(k, k): float(v) for k, v in (last.get("winners") or {}).items()}
    total = sum(winners.values()) or 1.0
    texts = {k: f"{number(int(v))} ({percent(v / total)})" for k, v in winners.items()}
    rows = [
        [label, percent(last[k]) if k in ("rm_pair_accuracy", "win_rate") else number(last[k])]
        for k, label in ROUND_FIGURES.items()
        if last.get(k) is not None
    ]
    return {
        "charts": charts,
        "winners": stacked(winners, texts) if winners else None,
        "table": pages.Table(["", ""], rows) if rows else None,
    }


def samples(report: Report) -> Values:
    asked = []
    for sample in report.get("samples") or []:
        answers, right = sample.get("answers") or {}, sample.get("right") or {}
        shown = [
            (stage_name(name), str(answers[name]), bool(right[name]) if name in right else None)
            for name in stages(answers)
        ]
        asked.append((language(sample.get("lang", "")), sample["prompt"], shown))
    return {"asked": asked} if asked else {}


def parity(report: Report) -> Values:
    rows = []
    if "hf_max_abs_logit_diff" in report:
        rows.append(["largest absolute difference of a logit", number(report["hf_max_abs_logit_diff"])])
    if greedy := report.get("hf_greedy_equal"):
        equal = f"{number(greedy['equal'])} of {number(greedy['prompts'])}"
        rows.append(["greedy answers equal token for token", equal])
    return {"table": pages.Table(["", ""], rows), "reader": export_reader(report)} if rows else {}


def time(report: Report) -> Values:
    seconds = {name: float(s) for name, s in (report.get("seconds") or {}).items()}
    if not seconds:
        return {}
    drawn = [Bar(stage_name(name), s, duration(s), "time") for name, s in seconds.items()]
    total = duration(report["total_seconds"]) if "total_seconds" in report else None
    return {"chart": bars(drawn, 0.0, max(1e-9, *seconds.values()), scale=_seconds), "total": total}


def _seconds(value: float) -> str:
    return f"{value:,g} s"


def footer(report: Report) -> Values:
    return {
        "made_in": [stage_name(name) for name in report.get("seconds") or {}],
        "version": report["version"],
        "seed": report.get("seed", "not given"),
        "sha256": hashlib.sha256(manifest.canonical(report)).hexdigest(),
        "settings": sorted((report.get("config") or {}).items()),
    }
