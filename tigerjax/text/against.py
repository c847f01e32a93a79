"""Removes from documents what the instruction data or an evaluation set already says.

A *unit* is a text that is looked for, such as an answer. A document holds it when it shares enough of the unit's
n-grams (`containment`), or, of a short unit, nearly all of its text (`short_units`). A short unit may be a phrase that
is only mentioned. So it counts after its own question, as whole sentences of its own, or where it is rare.
The search is a few steps over parts of both sides:

    units    cut the units of each part into grams, and put all grams into one Bloom filter
    equal    let one unit stand for all that are equal to it
    scan     cut the documents into grams, and keep the few that pass the filter
    stop     drop the grams that very many documents share: they are boilerplate
    join     S times: compare one S-th of the units with all parts of the documents, and count who holds the short ones
    apply    find the sentences in which a document holds a unit, and cut them, drop the document, or only report

A worker holds in memory one part of text, the filter (2 bytes a gram), one S-th of the index (about 24 bytes a gram),
and what documents hold of the short units in it.
"""

import collections
import functools
import json
import shutil
import time
from collections.abc import Callable, Container, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tigerjax import records
from tigerjax.errors import DataError
from tigerjax.files import jsonl, manifest
from tigerjax.stages import merge, parts, scan
from tigerjax.stages.runner import Runner
from tigerjax.text import containment, unit_search
from tigerjax.text.containment import GRAM, KINDS, LEAST, Short
from tigerjax.text.opened import LongUnit, Text
from tigerjax.text.short_units import NAME_BELOW, SHORT_WORD, WORD, UnitKind, edits_allowed
from tigerjax.text.unit_search import RARE, Job, Wanted, load_common, load_copies, load_short, load_units

SEARCH_VERSION = 4
"""Of the way in which units are found, for the manifest."""
OPEN_PARTS = 16
"""Parts of the units whose files a worker keeps open: three a part, and a process may open 256 or 1,024."""
_DECODE = json.JSONDecoder().raw_decode
_quoted = json.JSONEncoder(ensure_ascii=False).encode


class Held(NamedTuple):
    """A unit that a document may hold: its kind, and numbers that are HELD without the place."""

    kind: str
    part: int
    unit: int
    share: float
    start: int
    end: int
    edits: int
    often: int


class Hit(NamedTuple):
    """A unit that a document holds: the id of its record, how many examples have it, and where it stands."""

    identity: str
    share: float
    spans: list[list[int]]
    examples: int


def _held(job: Job, number: int) -> dict[int, list[Held]]:
    """{place in a part of the documents: the units that this document may hold}."""
    out: dict[int, list[Held]] = collections.defaultdict(list)
    for kind in (*KINDS, "short"):
        for shard in range(job.shards):
            for row in np.load(job.docs / f"held-{kind}-{number}-{shard}.npy").T.tolist():
                place, part, unit, share, *others = row
                out[int(place)].append(Held(kind, int(part), int(unit), share, *map(int, others)))
    return out


class _Sides:
    """Reads units by (kind, part, unit). The files of the parts that were read last stay open."""

    def __init__(self, job: Job, limit: float):
        self._limit = limit
        self._long = functools.lru_cache(OPEN_PARTS)(functools.partial(load_units, job.units))
        self._short = functools.lru_cache(OPEN_PARTS)(functools.partial(load_short, job.units))
        self._ids = functools.lru_cache(OPEN_PARTS)(functools.partial(parts.PartIds, job.units))
        self._common = functools.cache(functools.partial(load_common, job))
        self._copies = functools.lru_cache(OPEN_PARTS)(functools.partial(load_copies, job.units))

    def _is_common(self, kind: UnitKind, grams: np.ndarray) -> np.ndarray:
        """bool: of which grams more than RARE documents have each."""
        common = self._common(kind)
        if not len(common):
            return np.zeros(len(grams), bool)
        return common[np.minimum(np.searchsorted(common, grams), len(common) - 1)] == grams

    def hits(self, inside: Text, held: Sequence[Held]) -> list[Hit]:
        """The units that a document holds, sorted; those of one record are one hit."""
        found: dict[str, Hit] = {}
        for given in held:
            if given.kind == "short":
                unit = self._short(given.part)[given.unit]
                owner, spans = unit.owner, self._short_spans(inside, unit, given)
            else:
                kind: UnitKind = "characters" if given.kind == "characters" else "letters"
                units = self._long(kind, given.part)
                owner = int(units.owners[given.unit])
                codes = units.codes[units.begins[given.unit] : units.begins[given.unit + 1]]
                key = codes.tobytes().decode("utf-32-le", "surrogatepass")
                grams = units.grams[units.starts[given.unit] : units.starts[given.unit + 1]]
                common = self._is_common(kind, grams)
                long = LongUnit(grams, common, GRAM[kind], NAME_BELOW[kind], key)
                spans = inside.spans(long, LEAST[kind], WORD[kind])
            if spans:
                identity = self._ids(given.part)[owner]
                examples = int(self._copies(given.part)[given.kind][given.unit])
                hit = found.setdefault(identity, Hit(identity, 0.0, [], 0))
                places = sorted({(start, end) for start, end in [*hit.spans, *spans]})
                found[identity] = Hit(
                    identity,
                    max(hit.share, round(given.share, 4)),
                    [list(p) for p in places],
                    max(hit.examples, examples),
                )
        return sorted(found.values())

    def _short_spans(self, inside: Text, unit: Short, given: Held) -> list[list[int]]:
        """The sentences of the document in which a short unit stands; [] where it is only mentioned."""
        where = (given.start, given.end, given.edits)
        allowed = edits_allowed(len(unit.key), unit.kind)
        may_be_name = len(unit.key) < NAME_BELOW[unit.kind]
        if given.edits and not inside.has_slips(unit.key, *where, SHORT_WORD if may_be_name else WORD[unit.kind]):
            return []
        rare = given.often <= RARE and (not may_be_name or inside.is_clauses(unit.key, *where, allowed))
        own = unit.final and given.often <= self._limit and inside.is_sentences(unit.key, *where, allowed)
        if not (rare or own or inside.has_before(unit.question, given.start)):
            return []
        return inside.touched(*where)


def _candidates(job: Job, number: int, places: Container[int]) -> list[tuple[int, records.Record, str]]:
    """(place, record, text) of the records of a part at the given places."""
    with open(job.docs / f"part-{number}.jsonl", "rb") as file:
        given = [(place, json.loads(line)) for place, line in enumerate(file) if place in places]
    return [(place, record, records.text_of(record)) for place, record in given]


def _apply(job: Job, limit: float, number: int) -> dict[str, Any]:
    """Decides what becomes of the documents of a part that hold a unit; writes hits, edits and drops."""
    held, sides, wanted = _held(job, number), _Sides(job, limit), job.wanted
    drop: list[int] = []
    edits: list[tuple[int, bytes]] = []
    report: list[bytes] = []
    by_unit: collections.Counter[str] = collections.Counter()
    given = _candidates(job, number, held)
    waiting = iter(given)
    for texts in scan.batches([text for *_, text in given]):
        for opened, (place, record, text) in zip(Text.of(texts), waiting, strict=False):
            hits = sides.hits(opened, held[place])
            doc = _quoted(str(record["id"])) if hits else ""
            for hit in hits:  # no JSON encoder: a document may hold very many units
                unit = f'"{wanted.id_field}":{_quoted(hit.identity)},"examples":{hit.examples}'
                shown = str(hit.spans).replace(" ", "")
                report.append(f'{{"doc":{doc},{unit},"containment":{hit.share},"spans":{shown}}}'.encode())
                by_unit[hit.identity.split(":")[0] if wanted.id_field == "eval_id" else ""] += 1
            if not hits or wanted.action == "report":
                continue
            if wanted.action == "drop":
                drop.append(place)
                continue
            if "text" not in record:
                where = parts.PartIds(job.docs, number).where(place)
                raise DataError(f"{where}: holds messages, of which nothing can be cut; use --action drop")
            left = containment.without(text, [span for hit in hits for span in hit.spans])
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
    """Runs the steps stop, join and apply; (number of grams that were stopped, what `_apply` returned of each part)."""
    limit = max(unit_search.STOP_MIN, unit_search.STOP_SHARE * sum(part["records"] for part in docs))
    stopped = runner.each(functools.partial(unit_search.boilerplate, job, limit), range(job.shards), job.docs, "stop")
    for n, kind in enumerate(KINDS):
        every = sorted(gram for shard in stopped for gram in shard[n])
        parts.save_npy(job.docs / f"stopped-{kind}.npy", np.array(every, np.uint64))
        unit_search.join_common(job, kind)
    runner.each(functools.partial(unit_search.join, job), range(job.shards), job.docs, "join")
    applied = runner.each(functools.partial(_apply, job, limit), job.doc_parts, job.docs, "apply")
    return sum(len(grams) for shard in stopped for grams in shard), applied


def find_files(
    wanted: Wanted,
    docs: Sequence[str | Path],
    units: Sequence[str | Path],
    out: str | Path,
    *,
    shards: int = scan.SHARDS,
    runner: Runner | None = None,
    prepare: Callable[[Sequence[Path], Path], list[Path]] | None = None,
) -> dict[str, Any]:
    """Looks for the units in the documents; writes OUT/<name of the input> and OUT/hits/hits.jsonl.

    The units' files hold SFT examples, unless `prepare(files, folder)` makes documents of them in the folder. Returns
    the manifest. Raises DataError for another record, and where the files hold no unit.
    """
    doc_paths = records.expand(docs)
    unit_paths = records.expand(records.Inputs(units, records.ids_of(units), doc_paths.reading))
    records.distinct_names(doc_paths)
    scan.check_shards(shards)
    config = {
        "action": wanted.action,
        "threshold": wanted.search.threshold,
        "gram": dict(GRAM),
        "rare": unit_search.RARE,
        "version": SEARCH_VERSION,
        **records.inputs_config(docs),
    }
    inputs = [*doc_paths, *unit_paths]
    runner = runner or Runner()
    hashing = runner.reporter("hashed", "GB")
    with (
        manifest.stage(
            out, name=wanted.stage, config=config, inputs=inputs, hashing=hashing, verify=runner.verify
        ) as run,
        runner,
    ):
        if run.done:
            return run.manifest or {}
        started, work = time.perf_counter(), merge.work_folder(run.tmp)
        given = prepare(unit_paths, work) if prepare else unit_paths
        units_scan = functools.partial(unit_search.scan_units, work / "units")
        taken = scan.Taken(records.ids_of(units), records.as_sft if prepare is None else records.as_record)
        sides = scan.scanned(runner, units_scan, work / "units", given, shards, taken, "units")
        if not sum(part["units"] for part in sides):
            raise DataError(
                f"{', '.join(map(str, unit_paths))}: no {wanted.noun}, so nothing could be found;"
                " give a file that holds some"
            )
        if wanted.stage == "decontaminate" and (short := sum(part["ignored"] for part in sides)):
            records.note(f"{records.shown(unit_paths)}: {short} {wanted.noun} are too short to be searched for")
        unit_parts = tuple(part["part"] for part in sides)
        same = functools.partial(unit_search.equal, work / "units", unit_parts, shards)
        equal = sum(runner.each(same, range(shards), work / "units", "equal"))
        unit_search.make_one_of_equals(work / "units", unit_parts, shards)
        unit_search.make_filter(work / "units", unit_parts, sum(part["grams"] for part in sides))
        docs_scan = functools.partial(unit_search.scan_docs, work / "docs", work / "units")
        scanned = scan.scanned(runner, docs_scan, work / "docs", doc_paths, shards, scan.Taken(records.ids_of(docs)))
        doc_parts = tuple(part["part"] for part in scanned)
        job = Job(work / "docs", work / "units", doc_parts, unit_parts, wanted, min(shards, len(unit_parts)))
        stopped, applied = _find(job, scanned, runner)
        write = functools.partial(_write, job.docs, run.tmp)
        left = sum(runner.each(write, merge.outputs(doc_paths, scanned), work, "write"))
        (run.tmp / "hits").mkdir()
        merge.merge_lines([_hit_lines(job.docs, n) for n in doc_parts], run.tmp / "hits" / "hits.jsonl")
        shutil.rmtree(work)
        total, dropped = sum(part["records"] for part in scanned), sum(part["dropped"] for part in applied)
        run.counts = {"in": total, "out": left, "dropped": {wanted.stage: dropped}}
        by_unit: collections.Counter[str] = collections.Counter()
        for part in applied:
            by_unit.update(part["by_unit"])
        run.figures = {
            "hits": sum(part["hits"] for part in applied),
            "cut": sum(part["cut"] for part in applied),
            "stop_grams": stopped,
            "units": sum(part["units"] for part in sides),
            "units_equal": equal,
            "units_too_short": sum(part["ignored"] for part in sides),
            **scan.changed(scanned),
            **({"by_task": dict(sorted(by_unit.items()))} if wanted.stage == "decontaminate" else {}),
            **records.speed(doc_paths, time.perf_counter() - started, runner.cores()),
        }
    return run.manifest or {}
