"""Sampling into a folder, which only grows while it works: a restart computes what is missing and nothing else.

OUT/sampling.json             what is being sampled; a restart that asks for anything else is refused
OUT/candidates.partial.jsonl  records in the order in which prompts are finished, while sampling goes on
OUT/candidates.jsonl          one record per prompt in the order of the prompts, once all are there
OUT/skipped.jsonl             the prompts that did not fit, with the reason
OUT/manifest.json             counts; it is written last, so where it is the folder is complete

Several processes work as one, on one mesh and into one folder that all of them see: each computes, one writes.
In a bucket the partial file is written anew every half minute and at the end (`tigerjax.files.log`).
"""

import dataclasses
import hashlib
import json
import os
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import tigerjax
from tigerjax.checkpoint.loaded import Loaded
from tigerjax.config import decisive, stored_fields
from tigerjax.errors import ConfigError, DataError
from tigerjax.files import jsonl, manifest, own, paths
from tigerjax.files.log import Log
from tigerjax.files.progress import Advance
from tigerjax.processes import hosts
from tigerjax.sample import engine
from tigerjax.sample.encoding import encode, refuse
from tigerjax.sample.engine import Batching, SamplingConfig

CANDIDATES = "candidates.jsonl"
SKIPPED = "skipped.jsonl"
PARTIAL = "candidates.partial.jsonl"
HEADER = "sampling.json"
SKIPS = b'"skipped":'
"""In the line of a prompt that was skipped."""


def sample_file(
    model: Loaded,
    prompts: str | Path,
    out: str | Path,
    sampling: SamplingConfig,
    *,
    batching: Batching,
    progress: Advance | None = None,
) -> dict[str, Any]:
    """Figures of `sample_prompts`, with the prompts of a file of records.

    Raises DataError for a file without prompts, and for a prompt that is wrong, with its line.
    """
    from tigerjax.records import read

    placed = [(f"{prompts} line {line}", record) for line, record in read(prompts)]
    if not placed:
        raise DataError(f"{prompts}: no prompts; each line needs prompt_id, and messages or text")
    refuse(placed, model.tokenizer.size, sampling.chat)
    return sample_prompts(model, [record for _, record in placed], out, sampling, batching=batching, progress=progress)


def sample_prompts(
    model: Loaded,
    prompts: Sequence[Mapping[str, Any]],
    out: str | Path,
    sampling: SamplingConfig,
    *,
    batching: Batching,
    progress: Advance | None = None,
) -> dict[str, Any]:
    """Writes the records of `engine.generate` to OUT and returns figures; an interrupted folder is continued.

    The figure `fill` is the share of the decode's slots, over all its steps, that drew a token; `put_back` counts the
    candidates for which a cache of `compute.cache_tokens` had no room for a while. `progress` is called
    after every prompt. ConfigError when the folder holds other samples, or another process writes into it.
    """
    out = paths.of(out)
    with hosts.alone_in(out):
        return _sample(model, prompts, out, sampling, batching, progress)


def _sample(
    model: Loaded,
    prompts: Sequence[Mapping[str, Any]],
    out: Path,
    sampling: SamplingConfig,
    batching: Batching,
    progress: Advance | None,
) -> dict[str, Any]:
    tokenizer = model.tokenizer
    wanted = json.loads(
        manifest.canonical(
            dataclasses.asdict(sampling)
            | {
                "model_sha": model.sha256,
                "tokenizer_sha256": tokenizer.encoding_sha256,
                "compute": stored_fields(decisive(model.compute)),
                "batch_prompts": batching.prompts,
                "batch_rows": batching.rows,
                "prompts_sha256": hashlib.sha256(manifest.canonical(list(prompts))).hexdigest(),
                "version": tigerjax.__version__,
            }
        )
    )
    encode(tokenizer, prompts, sampling.chat)  # bad prompts are refused before the folder is claimed for them
    writer = hosts.is_writer()
    if writer:
        _claim(out, wanted, drop_empty=True)
    hosts.barrier("folder of samples claimed")
    if not writer:
        if not (out / HEADER).is_file():
            raise ConfigError(f"{out} is another folder here than for host 0; give one that all hosts share")
        _claim(out, wanted)
    finished = manifest.read(out)
    records = _resume(out / PARTIAL, {p["prompt_id"] for p in prompts if "prompt_id" in p})
    hosts.barrier("samples read")  # what is written from here on, nobody reads
    if finished is not None:
        manifest.refuse_changed([out])
        return finished["figures"]

    stats, started, drawn = engine.Stats(), time.monotonic(), 0
    new = engine.complete(model, prompts, sampling, batching=batching, stats=stats, done=frozenset(records))
    partial = Log(out / PARTIAL) if writer else None
    try:
        for _, record in new:
            if partial is not None:
                partial.write(_line(record))
            records[record["prompt_id"]] = record
            drawn += sum(c["ntok"] for c in record["candidates"])
            hosts.at(f"sampling, {len(records)} of {len(prompts)} prompts are there")
            if progress is not None and writer:
                progress(len(records), len(prompts))
    finally:
        if partial is not None:
            partial.close()
    seconds = time.monotonic() - started

    ordered = [records[p["prompt_id"]] for p in prompts]
    figures = summary(ordered) | {
        "tokens_per_s": drawn / seconds,
        "seconds": seconds,
        "compilations": stats.compilations,
        "prefilled": stats.prefilled,
        "fill": stats.drawn / max(stats.decode_slots, 1),
    }
    if model.compute.cache_tokens is not None:
        figures["put_back"] = stats.put_back
    if writer:
        _write(out / CANDIDATES, (r for r in ordered if "skipped" not in r))
        _write(out / SKIPPED, (r for r in ordered if "skipped" in r))
        outputs = manifest.described(out, [CANDIDATES, SKIPPED])
        made = {"stage": "sample", "config": wanted, "outputs": outputs, "figures": figures}
        manifest.write(out, made)
        (out / PARTIAL).unlink(missing_ok=True)
    hosts.barrier("samples written")  # so that every process may read them
    return figures


def summary(records: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Counts of the records: prompts (skipped ones included), candidates, how they ended, and tokens."""
    records = list(records)
    candidates = [c for r in records for c in r["candidates"]]
    return {
        "prompts": len(records),
        "skipped": sum("skipped" in r for r in records),
        "candidates": len(candidates),
        "finish": dict(sorted(Counter(c["finish"] for c in candidates).items())),
        "empty": sum(c["empty"] for c in candidates),
        "duplicates": sum(c["dup_of"] is not None for c in candidates),
        "degenerate": sum(r["degenerate"] for r in records),
        "tokens": sum(c["ntok"] for c in candidates),
    }


def _claim(out: Path, wanted: Mapping[str, Any], *, drop_empty: bool = False) -> None:
    """Writes into the folder what is sampled there. ConfigError when something else is.

    With `drop_empty` a folder without a sample, as one that was refused leaves it, is taken for others.
    """
    header = out / HEADER
    empty = (
        drop_empty and manifest.read(out) is None and all(SKIPS in line for line in paths.whole_lines(out / PARTIAL))
    )
    if empty:
        (out / PARTIAL).unlink(missing_ok=True)  # prompts that another command skipped
    if empty or not header.is_file():
        out.mkdir(parents=True, exist_ok=True)
        manifest.write_json(header, wanted)
        return
    there = own.read_object(header, "remove the folder, or put the file back")
    for key in sorted(wanted):
        if there.get(key) != wanted[key]:
            name, old, new = _different(key, there.get(key), wanted[key])
            raise ConfigError(
                f"{out}: holds samples with {name} = {old}, but {new} is asked for; give another --out or remove the"
                " folder"
            )


def _different(name: str, old: Any, new: Any) -> tuple[str, str, str]:
    """(name, old, new) of the first value that differs, also within objects, in words."""
    if isinstance(old, dict) and isinstance(new, dict):
        key = next(key for key in sorted(old.keys() | new.keys()) if old.get(key) != new.get(key))
        return _different(f"{name}.{key}", old.get(key), new.get(key))
    # A field of a later version at its default is not stored (`config.stored_fields`).
    was, wanted = ("its default" if value is None and "." in name else repr(value) for value in (old, new))
    return name, was, wanted


def _resume(partial: Path, prompt_ids: set[str]) -> dict[str, dict[str, Any]]:
    """The records of an interrupted run by prompt id."""
    records = {}
    for number, line in enumerate(paths.whole_lines(partial), start=1):
        where = f"{partial}:{number}"
        with own.fields(where, "remove the folder"):
            record = jsonl.parse(where, jsonl.decode(where, line))
            summary([record])  # it has all that is counted in the end
            if record["prompt_id"] not in prompt_ids:
                raise DataError(
                    f"{where}: prompt_id {record['prompt_id']!r} is not among the prompts; remove the folder"
                )
            records[record["prompt_id"]] = record
    return records


def _line(record: Mapping[str, Any]) -> str:
    return json.dumps(record, ensure_ascii=False, separators=(",", ":"))


def _write(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    with paths.writing(path) as file:
        for record in records:
            file.write(_line(record).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())
