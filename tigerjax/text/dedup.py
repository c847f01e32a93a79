"""Removes duplicates among documents, and from documents what the instruction data teaches.

Exact duplicates have equal keys (`exact`). Near duplicates have similar MinHash signatures. Both are found
in the same way. Each record gets *features*, a vector of integers: the digest of its key, or its signature. It also
gets one or more bucket keys. Records of one bucket that agree in enough features are joined. A cluster is all that is
joined, directly or through others. One record of a cluster stays: the one with the fewest answers of loss weight 0,
then the one of the highest `meta.quality`, then the longest, then the one of the smallest id. Outputs are sorted by
id, so neither the order of the input nor the number of workers or shards changes a byte.
"""

import functools
import re
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from tigerjax import records
from tigerjax.errors import ConfigError
from tigerjax.files import manifest
from tigerjax.stages import merge, parts, repeats, scan
from tigerjax.stages.runner import Runner
from tigerjax.text import against, clusters, containment, minhash, unit_search
from tigerjax.text.exact import exact_keys

Kind = Literal["exact", "near"]
NEAR_THRESHOLD = 0.7
EQUAL_DROPPED = "records without an id are equal to an earlier one; they are dropped as duplicates"
PAIRS = 1 << 15
"""Pairs of records that are compared together."""
KEY_VERSION = 2
"""Of `exact_keys`, for the manifest."""

_CODE = re.compile(rb'"lang": ?"code"')  # in a line of JSON; quotes inside of a text are escaped


def features(kind: Kind, texts: Sequence[str], code: Sequence[bool]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(features uint32 [n, width], bucket keys uint64 [n, buckets], bool [n]: long enough to be compared).

    `code` says which texts are code.
    """
    if kind == "near":
        hashes, owners = minhash.shingles(texts)
        signature, able = minhash.signatures(hashes, owners, len(texts))
        return signature, minhash.band_keys(signature), able
    digest = np.frombuffer(b"".join(exact_keys(texts, code)), np.uint32).reshape(len(texts), 4)
    return digest, np.ascontiguousarray(digest).view(np.uint64)[:, :1], np.ones(len(texts), bool)


def _scan(kind: Kind, work: Path, number: int, documents: list[parts.Document]) -> dict[str, Any]:
    code = [kind == "exact" and _CODE.search(d.line) is not None for d in documents]
    made, first = [], 0
    for batch in scan.batches([d.text for d in documents]):
        made.append(features(kind, batch, code[first : first + len(batch)]))
        first += len(batch)
    vectors, bucket_keys, able = (np.concatenate(column) for column in zip(*made, strict=True))
    parts.save_npy(work / f"features-{number}.npy", vectors)
    named = np.repeat(parts.handles(number, len(documents))[able], bucket_keys.shape[1])
    parts.save_entries(work, "buckets", number, bucket_keys[able].ravel(), named)
    return {"too_short": int((~able).sum())}


def _load_features(work: Path, handles: np.ndarray) -> np.ndarray:
    """The features [n, width] of the records with these handles, in the given order."""
    order = np.argsort(handles)
    numbers, places = parts.split_handles(handles[order])
    starts = np.flatnonzero(np.diff(numbers, prepend=-1))
    out: np.ndarray | None = None
    split = zip(numbers[starts].tolist(), np.split(order, starts[1:]), np.split(places, starts[1:]), strict=True)
    for number, at, mine in split:
        vectors = np.load(work / f"features-{number}.npy", mmap_mode="r", allow_pickle=False)
        out = np.empty((len(handles), vectors.shape[1]), vectors.dtype) if out is None else out
        out[at] = vectors[mine]
    assert out is not None
    return out


def linked(vectors: np.ndarray, threshold: float) -> list[tuple[int, int]]:
    """Pairs of indices that join the similar records of one bucket; `vectors` [k, width] are their features.

    A record is compared only with those that nothing is joined to yet. So a bucket of copies costs k comparisons, and
    only a bucket of texts that all differ costs k x k. Every pair of similar records ends in one component.
    """
    free = np.arange(1, len(vectors))
    edges, queue = [], [0]
    while queue or len(free):
        if not queue:
            queue, free = [int(free[0])], free[1:]
        at = queue.pop()
        same = np.mean(vectors[free] == vectors[at], axis=1) >= threshold
        edges += [(at, other) for other in free[same].tolist()]
        queue += free[same].tolist()
        free = free[~same]
    return edges


def _edges(work: Path, numbers: Sequence[int], threshold: float, shards: int, shard: int) -> None:
    """Writes edges-<shard>.npy: the forest (`clusters`) of the pairs in a shard that are similar.

    All records of a bucket are compared with its first one. Most buckets need no more.
    """
    keys, handles = parts.load_entries(work, "buckets", numbers, shard, shards)
    starts, ends = parts.runs(keys)
    sizes = ends - starts
    so_far = np.concatenate([[0], np.cumsum(sizes)])
    edges: list[np.ndarray] = []
    first = 0
    while first < len(starts):
        last = max(first + 1, int(np.searchsorted(so_far, so_far[first] + PAIRS, "right")) - 1)
        members = np.concatenate([handles[s:e] for s, e in zip(starts[first:last], ends[first:last], strict=True)])
        vectors, count = _load_features(work, members), sizes[first:last]
        heads = np.repeat(np.cumsum(count) - count, count)
        same = np.mean(vectors == vectors[heads], axis=1) >= threshold
        at = np.flatnonzero(same & (heads != np.arange(len(heads))))
        edges.append(np.stack([members[heads[at]], members[at]]))
        for head in np.unique(heads[~same]).tolist():  # a bucket in which some differ from the first
            mine = np.flatnonzero(heads == head)
            pairs = np.array(linked(vectors[mine], threshold), np.int64).reshape(-1, 2)
            edges.append(members[mine][pairs].T)
        first = last
    whole = np.concatenate(edges, axis=1) if edges else np.zeros((2, 0), np.uint64)
    parts.save_npy(work / f"edges-{shard}.npy", clusters.forest(whole))


def _write(work: Path, shards: int, out: Path, output: merge.Output) -> int:
    name, numbers = output
    sources = [merge.kept_lines(work, n, clusters.dropped(work, shards, n), {}) for n in numbers]
    return merge.merge_lines(sources, out / name)


def dedup_files(
    kind: Kind,
    inputs: Sequence[str | Path],
    out: str | Path,
    *,
    threshold: float = NEAR_THRESHOLD,
    shards: int = scan.SHARDS,
    runner: Runner | None = None,
) -> dict[str, Any]:
    """Keeps one record of each cluster; writes OUT/<name of the input> and OUT/clusters/clusters.jsonl.

    Returns the manifest. A worker holds in memory one part of text, or one shard of bucket keys or of the records that
    have a duplicate. Raises ConfigError for a threshold that is no share above 0.
    """
    paths = records.expand(inputs)
    records.distinct_names(paths)
    scan.check_shards(shards)
    if not 0 < threshold <= 1:
        raise ConfigError(f"threshold={threshold} must be in (0, 1]")
    config: dict[str, Any] = {"kind": kind, "threshold": threshold if kind == "near" else None}
    if kind == "exact":
        config["key"] = KEY_VERSION
    config |= records.inputs_config(inputs)
    runner = runner or Runner()
    hashing = runner.reporter("hashed", "GB")
    with (
        manifest.stage(out, name="dedup", config=config, inputs=paths, hashing=hashing, verify=runner.verify) as run,
        runner,
    ):
        if run.done:
            return run.manifest or {}
        started, work = time.perf_counter(), merge.work_folder(run.tmp)
        taken = scan.Taken(records.ids_of(inputs), equal=EQUAL_DROPPED)
        scanned = scan.scanned(runner, functools.partial(_scan, kind, work), work, paths, shards, taken)
        numbers = [part["part"] for part in scanned]
        join = functools.partial(_edges, work, numbers, threshold if kind == "near" else 1.0, shards)
        runner.each(join, range(shards), work, "join")
        parts.save_npy(work / "equal.npy", repeats.handles(work, shards)[:2])  # equal records, however short
        forests = ["equal.npy", *(f"edges-{shard}.npy" for shard in range(shards))]
        chosen = clusters.choose(runner, work, forests, numbers, shards)
        found, gone, trained = (sum(one[what] for one in chosen) for what in ("clusters", "gone", "trained"))
        (run.tmp / "clusters").mkdir()
        clusters.write(work, shards, run.tmp / "clusters" / "clusters.jsonl")
        write = functools.partial(_write, work, shards, run.tmp)
        left = sum(runner.each(write, merge.outputs(paths, scanned), work, "write"))
        shutil.rmtree(work)
        if trained:
            records.note(f"{trained} duplicates were kept instead of others in which more answers have weight 0")
        total = sum(part["records"] for part in scanned)
        run.counts = {"in": total, "out": left, "dropped": {kind: gone}}
        run.figures = {
            "clusters": found,
            "too_short": sum(part["too_short"] for part in scanned),
            **({"kept_for_loss": trained} if trained else {}),
            **scan.changed(scanned),
            **records.speed(paths, time.perf_counter() - started, runner.cores()),
        }
    return run.manifest or {}


def against_sft_files(
    docs: Sequence[str | Path],
    sft: Sequence[str | Path],
    out: str | Path,
    *,
    action: containment.Action = "cut",
    threshold: float = containment.THRESHOLD,
    shards: int = scan.SHARDS,
    runner: Runner | None = None,
) -> dict[str, Any]:
    """Removes from documents what the SFT files teach; writes OUT/<name of the input> and OUT/hits/hits.jsonl.

    Returns the manifest.
    """
    search = containment.Search(threshold=threshold)
    wanted = unit_search.Wanted("against_sft", "instruction data", "sft_id", search, action)
    return against.find_files(wanted, docs, sft, out, shards=shards, runner=runner)
