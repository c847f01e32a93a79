"""What pretraining documents share with the instruction data: containment of hashed 8-grams.

MinHash cannot find a 90-character answer inside a 1,400-character document; the share of the answer's grams that the
document holds, |G(answer) & G(doc)| / |G(answer)|, can. Only the pretraining side is ever changed.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from tigerjax.data import records
from tigerjax.data.grams import character_units, gram_hashes, is_cjk, key, word_units, words

Action = Literal["cut", "drop", "report"]
GRAM = 8
MIN_GRAMS = 16
"""Units of fewer grams are found by exact substring of the key only."""
THRESHOLD = 0.5
MIN_QUESTION_CHARACTERS = 50
"""Questions from this length on are units too; answers always are."""
SHORTEST_KEY = {"characters": 8, "words": 24}
"""Characters of key under which a unit says too little to be knowledge: 8 Chinese ones, 24 letters [our choice]."""
STOP_SHARE, STOP_MIN = 1e-4, 100
"""Grams in more than this share of the documents, and in more than so many [our choice], are boilerplate."""
MAX_CUT_SHARE, MIN_LEFT = 0.5, 50
"""A document that loses more than this share of its characters, or keeps fewer than so many, is dropped."""

_SENTENCE = re.compile(r"(?<=[。！？!?])(?![。！？!?”’」』])|(?<=\.)(?=\s)|(?<=\n)")


class Unit(NamedTuple):
    """A piece of instruction data to look for."""

    id: str
    text: str


class Hit(NamedTuple):
    """A unit found in a document; spans are [start, end) characters of the matched sentences."""

    id: str
    containment: float
    spans: list[list[int]]


class Table:
    """Inverted index gram -> units for one way of cutting texts (characters or words)."""

    def __init__(self, grams: list[np.ndarray], ids: list[str]):
        self.ids = ids
        self.sizes = np.array([len(g) for g in grams], np.int64)
        flat = np.concatenate(grams) if grams else np.zeros(0, np.uint64)
        owner = np.repeat(np.arange(len(grams)), self.sizes)
        order = np.argsort(flat, kind="stable")
        self.owner = owner[order]
        self.keys, self.starts = np.unique(flat[order], return_index=True)
        self.ends = np.append(self.starts[1:], len(flat))
        self.stopped = np.zeros(len(self.keys), bool)

    def find(self, hashes: np.ndarray) -> np.ndarray:
        """The index of each hash among `keys`, -1 where it is none."""
        if not len(self.keys):
            return np.full(len(hashes), -1)
        at = np.minimum(np.searchsorted(self.keys, hashes), len(self.keys) - 1)
        return np.where(self.keys[at] == hashes, at, -1)

    def owners(self, gram: int) -> np.ndarray:
        return self.owner[self.starts[gram] : self.ends[gram]]

    def stop(self, frequency: Counter[int], documents: int) -> int:
        """Takes out grams that too many documents hold; returns their number."""
        limit = max(STOP_MIN, STOP_SHARE * documents)
        for gram, count in frequency.items():
            if count > limit:
                self.stopped[gram] = True
                self.sizes[self.owners(gram)] -= 1
        return int(self.stopped.sum())

    def hits(self, grams: np.ndarray, threshold: float) -> dict[int, float]:
        """{unit: containment} of a document that holds these (distinct) grams."""
        grams = grams[~self.stopped[grams]]
        if not len(grams):
            return {}
        found = np.concatenate([self.owners(g) for g in grams])
        units, counts = np.unique(found, return_counts=True)
        share = counts / np.maximum(self.sizes[units], 1)
        keep = (share >= threshold) & (self.sizes[units] >= MIN_GRAMS)
        return {int(u): float(s) for u, s in zip(units[keep], share[keep], strict=True)}


class Index:
    """The instruction side: tables by characters and by words, and the short units."""

    def __init__(self, units: Iterable[Unit]):
        grams: dict[str, list[np.ndarray]] = {"characters": [], "words": []}
        ids: dict[str, list[str]] = {"characters": [], "words": []}
        short: dict[tuple[str, str], None] = {}
        self.ignored = 0
        for unit in units:
            unit_key = key(unit.text)
            kind = "characters" if is_cjk(unit_key) else "words"
            pieces = character_units(unit_key) if kind == "characters" else word_units(words(unit.text))
            hashes = np.unique(gram_hashes(pieces, GRAM))
            if len(hashes) >= MIN_GRAMS:
                grams[kind].append(hashes)
                ids[kind].append(unit.id)
            elif len(unit_key) >= SHORTEST_KEY[kind]:
                short[(unit.id, unit_key)] = None
            else:
                self.ignored += 1
        self.tables = {kind: Table(grams[kind], ids[kind]) for kind in grams}
        # A short unit is looked up by the hash of its first characters, then compared in full.
        self.anchors: dict[int, list[tuple[str, str]]] = {}
        for identity, unit_key in short:
            first = int(gram_hashes(character_units(unit_key[:GRAM]), GRAM)[0])
            self.anchors.setdefault(first, []).append((identity, unit_key))
        self._anchor_keys = np.array(sorted(self.anchors), np.uint64)

    def matches(self, text: str) -> dict[str, np.ndarray]:
        """By kind of table, the distinct grams of the index that the text holds; under "short", anchor hashes."""
        found = {}
        text_words = words(text)
        characters = gram_hashes(character_units("".join(text_words)), GRAM)
        hashes = {"characters": characters, "words": gram_hashes(word_units(text_words), GRAM)}
        for kind, table in self.tables.items():
            at = table.find(hashes[kind]) if len(table.keys) else np.zeros(0, np.int64)
            if len(at := np.unique(at[at >= 0])):
                found[kind] = at
        if len(self._anchor_keys):
            at = np.intersect1d(characters, self._anchor_keys)
            if len(at):
                found["short"] = at
        return found

    def hits(self, text: str, matches: dict[str, np.ndarray], threshold: float) -> list[Hit]:
        """The units that the text holds, with the sentences that hold them."""
        out: list[Hit] = []
        borders, sentence_keys, sentence_words = _sentences(text)
        key_ends, word_ends = np.cumsum([len(k) for k in sentence_keys]), np.cumsum([len(w) for w in sentence_words])
        text_key = "".join(sentence_keys)
        for kind, table in self.tables.items():
            units = table.hits(matches[kind], threshold) if kind in matches else {}
            if not units:
                continue
            flat = [w for group in sentence_words for w in group]
            pieces = character_units(text_key) if kind == "characters" else word_units(flat)
            at = table.find(gram_hashes(pieces, GRAM))
            for unit, share in units.items():
                mine = np.isin(at, matches[kind][[unit in table.owners(g) for g in matches[kind]]])
                covered = np.zeros(len(pieces), bool)
                for start in np.flatnonzero(mine).tolist():
                    covered[start : start + GRAM] = True
                ends = key_ends if kind == "characters" else word_ends
                out.append(Hit(table.ids[unit], share, _covered(covered, ends, borders)))
        for anchor in matches.get("short", ()):
            for identity, unit_key in self.anchors[int(anchor)]:
                covered, at_character = np.zeros(len(text_key), bool), text_key.find(unit_key)
                if at_character < 0:
                    continue
                while at_character >= 0:
                    covered[at_character : at_character + len(unit_key)] = True
                    at_character = text_key.find(unit_key, at_character + 1)
                out.append(Hit(identity, 1.0, _covered(covered, key_ends, borders, least=1)))
        return sorted(out)


def _sentences(text: str) -> tuple[list[list[int]], list[str], list[list[str]]]:
    """[start, end) of each sentence, their keys and their words."""
    parts = [part for part in _SENTENCE.split(text) if part]
    ends = np.cumsum([len(p) for p in parts]).tolist()
    borders = [[end - len(part), end] for end, part in zip(ends, parts, strict=True)]
    return borders, [key(p) for p in parts], [words(p) for p in parts]


def _covered(covered: np.ndarray, ends: np.ndarray, borders: list[list[int]], least: int = 2 * GRAM) -> list[list[int]]:
    """Sentences of which half, or `least` pieces (characters or words), are covered by matched grams."""
    out, start = [], 0
    for end, border in zip(ends.tolist(), borders, strict=True):
        count = int(covered[start:end].sum())
        if count and (count >= least or 2 * count >= end - start):
            out.append(border)
        start = end
    return out


def sft_units(examples: Iterable[records.Record]) -> list[Unit]:
    """Every answer, and every question of at least 50 characters."""
    return [
        Unit(str(example["id"]), message["content"])
        for example in examples
        for message in example["messages"]
        if message["role"] == "assistant" or len(message["content"]) >= MIN_QUESTION_CHARACTERS
    ]


def cut(text: str, hits: Sequence[Hit]) -> str:
    """The text without the sentences of the hits."""
    out, at = [], 0
    for start, end in sorted({(s, e) for hit in hits for s, e in hit.spans}):
        out.append(text[at:start])
        at = max(at, end)
    return "".join([*out, text[at:]]).strip()


def against_sft(
    documents: Sequence[records.Record], index: Index, *, action: Action, threshold: float = THRESHOLD
) -> tuple[list[records.Record | None], list[dict[str, Any]], int]:
    """Each document, changed or None where it is dropped; hits {doc, sft_id, containment, spans}; stop-grams."""
    matches = [index.matches(document["text"]) for document in documents]
    stopped = 0
    for kind, table in index.tables.items():
        frequency: Counter[int] = Counter()
        for found in matches:
            frequency.update(found.get(kind, np.zeros(0, np.int64)).tolist())
        stopped += table.stop(frequency, len(documents))
    out: list[records.Record | None] = []
    report: list[dict[str, Any]] = []
    for document, found in zip(documents, matches, strict=True):
        text = document["text"]
        hits = index.hits(text, found, threshold) if found else []
        report += [
            {"doc": document["id"], "sft_id": h.id, "containment": round(h.containment, 4), "spans": h.spans}
            for h in hits
        ]
        if not hits or action == "report":
            out.append(document)
            continue
        left = cut(text, hits) if action == "cut" else ""
        too_little = len(left) < MIN_LEFT or len(text) - len(left) > MAX_CUT_SHARE * len(text)
        out.append(None if action == "drop" or (left != text and too_little) else {**document, "text": left})
    return out, report, stopped
