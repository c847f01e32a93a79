"""Soft de-duplication: no document is dropped, and each gets a weight that says how much of it is its own.

A document's grams are its runs of 13 CJK characters or 8 words. df is the number of documents that have a gram.

    shares      weight = mean of 1/df: each gram counts once in all documents together, so k copies have 1/k each. It is
                the inverse document frequency of tf-idf, without a logarithm; ours, as TigerBot's form is not published
    commonness  weight = 1 / geometric mean of df. SoftDedup (arXiv 2407.06654) makes the weight inverse to the
                commonness of a text, the geometric mean of its grams' probabilities; it takes these from a smoothed
                4-gram model, we count the grams

Every fourth gram is looked at, by its hash, so the same ones in all documents. The steps are

    scan    writes the sampled grams of each part, sorted by their hashes
    count   S times: counts the documents of each gram of one S-th, and adds up what that makes of each document
    weigh   gives each document of a part its weight

Sums are of whole numbers, so neither the order nor the number of shards changes a weight.
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
from tigerjax.text import grams
from tigerjax.text.document_stage import Corpus, DocumentStage, decided, documents_of, run_stage
from tigerjax.text.samples import Samples

By = Literal["shares", "commonness"]
CHARACTERS, WORDS = 13, 8
"""Of a gram [our choice]: long enough that two texts seldom share one by chance."""
EVERY = 4
"""One gram of so many is looked at."""
MIN_GRAMS = 4
"""A document with fewer sampled grams is too short to be weighed: its weight is 1."""
LEAST_WEIGHT = 0.01
VERSION = 1
ONE = 1 << 32
"""The whole number that stands for 1 in sums."""
DIGITS = 4
"""Of a weight, behind the point."""
SAMPLED_BELOW = 0.9
"""Documents of a smaller weight are sampled for the report."""


def _scan(work: Path, number: int, documents: list[parts.Document]) -> dict[str, Any]:
    owners, hashes, first = [], [], 0
    for batch in scan.batches([d.text for d in documents]):
        found, of = grams.shingles(batch, CHARACTERS, WORDS)
        taken = found % np.uint64(EVERY) == 0
        hashes.append(found[taken])
        owners.append(of[taken] + first)
        first += len(batch)
    pairs = np.stack([np.concatenate(owners).astype(np.uint64), np.concatenate(hashes)])
    pairs = pairs[:, np.lexsort((pairs[1], pairs[0]))]
    new = np.ones(pairs.shape[1], bool)  # each gram of a document counts once
    new[1:] = (pairs[:, 1:] != pairs[:, :-1]).any(axis=0)
    pairs = pairs[:, new]
    places = pairs[0].astype(np.int64)
    parts.save_npy(work / f"gram-counts-{number}.npy", np.bincount(places, minlength=len(documents)))
    parts.save_entries(work, "grams", number, pairs[1], parts.handles(number, len(documents))[places])
    return {}


def _count(work: Path, numbers: Sequence[int], shards: int, by: By, shard: int) -> None:
    """Writes sums-<shard>.npy, uint64 [2, n]: the handles of documents, and what the grams of the shard give each."""
    keys, handles = parts.load_entries(work, "grams", numbers, shard, shards)
    starts = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]])) if len(keys) else np.zeros(0, np.int64)
    df = np.diff(np.append(starts, len(keys)))
    each = np.rint(ONE / df) if by == "shares" else np.rint(np.log2(df) * ONE)
    values = np.repeat(each.astype(np.uint64), df)
    order = np.argsort(handles, kind="stable")
    handles, values = handles[order], values[order]
    heads = np.flatnonzero(np.concatenate([[True], handles[1:] != handles[:-1]])) if len(handles) else starts
    sums = np.add.reduceat(values, heads) if len(heads) else values
    parts.save_npy(work / f"sums-{shard}.npy", np.stack([handles[heads], sums]))


def weights(work: Path, shards: int, by: By, least: float, number: int) -> np.ndarray:
    """float64: the weight of each document of a part; NaN for those that are too short."""
    counts = np.load(work / f"gram-counts-{number}.npy", allow_pickle=False)
    total = np.zeros(len(counts), np.uint64)
    for shard in range(shards):
        sums = np.load(work / f"sums-{shard}.npy", mmap_mode="r", allow_pickle=False)
        mine = np.array(sums[:, slice(*parts.range_of(sums[0], number))])
        _, places = parts.split_handles(mine[0])
        total[places] += mine[1]
    mean = total / np.maximum(counts, 1) / ONE
    weight = np.clip(mean if by == "shares" else np.exp2(-mean), least, 1.0)
    return np.where(counts < MIN_GRAMS, np.nan, np.round(weight, DIGITS))


def _weigh(work: Path, shards: int, by: By, least: float, number: int) -> dict[str, Any]:
    drawn, figures = Samples(), Counter[str]()
    given = weights(work, shards, by, least, number)

    def found() -> Iterator[tuple[int, records.Record | None]]:
        for place, record in documents_of(work, number):
            figures["too_short"] += int(np.isnan(given[place]))
            figures["replaced"] += "weight" in record
            weight = 1.0 if np.isnan(given[place]) else float(given[place])
            figures["weight"] += round(weight * 10**DIGITS)
            figures[_tenth(weight)] += 1
            if weight < SAMPLED_BELOW:
                drawn.add("weights", record["id"], record["text"], f"weight {weight}")
            yield place, {**record, "weight": weight}

    return {**decided(work, number, found(), drawn), **figures}


def _tenth(weight: float) -> str:
    """The tenth in which a weight lies: 0.2-0.3 for 0.25, and 1 for 1."""
    below = int(weight * 10)
    return "1" if below == 10 else f"{below / 10}-{(below + 1) / 10}"


def _figures(totals: dict[str, int]) -> dict[str, Any]:
    by_weight = {name: count for name, count in totals.items() if name[0].isdigit()}
    figures = {"weight": totals["weight"] / 10**DIGITS, "by_weight": by_weight, "too_short": totals["too_short"]}
    return figures | ({"replaced": totals["replaced"]} if totals["replaced"] else {})


def _decide(by: By, least: float, corpus: Corpus) -> list[dict[str, Any]]:
    corpus.by_shard(_count, "count", by)
    return corpus.by_part(_weigh, "weigh", by, least)


def soft_files(
    inputs: Sequence[str | Path],
    out: str | Path,
    *,
    by: By = "shares",
    least: float = LEAST_WEIGHT,
    shards: int = scan.SHARDS,
    runner: Runner | None = None,
) -> dict[str, Any]:
    """Gives each document a `weight` in [least, 1]; writes OUT/<name of the input>, and returns the manifest.

    A weight that a document has already is replaced, so weighing again changes nothing. The figure `by_weight` counts
    documents by their weights, and `weight` is the sum of all: as many documents' worth of text are there.
    Raises ConfigError for a `least` that is no share above 0, DataError for an SFT example, whose weight is that of its
    loss.
    """
    if not 0 < least <= 1:
        raise ConfigError(f"least_weight={least} must be in (0, 1]")
    config = {"by": by, "least_weight": least, "characters": CHARACTERS, "words": WORDS, "version": VERSION}
    decide = functools.partial(_decide, by, least)
    stage = DocumentStage("soft", "Soft de-duplication", config, _scan, decide, _figures)
    return run_stage(stage, inputs, out, shards=shards, runner=runner)
