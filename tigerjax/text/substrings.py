"""Exact substrings: runs of characters that stand in the documents a second time are cut out or masked.

What is found is what a suffix array over all documents would find (Lee et al., arXiv 2107.06499): every run of at least
LENGTH characters that occurs twice, in two documents or in one. No suffix array is built, as one would hold the corpus.
A run of so many characters holds an *anchor*, a run of 50 whose hash is the smallest of its neighbours' (winnowing,
Schleimer et al. 2003), and equal runs hold equal anchors. So the steps are

    scan     writes the anchors of each part, about one for each 25 characters
    anchors  S times: keeps the anchors that occur twice
    windows  hashes the runs of LENGTH characters around these, in each part
    repeats  S times: keeps those that occur twice, but for the occurrence that stays
    cut      puts the runs of each document together, and cuts them

The occurrence that stays is that of the document whose id has the smallest hash, and the first one in it, so neither
the order of the input nor the division of the work changes a byte. Runs are compared by hashes of 64 bits.
"""

import functools
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from tigerjax import records
from tigerjax.errors import ConfigError
from tigerjax.stages import parts, scan
from tigerjax.stages.runner import Runner
from tigerjax.text.containment import MIN_LEFT
from tigerjax.text.document_stage import Corpus, DocumentStage, decided, documents_of, run_stage
from tigerjax.text.grams import run_hashes
from tigerjax.text.samples import Samples

Action = Literal["cut", "mask"]
LENGTH = 100
LEAST_LENGTH = 50
MASK = "[…]"
"""Stands for a run that was masked."""
VERSION = 1
LAST = np.uint64(2**64 - 1)


class _Characters:
    """The characters of some documents, one after another."""

    def __init__(self, texts: Sequence[str]):
        self.codes = np.frombuffer("".join(texts).encode("utf-32-le"), "<u4")
        sizes = np.fromiter(map(len, texts), np.int64, len(texts))
        self.starts = np.cumsum(sizes) - sizes
        self.room = np.repeat(np.cumsum(sizes), sizes) - np.arange(len(self.codes))
        """How many characters stand from each on to the end of its document."""

    def hashes(self, length: int) -> np.ndarray:
        """Of the run from each character on; LAST where it would leave the document."""
        made = run_hashes(self.codes, length)
        made[self.room[: len(made)] < length] = LAST
        return made


def _sliding(pick: Any, values: np.ndarray, width: int) -> np.ndarray:
    """The smallest or largest (`pick` is numpy's minimum or maximum) of each `width` neighbours."""
    size = 1
    while 2 * size <= width:
        values, size = pick(values[:-size], values[size:]), 2 * size
    rest = width - size
    return pick(values[: len(values) - rest], values[rest:]) if rest else values


def anchors(hashes: np.ndarray, width: int) -> np.ndarray:
    """The places of the hashes that are the smallest of `width` neighbours, in order; those that are LAST left out."""
    if len(hashes) < width:
        return np.zeros(0, np.int64)
    smallest = _sliding(np.minimum, hashes, width)
    around = np.concatenate([np.zeros(width - 1, np.uint64), smallest, np.zeros(width - 1, np.uint64)])
    return np.flatnonzero((_sliding(np.maximum, around, width) == hashes) & (hashes != LAST))


def _anchor_length(length: int) -> int:
    return length // 2


def _batches(texts: Sequence[str]) -> Iterator[tuple[int, _Characters]]:
    """(characters before them, the characters) of batches of whole documents."""
    before = 0
    for batch in scan.batches(texts):
        made = _Characters(batch)
        yield before, made
        before += len(made.codes)


def _scan(length: int, work: Path, number: int, documents: list[parts.Document]) -> dict[str, Any]:
    found: list[tuple[np.ndarray, np.ndarray]] = []
    short = _anchor_length(length)
    for before, batch in _batches([d.text for d in documents]):
        hashes = batch.hashes(short)
        at = anchors(hashes, length - short + 1)
        found.append((hashes[at], at + before))
    keys, places = (np.concatenate(column) for column in zip(*found, strict=True))
    parts.save_entries(work, "anchors", number, keys, _handles(number, places))
    return {}


def _handles(number: int, places: np.ndarray) -> np.ndarray:
    return (np.uint64(number) << np.uint64(parts.HANDLE_BITS)) + places.astype(np.uint64)


def _twice(work: Path, numbers: Sequence[int], shards: int, shard: int) -> None:
    """Writes twice-<shard>.npy, the sorted handles of the anchors of a shard that occur more than once."""
    keys, handles = parts.load_entries(work, "anchors", numbers, shard, shards)
    same = np.zeros(len(keys) + 1, bool)
    same[1:-1] = keys[1:] == keys[:-1]
    parts.save_npy(work / f"twice-{shard}.npy", np.sort(handles[same[1:] | same[:-1]]))


def _of_part(work: Path, what: str, shards: int, number: int) -> np.ndarray:
    """The places, sorted, of what the shards found in a part."""
    found = []
    for shard in range(shards):
        handles = np.load(work / f"{what}-{shard}.npy", mmap_mode="r", allow_pickle=False)
        found.append(np.array(handles[slice(*parts.range_of(handles, number))]))
    return np.sort(parts.split_handles(np.concatenate(found))[1])


def _covered(places: np.ndarray, before: int, length: int, size: int) -> np.ndarray:
    """bool [size]: the characters in [place - before, place + length) of any place."""
    change = np.zeros(size + 1, np.int64)
    np.add.at(change, np.maximum(places - before, 0), 1)
    np.add.at(change, np.minimum(places + length, size), -1)
    return np.cumsum(change[:-1]) > 0


def _windows(work: Path, shards: int, length: int, number: int) -> None:
    """Writes windows-<part>.npy, uint64 [3, n], sorted: the hash of each run around an anchor that occurs twice, the
    hash of the document's id, and the handle of its place."""
    from xxhash import xxh3_64_intdigest

    places = _of_part(work, "twice", shards, number)
    found: list[np.ndarray] = [np.zeros((3, 0), np.uint64)]
    if len(places):
        ids, texts = [], []
        for _, record in documents_of(work, number):
            ids.append(xxh3_64_intdigest(record["id"].encode("utf-8", "surrogatepass")))
            texts.append(record["text"])
        first = 0
        for before, batch in _batches(texts):
            hashes = batch.hashes(length)
            own = places[(places >= before) & (places < before + len(batch.codes))] - before
            wanted = _covered(own, length - _anchor_length(length), 1, len(hashes)) & (hashes != LAST)
            at = np.flatnonzero(wanted)
            owner = first + np.searchsorted(batch.starts, at, "right") - 1
            named = np.array(ids, np.uint64)[owner] if len(at) else np.zeros(0, np.uint64)
            found.append(np.stack([hashes[at], named, _handles(number, at + before)]))
            first += len(batch.starts)
    entries = np.concatenate(found, axis=1)
    parts.save_npy(work / f"windows-{number}.npy", entries[:, np.argsort(entries[0], kind="stable")])


def _repeats(work: Path, numbers: Sequence[int], shards: int, shard: int) -> None:
    """Writes repeats-of-<shard>.npy, the sorted handles of the runs that stand elsewhere too, where one stays."""
    found = []
    for number in numbers:
        entries = np.load(work / f"windows-{number}.npy", mmap_mode="r", allow_pickle=False)
        found.append(np.array(entries[:, slice(*parts.shard_of(entries[0], shard, shards))]))
    entries = np.concatenate(found, axis=1)
    entries = entries[:, np.lexsort((entries[2], entries[1], entries[0]))]
    later = np.zeros(entries.shape[1], bool)
    later[1:] = entries[0, 1:] == entries[0, :-1]
    parts.save_npy(work / f"repeats-of-{shard}.npy", np.sort(entries[2, later]))


def _cut(work: Path, shards: int, length: int, action: Action, number: int) -> dict[str, Any]:
    places = _of_part(work, "repeats-of", shards, number)
    drawn, figures = Samples(), Counter[str](spans=0, characters=0)

    def found() -> Iterator[tuple[int, records.Record | None]]:
        before = 0
        for place, record in documents_of(work, number) if len(places) else ():
            text = record["text"]
            first, last = np.searchsorted(places, [before, before + len(text)]).tolist()
            before += len(text)
            if first == last:
                continue
            spans = spans_of(places[first:last] - (before - len(text)), length)
            left = without(text, spans, action)
            figures["spans"] += len(spans)
            figures["characters"] += sum(end - start for start, end in spans)
            drawn.add("substrings", record["id"], text, left)
            kept = left.replace(MASK, "") if action == "mask" else left
            yield place, None if len(kept.strip()) < MIN_LEFT else {**record, "text": left}

    return {**decided(work, number, found(), drawn), **figures}


def spans_of(starts: np.ndarray, length: int) -> list[tuple[int, int]]:
    """The spans that runs of `length` characters cover, which begin at the sorted `starts`."""
    borders = np.flatnonzero(np.diff(starts) > length) + 1
    heads, tails = np.append(0, borders), np.append(borders, len(starts)) - 1
    return list(zip(starts[heads].tolist(), (starts[tails] + length).tolist(), strict=True))


def without(text: str, spans: Sequence[tuple[int, int]], action: Action) -> str:
    """The text without the spans. A newline, or the mask, stands for one between two other characters."""
    out, at = [], 0
    for start, end in spans:
        out.append(text[at:start])
        at = end
        if action == "mask":
            out.append(MASK)
        elif start and end < len(text) and text[start - 1] != "\n" and text[end] != "\n":
            out.append("\n")
    return "".join([*out, text[at:]])


def _decide(length: int, action: Action, corpus: Corpus) -> list[dict[str, Any]]:
    corpus.by_shard(_twice, "anchors")
    corpus.by_part(_windows, "windows", length)
    corpus.by_shard(_repeats, "repeats")
    return corpus.by_part(_cut, "cut", length, action)


def substring_files(
    inputs: Sequence[str | Path],
    out: str | Path,
    *,
    length: int = LENGTH,
    action: Action = "cut",
    shards: int = scan.SHARDS,
    runner: Runner | None = None,
) -> dict[str, Any]:
    """Cuts or masks runs of `length` characters that stand in the documents before; returns the manifest.

    Writes OUT/<name of the input>. A document of which fewer than 50 characters stay is dropped. The figures count the
    `spans` and their `characters`. Raises ConfigError for a length below LEAST_LENGTH, DataError for an SFT example.
    """
    if length < LEAST_LENGTH:
        raise ConfigError(f"length={length} must be at least {LEAST_LENGTH}: shorter runs are phrases, not copies")
    config = {"length": length, "action": action, "version": VERSION}
    scanned, decide = functools.partial(_scan, length), functools.partial(_decide, length, action)
    stage = DocumentStage("substrings", "Exact substrings", config, scanned, decide)
    return run_stage(stage, inputs, out, shards=shards, runner=runner)
