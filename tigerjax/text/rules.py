"""The rules of cleaning, in their order. A rewrite changes a text. A filter drops a record, and its name is the reason.

A new rule is a function here and a line in REWRITES or FILTERS; the command line, the manifest and the page of a
cleaning read these tables. Each rule has a version, which the manifest records: a rule whose behaviour changes gets
the next one. Rules with `default=False` suit only some corpora, mostly web text, and are switched on by name. The
rewrites are repeated until none changes the text, so clean(clean(x)) = clean(x).
"""

import dataclasses
import functools
import re
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from tigerjax.errors import ConfigError, DataError, near_miss
from tigerjax.files import paths
from tigerjax.records import Record
from tigerjax.text.characters import controls, invisible, newlines
from tigerjax.text.grams import cut, key, keys, windows
from tigerjax.text.language import chinese, declared
from tigerjax.text.markup import MARKER, entities, outside_code, prose, tags
from tigerjax.text.page_lines import boilerplate, repeated_sentences
from tigerjax.text.private import emails, identity_numbers, phones, secrets

MIN_CHARACTERS = 50
"""`short`: the letters and digits that a document needs."""
MIN_LETTERS = 0.5
"""`letters`: the least share of letters and digits among all characters that are not spaces."""
MAX_LINES_TWICE = 0.3
"""`repetition`: the largest share of lines that repeat an earlier one (Gopher, table A1)."""
MAX_GRAMS_TWICE = 0.1
"""`repetition`: the largest share of 10-grams of words, or of 20 CJK characters, that repeat one (like Gopher's)."""
MAX_SENSITIVE = 5.0
"""`sensitive`: the most listed words per 1,000 characters."""
MAX_SFT_CHARACTERS = 100_000
"""`overlong`: the most characters of a dialogue; no context holds more."""

_BLANK = re.compile(r"\n(?:[ \t]*\n){3,}")
# Not the picture of Markdown, ![image](cat.png).
_PLACEHOLDER = re.compile(r"<a text>|<noinput>|(?<!!)\[(?:image|图片)\](?![(\[])", re.I)
_URL_ONLY = re.compile(r"\s*https?://\S+\s*")
# How UTF-8 looks that was read as Latin-1 or Windows-1252: "â€™", "Ã©", "å¤©". One such letter, and one that follows.
_MOJIBAKE = re.compile("[\u00c2-\u00f4][\u0080-\u00bf\u0152-\u0178\u017d\u017e\u0192\u02c6\u02dc\u2013-\u2122\u20ac]")


def mojibake(text: str) -> str:
    """UTF-8 that was read as another encoding is repaired (by ftfy): "cafÃ©" becomes "café"."""
    if not _MOJIBAKE.search(text):
        return text
    import ftfy

    return ftfy.fix_encoding(text)


def markers(text: str) -> str:
    """The chat's marker strings inside a text are removed: one in 6,000 of TigerBot's examples has them."""
    out, at = [], 0
    for match in MARKER.finditer(text):
        before = text[at : match.start()]
        out.append(before if match[0] == "<pad>" else before.rstrip("\n"))
        at = match.end()
    return "\n".join([*out, text[at:]])


@functools.cache
def _to_simplified() -> Any:
    import opencc

    return opencc.OpenCC("t2s")


def simplified(text: str) -> str:
    """Traditional Chinese characters become simplified ones (OpenCC t2s); not for books, nor for translations."""
    return text if text.isascii() else _to_simplified().convert(text)


def blank_lines(text: str) -> str:
    """More than two blank lines in a row become two."""
    return _BLANK.sub("\n\n\n", text)


def edges(text: str) -> str:
    """Spaces and newlines at both ends are removed."""
    return text.strip(" \t\n\u3000")


@dataclasses.dataclass(frozen=True, slots=True)
class Rewrite:
    """A rule that changes a text, named after its function."""

    apply: Callable[[str], str]
    version: int = 1
    default: bool = True
    sft_only: bool = False
    sft_default: bool = True
    """Whether `default` holds for SFT examples too: their answers are often about what a rule removes."""
    not_code: bool = False
    outside: Literal["", "code", "fences"] = ""
    """Not in code that stands in the text: in any, or only in blocks between fences."""
    zh_only: bool = False

    @property
    def name(self) -> str:
        return self.apply.__name__


REWRITES = (
    Rewrite(mojibake, version=2, not_code=True, outside="code"),
    Rewrite(newlines, version=2),
    Rewrite(controls, version=2),
    Rewrite(invisible, version=2),
    Rewrite(tags, version=4, not_code=True, sft_default=False),
    Rewrite(entities, version=3, not_code=True, sft_default=False),
    Rewrite(markers, sft_only=True),
    Rewrite(secrets, version=2, default=False),
    Rewrite(identity_numbers, version=2, default=False),
    Rewrite(phones, version=2, default=False),
    Rewrite(emails, version=2, default=False),
    Rewrite(boilerplate, version=2, default=False, not_code=True, outside="fences"),
    Rewrite(simplified, version=2, default=False, not_code=True, outside="code", zh_only=True),
    Rewrite(repeated_sentences, version=2, default=False, sft_default=False, not_code=True, outside="fences"),
    Rewrite(blank_lines),
    Rewrite(edges, not_code=True),
)


def _texts(record: Record) -> list[str]:
    return [record["text"]] if "text" in record else [m["content"] for m in record["messages"]]


def empty(record: Record) -> bool:
    """A document or a message without a visible character."""
    return any(all(unicodedata.category(c)[0] in "ZC" for c in text) for text in _texts(record))


def placeholder(record: Record) -> bool:
    """An SFT message with a placeholder, such as "[image]", for something that is not there."""
    contents = (m["content"] for m in record.get("messages", ()))
    return any(_PLACEHOLDER.search(prose(text)) for text in contents if _PLACEHOLDER.search(text))


def echo(record: Record) -> bool:
    """An SFT answer that repeats its question."""
    turns = [m["content"].strip() for m in record.get("messages", ())]
    return any(user == answer for user, answer in zip(turns[::2], turns[1::2], strict=True))


def url_only(record: Record) -> bool:
    """An SFT answer that is one link."""
    return any(_URL_ONLY.fullmatch(m["content"]) for m in record.get("messages", ())[1::2])


def overlong(record: Record) -> bool:
    """An SFT dialogue longer than MAX_SFT_CHARACTERS."""
    return "messages" in record and sum(map(len, _texts(record))) > MAX_SFT_CHARACTERS


def language(record: Record) -> bool:
    """A document in another script than its declared language: zh without CJK, or en that is mostly CJK."""
    lang = declared(record)
    if lang not in ("zh", "en") or "text" not in record:
        return False
    return bool(keys([record["text"]]).cjk()[0]) != (lang == "zh")


def short(record: Record) -> bool:
    """A document of fewer than MIN_CHARACTERS letters and digits."""
    return "text" in record and len(key(record["text"])) < MIN_CHARACTERS


def letters(record: Record) -> bool:
    """A document with too small a share of letters and digits (tables, menus, noise)."""
    if "text" not in record or record.get("lang") == "code":
        return False
    visible = len(record["text"]) - sum(map(record["text"].count, " \n\t\u3000"))
    return visible > 0 and len(key(record["text"])) < MIN_LETTERS * visible


def repetition(record: Record) -> bool:
    """A document that repeats itself: too many lines, or grams of 10 words (20 CJK characters), occur before."""
    if "text" not in record or record.get("lang") == "code":
        return False
    lines = [line.strip() for line in record["text"].split("\n") if line.strip()]
    if len(lines) > 3 and len(set(lines)) < (1 - MAX_LINES_TWICE) * len(lines):
        return True
    batch = keys([record["text"]])
    cjk = bool(batch.cjk()[0])
    grams, _ = windows(cut(batch, "characters" if cjk else "words"), 20 if cjk else 10)
    return len(grams) > 0 and len(np.unique(grams)) < (1 - MAX_GRAMS_TWICE) * len(grams)


def read_words(path: str | Path) -> tuple[str, ...]:
    """The words of a list, one on each line, with casefold. DataError for a list that is empty or cannot be read."""
    try:
        lines = paths.of(path).read_bytes().decode("utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        paths.not_damage(error)
        raise DataError(
            f"{path}: the list of sensitive words cannot be read: {error}; correct the path, or save it as UTF-8"
        ) from error
    if not (words := sorted({line.strip().casefold() for line in lines} - {""})):
        raise DataError(f"{path}: no sensitive word in it; give one per line, or leave --sensitive out")
    return tuple(words)


@functools.cache
def _automaton(words: tuple[str, ...]) -> Any:
    import ahocorasick

    automaton = ahocorasick.Automaton()
    for word in words:
        automaton.add_word(word, word)
    automaton.make_automaton()
    return automaton


def sensitive_words(text: str, words: tuple[str, ...]) -> int:
    """How often the listed words occur, in any case. A word of Latin letters counts only as a whole word."""
    text, count = text.casefold(), 0
    for end, word in _automaton(words).iter(text):
        start = end - len(word) + 1
        inside = (text[max(start - 1, 0) : start] + text[end + 1 : end + 2]).replace("_", "")
        count += not (word.isascii() and any(c.isascii() and c.isalnum() for c in inside))
    return count


def sensitive(record: Record, words: tuple[str, ...]) -> bool:
    """A record with more than MAX_SENSITIVE listed words per 1,000 characters."""
    texts = _texts(record)
    size = max(sum(map(len, texts)), 1)
    return sum(sensitive_words(text, words) for text in texts) > MAX_SENSITIVE * size / 1000


@dataclasses.dataclass(frozen=True, slots=True)
class Filter:
    """A rule that drops a record, named after its function."""

    drops: Callable[[Record], bool]
    version: int = 1
    default: bool = True

    @property
    def name(self) -> str:
        return self.drops.__name__


FILTERS = (
    Filter(empty),
    Filter(placeholder),
    Filter(echo),
    Filter(url_only),
    Filter(overlong),
    Filter(language, default=False),
    Filter(short, default=False),
    Filter(letters, default=False),
    Filter(repetition, default=False),
)
RULES: dict[str, Rewrite | Filter] = {rule.name: rule for rule in (*REWRITES, *FILTERS)}


OnRewrite = Callable[[str, str, str], None]
"""Called with (rule, text before, text after) of each change."""


@dataclasses.dataclass(frozen=True, slots=True)
class RuleSet:
    """The rules that are on, and the sensitive words, if any."""

    names: frozenset[str]
    not_sft: frozenset[str] = frozenset()
    """Those of them that are off for SFT examples."""
    words: tuple[str, ...] = ()

    def rewritten(self, text: str, *, sft: bool, code: bool, zh: bool, on_rewrite: OnRewrite | None = None) -> str:
        """The text after all rewrites in their order, repeated until nothing changes."""
        names = self.names - self.not_sft if sft else self.names
        while True:
            before = text
            for rule in REWRITES:
                off = rule.name not in names or (rule.sft_only and not sft)
                if off or (rule.not_code and code) or (rule.zh_only and not zh):
                    continue
                new = rule.apply(text)
                if rule.outside and new != text:
                    new = outside_code(text, rule.apply, rule.outside == "code")
                if new != text and on_rewrite is not None:
                    on_rewrite(rule.name, text, new)
                text = new
            if text == before:
                return text

    def cleaned(self, record: Record, on_rewrite: OnRewrite | None = None) -> tuple[Record, str]:
        """(the cleaned record, the name of the filter that drops it); the name is "" when none does."""
        lang = declared(record)
        code, zh = lang == "code", lang == "zh"
        if not lang and "simplified" in self.names:
            zh = chinese(_texts(record))
        rewritten = functools.partial(self.rewritten, sft="messages" in record, code=code, zh=zh, on_rewrite=on_rewrite)
        if "messages" in record:
            messages = [{**m, "content": rewritten(m["content"])} for m in record["messages"]]
            record = {**record, "messages": messages}
        else:
            record = {**record, "text": rewritten(record["text"])}
        for rule in FILTERS:
            if rule.name in self.names and rule.drops(record):
                return record, rule.name
        return record, "sensitive" if self.words and sensitive(record, self.words) else ""


def rule_set(on: Sequence[str] = (), off: Sequence[str] = (), words: str | Path | None = None) -> RuleSet:
    """The default rules and those of `on` (which may be "all"), without those of `off`.

    Raises ConfigError for a name that is no rule, with the near one.
    """
    if unknown := (set(on) - {"all"} | set(off)) - set(RULES):
        near = near_miss(min(unknown), RULES)
        raise ConfigError(f"no such cleaning rules: {', '.join(sorted(unknown))}{near}; there are {', '.join(RULES)}")
    default = {name for name, rule in RULES.items() if rule.default or name in on or "all" in on}
    asked = set(RULES) if "all" in on else set(on)
    not_sft = {rule.name for rule in REWRITES if not rule.sft_default} - asked
    names = frozenset(default - set(off))
    return RuleSet(names, names & not_sft, () if words is None else read_words(words))
