"""Tables for people: in a page (the macro `table` of `parts.html`), as plain lines, and in a terminal's frame."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from tigerjax.terminal import printable

if TYPE_CHECKING:
    from rich.console import Console


class Table(NamedTuple):
    """Heads of the columns, and the cells below them. The first column names a row, the others describe it."""

    heads: Sequence[str]
    rows: Sequence[Sequence[str]]


def plain(table: Table) -> str:
    """The table as lines of text: columns padded, the first to the left and the others to the right."""
    rows = [[printable(cell) for cell in row] for row in (table.heads, *table.rows)]
    widths = [max(_width(row[c]) for row in rows) for c in range(len(rows[0]))]
    lines = []
    for row in rows:
        padding = [" " * (width - _width(cell)) for cell, width in zip(row, widths, strict=True)]
        first, *others = zip(row, padding, strict=True)
        lines.append("  ".join(["".join(first), *(pad + cell for cell, pad in others)]).rstrip())
    return "\n".join(lines)


def print_framed(table: Table, title: str, console: "Console", *, right: bool = True) -> None:
    """Prints the table in a frame, with the columns after the first to the right unless `right` is False."""
    from rich import table as rich_table
    from rich.text import Text

    # Text, not str: Rich reads markup such as [bold] in a str.
    framed = rich_table.Table(title=Text(printable(title)), title_justify="left")
    for i, head in enumerate(table.heads):
        framed.add_column(Text(printable(head)), justify="right" if right and i else "left")
    for row in table.rows:
        framed.add_row(*(Text(printable(cell)) for cell in row))
    console.print(framed)


def _width(text: str) -> int:
    """Columns on a terminal: CJK characters take two."""
    return sum(2 if "\u2e80" <= c <= "\uffef" else 1 for c in text)
