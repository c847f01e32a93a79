"""Mistakes that public alignment code has made, each as a test that would see it here."""

import json

import pytest
from test_rounds import World

from tigerjax.align import reward_data
from tigerjax.align.answers import score_records, totals
from tigerjax.align.config import AlignConfig
from tigerjax.align.mix import mix
from tigerjax.align.people.labels import Verdict
from tigerjax.align.people.queue import build
from tigerjax.align.prompts import select
from tigerjax.align.rank import rank
from tigerjax.data.rows import pack
from tigerjax.errors import DataError
from tigerjax.files.jsonl import write_jsonl

SIZES = (1, 7, 100, 10_007)


def example(i, prompt=None):
    turns = [{"role": "user", "content": prompt or f"question {i}"}, {"role": "assistant", "content": f"old {i}"}]
    return {"id": f"e{i:05d}", "messages": turns, "task": ("qa", "poem", "code")[i % 3], "lang": ("zh", "en")[i % 2]}


def sampled(prompt_id, texts, finishes=None, question=None):
    finishes = finishes or ["stop"] * len(texts)
    candidates = [
        {"cid": f"{prompt_id}/{k}", "text": text, "finish": finish}
        for k, (text, finish) in enumerate(zip(texts, finishes, strict=True))
    ]
    messages = [{"role": "user", "content": question or f"question of {prompt_id}"}]
    return {"prompt_id": prompt_id, "messages": messages, "reference": "old", "candidates": candidates}


def best(records):
    return {r["prompt_id"]: r["ranking"][0]["text"] for r in rank(records, {}).records}


def test_outputs_stay_with_their_prompt_when_a_length_filter_drops_some(tmp_path):
    """Zipping prompts with outputs after a filter shifts every later answer by one."""
    world = World(tmp_path / "w")

    def filtered(prompts, place):
        answered = [p for i, p in enumerate(prompts) if i % 3]
        for p in answered[::-1]:
            texts = [f"answer {k} to {p['messages'][0]['content']}" for k in (1, 2)]
            candidates = [{"cid": f"{p['prompt_id']}/{t}", "text": t, "finish": "stop"} for t in texts]
            yield {"prompt_id": p["prompt_id"], "messages": p["messages"], "candidates": candidates}

    config = AlignConfig(prompt_fraction=0.1, seed=0, beat_reference=False, allow_partial=True)
    got = world.run(config=config, sample=filtered, labels=lambda queue: [])
    new = [json.loads(line) for line in got.sft.read_text().splitlines() if "rejection_sampling" in line]
    assert len(new) == 20 - 7 and got.figures["counts"]["sample"]["dropped"] == {"skipped": 7}
    assert all(e["messages"][1]["content"] == f"answer 2 to {e['messages'][0]['content']}" for e in new)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_score_that_is_no_number_never_wins_from_scoring_to_ranking(bad):
    """max() and sorted() keep a NaN wherever it happens to stand."""
    for place in range(3):
        records = [sampled("p", ["a", "b", "c"])]
        values = [0.1, 0.2, 0.3]
        values[place] = bad
        scored, dropped = score_records(records, lambda items, values=values: totals([*values, 0.0]))
        assert not dropped and best(scored)["p"] == ("c" if place < 2 else "b")
        shown = build(
            scored, rank_fraction=1.0, edit_fraction=0.5, edit_within_ranked=True, seed=0, round_index=1
        ).items[0]["candidates"]
        assert len(shown) == 2  # people are not asked about it either
    nothing, dropped = score_records([sampled("p", ["a", "b"])], lambda items: totals([bad, bad, 0.0]))
    assert not nothing and dropped == {"no_valid_candidate": 1}


def test_two_prompts_of_one_text_are_ranked_apart():
    """Grouping candidates by prompt text makes one group of them, and one of the two loses its answer."""
    records = [sampled(p, [f"{p} low", f"{p} high"], question="the same question") for p in ("p1", "p2")]
    scored, _ = score_records(records, lambda items: totals(float("high" in text) for _, text, *_ in items))
    assert best(scored) == {"p1": "p1 high", "p2": "p2 high"}
    verdict = {"p2": Verdict([["p2/0"], ["p2/1"]], [], [], ["a"])}
    assert {r["prompt_id"]: r["ranking"][0]["text"] for r in rank(scored, verdict).records} == {
        "p1": "p1 high",
        "p2": "p2 low",
    }


@pytest.mark.parametrize("n", SIZES)
def test_no_remainder_is_dropped_from_prompts_to_mixed_set(n):
    """len // shards * shards loses the tail; here every prompt is drawn, scored, asked or not, ranked and mixed."""
    drawn = select([example(i) for i in range(n)], fraction=1.0, seed=0, round_index=1, allow_fraction=True).prompts
    records = [sampled(p["prompt_id"], ["good", "bad"]) for p in drawn]
    scored, _ = score_records(records, lambda items: totals(float(text == "good") for _, text, *_ in items))
    asked = build(scored, rank_fraction=0.05, edit_fraction=0.01, edit_within_ranked=True, seed=0, round_index=1)
    people = {item["prompt_id"] for item in asked.items}
    assert asked.counts == {"prompts": n, "rank": -(-n // 20), "edit": -(-n // 100), "shown": -(-n // 20)}
    verdicts = {p: Verdict([[f"{p}/1"], [f"{p}/0"]], [], [], ["a"]) for p in people}
    edited = sorted(item["prompt_id"] for item in asked.items if item["edit"])
    for p in edited:
        verdicts[p].edits.append({"annotator": "a", "base": f"{p}/0", "text": f"edited {p}"})
    ranked = rank(scored, verdicts)
    assert ranked.counts["provenance"] == {
        key: count
        for key, count in {"rm": n - len(people), "human": len(people) - len(edited), "edit": len(edited)}.items()
        if count
    }
    mixed = mix(
        [example(i) for i in range(n)],
        ranked.records,
        round_index=1,
        top_m=1,
        min_score=None,
        beat_reference=False,
        on_conflict="replace",
        weights={"rm": 1.0, "human": 1.0, "edit": 1.0},
    )
    assert len(mixed.examples) == n and mixed.counts["winner_share"] == 1.0
    by_prompt = {e["prompt_id"]: e["messages"][-1]["content"] for e in mixed.examples}
    assert all(
        text == (f"edited {p}" if p in edited else "bad" if p in people else "good") for p, text in by_prompt.items()
    )


@pytest.mark.parametrize("finish", ["length", "marker"])
def test_an_answer_that_was_cut_off_never_wins_however_well_it_scores(finish):
    records = [sampled("p", ["cut off in the", "whole."], [finish, "stop"]), sampled("q", ["cut"], [finish])]
    scored, _ = score_records(records, lambda items: totals(9.0 * (text != "whole.") for _, text, *_ in items))
    ranked = rank(scored, {})
    assert {r["prompt_id"]: r["ranking"][0]["text"] for r in ranked.records} == {"p": "whole."}
    assert ranked.counts["dropped"] == {"no_winner_truncated": 1}


def test_a_packed_row_never_holds_part_of_an_example_and_what_is_left_out_is_counted():
    """Truncating to the row length silently trains on answers without an end."""
    packed = pack([([1] * n, [0] + [1] * (n - 1)) for n in (3, 9, 4, 5, 12)], 8)
    lengths = sorted(int((row[1] == s).sum()) for row in packed.rows for s in range(1, row[1].max() + 1))
    assert lengths == [3, 4, 5] and packed.overlong == [1, 4]


def test_a_sampler_that_answers_a_prompt_twice_is_refused(tmp_path):
    world = World(tmp_path / "w")
    with pytest.raises(DataError, match="twice"):
        world.run(sample=lambda prompts, place: [*world.sample(prompts, place)] * 2)


def test_gold_preferences_of_people_reach_the_next_reward_model_beside_those_of_the_round(tmp_path):
    world, gold = World(tmp_path / "w"), tmp_path / "gold.jsonl"
    pair = {"prompt_id": "g", "messages": [{"role": "user", "content": "gold"}], "chosen": "yes", "rejected": "no"}
    write_jsonl(gold, [pair])
    got = world.run(gold=[gold])
    written = [json.loads(line) for line in (got.folder / "rank" / "preferences.jsonl").read_text().splitlines()]
    assert [r["provenance"] for r in written].count("gold") == 1 and len(written) > 1
    comparisons, _ = reward_data.read([got.folder / "rank" / "preferences.jsonl"])
    assert "g" in {c.prompt_id for c in comparisons}
