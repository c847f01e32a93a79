"""Numbers as models write them: in LaTeX, with separators of thousands, with currency signs, units and percent."""

import re
import unicodedata
from fractions import Fraction

SEPARATOR = r"(?:,|\{,\}|\\,|\\!|'|[ \u00a0\u202f](?=\d{3}(?!\d)))"
PLAIN = rf"\d{{1,3}}(?:{SEPARATOR}\\?!?\d{{3}})+(?!\d)(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+"
NUMBER = re.compile(
    rf"(?P<sign>[-−](?:\s*[$€£¥￥])?\s?)?"
    rf"(?:\\[dt]?frac\{{\s*(?P<top>-?\d+)\s*\}}\{{\s*(?P<below>\d+)\s*\}}"
    rf"|(?P<whole>{PLAIN})(?:\s?/\s?(?P<under>\d+)(?![\d/]))?)"
)
MARKUP = re.compile(r"\\(?:text|mathrm|mathbf|textbf|mbox|boxed|left|right|,(?!\d)|;|:|quad)(?![a-z])\s*")
MARK = re.compile(r"answer(?:\s+is|:)|答案(?:是|为|：|:)|^####", re.IGNORECASE | re.MULTILINE)
ALONE = re.compile(rf"\s*[$€£¥]?\s*(?:{NUMBER.pattern})(?![\d.,]*\d)(?!\s*[-+*/×÷·−^(])")
FINAL = re.compile(r"(?:=|≈|\\approx)\s*(?=[^=≈]*\Z)")


def plain(text: str) -> str:
    r"""The text without the LaTeX around its numbers: `\\(`, `\\$`, `\\text{…}`, `\\boxed{…}`; digits in their usual
    form."""
    text = unicodedata.normalize("NFKC", text)
    text = text.replace("\\$", "$").replace("\\%", "%").replace("**", "").replace("\\dfrac", "\\frac")
    return MARKUP.sub("", re.sub(r"\\[()\[\]]|\$\$", " ", text))


def found(text: str) -> list[tuple[int, Fraction]]:
    """(place, value) of every number of a text that `plain` has made, in order. A minus is a sign only where no number
    or letter stands before it: 5-3 holds 5 and 3."""
    out = []
    for match in NUMBER.finditer(text):
        if match["top"] is not None:
            top, below = match["top"], match["below"]
        else:
            top, below = re.sub(SEPARATOR + r"|\\?!", "", match["whole"]), match["under"]
        if below is not None and not below.strip("0"):
            continue
        before = text[: match.start()].rstrip()[-1:]
        negative = match["sign"] is not None and not (before.isalnum() or before in (")", "%", "}"))
        try:
            value = Fraction(top) / int(below or 1)
        except ValueError:  # more digits than Python reads
            continue
        out.append((match.start(), -value if negative else value))
    return out


def only(text: str) -> Fraction | None:
    """The number that a text is and nothing else, but for currency signs and percent; None for other texts."""
    text = plain(text).strip()
    values = found(text)
    rest = NUMBER.sub("", text, count=1).strip(" $€£¥%元.。")
    return values[0][1] if len(values) == 1 and not rest else None


def final(text: str) -> str:
    r"""The part of a text that gives its answer, in plain form: in the last \boxed{…}, else behind the last words that
    announce it, else from the last side of an equation that is a number alone; the whole text where there is none."""
    boxed = re.findall(r"\\boxed\{((?:[^{}]|\{[^{}]*\})*)\}", text)
    if boxed:
        return plain(boxed[-1])
    text = plain(text)
    if marks := list(MARK.finditer(text)):
        text = text[marks[-1].end() :]
    sides = [0, *(m.end() for m in re.finditer(r"[=≈]|\\approx", text))]
    for start in reversed(sides) if len(sides) > 1 else ():
        if ALONE.match(text, start):
            return text[start:] if start else text[: text.index("=")]
    return text


def answer(text: str, *, marked: bool) -> Fraction | None:
    r"""The number that a text gives as its answer; None when it has none.

    In \\boxed{…}: that one. Behind a last "=": the one after it. Else the first number of a text that begins at its
    mark ("The answer is"), and the last one of another."""
    boxed = re.findall(r"\\boxed\{((?:[^{}]|\{[^{}]*\})*)\}", text)
    text = plain(boxed[-1] if boxed else text)
    if marked and not boxed:
        text = re.split(r"\n|(?<=[^\d\s.])\.\s|(?<=\d)\.\s", text.strip(), maxsplit=1)[0]
    values = found(text)
    if not values:
        return None
    if (
        (marked or boxed)
        and (equal := FINAL.search(text))
        and (after := [v for at, v in values if at >= equal.end() - 1])
    ):
        return after[0]
    return values[0][1] if marked and not boxed else values[-1][1]
