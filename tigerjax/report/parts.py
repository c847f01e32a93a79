"""The frames of the page: a section with its lead, and a table."""

from tigerjax.report.charts import clean


def section(name: str, title: str, lead: str, body: str) -> str:
    return f'<section id="{name}"><h2>{title}</h2>\n<p class="soft">{lead}</p>\n{body}</section>'


def table(heads: list[str], rows: list[list[str]], *, words: bool = False) -> str:
    """The first column is read from the left, the others are figures; with `words` the last one is prose."""
    head = "".join(f"<th>{clean(h)}</th>" for h in heads)
    body = "".join("<tr>" + "".join(f"<td>{clean(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    kind = "words" if words else "figures"
    made = f'<table class="{kind}"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'
    return f'<div class="wide">{made}</div>'
