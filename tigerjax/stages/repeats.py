"""Records with equal ids, found over all parts of a stage.

Equal records without ids are numbered (`records.ids`), so that each record has an id of its own. An id that was given
twice in one file is an error; one that was given in several files makes `scan.scanned` read them again with other ids.
A part's ids are opened once for all of its records that share an id with another one.
"""

import functools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tigerjax import records
from tigerjax.stages import parts
from tigerjax.stages.runner import Runner

NUMBERED = records.SAID[records.NUMBERED]
PartPaths = Mapping[int, str]
"""The path of each part."""
RepeatPlaces = dict[int, np.ndarray]
"""Of each part: int64 [2, n], the places of records that are equal to earlier ones, and how often each was there."""


class _Met(NamedTuple):
    """A record that shares the hash of its id with another one."""

    part: int
    line: int
    handle: int
    made: bool


def find(runner: Runner, work: Path, files: PartPaths, shards: int, step: str) -> list[dict[str, Any]]:
    """What `_find` returned of each shard: the ids that two records have are looked for."""
    return runner.each(functools.partial(_find, work, dict(files), shards), range(shards), work, step)


def _find(work: Path, files: PartPaths, shards: int, shard: int) -> dict[str, Any]:
    """Writes repeats-<shard>.npy for the equal records of a shard that have no id of their own.

    It is uint64 [3, n]: the handle of the record that keeps the id, that of a repeat, and the repeat's number. Returns
    {same, others, other_ids}: [id, place, first place] of the smallest id that one file gives twice, the same of one
    that two files give, and how many of these there are.
    """
    same: list[list[str]] = []
    others: list[list[str]] = []
    numbered: list[tuple[int, int, int]] = []
    for identity, met in _groups(work, sorted(files), shards, shard):
        given = [one for one in met if not one.made]
        if len(given) > 1:
            first, second = given[:2]
            at = [identity, f"{files[second.part]}:{second.line}", f"{files[first.part]}:{first.line}"]
            twice = len({files[one.part] for one in given}) < len(given)
            (same if twice else others).append(at)
            continue
        head = (given or met)[0]
        rest = [one for one in met if one is not head]
        numbered += [(head.handle, one.handle, number) for number, one in enumerate(rest, 2)]
    array = np.array(numbered, np.uint64).reshape(-1, 3).T
    parts.save_npy(work / f"repeats-{shard}.npy", array)
    return {"same": min(same, default=[]), "others": min(others, default=[]), "other_ids": len(others)}


def _groups(work: Path, numbers: Sequence[int], shards: int, shard: int) -> Iterator[tuple[str, list[_Met]]]:
    """(id, its records in the order of the files) of each id of a shard that several records have."""
    hashes, handles = parts.load_entries(work, "ids", numbers, shard, shards)
    starts, ends = parts.runs(hashes)
    if not len(starts):
        return
    repeated = np.concatenate([handles[start:end] for start, end in zip(starts, ends, strict=True)])
    groups: dict[str, list[_Met]] = {}
    of_part, places = parts.split_handles(repeated)
    for number in np.unique(of_part).tolist():
        ids = parts.PartIds(work, number)
        for place, handle in zip(places[of_part == number].tolist(), repeated[of_part == number].tolist(), strict=True):
            met = _Met(number, int(ids.line[place]), handle, bool(ids.made[place]))
            groups.setdefault(ids[place], []).append(met)
    for identity, group in groups.items():
        if len(group) > 1:
            yield identity, sorted(group)


def of_other_files(met: Sequence[Mapping[str, Any]], way: records.Way, ids: records.Ids) -> bool:
    """Whether files give the same ids and new ones are to be made, which is then said on standard error.

    DataError for an id that a file gives twice, and for any id that is given twice where no other way is left.
    """
    last = way == records.ways(ids)[-1]
    refused = [m["same"] for m in met if m["same"]] + [m["others"] for m in met if m["others"] and last]
    if refused:
        identity, place, first = min(refused)
        raise records.repeated(place, identity, first)
    count = sum(m["other_ids"] for m in met)
    if count:
        identity, place, first = min(m["others"] for m in met if m["others"])
        records.note(
            f"{count} ids are given in more than one file, such as {identity!r} at {first} and {place}; so each record"
            " that brings an id gets FILE:ID (--ids keep refuses them, place and content make other ids)"
        )
    return count > 0


def handles(work: Path, shards: int) -> np.ndarray:
    """uint64 [3, n]: the handle of a record, that of a later equal one without an id, and its number."""
    found = [np.load(work / f"repeats-{shard}.npy", allow_pickle=False) for shard in range(shards)]
    return np.concatenate(found, axis=1)


def times(work: Path, shards: int) -> RepeatPlaces:
    """The equal records of all parts."""
    _, repeats, numbers = handles(work, shards)
    order = np.argsort(repeats)
    of_part, places = parts.split_handles(repeats[order])
    both = np.stack([places, numbers[order].astype(np.int64)])
    borders = np.flatnonzero(np.diff(of_part)) + 1
    found = np.split(both, borders, axis=1) if len(order) else []
    return dict(zip(of_part[np.append(0, borders)].tolist() if len(order) else [], found, strict=True))


def names(work: Path, number: int, given: np.ndarray | None) -> dict[int, str]:
    """The new ids of a part's equal records, by their places; `given` is what `times` has of the part."""
    if given is None:
        return {}
    ids = parts.PartIds(work, number)
    # `first_of`, as a task that is done again may find the new ids.
    return {place: records.numbered(records.first_of(ids[place]), time) for place, time in given.T.tolist()}


def rename(work: Path, given: tuple[int, np.ndarray]) -> None:
    """Gives the equal records of a part, which is given with what `times` has of it, their new ids."""
    number, times = given
    parts.rename(work, number, names(work, number, times))
