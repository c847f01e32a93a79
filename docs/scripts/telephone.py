"""Tables of words become cards on a telephone, where four columns of sentences would be a word wide each.

MkDocs calls `on_page_content` when it builds the site (mkdocs.yml); `.cards` in site.css does the rest. Tables of
figures scroll sideways inside themselves instead.
"""

import html as escaping
import re
import unicodedata
from collections.abc import Iterator
from typing import Any

TABLE = re.compile(r"<table>.*?</table>", re.DOTALL)
ROW = re.compile(r"<tr>.*?</tr>", re.DOTALL)
CELL = re.compile(r"<td[^>]*>(.*?)</td>", re.DOTALL)
WORDS = 18
"""From this mean width on, the cells behind the first column hold words, and no figures. A Chinese character has the
width of two letters."""


def on_page_content(html: str, page: Any, config: Any, files: Any) -> str:
    """MkDocs' event: tables of words are marked, and each of their cells gets the name of its column."""
    return TABLE.sub(lambda table: as_cards(table[0]) if of_words(table[0]) else table[0], html)


def as_cards(table: str) -> str:
    """The table with the class that site.css shows as cards."""
    return labelled(table).replace("<table>", '<table class="cards">', 1)


def of_words(table: str) -> bool:
    """Whether a table holds words, and not figures."""
    cells = [cell for row in ROW.findall(table) for cell in CELL.findall(row)[1:]]
    widths = [_width(escaping.unescape(re.sub(r"<[^>]*>", "", cell))) for cell in cells]
    return bool(widths) and sum(widths) / len(widths) >= WORDS


def _width(text: str) -> int:
    return sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in text)


def labelled(table: str) -> str:
    """`<th>code</th> … <td>2</td>` -> `<th>code</th> … <td data-label="code">2</td>`"""
    names = [
        escaping.unescape(re.sub(r"<[^>]*>", "", name)) for name in re.findall(r"<th[^>]*>(.*?)</th>", table, re.DOTALL)
    ]

    def row(found: re.Match[str]) -> str:
        left: Iterator[str] = iter(names)
        return re.sub("<td", lambda _: f'<td data-label="{escaping.escape(next(left, ""))}"', found[0])

    return ROW.sub(row, table)
