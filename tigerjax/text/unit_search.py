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
from tigerjax.text.containment import KINDS, Action, BloomFilter, Index, Search, Short, UnitGrams
from tigerjax.text.grams import keys
from tigerjax.text.short_units import ShortIndex, UnitKind, seeds


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


RARE = 2
"""A short unit that more documents hold is a phrase, and is found only as whole sentences or after its question. Of a
long unit, the grams that more documents hold do not suffice."""
STOP_SHARE, STOP_MIN = 1e-4, 100
"""A gram, or a short unit as a whole sentence, is boilerplate when more than this share of the documents and more than
this number hold it [our choice]."""


def scan_units(work: Path, number: int, documents: list[parts.Document]) -> dict[str, Any]:
    records = [json.loads(d.line) for d in documents]
    texts = [containment.unit_texts(record) for record in records]
    units = containment.make_units(texts, [record.get("eval_set") or "" for record in records])
    for kind, given in units.long.items():
        for name, array in given._asdict().items():
            parts.save_npy(work / f"{kind}-{name}-{number}.npy", array)
    manifest.write_json(work / f"short-{number}.json", units.short)
    parts.save_entries(work, "equal", number, units.hashes, parts.handles(number, len(units.hashes)))
    owners = [*(units.long[kind].owners for kind in KINDS), np.array([unit.owner for unit in units.short], np.int64)]
    parts.save_npy(work / f"owners-{number}.npy", np.concatenate(owners))
    grams = sum(len(given.grams) for given in units.long.values()) + 8 * len(units.short)
    return {"units": sum(map(len, texts)), "grams": grams, "ignored": units.ignored}


def load_units(work: Path, kind: str, number: int) -> UnitGrams:
    return UnitGrams(*(np.load(work / f"{kind}-{name}-{number}.npy", mmap_mode="r") for name in UnitGrams._fields))


def load_short(work: Path, number: int) -> list[Short]:
    return [Short(*unit) for unit in json.loads((work / f"short-{number}.json").read_text(encoding="utf-8"))]


def equal(work: Path, numbers: Sequence[int], shards: int, shard: int) -> int:
    """Writes equal-<shard>.npy: int64 [3, n] of part, unit and number of examples of units that others equal.

    The one of the smallest id stands for all; the others have the number 0.
    """
    hashes, handles = parts.load_entries(work, "equal", numbers, shard, shards)
    load_ids, load_owners = functools.cache(functools.partial(parts.PartIds, work)), functools.cache(_load_owners)
    out: list[tuple[int, int, int]] = []
    for start, end in zip(*parts.runs(hashes), strict=True):
        members = list(zip(*(column.tolist() for column in parts.split_handles(handles[start:end])), strict=True))
        ids = [load_ids(part)[int(load_owners(work, part)[unit])] for part, unit in members]
        best = min(range(len(ids)), key=lambda i: (ids[i], members[i]))
        out += [(*member, len(set(ids)) if i == best else 0) for i, member in enumerate(members)]
    parts.save_npy(work / f"same-{shard}.npy", np.array(out, np.int64).reshape(-1, 3).T)
    return sum(count == 0 for *_, count in out)


def _load_owners(work: Path, number: int) -> np.ndarray:
    return np.load(work / f"owners-{number}.npy", allow_pickle=False)


def make_one_of_equals(units: Path, numbers: Sequence[int], shards: int) -> None:
    """Writes copies-<part>.npy: of each unit the number of examples that it stands for, 0 where another stands."""
    same = np.concatenate([np.load(units / f"same-{s}.npy", allow_pickle=False) for s in range(shards)], axis=1)
    for number in numbers:
        copies = np.ones(len(_load_owners(units, number)), np.int64)
        mine = same[:, same[0] == number]
        copies[mine[1]] = mine[2]
        parts.save_npy(units / f"copies-{number}.npy", copies)


def load_copies(units: Path, number: int) -> dict[str, np.ndarray]:
    """{kind, or "short": the number of examples that each unit stands for}."""
    copies, first = np.load(units / f"copies-{number}.npy", allow_pickle=False), 0
    out: dict[str, np.ndarray] = {}
    for kind in KINDS:
        last = first + len(load_units(units, kind, number).owners)
        out[kind], first = copies[first:last], last
    return {**out, "short": copies[first:]}


def make_filter(units: Path, numbers: Sequence[int], grams: int) -> None:
    known = BloomFilter.sized(grams)
    for number in numbers:
        for kind in KINDS:
            known.add(np.asarray(load_units(units, kind, number).grams))
        known.add(seeds([(unit.key, unit.kind) for unit in load_short(units, number)]).hashes)
    parts.save_npy(units / "filter.npy", known.bits)


@functools.lru_cache(maxsize=1)
def _filter(units: Path) -> BloomFilter:
    return BloomFilter(np.load(units / "filter.npy", mmap_mode="r", allow_pickle=False))


def scan_docs(work: Path, units: Path, number: int, documents: list[parts.Document]) -> dict[str, Any]:
    grams: dict[UnitKind, list[tuple[np.ndarray, np.ndarray]]] = {kind: [] for kind in KINDS}
    found: list[np.ndarray] = []
    codes: list[np.ndarray] = []
    sizes: list[np.ndarray] = []
    first = 0
    for batch in scan.batches([d.text for d in documents]):
        made = keys(batch)
        passed = containment.matches(made, _filter(units))
        for kind, (texts, hashes) in passed.grams.items():
            grams[kind].append((texts + first, hashes))
        passed.seeds[0] += np.uint64(first)
        found.append(passed.seeds)
        codes.append(made.codes)
        sizes.append(np.diff(made.starts))
        first += len(batch)
    for kind, pairs in grams.items():
        texts, hashes = (np.concatenate(column) for column in zip(*pairs, strict=True))
        parts.save_npy(work / f"matches-{kind}-{number}.npy", np.stack([texts.astype(np.uint64), hashes]))
        distinct, counts = np.unique(hashes, return_counts=True)
        parts.save_entries(work, f"often-{kind}", number, distinct, counts.astype(np.uint64))
    parts.save_npy(work / f"matches-short-{number}.npy", np.concatenate(found, axis=1))
    parts.save_npy(work / f"keys-{number}.npy", np.concatenate(codes))
    parts.save_npy(work / f"begins-{number}.npy", np.concatenate([[0], np.cumsum(np.concatenate(sizes))]))
    return {}


def boilerplate(job: Job, limit: float, shard: int) -> list[list[int]]:
    """For each kind, the grams of a shard of units that more than `limit` documents hold.

    Writes common-<kind>-<shard>.npy: uint64, sorted, the grams that more than RARE documents hold.
    """
    out = []
    for kind in KINDS:
        grams, counts = parts.load_entries(job.docs, f"often-{kind}", job.doc_parts, shard, job.shards)
        often = common = grams
        if len(grams):
            starts = np.flatnonzero(np.concatenate([[True], grams[1:] != grams[:-1]]))
            total = np.add.reduceat(counts, starts)
            often, common = grams[starts][total > limit], grams[starts][total > RARE]
        parts.save_npy(job.docs / f"common-{kind}-{shard}.npy", common)
        held = np.zeros(len(often), bool)
        for number in job.unit_parts if len(often) else ():
            held |= np.isin(often, load_units(job.units, kind, number).grams)
        out.append([int(gram) for gram in often[held]])
    return out


def join_common(job: Job, kind: UnitKind) -> None:
    """Writes common-<kind>.npy: the common grams of all shards. A shard has a range of hashes, so they are sorted."""
    each = [np.load(job.docs / f"common-{kind}-{s}.npy", allow_pickle=False) for s in range(job.shards)]
    parts.save_npy(job.docs / f"common-{kind}.npy", np.concatenate(each))


def load_common(job: Job, kind: UnitKind) -> np.ndarray:
    return np.load(job.docs / f"common-{kind}.npy", mmap_mode="r", allow_pickle=False)


class _Shard(NamedTuple):
    """The index of one S-th of the units. Unit u of a kind is `where[kind][:, u]` = (part, unit in the part)."""

    indices: dict[str, Index]
    where: dict[str, np.ndarray]
    short: ShortIndex


@functools.lru_cache(maxsize=1)
def _shard(job: Job, shard: int) -> _Shard:
    mine = job.unit_parts[shard :: job.shards]
    copies = {number: load_copies(job.units, number) for number in mine}
    indices: dict[str, Index] = {}
    where: dict[str, np.ndarray] = {}

    def places(kind: str) -> np.ndarray:
        stay = [np.flatnonzero(copies[n][kind]) for n in mine]
        columns = [np.stack([np.full(len(units), n), units]) for n, units in zip(mine, stay, strict=True)]
        return np.concatenate(columns, axis=1) if columns else np.zeros((2, 0), np.int64)

    for kind in KINDS:
        grams, sizes = [np.zeros(0, np.uint64)], [np.zeros(0, np.int64)]
        for number in mine:
            units, chosen = load_units(job.units, kind, number), copies[number][kind] > 0
            count = np.diff(units.starts)
            grams.append(units.grams[np.repeat(chosen, count)])
            sizes.append(count[chosen])
        starts = np.concatenate([[0], np.cumsum(np.concatenate(sizes))])
        stopped = np.load(job.docs / f"stopped-{kind}.npy", allow_pickle=False)
        none = np.zeros(0, np.int64)
        indices[kind] = Index(UnitGrams(np.concatenate(grams), starts, none, none, none), stopped)
        where[kind] = places(kind)
    where["short"] = places("short")
    loaded = {number: load_short(job.units, number) for number in mine}
    short = [loaded[part][unit] for part, unit in where["short"].T.tolist()]
    return _Shard(indices, where, ShortIndex([(unit.key, unit.kind) for unit in short]))


HELD = ("place", "part", "unit", "share", "start", "end", "edits", "often")
"""Rows of a held file: what document of a part may hold which unit. The last four are 0 for long units; `often` is the
number of documents that hold a short one."""


def join(job: Job, shard: int) -> int:
    """Writes held-<kind>-<document part>-<shard>.npy: float64 of the rows HELD, for each part of the documents."""
    index, total = _shard(job, shard), 0
    short: dict[int, np.ndarray] = {}
    often = np.zeros(index.where["short"].shape[1], np.int64)
    for number in job.doc_parts:
        for kind in KINDS:
            texts, grams = np.load(job.docs / f"matches-{kind}-{number}.npy", allow_pickle=False)
            place, unit, share = index.indices[kind].hits(texts.astype(np.int64), grams, job.wanted.search)
            held = np.stack([place, *index.where[kind][:, unit], share, *np.zeros((4, len(place)))])
            parts.save_npy(job.docs / f"held-{kind}-{number}-{shard}.npy", held.astype(np.float64))
            total += held.shape[1]
        texts, hashes, at = np.load(job.docs / f"matches-short-{number}.npy", allow_pickle=False)
        codes = np.load(job.docs / f"keys-{number}.npy", mmap_mode="r", allow_pickle=False)
        begins = np.load(job.docs / f"begins-{number}.npy", allow_pickle=False)
        found = index.short.find(texts.astype(np.int64), hashes, at.astype(np.int64), codes, begins)
        pairs = np.unique(np.stack([found.texts, found.units]), axis=1)
        often += np.bincount(pairs[1], minlength=len(often))
        short[number] = np.stack(found)
        total += pairs.shape[1]
    for number, rows in short.items():
        place, unit, start, end, edits = rows
        share = 1 - edits / np.maximum(end - start, 1)
        held = np.stack([place, *index.where["short"][:, unit], share, start, end, edits, often[unit]])
        parts.save_npy(job.docs / f"held-short-{number}-{shard}.npy", held.astype(np.float64))
    return total
