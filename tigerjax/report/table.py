"""The same figures for the terminal."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tigerjax.report.figures import duration, number, percent, share_of, stage_name, stages, standard_error

if TYPE_CHECKING:
    from rich.console import Console


def print_table(report: Mapping[str, Any], console: "Console | None" = None) -> None:
    """Prints accuracy by stage and then the other figures of the run, to standard output unless told otherwise."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = console or Console()
    told = report.get("accuracy") or {}
    if told:
        langs = list(dict.fromkeys(lang for a in told.values() for lang in a.get("by_lang") or {}))
        table = Table(title="held-out questions answered rightly", title_justify="left")
        table.add_column("stage")
        for head in ("all", "± 1 s.e.", "n", *langs):
            table.add_column(escape(head), justify="right")
        for name in stages(told):
            share, n, by_lang = float(told[name]["overall"]), int(told[name]["n"]), told[name].get("by_lang") or {}
            own = [percent(share_of(by_lang[lang])) if lang in by_lang else "" for lang in langs]
            error = f"{100 * standard_error(share, n):.1f}"
            table.add_row(escape(stage_name(name)), percent(share), error, number(n), *own)
        console.print(table)
    rows = list(_figures(report))
    if rows:
        table = Table(title=escape(f"tigerjax {report['version']}, this run"), title_justify="left")
        for head in ("figure", "value"):
            table.add_column(head)
        for name, value in rows:
            table.add_row(escape(name), escape(value))
        console.print(table)


def _figures(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    rows = []
    tok = report.get("tokenizer") or {}
    before, after = tok.get("chars_per_token_before") or {}, tok.get("chars_per_token_after") or {}
    rows += [(f"characters a token, {k}", f"{number(before[k])} → {number(after[k])}") for k in before if k in after]
    if "vocab_before" in tok and "vocab_after" in tok:
        rows.append(("vocabulary", f"{number(tok['vocab_before'])} → {number(tok['vocab_after'])}"))
    mix = report.get("shares") or {}
    for source, wanted in (mix.get("wanted") or {}).items():
        realised = (mix.get("realised") or {}).get(source, 0.0)
        rows.append((f"share of {source}", f"wanted {percent(wanted, 2)}, realised {percent(realised, 2)}"))
    for source in [s for s in mix.get("realised") or {} if s not in (mix.get("wanted") or {})]:
        rows.append((f"share of {source}", percent(mix["realised"][source], 2)))
    for name, line in (report.get("curves") or {}).items():
        if line:
            rows.append((f"loss of {stage_name(name)}, nats", f"{number(line[0][1])} → {number(line[-1][1])}"))
    for name, told in (report.get("runs") or {}).items():
        ends = {key: told[key][-1][1] for key in ("tokens_per_s", "mfu", "goodput", "hbm_peak_gb") if told.get(key)}
        said = [f"{number(round(ends['tokens_per_s']))} tokens/s"] if "tokens_per_s" in ends else []
        said += [
            f"{title} {percent(ends[key])}" for key, title in (("mfu", "MFU"), ("goodput", "goodput")) if key in ends
        ]
        said += [f"{number(ends['hbm_peak_gb'])} GB"] if "hbm_peak_gb" in ends else []
        rows.append((f"speed of {stage_name(name)}", ", ".join(said)))
    for r in report.get("true_reward") or []:
        rows.append((f"mean true reward, round {r['round']}", f"{number(r['before'])} → {number(r['after'])}"))
    last = report.get("round") or {}
    if "rm_pair_accuracy" in last:
        rows.append(("pairs that the reward model orders rightly", percent(last["rm_pair_accuracy"])))
    if winners := last.get("winners"):
        rows.append(("winners", ", ".join(f"{k} {number(v)}" for k, v in winners.items())))
    if "hf_max_abs_logit_diff" in report:
        rows.append(("largest logit difference to transformers", number(report["hf_max_abs_logit_diff"])))
    if greedy := report.get("hf_greedy_equal"):
        rows.append(("greedy answers equal to transformers", f"{greedy['equal']} of {greedy['prompts']}"))
    if "total_seconds" in report:
        rows.append(("time", duration(report["total_seconds"])))
    return rows
