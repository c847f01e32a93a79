"""Numbers as models write them: digits in LaTeX, with separators of thousands, currency signs, units, percent and
scales (1.5 million, 3.2万, 1e6), and numbers in words.

    1.5 million   1,500,000   150万   一百五十万   1.5e6   1.5 × 10^6     one number
    5%   5 percent   百分之五                                            5, or 0.05 beside a number without percent
    1/2   ½   0.5   one half   二分之一                                   one number
"""

import math
import re
import unicodedata
from fractions import Fraction
from typing import NamedTuple

from tigerjax.evaluate import numerals

SEPARATOR = r"(?:,|\{,\}|\\,|\\!|'|[ \u00a0\u202f](?=\d{3}(?!\d)))"
EUROPEAN = r"\d{1,3}(?:\.\d{3})+,\d{1,2}(?!\d)|\d{1,3}(?:\.\d{3}){2,}(?!\d)"
"""1.234,56 and 1.234.567, which can be read in one way only."""
INDIAN = r"\d{1,2}(?:,\d{2})+,\d{3}(?!\d)(?:\.\d+)?"
PLAIN = rf"{EUROPEAN}|{INDIAN}|\d{{1,3}}(?:{SEPARATOR}\\?!?\d{{3}})+(?!\d)(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+"
POWER = r"[eE](?P<e>[-+]?\d+)(?!\w|\.\d)|\s?(?:[×x*·]|\\times|\\cdot)\s?10\s?\^\s?\{?(?P<ten>-?\d+)\}?"
SCALE = (
    r"[\s-]?(?P<scale>hundred|thousand|million|billion|trillion)\b|(?P<k>[kK])(?![\w])"
    r"|\s?(?P<han>[十百千]?[万亿萬億]+|[百千])(?![分米克瓦卡赫伏])"
)
MOST_EXPONENT = 400
MIXED = r"(?:\d+(?:\.\d+)?[十百千]?[万亿萬億千百]){2,}(?:\d+(?!\d))?|\d+[万亿萬億]\d{3,8}(?!\d)"
"""3万2千, 1亿2000万, 2万5000."""
MINUS = r"[-\u2212]|负|\b(?:minus|negative)\b"
BEFORE_WORD = re.compile(rf"(?:{MINUS})\s?$", re.IGNORECASE)
PERCENT = re.compile(r"\s?(?:%|percent\b|per\s?cent\b)", re.IGNORECASE)
NUMBER = re.compile(
    rf"(?P<sign>(?:{MINUS})(?:\s*[$€£¥￥])?\s?)?"
    rf"(?:\\[dt]?frac\{{\s*(?P<top>-?\d+)\s*\}}\{{\s*(?P<below>\d+)\s*\}}"
    rf"|(?P<parts>百|[1-9]\d{{0,3}})分之(?P<of>\d+(?:\.\d+)?)"
    rf"|(?:(?P<ones>\d+)\s)?(?P<over>\d+)\s?/\s?(?P<under>\d+)(?![\d/])"
    rf"|(?P<mixed>{MIXED})"
    rf"|(?P<whole>{PLAIN})(?:{POWER}|{SCALE})?)"
    rf"(?P<percent>{PERCENT.pattern})?",
    re.IGNORECASE,
)
HAN_SCALES = numerals.UNITS | numerals.GREAT
FRACTIONS = re.compile(r"[\u00bc-\u00be\u2150-\u215e\u2189]")
MARKUP = re.compile(r"\\(?:text|mathrm|mathbf|textbf|mbox|boxed|left|right|,(?!\d)|;|:|quad)(?![a-z])\s*")
MARK = re.compile(r"answer(?:\s+is|:)|答案(?:是|为|：|:)|^####", re.IGNORECASE | re.MULTILINE)
ALONE = re.compile(rf"\s*[$€£¥]?\s*(?:{NUMBER.pattern})(?![\d.,]*\d)(?!\s*[-+*/×÷·−^(])")
FINAL = re.compile(r"(?:=|≈|\\approx)\s*(?=[^=≈]*\Z)")


class Number(NamedTuple):
    """A number of a text. `value` of 5% is 5."""

    value: Fraction
    percent: bool = False


def same(one: Number | None, other: Number | None) -> bool:
    """Whether two numbers are equal. Beside a number without percent, 5% is 5 or 0.05."""
    if one is None or other is None:
        return one is other
    if one.percent == other.percent:
        return one.value == other.value
    percent, bare = (one.value, other.value) if one.percent else (other.value, one.value)
    return bare in (percent, percent / 100)


def plain(text: str) -> str:
    r"""The text without the LaTeX around its numbers: `\\(`, `\\$`, `\\text{…}`, `\\boxed{…}`; digits in their usual
    form."""
    text = FRACTIONS.sub(lambda sign: " " + unicodedata.normalize("NFKC", sign[0]), text)  # 1½ is not 11/2
    text = unicodedata.normalize("NFKC", text).replace("\u2044", "/").replace("\u2212", "-")
    text = text.replace("\\$", "$").replace("\\%", "%").replace("**", "").replace("\\dfrac", "\\frac")
    return MARKUP.sub("", re.sub(r"\\[()\[\]]|\$\$", " ", text))


def found(text: str) -> list[tuple[int, Number]]:
    """(place, number) of every number of a text that `plain` has made, in order. A minus is a sign only where no number
    or letter stands before it: 5-3 holds 5 and 3. Numbers in words count where a text has no digits."""
    return [(start, number) for start, _, number in _spans(text)]


def _spans(text: str) -> list[tuple[int, int, Number]]:
    out = []
    for match in NUMBER.finditer(text):
        try:
            value = _value(match)
        except (ValueError, ZeroDivisionError):  # more digits than Python reads; a fraction of nothing
            continue
        percent = match["percent"] is not None or match["parts"] in ("百", "100")
        negative = match["sign"] is not None and _is_sign(match["sign"], text[: match.start()])
        out.append((match.start(), match.end(), Number(-value if negative else value, percent)))
    for start, end, value, percent in [] if out else numerals.found(text):
        sign, rest = BEFORE_WORD.search(text[:start]), PERCENT.match(text, end)
        negative = sign is not None and _is_sign(sign[0], text[: sign.start()])
        number = Number(-value if negative else value, percent or rest is not None)
        out.append((sign.start() if sign else start, rest.end() if rest else end, number))
    return out


def _is_sign(sign: str, before: str) -> bool:
    """Whether a minus is a sign and no subtraction: no number stands before it, and before "-" no letter either."""
    last = before.rstrip()[-1:]
    subtracts = last.isdigit() if sign[0].isalpha() else last.isalnum()
    return not subtracts and last not in (")", "%", "}")


def _value(match: re.Match[str]) -> Fraction:
    """The value of what NUMBER matched, without its sign."""
    if match["top"] is not None:
        return Fraction(int(match["top"]), int(match["below"]))
    if match["parts"] is not None:
        hundredths = match["parts"] in ("百", "100")
        return Fraction(match["of"]) / (1 if hundredths else int(match["parts"]))
    if match["over"] is not None:
        return int(match["ones"] or 0) + Fraction(int(match["over"]), int(match["under"]))
    if match["mixed"] is not None:
        pieces = re.findall(r"(\d+(?:\.\d+)?)([^\d.]*)", match["mixed"])
        return sum((Fraction(digits) * _scale(han) for digits, han in pieces), Fraction(0))
    digits = match["whole"]
    if re.fullmatch(EUROPEAN, digits):
        digits = digits.replace(".", "").replace(",", ".")
    value = Fraction(re.sub(SEPARATOR + r"|\\?!", "", digits))
    if (power := match["e"] or match["ten"]) is not None:
        if abs(exponent := int(power)) > MOST_EXPONENT:
            raise ValueError(power)
        return value * Fraction(10) ** exponent
    if match["scale"] is not None:
        return value * numerals.SCALES[match["scale"].lower()]
    return value * (1000 if match["k"] else _scale(match["han"] or ""))


def _scale(characters: str) -> int:
    """百万 -> 1,000,000."""
    return math.prod(HAN_SCALES[character] for character in characters)


def only(text: str) -> Number | None:
    """The number that a text is and nothing else, but for currency signs and percent; None for other texts."""
    text = plain(text).strip()
    spans = _spans(text)
    if len(spans) != 1:
        return None
    start, end, number = spans[0]
    return None if (text[:start] + text[end:]).strip(" $€£¥%元.。") else number


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


def answer(text: str, *, marked: bool) -> Number | None:
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
