"""The page of a stage: what it did, and samples of the texts before and after."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from tigerjax import pages
from tigerjax.pages.numbers import number
from tigerjax.text import rules


def write(
    path: Path,
    counts: Mapping[str, Any],
    rewritten: Mapping[str, int],
    samples: Mapping[str, Sequence[tuple[str, str]]],
    on: Collection[str],
) -> None:
    """Writes the page of a cleaning by the rules `on`.

    `counts` are the manifest's. `rewritten` counts the texts that a rule changed, `samples` are pairs (before, after).
    """
    dropped = counts["dropped"]
    rows = [["in", number(counts["in"]), ""], ["out", number(counts["out"]), ""]]
    for name, rule in rules.RULES.items():
        state = ("rewrites" if isinstance(rule, rules.Rewrite) else "drops") if name in on else "off"
        rows.append([f"{name} v{rule.version}", number(rewritten.get(name, 0) + dropped.get(name, 0)), state])
    rows += [[name, number(n), "drops"] for name, n in dropped.items() if name not in rules.RULES]
    write_page(path, "Cleaning", pages.Table(["rule", "records or texts", "what it does"], rows), samples)


def write_page(
    path: Path,
    title: str,
    counted: pages.Table,
    samples: Mapping[str, Sequence[tuple[str, str]]],
    more: Mapping[str, pages.Table] | None = None,
) -> None:
    """Writes a page with a table of counts, `more` tables by name, and pairs (before, after) of texts by name."""
    tables = {name: pages.Table(["before", "after"], pairs) for name, pairs in sorted(samples.items())}
    pages.write(path, "text/cleaning.html", title=title, counted=counted, more=more or {}, samples=tables)
