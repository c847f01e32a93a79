"""Tables of words become cards on a telephone, where four columns of sentences would be a word wide each.

MkDocs calls `on_page_content` when it builds the site (mkdocs.yml); `.cards` in site.css does the rest. Tables of
figures scroll sideways inside themselves instead.
"""

import html as escaping
import re
from collections.abc import Iterator
from typing import Any

PAGES = {"ERRORS.md", "COMING_FROM.md", "reference/configs.md", "index.md"}
"""Pages whose tables are of words, and their Chinese pages."""
TABLE = re.compile(r"<table>.*?</table>", re.DOTALL)
ROW = re.compile(r"<tr>.*?</tr>", re.DOTALL)


def on_page_content(html: str, page: Any, config: Any, files: Any) -> str:
    """MkDocs' event: the tables of PAGES are marked, and each cell gets the name of its column."""
    if page.file.src_uri.removeprefix("zh/") not in PAGES:
        return html
    return TABLE.sub(lambda table: labelled(table[0]).replace("<table>", '<table class="cards">', 1), html)


def labelled(table: str) -> str:
    """`<th>code</th> … <td>2</td>` -> `<th>code</th> … <td data-label="code">2</td>`"""
    names = [
        escaping.unescape(re.sub(r"<[^>]*>", "", name)) for name in re.findall(r"<th[^>]*>(.*?)</th>", table, re.DOTALL)
    ]

    def row(found: re.Match[str]) -> str:
        left: Iterator[str] = iter(names)
        return re.sub("<td", lambda _: f'<td data-label="{escaping.escape(next(left, ""))}"', found[0])

    return ROW.sub(row, table)
