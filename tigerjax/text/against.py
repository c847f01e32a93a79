"""Takes out of documents what the instruction data, or an evaluation set, already says, by `containment`.

    units    the instruction side in parts: grams of its answers and long questions; a Bloom filter over all of them
    scan     the documents in parts: the few grams of each that pass the filter
    stop     grams that too many documents hold are boilerplate and count for nobody
    join     S times, the index of one S-th of the instruction side against all parts of the documents
    apply    where a document holds a unit: which sentences, and what becomes of it

Memory: one part of text, the filter (2 bytes a gram) and one S-th of the index (about 24 bytes a gram) a worker.
"""

import collections
import functools
import json
import shutil
import time
from collections.abc import Container, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from tigerjax import records
from tigerjax.errors import DataError
from tigerjax.files import jsonl, manifest
from tigerjax.stages import merge, parts, scan
from tigerjax.stages.runner import Runner
from tigerjax.text import containment
from tigerjax.text.containment import KINDS, Action, Filter, Index, Search, UnitGrams
from tigerjax.text.grams import keys

STOP_SHARE, STOP_MIN = 1e-4, 100
"""Grams in more than this share of the documents, and in more than so many [our choice], are boilerplate."""
_DECODE = json.JSONDecoder().raw_decode
_quoted = json.JSONEncoder(ensure_ascii=False).encode


Held = tuple[str, int, int, float]
"""(kind, part, unit there, containment) of a unit that a document may hold."""


class Job(NamedTuple):
    """What the steps share: folders of the two sides, their parts, and what is looked for."""

    docs: Path
    units: Path
    doc_parts: tuple[int, ...]
    unit_parts: tuple[int, ...]
    search: Search
    action: Action
    shards: int
    id_field: str


def _scan_units(work: Path, search: Search, number: int, documents: list[parts.Document]) -> dict[str, Any]:
    texts = [containment.unit_texts(json.loads(d.line)) for d in documents]
    units = containment.make_units(texts, search)
    for kind, given in units.long.items():
        for name, array in given._asdict().items():
            parts.save_npy(work / f"{kind}-{name}-{number}.npy", array)
    manifest.write_json(work / f"short-{number}.json", units.short)
    grams = sum(len(given.grams) for given in units.long.values()) + len(units.short)
    return {"units": sum(map(len, texts)), "grams": grams, "ignored": units.ignored}


def _load_units(work: Path, kind: str, number: int) -> UnitGrams:
    return UnitGrams(*(np.load(work / f"{kind}-{name}-{number}.npy", mmap_mode="r") for name in UnitGrams._fields))


def _load_short(work: Path, number: int) -> list[tuple[int, str]]:
    return json.loads((work / f"short-{number}.json").read_text(encoding="utf-8"))


def _make_filter(units: Path, numbers: Sequence[int], grams: int) -> None:
    known = Filter.sized(grams)
    for number in numbers:
        for kind in KINDS:
            known.add(np.asarray(_load_units(units, kind, number).grams))
        for ends in containment.anchors([key for _, key in _load_short(units, number)]):
            known.add(ends)
    parts.save_npy(units / "filter.npy", known.bits)


@functools.lru_cache(maxsize=1)
def _filter(units: Path) -> Filter:
    return Filter(np.load(units / "filter.npy", mmap_mode="r", allow_pickle=False))


def _scan_docs(work: Path, units: Path, search: Search, number: int, documents: list[parts.Document]) -> dict[str, Any]:
    found: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {kind: [] for kind in (*KINDS, "short")}
    first = 0
    for batch in scan.batches([d.text for d in documents]):
        for kind, (texts, grams) in containment.matches(keys(batch), _filter(units), search).items():
            found[kind].append((texts + first, grams))
        first += len(batch)
    for kind, pairs in found.items():
        texts, grams = (np.concatenate(column) for column in zip(*pairs, strict=True))
        parts.save_npy(work / f"matches-{kind}-{number}.npy", np.stack([texts.astype(np.uint64), grams]))
        if kind != "short":
            distinct, counts = np.unique(grams, return_counts=True)
            parts.save_entries(work, f"often-{kind}", number, distinct, counts.astype(np.uint64))
    return {}


def _stop(job: Job, limit: float, shard: int) -> list[list[int]]:
    """By kind, the grams of a shard that more than `limit` documents hold, as numbers."""
    out = []
    for kind in KINDS:
        grams, counts = parts.load_entries(job.docs, f"often-{kind}", job.doc_parts, shard, job.shards)
        often = grams
        if len(grams):
            starts = np.flatnonzero(np.concatenate([[True], grams[1:] != grams[:-1]]))
            often = grams[starts][np.add.reduceat(counts, starts) > limit]
        held = np.zeros(len(often), bool)
        for number in job.unit_parts if len(often) else ():
            held |= np.isin(often, _load_units(job.units, kind, number).grams)
        out.append([int(gram) for gram in often[held]])
    return out


class _Shard(NamedTuple):
    """The index of one S-th of the instruction side; unit u of a kind is `where[kind][u]` = (part, unit there)."""

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
        loaded = [_load_units(job.units, kind, number) for number in mine]
        sizes = [np.diff(units.starts) for units in loaded]
        starts = np.concatenate([[0], np.cumsum(np.concatenate(sizes))]) if mine else np.zeros(1, np.int64)
        grams = np.concatenate([units.grams for units in loaded]) if mine else np.zeros(0, np.uint64)
        stopped = np.load(job.docs / f"stopped-{kind}.npy", allow_pickle=False)
        indices[kind] = Index(UnitGrams(grams, starts, np.zeros(0, np.int64)), stopped)
        pairs = [np.stack([np.full(len(s), n), np.arange(len(s))]) for n, s in zip(mine, sizes, strict=True)]
        where[kind] = np.concatenate(pairs, axis=1) if pairs else np.zeros((2, 0), np.int64)
    short = [(number, i, key) for number in mine for i, (_, key) in enumerate(_load_short(job.units, number))]
    first, last = containment.anchors([key for *_, key in short])
    order = np.argsort(first, kind="stable")
    places = np.array([[number, i] for number, i, _ in short], np.int64).reshape(-1, 2)
    return _Shard(indices, where, (first[order], last[order]), places[order].T)


def _join(job: Job, item: tuple[int, int]) -> int:
    """Writes found-<kind>-<document part>-<shard>.npy: float64 [4, n], place, part, unit, containment."""
    shard, number = item
    index, total = _shard(job, shard), 0
    for kind in (*KINDS, "short"):
        texts, grams = np.load(job.docs / f"matches-{kind}-{number}.npy", allow_pickle=False)
        texts = texts.astype(np.int64)
        if kind == "short":
            found = _join_short(index, texts, grams)
        else:
            place, unit, share = index.indices[kind].hits(texts, grams, job.search)
            found = np.stack([place, *index.where[kind][:, unit], share])
        parts.save_npy(job.docs / f"found-{kind}-{number}-{shard}.npy", found.astype(np.float64))
        total += found.shape[1]
    return total


def _join_short(index: _Shard, texts: np.ndarray, hashes: np.ndarray) -> np.ndarray:
    """[4, n]: the short units of which a document holds both ends; whether it holds all is seen in its text."""
    heads, tails = index.anchors
    first = np.searchsorted(heads, hashes)
    count = np.searchsorted(heads, hashes, "right") - first
    at = np.repeat(first - (np.cumsum(count) - count), count) + np.arange(count.sum())
    place = np.repeat(texts, count)
    both = np.isin(containment.named(place, tails[at]), containment.named(texts, hashes))
    place, at = place[both], at[both]
    return np.stack([place, *index.short[:, at], np.ones(len(at), np.int64)])


def _found(job: Job, number: int) -> dict[int, list[Held]]:
    """By place in a part of the documents: what it may hold."""
    out: dict[int, list[Held]] = collections.defaultdict(list)
    for kind in (*KINDS, "short"):
        for shard in range(job.shards):
            for place, part, unit, share in np.load(job.docs / f"found-{kind}-{number}-{shard}.npy").T.tolist():
                out[int(place)].append((kind, int(part), int(unit), share))
    return out


class _Sides:
    """Looks units up by (kind, part, unit), keeping the files of the parts that it has met open."""

    def __init__(self, job: Job):
        self._job = job
        self._long = functools.cache(functools.partial(_load_units, job.units))
        self._short = functools.cache(functools.partial(_load_short, job.units))
        self._ids = functools.cache(functools.partial(parts.Ids, job.units))

    def hits(self, inside: containment.Text, found: Sequence[Held]) -> list[tuple[str, float, list[list[int]]]]:
        """(id of the example, containment, spans) in sorted order."""
        out = []
        for kind, part, unit, share in found:
            if kind == "short":
                owner, key = self._short(part)[unit]
                spans = inside.short_spans(key)
            else:
                units = self._long(kind, part)
                owner = int(units.owners[unit])
                grams = units.grams[units.starts[unit] : units.starts[unit + 1]]
                spans = inside.spans("words" if kind == "words" else "characters", grams)
            if spans or kind != "short":
                out.append((self._ids(part)[owner], round(share, 4), spans))
        return sorted(out)


def _candidates(job: Job, number: int, found: Container[int]) -> list[tuple[int, records.Record, str]]:
    """(place, record, text) of the records of a part that may hold a unit."""
    with open(job.docs / f"part-{number}.jsonl", "rb") as file:
        given = [(place, json.loads(line)) for place, line in enumerate(file) if place in found]
    return [(place, record, records.text_of(record)) for place, record in given]


def _apply(job: Job, number: int) -> dict[str, Any]:
    """Decides about every document of a part that holds a unit; writes its hits, edits and drops."""
    found, sides = _found(job, number), _Sides(job)
    drop: list[int] = []
    edits: list[tuple[int, bytes]] = []
    report: list[bytes] = []
    by_unit: collections.Counter[str] = collections.Counter()
    given = _candidates(job, number, found)
    waiting = iter(given)
    for texts in scan.batches([text for *_, text in given]):
        for opened, (place, record, text) in zip(containment.Text.of(texts, job.search), waiting, strict=False):
            hits = sides.hits(opened, found[place])
            doc = _quoted(str(record["id"])) if hits else ""
            for identity, share, spans in hits:  # put together by hand: a document may hold very many units
                shown = str(spans).replace(" ", "")
                hit = f'{{"doc":{doc},"{job.id_field}":{_quoted(identity)},"containment":{share},"spans":{shown}}}'
                report.append(hit.encode())
                by_unit[identity.split(":")[0] if job.id_field == "eval_id" else ""] += 1
            if not hits or job.action == "report":
                continue
            if job.action == "drop":
                drop.append(place)
                continue
            if "text" not in record:
                raise DataError(f"record {record['id']!r} holds messages, of which nothing can be cut; use drop")
            left = containment.without(text, [span for _, _, spans in hits for span in spans])
            if containment.too_little(text, left):
                drop.append(place)
            elif left != text:
                edits.append((place, jsonl.dumped({**record, "text": left})))
    parts.save_npy(job.docs / f"drop-{number}.npy", np.array(drop, np.int64))
    manifest.write_json(job.docs / f"edits-{number}.json", [[place, line.decode()] for place, line in edits])
    parts.save_lines(job.docs / f"hits-{number}.jsonl", report)
    return {"hits": len(report), "cut": len(edits), "dropped": len(drop), "by_unit": dict(by_unit)}


def _write(work: Path, out: Path, output: tuple[str, list[int]]) -> int:
    name, numbers = output
    sources = []
    for n in numbers:
        edits = json.loads((work / f"edits-{n}.json").read_text(encoding="utf-8"))
        drop = np.load(work / f"drop-{n}.npy", allow_pickle=False)
        sources.append(merge.kept_lines(work, n, drop, {place: line.encode() for place, line in edits}))
    return merge.merge_lines(sources, out / name)


def _hit_lines(work: Path, number: int) -> Iterator[tuple[str, bytes]]:
    with open(work / f"hits-{number}.jsonl", "rb") as file:
        for line in file:
            yield _DECODE(line.decode(), len('{"doc":'))[0], line[:-1]


def _find(job: Job, docs: Sequence[dict[str, Any]], runner: Runner) -> tuple[int, list[dict[str, Any]]]:
    """The steps stop, join and apply; (number of stop-grams, what `_apply` says of each part)."""
    limit = max(STOP_MIN, STOP_SHARE * sum(part["records"] for part in docs))
    stopped = runner.each(functools.partial(_stop, job, limit), range(job.shards), job.docs, "stop")
    for n, kind in enumerate(KINDS):
        every = sorted(gram for shard in stopped for gram in shard[n])
        parts.save_npy(job.docs / f"stopped-{kind}.npy", np.array(every, np.uint64))
    items = [(shard, number) for shard in range(job.shards) for number in job.doc_parts]
    runner.each(functools.partial(_join, job), items, job.docs, "join")
    applied = runner.each(functools.partial(_apply, job), job.doc_parts, job.docs, "apply")
    return sum(len(grams) for shard in stopped for grams in shard), applied


def find_files(
    what: Literal["against_sft", "decontaminate"],
    docs: Sequence[str | Path],
    units: Sequence[str | Path],
    out: str | Path,
    *,
    search: Search,
    action: Action,
    shards: int = scan.SHARDS,
    runner: Runner | None = None,
    prepare: Any = None,
) -> dict[str, Any]:
    """Looks for the units of one side in the records of the other; OUT/<name of the input>, hits/hits.jsonl.

    `prepare(paths, folder)` turns the units' files into record files first (evaluation sets). Returns the manifest.
    """
    doc_paths, unit_paths = records.expand(docs), records.expand(units)
    records.distinct_names(doc_paths)
    scan.check_shards(shards)
    config = {"action": action, "threshold": search.threshold, "gram": search.gram, "min_grams": search.min_grams}
    inputs = [*doc_paths, *unit_paths]
    runner = runner or Runner()
    hashing = runner.reporter("hashed", "GB")
    with manifest.stage(out, name=what, config=config, inputs=inputs, hashing=hashing) as run, runner:
        if run.done:
            return run.manifest or {}
        started, work = time.perf_counter(), merge.work_folder(run.tmp)
        given = prepare(unit_paths, work) if prepare else unit_paths
        scan_units = functools.partial(_scan_units, work / "units", search)
        sides = scan.scanned(runner, scan_units, work / "units", given, shards, "units")
        if not sum(part["units"] for part in sides):
            missing = "instruction data" if what == "against_sft" else "questions"
            raise DataError(f"{', '.join(map(str, unit_paths))}: no {missing}, so nothing could be found")
        unit_parts = tuple(part["part"] for part in sides)
        _make_filter(work / "units", unit_parts, sum(part["grams"] for part in sides))
        scan_docs = functools.partial(_scan_docs, work / "docs", work / "units", search)
        found = scan.scanned(runner, scan_docs, work / "docs", doc_paths, shards)
        doc_parts = tuple(part["part"] for part in found)
        id_field = "sft_id" if what == "against_sft" else "eval_id"
        parts_of = min(shards, len(unit_parts))
        job = Job(work / "docs", work / "units", doc_parts, unit_parts, search, action, parts_of, id_field)
        stopped, applied = _find(job, found, runner)
        kept = sum(
            runner.each(functools.partial(_write, job.docs, run.tmp), merge.outputs(doc_paths, found), work, "write")
        )
        (run.tmp / "hits").mkdir()
        merge.merge_lines([_hit_lines(job.docs, n) for n in doc_parts], run.tmp / "hits" / "hits.jsonl")
        shutil.rmtree(work)
        total, dropped = sum(part["records"] for part in found), sum(said["dropped"] for said in applied)
        run.counts = {"in": total, "out": kept, "dropped": {what: dropped}}
        by_unit: collections.Counter[str] = collections.Counter()
        for said in applied:
            by_unit.update(said["by_unit"])
        run.figures = {
            "hits": sum(said["hits"] for said in applied),
            "cut": sum(said["cut"] for said in applied),
            "stop_grams": stopped,
            "units": sum(part["units"] for part in sides),
            "units_too_short": sum(part["ignored"] for part in sides),
            **({"by_task": dict(sorted(by_unit.items()))} if what == "decontaminate" else {}),
            **records.speed(doc_paths, time.perf_counter() - started, runner.workers),
        }
    return run.manifest or {}
