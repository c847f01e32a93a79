"""Which record of a cluster stays, decided by tasks over shards, is what a search of the whole graph says."""

import json
import random

import numpy as np
import pytest

from tigerjax.records import Identity
from tigerjax.stages import parts
from tigerjax.stages.runner import Runner
from tigerjax.text import clusters

PARTS, RECORDS = 5, 40


@pytest.mark.parametrize(("forests", "shards"), [(2, 1), (30, 7)])
def test_one_record_of_each_cluster_stays_however_many_forests_and_shards(tmp_path, forests, shards):
    rng = random.Random(forests)
    ranks = {}
    for number in range(PARTS):
        ids = sorted(f"{rng.randrange(10**6):06}-虎{number}" for _ in range(RECORDS))
        quality = [rng.choice([0.0, 0.5]) for _ in ids]
        given = [
            parts.Document(Identity(name, False), b"{}", 1, good, "x" * rng.randrange(3), rng.randrange(2))
            for name, good in zip(ids, quality, strict=True)
        ]
        parts.save(tmp_path, number, given, "x.jsonl")
        for place, one in enumerate(given):
            ranks[(number << 32) | place] = (one.untrained, -one.quality, -len(one.text), one.identity)
    handles, groups = sorted(ranks), {}
    for number in range(forests):
        pairs = [rng.sample(handles, 2) for _ in range(max(1, 80 // forests))]
        parts.save_npy(tmp_path / f"edges-{number}.npy", clusters.forest(np.array(pairs, np.uint64).T))
        for a, b in pairs:
            both = groups.get(a, {a}) | groups.get(b, {b})
            groups.update(dict.fromkeys(both, both))
    wanted = {frozenset(group) for group in groups.values()}
    names = [f"edges-{number}.npy" for number in range(forests)]
    found = clusters.choose(Runner(), tmp_path, names, range(PARTS), shards)
    assert sum(one["clusters"] for one in found) == len(wanted) > 5
    gone = {(n << 32) | place for n in range(PARTS) for place in clusters.dropped(tmp_path, shards, n).tolist()}
    assert gone == {h for group in wanted for h in group} - {min(group, key=ranks.get) for group in wanted}
    assert sum(one["gone"] for one in found) == len(gone)
    clusters.write(tmp_path, shards, tmp_path / "clusters.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "clusters.jsonl").read_text().splitlines()]
    assert lines == sorted(lines, key=lambda line: line["kept"])
    assert {tuple(line["all"]) for line in lines} == {tuple(sorted(ranks[h][-1] for h in group)) for group in wanted}


def test_without_a_pair_every_record_stays(tmp_path):
    parts.save(tmp_path, 0, [parts.Document(Identity("a", False), b"{}", 1, 0.0, "x")], "x.jsonl")
    for name in ("one.npy", "two.npy"):
        parts.save_npy(tmp_path / name, clusters.forest(np.zeros((2, 0), np.uint64)))
    found = clusters.choose(Runner(), tmp_path, ["one.npy", "two.npy"], [0], 3)
    assert found == [{"clusters": 0, "gone": 0, "trained": 0}] * 3
    assert not len(clusters.dropped(tmp_path, 3, 0))
