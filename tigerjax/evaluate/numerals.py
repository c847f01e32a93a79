"""Numbers in words, English and Chinese: "twenty-three", "two hundred and five", "two thirds", 两千, 三分之一.

Only numbers that are written out are read here; `numbers` reads digits.
"""

import re
from collections.abc import Iterator
from fractions import Fraction

_BELOW_20 = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen"
    " eighteen nineteen"
).split()
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
SMALL = {word: value for value, word in enumerate(_BELOW_20)} | {word: 10 * tens for tens, word in enumerate(_TENS, 2)}
SCALES = {"hundred": 100, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_ORDINALS = {name: n for n, name in enumerate("third fourth fifth sixth seventh eighth ninth tenth".split(), 3)}
PARTS = {"half": 2, "halves": 2, "quarter": 4, "quarters": 4} | _ORDINALS | {f"{o}s": n for o, n in _ORDINALS.items()}
"""The lower numbers of fractions: two thirds."""
_CARDINAL = "|".join(sorted([*SMALL, *SCALES], key=len, reverse=True))
_PART = "|".join(sorted(PARTS, key=len, reverse=True))
ENGLISH = re.compile(
    rf"\b(?P<words>(?:a\s+(?=hundred|thousand|million|billion|trillion))?(?:{_CARDINAL})"
    rf"(?:(?:\s+and\s+|[\s-]+)(?:{_CARDINAL}))*)(?:[\s-]+(?P<part>{_PART}))?\b",
    re.IGNORECASE,
)

DIGITS = {character: value for value, character in enumerate("零一二三四五六七八九")} | {
    character: value for value, character in enumerate("〇壹贰叁肆伍陆柒捌玖")
}
DIGITS |= {"两": 2, "兩": 2, "貳": 2, "參": 3, "陸": 6}
UNITS = {"十": 10, "百": 100, "千": 1000, "拾": 10, "佰": 100, "仟": 1000}
GREAT = {"万": 10**4, "亿": 10**8, "萬": 10**4, "億": 10**8}
_HAN = f"[{''.join([*DIGITS, *UNITS, *GREAT])}]"
HAN = re.compile(rf"(?P<below>{_HAN}+)分之(?P<above>{_HAN}+)|(?P<whole>{_HAN}+)(?:点(?P<after>[{''.join(DIGITS)}]+))?")
NO_NUMBER = re.compile(r"(?:第|星期|周|礼拜|初)$")
"""What stands before a numeral that counts nothing: 第三, 星期五."""
ALONE = re.compile(r"one(?!\s+(?:of|another|who|that|can)\b)|一(?![共般定些样起下直边种切旦路])", re.IGNORECASE)
"""These are articles and pronouns too, so they are numbers only where a text begins with them."""


def found(text: str) -> Iterator[tuple[int, int, Fraction, bool]]:
    """(start, end, value, whether it is a percentage) of the numbers in words of a text, in order."""
    matches = [*ENGLISH.finditer(text), *HAN.finditer(text)]
    for match in sorted(matches, key=lambda m: m.start()):
        before = text[: match.start()].strip(" -$*\"'“负")
        if match[0].lower() in ("one", "一") and (before or not ALONE.match(text, match.start())):
            continue
        value = english(match) if match.re is ENGLISH else chinese(match)
        if value is not None and not NO_NUMBER.search(text[: match.start()]):
            percent = match.re is HAN and match["below"] in ("百", "一百")
            yield match.start(), match.end(), value * 100 if percent else value, percent


def english(match: re.Match[str]) -> Fraction | None:
    """The value of what ENGLISH matched; None for words that make no number, such as "five six"."""
    words = [word for word in re.split(r"[\s-]+", match["words"].lower()) if word not in ("and", "a")]
    total = current = 0
    before = ""
    for word in words:
        if word in SMALL:
            if before in SMALL and not (SMALL[before] >= 20 and 0 < SMALL[word] < 10):
                return None
            current += SMALL[word]
        elif word == "hundred":
            current = (current or 1) * 100
        else:
            total, current = total + (current or 1) * SCALES[word], 0
        before = word
    return Fraction(total + current, PARTS[match["part"].lower()] if match["part"] else 1)


def chinese(match: re.Match[str]) -> Fraction | None:
    """The value of what HAN matched; None for characters that make no number."""
    if match["below"] is not None:
        below, above = han_value(match["below"]), han_value(match["above"])
        return Fraction(above, below) if below and above is not None else None
    value = han_value(match["whole"])
    if value is None or match["after"] is None:
        return None if value is None else Fraction(value)
    after = "".join(str(DIGITS[c]) for c in match["after"])
    return value + Fraction(int(after), 10 ** len(after))


def han_value(text: str) -> int | None:
    """三万五千 -> 35000, 二〇二四 -> 2024, 十二 -> 12; None for what is no number, such as 亿万."""
    if all(c in DIGITS for c in text):
        return int("".join(str(DIGITS[c]) for c in text)) if len(text) <= 18 else None
    total = section = digit = 0
    pending = False  # a digit waits for its unit
    for place, c in enumerate(text):
        if c in DIGITS:
            if pending and DIGITS[c] and digit:
                return None
            digit, pending = DIGITS[c], True
        elif c in UNITS:
            section += (digit if pending else 1) * UNITS[c]
            digit, pending = 0, False
        else:
            if not (section or pending or total) or (place and text[place - 1] in GREAT and c == "万"):
                return None
            own = section + digit
            if not (section or pending):
                total *= GREAT[c]
            elif GREAT[c] > 10**4:  # 亿 counts all before it: 一万两千亿
                total = (total + own) * GREAT[c]
            else:
                total += own * GREAT[c]
            section, digit, pending = 0, 0, False
    return total + section + digit
