"""What of a source is in no row: said in one line with its counts, and refused where it is too much."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tigerjax import records
from tigerjax.data import weighted
from tigerjax.errors import DataError


def reasons(figures: Mapping[str, Any], seq_len: int) -> str:
    """Why records of a source are in no row, with counts; empty when all of them are."""
    why = {
        f"{figures.get('overlong', 0)} are longer than seq_len={seq_len}": figures.get("overlong", 0),
        f"{figures.get('weightless', 0)} have no answer in the loss": figures.get("weightless", 0),
    }
    return ", ".join(text for text, count in why.items() if count)


def empty(what: str, counts: Mapping[str, int], inputs: Sequence[Path], seq_len: int) -> DataError:
    """The error of `what`, such as "source zh.web", that fills no row."""
    lost = reasons(counts, seq_len)
    return DataError(
        f"{what} is empty: {counts.get('records', 0)} records with {counts.get('tokens', 0)} tokens in"
        f" {[str(p) for p in inputs]} fill no row of {seq_len}{f' ({lost})' if lost else ''}; add data or"
        f" {'raise' if lost else 'lower'} data.seq_len"
    )


def tell(source: str, figures: Mapping[str, Any], max_dropped: float) -> None:
    """Says what was dropped of a source, cut and changed; `figures` are those of its rows (`mixture.cache`).

    DataError when more than the share `max_dropped` of the records is dropped.
    """
    seq_len, total = figures.get("seq_len", 0), figures.get("records", 0)
    lost = figures.get("overlong", 0) + figures.get("weightless", 0)
    records.tell(f"source {source}", figures)
    if cut := figures.get("shortened", 0):
        records.note(f"source {source}: {cut} of {total} examples are longer than seq_len={seq_len} and were cut to it")
    if "held_out" in figures:
        trained_on = total + figures.get(weighted.LEFT_OUT, 0) - figures.get(weighted.REPEATED, 0)  # over all passes
        there = trained_on // len(figures.get("passes") or [1]) + figures["held_out"]
        records.note(f"source {source}: {figures['held_out']} of {there} records are held out")
    if unread := figures.get(weighted.UNREAD):
        records.note(f"source {source}: {unread} documents have a weight, which is not read; Source(passes=…) reads it")
    if weighted.LEFT_OUT in figures:
        left_out, more = figures[weighted.LEFT_OUT], figures.get(weighted.REPEATED, 0)
        records.note(
            f"source {source}: by their weights, {left_out} documents are left out and {more} copies are added, over"
            f" {len(figures['passes'])} passes"
        )
    if not lost:
        return
    line = (
        f"source {source}: {lost} of {total} examples ({lost / total:.0%}) are in no row: {reasons(figures, seq_len)}"
    )
    advice = "raise data.seq_len, or register the source with overlong='truncate_response' or 'keep_left_turns'"
    if lost > max_dropped * total:
        raise DataError(
            f"{line}; at most {max_dropped:.0%} may be: {advice}, or allow more with --data.max-dropped (--max-dropped"
            " of `data stats` and `data inspect`)"
        )
    records.note(f"{line}; {advice} to keep them")
