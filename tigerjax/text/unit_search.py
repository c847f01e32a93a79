"""The first steps of `against`: units and documents become grams, and those that share grams are joined.

Files of a part are named by its number; `Job` says which parts there are.
"""

import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from tigerjax.files import manifest
from tigerjax.stages import parts, scan
from tigerjax.text import containment
from tigerjax.text.containment import KINDS, Action, Filter, Index, Search, UnitGrams
from tigerjax.text.grams import keys


class Wanted(NamedTuple):
    """What is looked for in documents, and what is done with those that hold it."""

    stage: Literal["against_sft", "decontaminate"]
    """The name of the stage in the manifest."""
    noun: str
    """What the units are called in an error: "instruction data", "questions"."""
    id_field: Literal["sft_id", "eval_id"]
    """The field of a hit that names the unit."""
    search: Search
    action: Action


class Job(NamedTuple):
    """What the steps share: the folders of both sides, their parts, and what is looked for."""

    docs: Path
    units: Path
    doc_parts: tuple[int, ...]
    unit_parts: tuple[int, ...]
    wanted: Wanted
    shards: int


def scan_units(work: Path, search: Search, number: int, documents: list[parts.Document]) -> dict[str, Any]:
    texts = [containment.unit_texts(json.loads(d.line)) for d in documents]
    units = containment.make_units(texts, search)
    for kind, given in units.long.items():
        for name, array in given._asdict().items():
            parts.save_npy(work / f"{kind}-{name}-{number}.npy", array)
    manifest.write_json(work / f"short-{number}.json", units.short)
    grams = sum(len(given.grams) for given in units.long.values()) + len(units.short)
    return {"units": sum(map(len, texts)), "grams": grams, "ignored": units.ignored}


def load_units(work: Path, kind: str, number: int) -> UnitGrams:
    return UnitGrams(*(np.load(work / f"{kind}-{name}-{number}.npy", mmap_mode="r") for name in UnitGrams._fields))


def load_short(work: Path, number: int) -> list[tuple[int, str]]:
    return json.loads((work / f"short-{number}.json").read_text(encoding="utf-8"))


def make_filter(units: Path, numbers: Sequence[int], grams: int) -> None:
    known = Filter.sized(grams)
    for number in numbers:
        for kind in KINDS:
            known.add(np.asarray(load_units(units, kind, number).grams))
        for ends in containment.anchors([key for _, key in load_short(units, number)]):
            known.add(ends)
    parts.save_npy(units / "filter.npy", known.bits)


@functools.lru_cache(maxsize=1)
def _filter(units: Path) -> Filter:
    return Filter(np.load(units / "filter.npy", mmap_mode="r", allow_pickle=False))


def scan_docs(work: Path, units: Path, search: Search, number: int, documents: list[parts.Document]) -> dict[str, Any]:
    matches: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {kind: [] for kind in (*KINDS, "short")}
    first = 0
    for batch in scan.batches([d.text for d in documents]):
        for kind, (texts, grams) in containment.matches(keys(batch), _filter(units), search).items():
            matches[kind].append((texts + first, grams))
        first += len(batch)
    for kind, pairs in matches.items():
        texts, grams = (np.concatenate(column) for column in zip(*pairs, strict=True))
        parts.save_npy(work / f"matches-{kind}-{number}.npy", np.stack([texts.astype(np.uint64), grams]))
        if kind != "short":
            distinct, counts = np.unique(grams, return_counts=True)
            parts.save_entries(work, f"often-{kind}", number, distinct, counts.astype(np.uint64))
    return {}


def boilerplate(job: Job, limit: float, shard: int) -> list[list[int]]:
    """For each kind, the grams of a shard of units that more than `limit` documents hold."""
    out = []
    for kind in KINDS:
        grams, counts = parts.load_entries(job.docs, f"often-{kind}", job.doc_parts, shard, job.shards)
        often = grams
        if len(grams):
            starts = np.flatnonzero(np.concatenate([[True], grams[1:] != grams[:-1]]))
            often = grams[starts][np.add.reduceat(counts, starts) > limit]
        held = np.zeros(len(often), bool)
        for number in job.unit_parts if len(often) else ():
            held |= np.isin(often, load_units(job.units, kind, number).grams)
        out.append([int(gram) for gram in often[held]])
    return out


class _Shard(NamedTuple):
    """The index of one S-th of the units. Unit u of a kind is `where[kind][u]` = (part, unit in the part)."""

    indices: dict[str, Index]
    where: dict[str, np.ndarray]
    anchors: tuple[np.ndarray, np.ndarray]
    short: np.ndarray


@functools.lru_cache(maxsize=1)
def _shard(job: Job, shard: int) -> _Shard:
    mine = job.unit_parts[shard :: job.shards]
    indices: dict[str, Index] = {}
    where: dict[str, np.ndarray] = {}
    for kind in KINDS:
        loaded = [load_units(job.units, kind, number) for number in mine]
        sizes = [np.diff(units.starts) for units in loaded]
        starts = np.concatenate([[0], np.cumsum(np.concatenate(sizes))]) if mine else np.zeros(1, np.int64)
        grams = np.concatenate([units.grams for units in loaded]) if mine else np.zeros(0, np.uint64)
        stopped = np.load(job.docs / f"stopped-{kind}.npy", allow_pickle=False)
        indices[kind] = Index(UnitGrams(grams, starts, np.zeros(0, np.int64)), stopped)
        pairs = [np.stack([np.full(len(s), n), np.arange(len(s))]) for n, s in zip(mine, sizes, strict=True)]
        where[kind] = np.concatenate(pairs, axis=1) if pairs else np.zeros((2, 0), np.int64)
    short = [(number, i, key) for number in mine for i, (_, key) in enumerate(load_short(job.units, number))]
    first, last = containment.anchors([key for *_, key in short])
    order = np.argsort(first, kind="stable")
    places = np.array([[number, i] for number, i, _ in short], np.int64).reshape(-1, 2)
    return _Shard(indices, where, (first[order], last[order]), places[order].T)


def join(job: Job, item: tuple[int, int]) -> int:
    """Writes held-<kind>-<document part>-<shard>.npy: float64 [4, n] of place, part, unit, containment."""
    shard, number = item
    index, total = _shard(job, shard), 0
    for kind in (*KINDS, "short"):
        texts, grams = np.load(job.docs / f"matches-{kind}-{number}.npy", allow_pickle=False)
        texts = texts.astype(np.int64)
        if kind == "short":
            held = _join_short(index, texts, grams)
        else:
            place, unit, share = index.indices[kind].hits(texts, grams, job.wanted.search)
            held = np.stack([place, *index.where[kind][:, unit], share])
        parts.save_npy(job.docs / f"held-{kind}-{number}-{shard}.npy", held.astype(np.float64))
        total += held.shape[1]
    return total


def _join_short(index: _Shard, texts: np.ndarray, hashes: np.ndarray) -> np.ndarray:
    """[4, n]: the short units whose both ends a document holds. `_apply` later compares what is between them."""
    heads, tails = index.anchors
    first = np.searchsorted(heads, hashes)
    count = np.searchsorted(heads, hashes, "right") - first
    at = np.repeat(first - (np.cumsum(count) - count), count) + np.arange(count.sum())
    place = np.repeat(texts, count)
    both = np.isin(containment.named(place, tails[at]), containment.named(texts, hashes))
    place, at = place[both], at[both]
    return np.stack([place, *index.short[:, at], np.ones(len(at), np.int64)])
