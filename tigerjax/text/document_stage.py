"""A stage that looks at all documents together, and then drops or changes some: what every such stage has in common.

The documents are scanned in parts (`stages.scan`). The stage's own steps decide what becomes of each, and write that
for each part with `decided`. Then the parts of each input are merged into one output, sorted by id. OUT also holds
samples.json and report.html.
"""

import dataclasses
import functools
import json
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tigerjax import pages, records
from tigerjax.files import jsonl, manifest
from tigerjax.pages.numbers import number
from tigerjax.stages import merge, parts, scan
from tigerjax.stages.runner import Runner
from tigerjax.text import cleaning_page, samples
from tigerjax.text.samples import Samples

Scan = Callable[[Path, int, list[parts.Document]], dict[str, Any]]
"""Given (work folder, part number, documents), it writes what the stage's steps need of the part."""


class Corpus:
    """The scanned documents, for the steps of a stage."""

    def __init__(self, runner: Runner, work: Path, scanned: Sequence[Mapping[str, Any]], shards: int):
        self.runner, self.work, self.scanned, self.shards = runner, work, scanned, shards
        self.numbers: list[int] = [part["part"] for part in scanned]

    def by_shard(self, function: Callable[..., Any], step: str, *more: Any) -> list[Any]:
        """[function(work, numbers of the parts, shards, *more, shard)] of each shard."""
        work = functools.partial(function, self.work, self.numbers, self.shards, *more)
        return self.runner.each(work, range(self.shards), self.work, step)

    def by_part(self, function: Callable[..., Any], step: str, *more: Any) -> list[Any]:
        """[function(work, shards, *more, part number)] of each part."""
        work = functools.partial(function, self.work, self.shards, *more)
        return self.runner.each(work, self.numbers, self.work, step)


@dataclasses.dataclass(frozen=True)
class DocumentStage:
    """What one such stage does."""

    name: str
    """In the manifest; also the reason of what it drops."""
    title: str
    config: dict[str, Any]
    scan: Scan
    decide: Callable[[Corpus], Sequence[Mapping[str, int]]]
    """Runs the stage's steps, the last of which calls `decided` for each part; returns what that returned."""
    figures: Callable[[dict[str, int]], dict[str, Any]] = dict
    """The figures for the manifest, made of the sums of what the parts returned."""
    tables: Callable[[dict[str, Any]], Mapping[str, pages.Table]] = lambda figures: {}
    """Further tables of the report, made of the figures, by their names."""
    inputs: tuple[Path, ...] = ()
    """Files that are read beside the documents."""
    shape: records.Shaper = records.only_document
    """Checks each record while it is read. No such stage can change an SFT example."""


def documents_of(work: Path, part: int) -> Iterator[tuple[int, records.Record]]:
    """(place, document) of a part."""
    with open(work / f"part-{part}.jsonl", "rb") as file:
        for place, line in enumerate(file):
            yield place, json.loads(line)


def decided(
    work: Path,
    part: int,
    found: Iterator[tuple[int, records.Record | None]],
    drawn: Samples,
) -> dict[str, int]:
    """Writes what becomes of the documents of a part; those that are not in `found` stay as they are.

    `found` gives (place, the document as it is from now on; None to drop it), sorted by place, and may draw samples.
    """
    drop: list[int] = []
    counts: Counter[str] = Counter()

    def edits() -> Iterator[bytes]:
        for place, record in found:
            if record is None:
                drop.append(place)
            else:
                counts["changed"] += 1
                yield b"%d\t%s" % (place, jsonl.dumped(record))

    parts.save_lines(work / f"edits-{part}.tsv", edits())
    parts.save_npy(work / f"drop-{part}.npy", np.array(drop, np.int64))
    samples.save(work, part, drawn)
    return {**counts, "dropped": len(drop)}


def _decided_lines(work: Path, part: int) -> Iterator[merge.IdAndLine]:
    """(id, line) of the documents of a part that stay; of one part a line is held in memory at a time."""
    ids = parts.PartIds(work, part)
    dropped = np.zeros(len(ids), bool)
    dropped[np.load(work / f"drop-{part}.npy", allow_pickle=False)] = True
    with open(work / f"part-{part}.jsonl", "rb") as file, open(work / f"edits-{part}.tsv", "rb") as edited:
        at, _, new = edited.readline().partition(b"\t")
        for place, line in enumerate(file):
            if at and int(at) == place:
                line = new
                at, _, new = edited.readline().partition(b"\t")
            if not dropped[place]:
                yield ids[place], line[:-1]


def _write(work: Path, out: Path, output: merge.Output) -> int:
    name, numbers = output
    return merge.merge_lines([_decided_lines(work, n) for n in numbers], out / name)


def run_stage(
    stage: DocumentStage,
    inputs: Sequence[str | Path],
    out: str | Path,
    *,
    shards: int = scan.SHARDS,
    runner: Runner | None = None,
) -> dict[str, Any]:
    """Runs a stage over documents, and returns the manifest. `shards` changes the memory, and no byte of the output."""
    paths = records.expand(inputs)
    records.distinct_names(paths)
    scan.check_shards(shards)
    runner = runner or Runner()
    hashing = runner.reporter("hashed", "GB")
    config, read = {**stage.config, **records.inputs_config(inputs)}, [*paths, *stage.inputs]
    with (
        manifest.stage(out, name=stage.name, config=config, inputs=read, hashing=hashing, verify=runner.verify) as run,
        runner,
    ):
        if run.done:
            return run.manifest or {}
        started, work = time.perf_counter(), merge.work_folder(run.tmp)
        taken = scan.Taken(records.ids_of(inputs), stage.shape)
        scanned = scan.scanned(runner, functools.partial(stage.scan, work), work, paths, shards, taken)
        corpus = Corpus(runner, work, scanned, shards)
        totals: Counter[str] = Counter()
        for of_part in stage.decide(corpus):
            totals.update(of_part)
        write = functools.partial(_write, work, run.tmp)
        left = sum(runner.each(write, merge.outputs(paths, scanned), work, "write"))
        pairs = samples.gathered(work, corpus.numbers)
        shutil.rmtree(work)
        dropped = totals.pop("dropped")
        run.counts = {
            "in": sum(part["records"] for part in scanned),
            "out": left,
            "dropped": {stage.name: dropped} if dropped else {},
        }
        run.figures = {**stage.figures(dict(sorted(totals.items()))), **scan.changed(scanned)}
        rows = [[name, number(run.counts[name])] for name in ("in", "out")] + [["dropped", number(dropped)]]
        rows += [[name, str(value)] for name, value in run.figures.items() if isinstance(value, int | float)]
        counted, more = pages.Table(["figure", "value"], rows), stage.tables(run.figures)
        cleaning_page.write_page(run.tmp / "report.html", stage.title, counted, pairs, more)
        samples.write(run.tmp / "samples.json", pairs)
        run.figures |= records.speed(paths, time.perf_counter() - started, runner.cores())
    return run.manifest or {}
