"""Clusters of duplicates from the pairs that belong together, and the record of each that stays.

A record is named by a number, its handle. The pairs of each shard come as a *forest*, an array uint64 [2, n] of
handles. Each column joins a record with the first one of its cluster, so a cluster of k records has k - 1 columns. The
steps are

    union    joins FAN forests into one, until at most FAN are left
    label    gives each record the smallest handle of its cluster
    rank     writes for each part of the records what decides which record of a cluster stays, sorted by a hash of the
             cluster
    choose   picks the record of each cluster that stays. There are S such tasks, each for one S-th of the clusters

Only the step label has the handles of all records that have a duplicate in memory at one time. In the other steps a
worker holds one part of the records, or one S-th of those that have a duplicate.
"""

import functools
import itertools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from tigerjax.files import jsonl
from tigerjax.stages import merge, parts
from tigerjax.stages.runner import Runner

FAN = 8
_SPREAD = np.uint64(0x9E3779B97F4A7C15)
"""An odd number: the products of all handles with it differ, and are spread evenly over the shards."""
_DECODE = json.JSONDecoder().raw_decode
MEMBERS = ("key", "cluster", "handle", "untrained", "quality", "length", "end")
"""Rows of members-<part>.npy, uint64: `quality` has the bits of a float64, `end` is where the id ends in ids-<part>."""


def components(edges: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(handles, the cluster of each) of all records that edges [2, n] join.

    A cluster is named by the place of its smallest handle. This is union-find over all edges at once. Each round hangs
    the larger root of an edge below the smaller one, and shortens all paths to their roots.
    """
    handles, at = np.unique(edges, return_inverse=True)
    parent, (left, right) = np.arange(len(handles)), at.reshape(2, -1)
    while len(left):
        np.minimum.at(parent, np.maximum(parent[left], parent[right]), np.minimum(parent[left], parent[right]))
        while not np.array_equal(shorter := parent[parent], parent):
            parent = shorter
        apart = parent[left] != parent[right]
        left, right = left[apart], right[apart]
    return handles, parent


def forest(edges: np.ndarray) -> np.ndarray:
    """The forest that joins the same records as the pairs `edges` [2, n]."""
    handles, cluster = components(edges)
    at = np.flatnonzero(cluster != np.arange(len(cluster)))
    return np.stack([handles[cluster[at]], handles[at]])


def choose(
    runner: Runner, work: Path, forests: Sequence[str], numbers: Sequence[int], shards: int
) -> list[dict[str, int]]:
    """Decides which records stay, for `dropped` and `write`; `forests` are files of the work folder.

    Returns of each shard {clusters, gone, trained}: how many clusters, how many records of them go, and how many
    clusters keep another one because of weight 0.
    """
    names, level = list(forests), 0
    while len(names) > FAN:
        groups = [names[at : at + FAN] for at in range(0, len(names), FAN)]
        items = [(f"forest-{level}-{number}.npy", group) for number, group in enumerate(groups)]
        names = runner.each(functools.partial(_union, work), items, work, f"union_{level}")
        level += 1
    runner.each(functools.partial(_label, work), [names], work, "label")
    found = runner.each(functools.partial(_rank, work), numbers, work, "rank")
    mine = [number for number, count in zip(numbers, found, strict=True) if count]
    return runner.each(functools.partial(_choose, work, mine, shards), range(shards), work, "choose")


def _union(work: Path, given: tuple[str, list[str]]) -> str:
    name, sources = given
    parts.save_npy(work / name, forest(_edges(work, sources)))
    return name


def _edges(work: Path, names: Sequence[str]) -> np.ndarray:
    return np.concatenate([np.load(work / name, allow_pickle=False) for name in names], axis=1)


def _label(work: Path, names: Sequence[str]) -> None:
    """Writes labels.npy: uint64 [2, n], the handles of all records of clusters, sorted, and the cluster of each."""
    handles, cluster = components(_edges(work, names))
    parts.save_npy(work / "labels.npy", np.stack([handles, handles[cluster]]))


def _rank(work: Path, number: int) -> int:
    """Writes the MEMBERS of a part, sorted by key, and their ids; returns how many there are."""
    labels = np.load(work / "labels.npy", mmap_mode="r", allow_pickle=False)
    handles, cluster = np.array(labels[:, slice(*parts.range_of(labels[0], number))])
    if not len(handles):
        return 0
    keys = cluster * _SPREAD
    order = np.argsort(keys, kind="stable")
    keys, cluster, handles = keys[order], cluster[order], handles[order]
    _, places = parts.split_handles(handles)
    ids = parts.PartIds(work, number)
    named = [ids[place].encode("utf-8", "surrogatepass") for place in places.tolist()]
    figures = [ids.untrained[places], ids.quality[places].view(np.uint64), ids.length[places]]
    rows = [keys, cluster, handles, *figures, np.cumsum([len(name) for name in named])]
    parts.save_npy(work / f"members-{number}.npy", np.stack([row.astype(np.uint64) for row in rows]))
    parts.save_npy(work / f"ids-of-members-{number}.npy", np.frombuffer(b"".join(named), np.uint8))
    return len(handles)


def _load(work: Path, number: int, shard: int, shards: int) -> tuple[np.ndarray, list[str]]:
    """(MEMBERS, ids) of a part that are of one shard."""
    rows = np.load(work / f"members-{number}.npy", mmap_mode="r", allow_pickle=False)
    first, last = parts.shard_of(rows[0], shard, shards)
    ends = [0, *rows[-1][:last].tolist()] if first == 0 else rows[-1][first - 1 : last].tolist()
    named = np.load(work / f"ids-of-members-{number}.npy", mmap_mode="r", allow_pickle=False)
    ids = named[ends[0] : ends[-1]].tobytes()
    spans = [(start - ends[0], end - ends[0]) for start, end in itertools.pairwise(ends)]
    return np.array(rows[:, first:last]), [ids[start:end].decode("utf-8", "surrogatepass") for start, end in spans]


def _choose(work: Path, numbers: Sequence[int], shards: int, shard: int) -> dict[str, int]:
    """Writes gone-<shard>.npy, the sorted handles of records that go, and clusters-<shard>.jsonl, sorted by `kept`."""
    loaded = [_load(work, number, shard, shards) for number in numbers]
    rows = np.concatenate([np.zeros((len(MEMBERS), 0), np.uint64), *(rows for rows, _ in loaded)], axis=1)
    ids = [name for _, names in loaded for name in names]
    untrained, quality, length = rows[3].tolist(), rows[4].view(np.float64).tolist(), rows[5].tolist()
    ranks = [(u, -q, -n, name) for u, q, n, name in zip(untrained, quality, length, ids, strict=True)]  # smallest stays
    order = np.argsort(rows[1], kind="stable")
    gone: list[int] = []
    lines: list[tuple[str, bytes]] = []
    trained = 0
    for group in np.split(order, np.flatnonzero(np.diff(rows[1][order])) + 1) if len(order) else ():
        members = group.tolist()
        best = min(members, key=lambda i: ranks[i])
        trained += best != min(members, key=lambda i: ranks[i][1:])
        gone += [i for i in members if i != best]
        lines.append((ids[best], jsonl.dumped({"kept": ids[best], "all": sorted(ids[i] for i in members)})))
    parts.save_npy(work / f"gone-{shard}.npy", np.sort(rows[2][gone]))
    parts.save_lines(work / f"clusters-{shard}.jsonl", (line for _, line in sorted(lines)))
    return {"clusters": len(lines), "gone": len(gone), "trained": trained}


def dropped(work: Path, shards: int, number: int) -> np.ndarray:
    """The places in a part of the records that go."""
    found = []
    for shard in range(shards):
        gone = np.load(work / f"gone-{shard}.npy", mmap_mode="r", allow_pickle=False)
        found.append(np.array(gone[slice(*parts.range_of(gone, number))]))
    return parts.split_handles(np.concatenate(found))[1]


def write(work: Path, shards: int, out: Path) -> None:
    """Writes {"kept", "all"} of each cluster: the id of the record that stays, and those of all its records."""
    merge.merge_lines([_lines(work / f"clusters-{shard}.jsonl") for shard in range(shards)], out)


def _lines(path: Path) -> Iterator[merge.IdAndLine]:
    with open(path, "rb") as file:
        for line in file:
            yield _DECODE(line.decode(), len('{"kept":'))[0], line[:-1]
