"""The rules about single characters: line ends, control characters, and characters that nobody sees."""

import re

# Backspaces as the terminal's manual pages have them: "N\bN" is a bold N, "_\bN" an underlined one.
_OVERSTRUCK = re.compile(r"(.)\x08(?=\1)|_\x08(?=.)")
# What colours a terminal: ESC [ 31 m.
_ANSI = re.compile(r"\x1b\[[0-?]{0,40}[ -/]{0,4}[@-~]")
# C0 and C1, without newline and tab.
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
# Thai, Lao, Tibetan, Myanmar and Khmer have no spaces: a zero-width space is the border of two words there.
_WITHOUT_SPACES = "\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff\u1950-\u19ff\u1a20-\u1aaf"
# Zero-width space, word joiner, BOM, soft hyphen, private use. The joiners U+200C/D (emoji, Persian) and the
# direction marks U+200E/F carry meaning and stay.
_INVISIBLE = re.compile(
    f"(?<=[{_WITHOUT_SPACES}])(\u200b)\u200b*(?=[{_WITHOUT_SPACES}])"
    "|[\u200b\u2060\ufeff\u00ad\ue000-\uf8ff\U000f0000-\U000ffffd\U00100000-\U0010fffd]"
)

_CJK = re.compile("[\u3000-\u30ff\u3400-\u9fff\uf900-\ufaff\uff00-\uffef\U00020000-\U0003ffff]")


def is_cjk(character: str) -> bool:
    """Whether it is a character or a sign of Chinese or Japanese, which are written without spaces."""
    return _CJK.match(character) is not None


def newlines(text: str) -> str:
    """CRLF, CR, form feed, vertical tab, NEL, the separators of C0 and those of Unicode become LF."""
    return "\n".join(f"{text}|".splitlines())[:-1]  # the | keeps a line end at the end


def controls(text: str) -> str:
    """Control characters and the colours of a terminal are removed; newline and tab stay."""
    if "\x08" in text:
        text = _OVERSTRUCK.sub("", text)
    if "\x1b" in text:
        text = _ANSI.sub("", text)
    return _CONTROLS.sub("", text.replace("\x1f", " "))


def invisible(text: str) -> str:
    """Zero-width and private-use characters and BOMs go; joiners, direction marks and Thai word borders stay."""
    return text if text.isascii() else _INVISIBLE.sub(r"\1", text)
