"""Foreign text in Markdown: in a code span or block that nothing in it can end."""

import re

from tigerjax.terminal import printable

PLAIN = re.compile(r"[\w.:/-]+")


def name(text: str) -> str:
    """An id in a line of Markdown. One that holds more than letters, digits and dashes stands in a code span."""
    return text if PLAIN.fullmatch(text) else span(text)


def span(text: object) -> str:
    """The text on one line, as a code span with more backticks at its ends than it has in a row."""
    shown = " ".join(printable(text).split())
    ticks = "`" * (1 + max(map(len, re.findall("`+", shown)), default=0))
    pad = "" if ticks == "`" and shown else " "
    return f"{ticks}{pad}{shown}{pad}{ticks}"


def block(text: object) -> list[str]:
    """The lines of a code block; its fence is longer than any run of backticks in the text."""
    shown = printable(text)
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", shown)), default=0))
    return [fence, shown, fence]
