"""The figures of the report for the terminal."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tigerjax.pages.numbers import duration, number, percent, standard_error
from tigerjax.pages.tables import Table, print_framed
from tigerjax.report.figures import export_reader, share_of, stage_name, stages
from tigerjax.report.validation import table_rows

if TYPE_CHECKING:
    from rich.console import Console


def print_table(report: Mapping[str, Any], console: "Console | None" = None) -> None:
    """Prints the accuracy by stage and then the other figures of the run, to standard output where none is given."""
    from rich.console import Console

    console = console or Console()
    if scores := report.get("accuracy"):
        print_framed(_accuracy(scores), "held-out questions answered rightly", console)
    if figures := _figures(report):
        table = Table(["figure", "value"], figures)
        print_framed(table, f"tigerjax {report['version']}, this run", console, right=False)


def _accuracy(scores: Mapping[str, Any]) -> Table:
    langs = list(dict.fromkeys(lang for a in scores.values() for lang in a.get("by_lang") or {}))
    rows = []
    for name in stages(scores):
        share, n, by_lang = float(scores[name]["overall"]), int(scores[name]["n"]), scores[name].get("by_lang") or {}
        own = [percent(share_of(by_lang[lang])) if lang in by_lang else "" for lang in langs]
        rows.append([stage_name(name), percent(share), f"{100 * standard_error(share, n):.1f}", number(n), *own])
    return Table(["stage", "all", "± 1 s.e.", "n", *langs], rows)


def _figures(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    rows = []
    tok = report.get("tokenizer") or {}
    before, after = tok.get("chars_per_token_before") or {}, tok.get("chars_per_token_after") or {}
    rows += [(f"characters per token, {k}", f"{number(before[k])} → {number(after[k])}") for k in before if k in after]
    if "vocab_before" in tok and "vocab_after" in tok:
        rows.append(("vocabulary", f"{number(tok['vocab_before'])} → {number(tok['vocab_after'])}"))
    mix = report.get("shares") or {}
    for source, wanted in (mix.get("wanted") or {}).items():
        realised = (mix.get("realised") or {}).get(source, 0.0)
        rows.append((f"share of {source}", f"wanted {percent(wanted, 2)}, measured {percent(realised, 2)}"))
    for source in [s for s in mix.get("realised") or {} if s not in (mix.get("wanted") or {})]:
        rows.append((f"share of {source}", percent(mix["realised"][source], 2)))
    for name, line in (report.get("curves") or {}).items():
        if line:
            rows.append((f"loss of {stage_name(name)}, nats", f"{number(line[0][1])} → {number(line[-1][1])}"))
    rows += table_rows(report)
    for name, lines in (report.get("runs") or {}).items():
        ends = {key: lines[key][-1][1] for key in ("tokens_per_s", "mfu", "goodput", "hbm_peak_gb") if lines.get(key)}
        speed = [f"{number(round(ends['tokens_per_s']))} tokens/s"] if "tokens_per_s" in ends else []
        speed += [
            f"{title} {percent(ends[key])}" for key, title in (("mfu", "MFU"), ("goodput", "goodput")) if key in ends
        ]
        speed += [f"{number(ends['hbm_peak_gb'])} GB"] if "hbm_peak_gb" in ends else []
        rows.append((f"speed of {stage_name(name)}", ", ".join(speed)))
    for r in report.get("true_reward") or []:
        rows.append((f"mean true reward, round {r['round']}", f"{number(r['before'])} → {number(r['after'])}"))
    for r in report.get("align_rounds") or []:
        rows.append((f"round {r['round']}: gate", f"{r['gate']}{', ' + r['note'] if r.get('note') else ''}"))
        rows.append((f"round {r['round']}: win rate", percent(r["win_rate"])))
        accuracies = f"{percent(r['before']['accuracy'])} → {percent(r['after']['accuracy'])}"
        rows.append((f"round {r['round']}: held-out accuracy", accuracies))
    last = report.get("round") or {}
    if last.get("gate"):
        rows.append(("gate of the round", f"{last['gate']}{', ' + last['note'] if last.get('note') else ''}"))
    if "rm_pair_accuracy" in last:
        rows.append(("pairs that the reward model orders rightly", percent(last["rm_pair_accuracy"])))
    if winners := last.get("winners"):
        rows.append(("winners", ", ".join(f"{k} {number(v)}" for k, v in winners.items())))
    if "hf_max_abs_logit_diff" in report:
        rows.append((f"largest logit difference to {export_reader(report)}", number(report["hf_max_abs_logit_diff"])))
    if greedy := report.get("hf_greedy_equal"):
        rows.append((f"greedy answers equal to {export_reader(report)}", f"{greedy['equal']} of {greedy['prompts']}"))
    if "total_seconds" in report:
        rows.append(("time", duration(report["total_seconds"])))
    return rows
