"""The one place where text reaches a terminal, and the rule for which characters may.

Messages quote what others wrote: ids, prompts, names of files, values of JSON. So every line goes through `printable`;
the pages' templates use the same rule (`tigerjax/pages/render.py`).
"""

import sys

REPLACEMENT = "\ufffd"
LONGEST = 1500  # characters of a line
NEWLINES = dict.fromkeys(map(ord, "\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"), " ")


def in_short(text: str) -> str:
    """The text, in which lines of more than LONGEST characters lose their middle: a value of the user may be as long as
    a book, and the advice stands at the end."""
    cut = [
        line if len(line) <= LONGEST else f"{line[: LONGEST * 2 // 3]} … {line[-LONGEST // 3 :]}"
        for line in text.split("\n")
    ]
    return "\n".join(cut)


def printable(text: object) -> str:
    """The text without what must not reach a page or a terminal; each such character becomes U+FFFD.

    Those are control characters (ESC could recolour a terminal or move its cursor), the marks that turn the direction
    of writing for what follows (they could show a name backwards), halves of surrogate pairs, and U+FFFE and U+FFFF.
    Newline and tab stay.
    """
    return "".join(REPLACEMENT if _refused(ord(c)) and c not in "\n\t" else c for c in str(text))


def one_line(text: object) -> str:
    """The same on one line."""
    return printable(str(text).translate(NEWLINES))


def show(text: object = "") -> None:
    """Prints the text to standard output."""
    print(printable(text), flush=True)


def write(text: object) -> None:
    """Prints a part of a line to standard output, at once."""
    print(printable(text), end="", flush=True)


def tell(text: object) -> None:
    """Prints the text to standard error: messages, warnings, notes. Only its first line begins at the margin, so that
    nothing in it looks like another message of ours."""
    print(printable(text).replace("\n", "\n  "), file=sys.stderr, flush=True)


def overwrite(line: object, end: str) -> None:
    """Prints the line to standard error over the one before, where that ended with "\\r"; for progress."""
    clear = "\033[K" if sys.stderr.isatty() else ""
    print(one_line(line) + clear, end=end, file=sys.stderr, flush=True)


def _refused(code: int) -> bool:
    control = code < 0x20 or 0x7F <= code <= 0x9F
    turns = 0x202A <= code <= 0x202E or 0x2066 <= code <= 0x2069
    return control or turns or 0xD800 <= code <= 0xDFFF or code in (0xFFFE, 0xFFFF)
