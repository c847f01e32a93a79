"""The language of a record: the one that it declares, or else whether its text is Chinese."""

import re
from collections.abc import Iterable

from tigerjax.records import Record

NAMES = {"chinese": "zh", "zho": "zh", "chi": "zh", "cmn": "zh", "english": "en", "eng": "en"}
"""Other names of the languages that rules know by `zh` and `en`."""
HAN = re.compile("[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")
KANA_HANGUL = re.compile("[\u3041-\u3096\u30a1-\u30fa\uac00-\ud7af]")
HAN_SHARE = 1 / 3
"""A text is Chinese from this share of Han characters among its letters on."""
MAX_OTHERS = 1 / 20
"""Kana and hangul, as a share of the Han characters; a text with more of them is Japanese or Korean."""


def declared(record: Record) -> str:
    """`lang` in small letters without its region: zh for zh-TW, zh_Hans and Chinese; empty where it is no text."""
    given = record.get("lang")
    name = given.strip().casefold() if isinstance(given, str) else ""
    name = re.split("[-_]", name)[0]
    return NAMES.get(name, name)


def chinese(texts: Iterable[str]) -> bool:
    """Whether the texts are Chinese, by their characters alone."""
    text = "".join(texts)
    if text.isascii():
        return False
    han = len(HAN.findall(text))
    return han >= max(1, HAN_SHARE * sum(map(str.isalpha, text))) and len(KANA_HANGUL.findall(text)) <= MAX_OTHERS * han
