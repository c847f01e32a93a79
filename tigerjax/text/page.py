"""Small HTML pages about data: one file each, no script, no request."""

import html
from collections.abc import Iterable, Sequence

CSS = """
:root { color-scheme: light dark; } body { font: 15px/1.5 system-ui, "Noto Sans CJK SC", sans-serif; margin: 2rem auto;
  max-width: 70rem; padding: 0 1rem; } table { border-collapse: collapse; margin: .6rem 0 1.4rem; }
th, td { border-bottom: 1px solid #8884; padding: .2rem .8rem .2rem 0; text-align: left; vertical-align: top; }
td.n { text-align: right; font-variant-numeric: tabular-nums; } pre { white-space: pre-wrap; margin: 0; font: inherit; }
del { background: #d9534f33; } ins { background: #5cb85c44; text-decoration: none; } nav a { margin-right: 1rem; }
.bar { display: inline-block; height: .7rem; background: #3f6fa8; margin-right: .5rem; }
.row { margin: .4rem 0 1rem; padding: .4rem .6rem; border: 1px solid #8884; overflow-wrap: anywhere; }
.row span { border-radius: 2px; } .s0 { background: #3f6fa82e; } .s1 { background: #c4591c2e; } .pad { opacity: .35; }
.loss { border-bottom: 2px solid #2e8a76; } .border { color: #b3382c; font-weight: bold; }
details > summary { cursor: pointer; font-weight: 600; margin: .8rem 0; }
"""


def escaped(text: object) -> str:
    """For HTML: control characters and halves of surrogate pairs, which it may not hold, become U+FFFD."""
    shown = (c if c in "\n\t" or (ord(c) >= 32 and not 0xD800 <= ord(c) <= 0xDFFF) else "\ufffd" for c in str(text))
    return html.escape("".join(shown))


def number(value: object) -> str:
    """1234567 -> 1,234,567; 0.12345 -> 0.1235."""
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Cells that are `Raw` are HTML already; numbers stand right."""

    def cell(value: object) -> str:
        if isinstance(value, Raw):
            return f"<td>{value}</td>"
        kind = ' class="n"' if isinstance(value, int | float) else ""
        return f"<td{kind}><pre>{escaped(number(value))}</pre></td>"

    body = "".join(f"<tr>{''.join(map(cell, row))}</tr>" for row in rows)
    return f"<table><tr>{''.join(f'<th>{escaped(h)}</th>' for h in head)}</tr>{body}</table>"


class Raw(str):
    """Text that is HTML."""


def document(title: str, body: str) -> str:
    """The whole page."""
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{escaped(title)}</title><style>{CSS}</style><h1>{escaped(title)}</h1>{body}</html>\n"
    )
