"""Checks the properties of an extended tokenizer on texts.

`verify` returns figures, and `failures` names those that break a property. Two kinds of lines are left out. A line
that cannot make the round trip in the base need not make it in the extension: with SentencePiece one that has U+2581,
which stands for a space there. A line with the text of a special is not compared with Hugging Face, which reads
specials inside text.
"""

import functools
import importlib.util
import logging
import math
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from tigerjax.errors import ConfigError, DataError
from tigerjax.files import paths
from tigerjax.tokenizer import bpe_verify
from tigerjax.tokenizer.bpe import has_own
from tigerjax.tokenizer.extend import base_minimum, dead_pieces, has_cjk, is_cjk
from tigerjax.tokenizer.hf_files import described
from tigerjax.tokenizer.load import Tokenizer
from tigerjax.tokenizer.model_file import NORMAL, SPECIAL_TEXTS, read_proto
from tigerjax.tokenizer.texts import HERE, RecordText, TextRunner, over

HARD_LINES = (
    " ",
    "  two leading spaces",
    "trailing  ",
    "a\tb",
    "def f(x):\n    return x\n\n\n",
    "\r\n",
    "😀👨‍👩‍👧‍👦🏳️‍🌈",
    "\u3000全角　空格",
    "עברית العربية",
    "𠮷𪚥 \U000e0001\x7f\x01",
    "中文English混排，with, both.",
    *SPECIAL_TEXTS.values(),
)
"""Checked besides the user's text: lines on which tokenizers often differ, and the texts of the specials."""
CJK_SHARE = 0.3
"""A text without a declared language is Chinese from this share of CJK characters on."""
SPACE_MARK = "\u2581"
HF_LINES = 4096  # lines that `transformers` encodes together


def language(text: str) -> str:
    """The language of a text, "zh" or "en", guessed by the share of CJK characters."""
    return "zh" if text and sum(map(is_cjk, text)) / len(text) >= CJK_SHARE else "en"


def outside_cjk(tok: Tokenizer, text: str) -> list[tuple[int, int]]:
    """(position, id) of the tokens outside of CJK characters. A byte token belongs to its character."""
    return [(begin, i) for i, begin, end in tok.encode_spans(text) if not has_cjk(text[begin : max(end, begin + 1)])]


def changed_old_ids(base: Any, merged: Any) -> int:
    """The number of base entries that the merged model lacks, or has with another piece, score or type."""
    same = sum(
        (a.piece, a.score, a.type) == (b.piece, b.score, b.type)
        for a, b in zip(base.pieces, merged.pieces, strict=False)
    )
    return len(base.pieces) - same


class HuggingFace:
    """Compares the ids that `transformers` gives to lines with ours, HF_LINES at a time."""

    def __init__(self, folder: Path, tok: Tokenizer, marks: Iterable[str]):
        """`marks` are the texts of special tokens. DataError where transformers does not load the tokenizer."""
        self._tok, self._lines = tok, list[str]()
        self.different: int | None = None
        """The lines that got other ids, after `finish`; None where transformers is not installed."""
        if importlib.util.find_spec("transformers") is None:
            return
        from transformers import AutoTokenizer

        # It warns at length before it raises, and of long lines. What matters is said below in one line.
        logging.getLogger("transformers").setLevel(logging.CRITICAL)
        self.different = 0
        try:
            self._theirs: Any = AutoTokenizer.from_pretrained(str(paths.fetched(folder)))
        except Exception as error:  # it raises whatever its libraries do
            why = " ".join(str(error).split())[:200] or type(error).__name__
            raise DataError(
                f"{folder}: transformers does not load this tokenizer ({why}); make it again with `tigerjax tokenizer"
                " extend`"
            ) from error
        self._marks = [*self._theirs.all_special_tokens, *marks]

    def add(self, line: str) -> None:
        if self.different is not None and not any(mark in line for mark in self._marks):
            self._lines.append(line)
            if len(self._lines) == HF_LINES:
                self.finish()

    def finish(self) -> None:
        """Compares the lines that were added last."""
        if self.different is not None and self._lines:
            ids = self._theirs(self._lines, add_special_tokens=False)["input_ids"]
            self.different += sum(i != self._tok.encode(line) for i, line in zip(ids, self._lines, strict=True))
            self._lines.clear()


COUNTED = (
    "plain_lines", "plain_lines_changed", "mixed_lines", "mixed_lines_changed", "round_trip_failures",
    "specials_from_text",
)  # fmt: skip


class Checks:
    """An extended tokenizer beside its base, and the lines that were checked so far."""

    def __init__(self, folder: Path, base: Path):
        self.folder = folder
        self.old, self.new = Tokenizer(base), Tokenizer(folder)
        if self.old.is_json != self.new.is_json:
            kinds = ("tokenizer.model", "tokenizer.json")
            raise ConfigError(
                f"{folder} is a {kinds[self.new.is_json]}, and {base} a {kinds[self.old.is_json]}; give the base that"
                " it was made of"
            )
        self.special = described(folder).special if self.new.is_json else frozenset(self.new.added)
        self.marks = [self.new.added[i] for i in sorted(self.special)]
        self.peer = HuggingFace(folder, self.new, self.marks)
        self.lines, self.figures, self.sizes = 0, Counter[str](dict.fromkeys(COUNTED, 0)), dict[str, list[int]]()

    def add(self, line: str) -> tuple[list[int], list[int]]:
        """Checks what holds for every line; returns its ids in the base and in the extension."""
        before, after = self.old.encode(line), self.new.encode(line)
        self.peer.add(line)
        self.lines += 1
        self.figures["round_trip_failures"] += self.new.decode(after) != line and _returns(self.old, line)
        self.figures["specials_from_text"] += not self.special.isdisjoint(after)
        return before, after

    def of_text(self, line: str, lang: str | None) -> None:
        """Checks a line of the user's text."""
        before, after = self.add(line)
        if (has_own if self.new.is_json else has_cjk)(line):
            self.figures["mixed_lines"] += 1
            self.figures["mixed_lines_changed"] += outside_cjk(self.old, line) != outside_cjk(self.new, line)
        else:
            self.figures["plain_lines"] += 1
            self.figures["plain_lines_changed"] += before != after
        total = self.sizes.setdefault(lang or language(line), [0, 0, 0])
        for n, count in enumerate((len(line), len(before), len(after))):
            total[n] += count

    def found(self) -> dict[str, Any]:
        """The sums of the lines that were checked."""
        self.peer.finish()
        return {
            "lines": self.lines,
            "figures": dict(self.figures),
            "sizes": self.sizes,
            "different": self.peer.different,
        }


def _checked(folder: Path, base: Path, number: int, texts: Iterator[RecordText]) -> dict[str, Any]:
    checks = Checks(folder, base)
    for _, text, declared in texts:
        for line in filter(None, text.split("\n")):
            checks.of_text(line, declared)
    return checks.found()


def verify(folder: Path, base: Path, texts: list[Path], runner: TextRunner = HERE) -> dict[str, Any]:
    """The figures of the tokenizer in `folder`, which was extended from `base`, on the lines of the files.

    chars_per_token is {"before": {language: …}, "after": {language: …}}. The language is a record's `lang`, or else
    guessed by the share of CJK characters. hf_mismatches is None where transformers is not installed. Raises
    ConfigError where one of the two is a tokenizer.json and the other is not.
    """
    folder, base = paths.of(folder), paths.of(base)
    hard = Checks(folder, base)
    structure = (bpe_verify.structure if hard.new.is_json else _structure)(folder, base)
    for line in (*HARD_LINES, *(hard.marks if hard.new.is_json else ())):
        hard.add(line)
    blocks = [hard.found(), *over(functools.partial(_checked, folder, base), texts, runner, "checked")]
    figures, sizes = dict.fromkeys(COUNTED, 0), dict[str, list[int]]()
    for block in blocks:
        for name in COUNTED:
            figures[name] += block["figures"][name]
        for lang, own in block["sizes"].items():
            sizes[lang] = [total + count for total, count in zip(sizes.get(lang, [0, 0, 0]), own, strict=True)]
    different = [block["different"] for block in blocks]
    return {
        **structure,
        **figures,
        "lines": sum(block["lines"] for block in blocks),
        "hf_mismatches": None if None in different else sum(different),
        "chars_per_token": {
            when: {lang: round(total[0] / max(total[n], 1), 4) for lang, total in sorted(sizes.items())}
            for n, when in ((1, "before"), (2, "after"))
        },
    }


def _returns(base: Tokenizer, line: str) -> bool:
    """Whether the base itself gives the line back: where it does not, no extension can."""
    if not base.is_json:
        return SPACE_MARK not in line
    return base.decode(base.encode(line)) == line


def _structure(folder: Path, base: Path) -> dict[str, Any]:
    """The figures of an extended tokenizer.model that need no text."""
    old, new, tokenizer = read_proto(base), read_proto(folder), Tokenizer(folder)
    first, pieces = len(old.pieces), len(new.pieces)
    added = new.pieces[first:]
    scores = [piece.score for piece in added]
    return {
        "vocab_size": tokenizer.size,
        "specials": tokenizer.size - pieces,
        "old_ids_changed": changed_old_ids(old, new),
        "duplicate_pieces": pieces - len({piece.piece for piece in new.pieces}),
        "wrong_types": sum(piece.type != NORMAL for piece in added),
        "misranked_scores": sum(
            not (math.isfinite(score) and score < limit)
            for score, limit in zip(scores, [base_minimum(old), *scores], strict=False)
        ),
        "header_errors": int(new.trainer_spec.vocab_size != pieces) + int(new.normalizer_spec != old.normalizer_spec),
        "dead_rows": len(dead_pieces(new, first)),
    }


MUST_BE_ZERO = (
    "old_ids_changed",
    "old_merges_changed",
    "merges_not_allowed",
    "entry_errors",
    "duplicate_pieces",
    "wrong_types",
    "misranked_scores",
    "header_errors",
    "plain_lines_changed",
    "mixed_lines_changed",
    "specials_from_text",
    "dead_rows",
    "round_trip_failures",
    "hf_mismatches",
)


def failures(figures: dict[str, Any]) -> list[str]:
    """The figures of `verify` that break a property, each as "name=value (must be …)"; empty when all hold."""
    broken = [f"{name}={figures[name]} (must be 0)" for name in MUST_BE_ZERO if figures.get(name)]
    if figures.get("specials", 3) != 3:  # a tokenizer.json keeps the special tokens that it has
        broken.append(f"specials={figures['specials']} (must be 3)")
    return broken


PROPERTIES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("old ids keep piece, score and type", ("old_ids_changed",)),
    ("no id changes outside Chinese", ("plain_lines_changed", "mixed_lines_changed")),
    ("every new row is alive", ("dead_rows",)),
    ("decode(encode(x)) = x", ("round_trip_failures",)),
    ("pieces, types, scores, header", ("duplicate_pieces", "wrong_types", "misranked_scores", "header_errors")),
    ("three specials, never from text", ("specials", "specials_from_text")),
    ("Hugging Face gives the same ids", ("hf_mismatches",)),
)


def property_table(figures: dict[str, Any]) -> list[str]:
    """Lines of text: each of the seven properties with its verdict and figures, then characters per token."""
    properties = bpe_verify.PROPERTIES if "old_merges_changed" in figures else PROPERTIES
    broken = {text.split("=")[0] for text in failures(figures)}
    hard = figures["lines"] - figures["plain_lines"] - figures["mixed_lines"]
    out = [
        f"{figures['lines']:,} lines: {figures['plain_lines']:,} without Chinese, {figures['mixed_lines']:,} with, and"
        f" {hard} hard ones; {figures['vocab_size']:,} entries"
    ]
    for n, (what, names) in enumerate(properties, 1):
        verdict = "FAILS" if broken & set(names) else "not run" if figures[names[0]] is None else "holds"
        values = ", ".join(f"{name}={figures[name]}" for name in names)
        out.append(f"{n}  {what:36} {verdict:8} {values}")
    before, after = (figures["chars_per_token"][when] for when in ("before", "after"))
    for lang in after:
        out.append(f"   characters per token, {lang:14} {before[lang]} -> {after[lang]}")
    return out
