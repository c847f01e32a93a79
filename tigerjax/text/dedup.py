"""Duplicates: exact (equal keys) and near (MinHash candidates, verified) by one way, and against the instructions.

Every record gets a row of numbers, its features (the key's digest, or its MinHash signature), and one or more bucket
keys. Records that share a bucket and agree in enough features are joined; a cluster is a connected component, and one
record of it stays: the highest `meta.quality`, then the longest, then the smallest id. Outputs are sorted by id, so
neither the order of the input nor the number of workers or shards changes a byte.
"""

import functools
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from tigerjax import records
from tigerjax.errors import ConfigError
from tigerjax.files import jsonl, manifest
from tigerjax.stages import merge, parts, scan
from tigerjax.stages.runner import Runner
from tigerjax.text import against, containment, grams, minhash

Kind = Literal["exact", "near"]
NEAR_THRESHOLD = 0.7
PAIRS = 1 << 15
"""Pairs of records that are compared together."""


def features(kind: Kind, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(features uint32 [n, width], bucket keys uint64 [n, buckets], bool [n]: may be a duplicate) of a batch."""
    if kind == "near":
        hashes, owners = minhash.shingles(texts)
        signature, able = minhash.signatures(hashes, owners, len(texts))
        return signature, minhash.band_keys(signature), able
    import xxhash

    batch = grams.keys(texts)
    digests = b"".join(
        xxhash.xxh3_128_digest(batch.codes[start:end].tobytes())
        for start, end in zip(batch.starts[:-1], batch.starts[1:], strict=True)
    )
    digest = np.frombuffer(digests, np.uint32).reshape(len(texts), 4)
    return digest, np.ascontiguousarray(digest).view(np.uint64)[:, :1], np.ones(len(texts), bool)


def _scan(kind: Kind, work: Path, number: int, documents: list[parts.Document]) -> dict[str, Any]:
    made = [features(kind, batch) for batch in scan.batches([d.text for d in documents])]
    rows, bucket_keys, able = (np.concatenate(column) for column in zip(*made, strict=True))
    parts.save_npy(work / f"rows-{number}.npy", rows)
    named = np.repeat(parts.handles(number, len(documents))[able], bucket_keys.shape[1])
    parts.save_entries(work, "buckets", number, bucket_keys[able].ravel(), named)
    return {"too_short": int((~able).sum())}


def _rows(work: Path, named: np.ndarray) -> np.ndarray:
    """The features of records by handle, in the given order."""
    numbers, places = parts.split_handles(named)
    out: np.ndarray | None = None
    for number in np.unique(numbers).tolist():
        rows = np.load(work / f"rows-{number}.npy", mmap_mode="r", allow_pickle=False)
        out = np.empty((len(named), rows.shape[1]), rows.dtype) if out is None else out
        out[numbers == number] = rows[places[numbers == number]]
    assert out is not None
    return out


def linked(rows: np.ndarray, threshold: float) -> list[tuple[int, int]]:
    """Pairs that connect what is similar in one bucket: rows [k, width]; exact, whatever their order.

    From each row on, only rows that belong to no component yet are compared, so that a bucket of copies costs k
    comparisons; only a bucket of many texts that are all different costs k x k.
    """
    free = np.arange(1, len(rows))
    edges, queue = [], [0]
    while queue or len(free):
        if not queue:
            queue, free = [int(free[0])], free[1:]
        at = queue.pop()
        same = np.mean(rows[free] == rows[at], axis=1) >= threshold
        edges += [(at, other) for other in free[same].tolist()]
        queue += free[same].tolist()
        free = free[~same]
    return edges


def _edges(work: Path, numbers: Sequence[int], threshold: float, shards: int, shard: int) -> int:
    """Writes edges-<shard>.npy, uint64 [2, n] handles of verified pairs; most buckets need one comparison a record."""
    found, named = parts.load_entries(work, "buckets", numbers, shard, shards)
    starts, ends = parts.runs(found)
    sizes = ends - starts
    edges: list[np.ndarray] = []
    first = 0
    while first < len(starts):
        last = max(first + 1, int(np.searchsorted(np.cumsum(sizes[first:]), PAIRS, "right")) + first)
        members = np.concatenate([named[s:e] for s, e in zip(starts[first:last], ends[first:last], strict=True)])
        rows, count = _rows(work, members), sizes[first:last]
        heads = np.repeat(np.cumsum(count) - count, count)
        same = np.mean(rows == rows[heads], axis=1) >= threshold
        at = np.flatnonzero(same & (heads != np.arange(len(heads))))
        edges.append(np.stack([members[heads[at]], members[at]]))
        for head in np.unique(heads[~same]).tolist():  # a bucket in which some differ from the first
            mine = np.flatnonzero(heads == head)
            pairs = np.array(linked(rows[mine], threshold), np.int64).reshape(-1, 2)
            edges.append(members[mine][pairs].T)
        first = last
    whole = np.concatenate(edges, axis=1) if edges else np.zeros((2, 0), np.uint64)
    parts.save_npy(work / f"edges-{shard}.npy", np.unique(whole, axis=1))
    return whole.shape[1]


def clusters(edges: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(handles, number of their cluster) of all that edges [2, n] join: union-find, all edges at a time.

    Each round hangs the larger root of an edge below the smaller one, and shortens all paths to their roots.
    """
    named, at = np.unique(edges, return_inverse=True)
    parent, (left, right) = np.arange(len(named)), at.reshape(2, -1)
    while len(left):
        np.minimum.at(parent, np.maximum(parent[left], parent[right]), np.minimum(parent[left], parent[right]))
        while not np.array_equal(shorter := parent[parent], parent):
            parent = shorter
        apart = parent[left] != parent[right]
        left, right = left[apart], right[apart]
    return named, parent


def survivors(
    work: Path, named: np.ndarray, cluster: np.ndarray, report: Path, say: Callable[[int, int], None] | None = None
) -> np.ndarray:
    """The handles that go: all but one of each cluster. Writes {"kept", "all"} by cluster to `report`. `say` is told of
    the members of clusters that were looked at."""
    numbers, places = parts.split_handles(named)
    told: list[tuple[float, int, str]] = [(0.0, 0, "")] * len(named)
    seen = 0
    for number in np.unique(numbers).tolist():
        ids = parts.Ids(work, number)
        for i in np.flatnonzero(numbers == number).tolist():
            place = int(places[i])
            told[i] = (-float(ids.quality[place]), -int(ids.length[place]), ids[place])
            seen += 1
            if say is not None:
                say(seen, len(named))
    order = np.argsort(cluster, kind="stable")
    borders = np.flatnonzero(np.diff(cluster[order])) + 1
    gone, lines = [], []
    for group in np.split(order, borders) if len(order) else []:
        best = min(group.tolist(), key=lambda i: told[i])
        gone += [i for i in group.tolist() if i != best]
        lines.append({"kept": told[best][2], "all": sorted(told[i][2] for i in group.tolist())})
    jsonl.write_jsonl(report, sorted(lines, key=lambda line: line["kept"]))
    return np.sort(named[gone]) if gone else np.zeros(0, np.uint64)


def _write(work: Path, out: Path, output: merge.Output) -> int:
    name, numbers = output
    sources = [merge.kept_lines(work, n, np.load(work / f"drop-{n}.npy", allow_pickle=False), {}) for n in numbers]
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
    """Keeps one document of each cluster; writes OUT/<name of the input> and clusters/clusters.jsonl; the manifest.

    Memory: one part of text a worker, one shard of bucket keys, and the names of the duplicates.
    """
    paths = records.expand(inputs)
    records.distinct_names(paths)
    scan.check_shards(shards)
    if not 0 < threshold <= 1:
        raise ConfigError(f"threshold={threshold} must be in (0, 1]")
    config: dict[str, Any] = {"kind": kind, "threshold": threshold if kind == "near" else None}
    runner = runner or Runner()
    hashing = runner.reporter("hashed", "GB")
    with manifest.stage(out, name="dedup", config=config, inputs=paths, hashing=hashing) as run, runner:
        if run.done:
            return run.manifest or {}
        started, work = time.perf_counter(), merge.work_folder(run.tmp)
        found = scan.scanned(runner, functools.partial(_scan, kind, work), work, paths, shards)
        numbers = [part["part"] for part in found]
        join = functools.partial(_edges, work, numbers, threshold if kind == "near" else 1.0, shards)
        runner.each(join, range(shards), work, "join")
        edges = [np.load(work / f"edges-{s}.npy", allow_pickle=False) for s in range(shards)]
        named, cluster = clusters(np.concatenate(edges, axis=1))
        (run.tmp / "clusters").mkdir()
        say = runner.reporter("cluster", "records")
        gone = survivors(work, named, cluster, run.tmp / "clusters" / "clusters.jsonl", say)
        gone_parts, gone_places = parts.split_handles(gone)
        for number in numbers:
            parts.save_npy(work / f"drop-{number}.npy", gone_places[gone_parts == number])
        kept = sum(runner.each(functools.partial(_write, work, run.tmp), merge.outputs(paths, found), work, "write"))
        shutil.rmtree(work)
        total = sum(part["records"] for part in found)
        run.counts = {"in": total, "out": kept, "dropped": {kind: len(gone)}}
        run.figures = {
            "clusters": len(np.unique(cluster)),
            "too_short": sum(part["too_short"] for part in found),
            **records.speed(paths, time.perf_counter() - started, runner.workers),
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
    """Removes from documents what the SFT files teach; OUT/<name of the input>, hits/hits.jsonl; the manifest."""
    search = containment.Search(threshold=threshold)
    return against.find_files("against_sft", docs, sft, out, search=search, action=action, shards=shards, runner=runner)
