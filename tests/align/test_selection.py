"""Prompts of a round, the queue for people, and the mathematics of rankings."""

import json
import random

import pytest
from scipy import stats

from tigerjax.align.config import AlignConfig
from tigerjax.align.people import queue as queue_lib
from tigerjax.align.people.agreement import borda, kendall, spearman
from tigerjax.align.prompts import apportion, select
from tigerjax.errors import ConfigError, DataError

SIZES = (1, 7, 100, 10007)


def examples(n):
    return [
        {
            "id": f"e{i:05d}",
            "messages": [{"role": "user", "content": f"question {i}"}, {"role": "assistant", "content": f"answer {i}"}],
            "task": ("qa", "qa", "poem")[i % 3],
            "lang": ("zh", "en")[i % 2],
        }
        for i in range(n)
    ]


def scored(n, seed=0):
    rng = random.Random(seed)
    out = []
    for i in range(n):
        candidates = [
            {"cid": f"p{i}c{k}", "text": f"text {k}", "finish": "stop", "score": rng.gauss(0, 1)} for k in range(10)
        ]
        record = {"prompt_id": f"p{i:05d}", "messages": [{"role": "user", "content": f"q{i}"}], "task": f"t{i % 3}"}
        out.append(record | {"candidates": candidates})
    return out


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("fraction", [0.05, 0.07, 0.10])
def test_prompts_drawn_are_round_of_the_share_and_at_least_one(n, fraction):
    got = select(examples(n), fraction=fraction, seed=3, round_index=1)
    assert len(got.prompts) == max(1, round(fraction * n))
    assert got.counts["in"] == n == got.counts["out"] + sum(got.counts["dropped"].values())


def test_prompts_are_stratified_and_independent_of_input_order():
    rows = examples(600)
    got = select(rows, fraction=0.1, seed=1, round_index=1).prompts
    strata = [(p["task"], p["lang"]) for p in got]
    assert {strata.count(("qa", lang)) for lang in ("zh", "en")} == {20}
    assert {strata.count(("poem", lang)) for lang in ("zh", "en")} == {10}
    random.Random(0).shuffle(rows)
    assert select(rows, fraction=0.1, seed=1, round_index=1).prompts == got
    assert select(rows, fraction=0.1, seed=2, round_index=1).prompts != got
    assert select(rows, fraction=0.1, seed=1, round_index=2).prompts != got


def test_prompts_outside_the_published_range_need_permission():
    for fraction in (0.04, 0.11):
        with pytest.raises(ConfigError, match="outside"):
            select(examples(100), fraction=fraction, seed=0, round_index=1)
        with pytest.raises(ConfigError, match="outside"):
            AlignConfig(prompt_fraction=fraction, seed=0)
    assert len(select(examples(100), fraction=0.3, seed=0, round_index=1, allow_fraction=True).prompts) == 30


def test_excluded_prompts_are_not_drawn_and_too_few_left_is_an_error():
    rows = examples(100)
    first = {p["prompt_id"] for p in select(rows, fraction=0.1, seed=0, round_index=1).prompts}
    second = select(rows, fraction=0.1, seed=0, round_index=2, exclude=first)
    assert not first & {p["prompt_id"] for p in second.prompts}
    with pytest.raises(ConfigError, match="left after exclusion"):
        select(rows, fraction=0.1, seed=0, round_index=2, exclude={e["id"] for e in rows[:95]})


def test_the_same_prompt_twice_is_drawn_once_and_counted():
    rows = examples(20)
    rows[5]["messages"][0]["content"] = rows[4]["messages"][0]["content"]
    got = select(rows, fraction=1.0, seed=0, round_index=1, allow_fraction=True)
    assert len(got.prompts) == 19 and got.counts["dropped"]["duplicate_prompt"] == 1


def test_a_duplicate_id_is_refused():
    with pytest.raises(DataError, match="twice"):
        select([*examples(3), examples(1)[0]], fraction=0.1, seed=0, round_index=1)


def test_apportion_gives_the_exact_total_within_every_stratum():
    for total in range(0, 18):
        sizes = {"a": 1, "b": 7, "c": 9}
        shares = apportion(total, sizes)
        assert sum(shares.values()) == total
        assert all(abs(shares[k] - total * n / 17) < 1 and shares[k] <= n for k, n in sizes.items())


@pytest.mark.parametrize(("n", "rank", "edit"), [(1, 1, 1), (7, 1, 1), (100, 5, 1), (700, 35, 7), (10007, 501, 101)])
def test_queue_takes_exactly_the_shares_for_people_rounded_up(n, rank, edit):
    asked = queue_lib.build(
        scored(n), rank_fraction=0.05, edit_fraction=0.01, edit_within_ranked=True, seed=0, round_index=1
    )
    assert (asked.counts["rank"], asked.counts["edit"]) == (rank, edit)
    assert sum(item["rank"] for item in asked.items) == rank == len(asked.items)
    assert sum(item["edit"] for item in asked.items) == edit


def test_queue_can_keep_edits_apart_from_rankings():
    asked = queue_lib.build(
        scored(200), rank_fraction=0.05, edit_fraction=0.01, edit_within_ranked=False, seed=0, round_index=1
    )
    assert len(asked.items) == 12
    assert not any(item["rank"] and item["edit"] for item in asked.items)


def test_queue_holds_the_closest_calls_and_edits_the_worst_of_the_ranked():
    records = scored(200)
    asked = queue_lib.build(
        records, rank_fraction=0.05, edit_fraction=0.01, edit_within_ranked=True, seed=0, round_index=1
    )
    closest = [r["prompt_id"] for r in sorted(records, key=queue_lib.margin)[:5]]
    ids = [item["prompt_id"] for item in asked.items]
    assert set(closest) <= set(ids) and len(ids) == 10
    top = {r["prompt_id"]: max(c["score"] for c in r["candidates"]) for r in records}
    worst = sorted(ids, key=top.get)[:2]
    assert sorted(worst) == sorted(item["prompt_id"] for item in asked.items if item["edit"])


def test_queue_shows_neither_scores_nor_candidate_ids_and_shuffles_blindly():
    records = scored(200)
    asked = queue_lib.build(
        records, rank_fraction=0.05, edit_fraction=0.01, edit_within_ranked=True, seed=0, round_index=1
    )
    shown = json.dumps(asked.items) + queue_lib.markdown(asked.items)
    by_id = {r["prompt_id"]: r for r in records}
    for item in asked.items:
        for candidate in by_id[item["prompt_id"]]["candidates"]:
            assert candidate["cid"] not in shown
            assert str(candidate["score"]) not in shown
    orders = {tuple(c["text"] for c in item["candidates"]) for item in asked.items}
    assert len(orders) == len(asked.items)
    for item, key in zip(asked.items, asked.key, strict=True):
        texts = {c["cid"]: c["text"] for c in by_id[item["prompt_id"]]["candidates"]}
        for candidate in item["candidates"]:
            assert {texts[cid] for cid in key["labels"][candidate["label"]]} == {candidate["text"]}


def test_identical_texts_share_a_label_and_invalid_scores_are_not_shown():
    record = scored(1)[0]
    record["candidates"][1]["text"] = record["candidates"][0]["text"]
    record["candidates"][2]["score"] = float("nan")
    record["candidates"][3]["score"] = None
    asked = queue_lib.build(
        [record], rank_fraction=0.05, edit_fraction=0.01, edit_within_ranked=True, seed=0, round_index=1
    )
    assert len(asked.items[0]["candidates"]) == 7
    assert sorted(len(cids) for cids in asked.key[0]["labels"].values()) == [1] * 6 + [2]


def test_markdown_fences_an_answer_that_holds_a_fence():
    item = {"prompt_id": "p", "rank": True, "edit": False, "batch_sha256": "x", "messages": []}
    lines = queue_lib.markdown([item | {"candidates": [{"label": "A", "text": "```\ncode\n```"}]}]).splitlines()
    assert lines.count("````") == 2


def test_labels_count_like_spreadsheet_columns():
    assert [queue_lib.label(i) for i in (0, 25, 26, 27, 701, 702)] == ["A", "Z", "AA", "AB", "ZZ", "AAA"]


def test_borda_mean_of_annotators_and_tau_of_opposites():
    a, b = [["x"], ["y"], ["z"]], [["y"], ["x"], ["z"]]
    assert borda([a, b]) == [["x", "y"], ["z"]]
    assert borda([a, a, b]) == a
    assert kendall(a, a) == 1 and kendall(a, a[::-1]) == -1
    assert kendall(a, [["x", "y", "z"]]) == 0
    assert kendall(a, b) == pytest.approx(1 / 3)


def test_kendall_and_spearman_equal_scipy():
    rng = random.Random(0)
    for _ in range(50):
        x, y = ([rng.randrange(4) for _ in range(7)] for _ in range(2))
        if len(set(x)) == 1 or len(set(y)) == 1:
            continue
        rankings = [
            [[str(i) for i in range(7) if values[i] == v] for v in sorted(set(values), reverse=True)]
            for values in (x, y)
        ]
        assert kendall(*rankings) == pytest.approx(stats.kendalltau(x, y).statistic)
        assert spearman(x, y) == pytest.approx(stats.spearmanr(x, y).statistic)
