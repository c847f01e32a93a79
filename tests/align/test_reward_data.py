"""Preference data: pairs, their weights, the split, batches and what is refused."""

import json

import numpy as np
import pytest
from world import USER, Letters, ranked, write

from tigerjax.align import pair_loader, reward_data
from tigerjax.errors import ConfigError, DataError

TOKENIZER = Letters()


def test_one_ranking_of_ten_is_45_pairs_of_total_weight_one(tmp_path):
    texts = [f"answer {'abcdefghij'[i]}" for i in range(10)]
    (one,), counts = reward_data.read(write(tmp_path, [ranked("q", texts, [[f"r{i}"] for i in range(10)])]))
    assert len(one.pairs) == 45 == counts["in"] == counts["out"]
    assert sum(p.weight for p in one.pairs) == pytest.approx(1.0)
    batch = reward_data.to_batch([one], TOKENIZER, seq_len=32)
    assert reward_data.to_batch([one], TOKENIZER, seq_len=4096, multiple=512).tokens_BCT.shape == (1, 10, 512)
    assert np.count_nonzero(batch.pairs_BCC) == 45 and batch.pairs_BCC.sum() == pytest.approx(1.0)


def test_ties_and_identical_texts_are_dropped_and_counted(tmp_path):
    records = [
        ranked("q", ["a", "b", "c", "a"], [["r0"], ["r1", "r2"], ["r3"]]),
        ranked("unlisted", ["a", "b", "c"], [["r1"]]),
        {"messages": [{"role": "user", "content": "pair"}], "chosen": "x", "rejected": "y", "margin": 0.5},
        {"messages": [{"role": "user", "content": "same"}], "chosen": "x", "rejected": "x"},
    ]
    got, counts = reward_data.read(write(tmp_path, records))
    assert counts["dropped"] == {"tie": 2, "identical": 2} and counts["out"] == 4 + 2 + 1
    assert counts["in"] == counts["out"] + 4
    assert counts["prompts"] == 3 and counts["prompts_without_pairs"] == 1
    assert all(sum(p.weight for p in c.pairs) == pytest.approx(1.0) for c in got)
    assert got[2].pairs == (reward_data.Pair(0, 1, 1.0, 0.5),)


def test_pairs_of_one_prompt_in_several_records_stay_together_and_weigh_one(tmp_path):
    pair = {"messages": USER, "chosen": "a", "rejected": "b"}
    records = [pair, pair | {"rejected": "c", "strength": 2, "margin": 1.0}]
    (one,), _ = reward_data.read(write(tmp_path, records))
    assert one.pairs == (reward_data.Pair(0, 1, 1 / 3, 0.0), reward_data.Pair(0, 2, 2 / 3, 1.0))


@pytest.mark.parametrize(
    "bad",
    [
        ranked("q", ["a", "b"], [["r0"], ["r7"]]),
        ranked("q", ["a", "b"], [["r0"], ["r0"]]),
        ranked("q", ["a", "b"], [["r0"], []]),
        ranked("q", ["a", "b"], "r0"),
        ranked("q", ["a", "b"], [["r0"]], messages=[{"role": "assistant", "content": "x"}]),
        ranked("q", ["a", "b"], [["r0"]], responses=[{"id": "r0"}]),
        ranked("q", ["a", "b"], [["r0"]], responses=[{"id": "r0", "text": "x", "finish": "maybe"}]),
        ranked("first", ["a", "b"], [["r0"]], messages=[{"role": "user", "content": "another"}]),
        {"messages": USER, "chosen": "x"},
        {"messages": USER, "chosen": "x", "rejected": "y", "margin": -1},
    ],
)
def test_a_broken_preference_is_refused_with_file_and_line(tmp_path, bad):
    with pytest.raises(DataError, match=r"preferences\.jsonl:2: "):
        reward_data.read(write(tmp_path, [ranked("first", ["a", "b"], [["r0"]]), bad]))


def test_the_split_is_by_prompt_and_keeps_its_sides_when_prompts_are_added(tmp_path):
    records = [ranked(f"q {a}{b}", ["a", "b"], [["r0"]]) for a in "abcdefgh" for b in "abcdefghij"]
    all_prompts, _ = reward_data.read(write(tmp_path, records))
    train, test = reward_data.split(all_prompts, eval_fraction=0.25, seed=0)
    assert len(train) + len(test) == 80 and 10 <= len(test) <= 30
    small_train, small_test = reward_data.split(all_prompts[:40], eval_fraction=0.25, seed=0)
    assert {c.prompt_id for c in small_test} <= {c.prompt_id for c in test}
    assert {c.prompt_id for c in small_train} <= {c.prompt_id for c in train}
    with pytest.raises(ConfigError, match="eval_fraction"):
        reward_data.split(all_prompts[:1], eval_fraction=0.5, seed=0)


def test_rows_are_as_long_as_the_longest_chat(tmp_path):
    records = [ranked("q", ["a", "b"], [["r0"]]), ranked("q q q q q q q", ["a a a", "b"], [["r0"]])]
    comparisons = reward_data.read(write(tmp_path, records))[0]
    batch = reward_data.to_batch(comparisons, TOKENIZER, seq_len=99)
    longest = int(batch.last_BC.max()) + 1
    assert batch.tokens_BCT.shape[2] == -(-longest // 16) * 16 < 99
    assert reward_data.to_batch(comparisons, TOKENIZER, seq_len=longest).tokens_BCT.shape[2] == longest


def test_an_epoch_holds_every_prompt_once_and_resumes_in_place(tmp_path):
    records = [ranked(f"q {c}", ["a", "b"], [["r0"]]) for c in "abcdefghij"]
    batch = reward_data.to_batch(reward_data.read(write(tmp_path, records))[0], TOKENIZER, seq_len=16)

    def make():
        return pair_loader.PairLoader([batch], batch_rows=4, seed=1, tokenizer_sha256="x")

    loader = make()
    assert loader.steps_per_epoch == 3
    batches = [next(loader) for _ in range(6)]
    for epoch in (batches[:3], batches[3:]):
        seen = [tuple(row[0]) for b in epoch for row, last in zip(b.tokens_BCT, b.last_BC, strict=True) if last[0] >= 0]
        assert len(seen) == 10 == len(set(seen))
        assert sum(b.pairs_BCC.sum() for b in epoch) == pytest.approx(10.0)
    other = make()
    [next(other) for _ in range(2)]
    resumed = make()
    resumed.restore(json.loads(json.dumps(other.state())))
    assert all((a == b).all() for a, b in zip(next(resumed), batches[2], strict=True))
    with pytest.raises(ConfigError, match="global_batch_size"):
        pair_loader.PairLoader([batch], batch_rows=2, seed=1, tokenizer_sha256="x").restore(other.state())


def test_long_chats_lose_their_oldest_turns_and_never_the_answer():
    turns = [
        {"role": "user", "content": "aaaa"},
        {"role": "assistant", "content": "bbbb"},
        {"role": "user", "content": "cccc"},
    ]
    whole = reward_data.encode_answer(TOKENIZER, turns, "dddd", "stop", seq_len=99, where="x").ids
    short = reward_data.encode_answer(TOKENIZER, turns, "dddd", "stop", seq_len=len(whole) - 1, where="x").ids
    assert short == reward_data.encode_answer(TOKENIZER, turns[2:], "dddd", "stop", seq_len=99, where="x").ids
    with pytest.raises(DataError, match="seq_len"):
        reward_data.encode_answer(TOKENIZER, turns, "dddd", "stop", seq_len=10, where="x")


def test_an_answer_without_eos_is_refused_unless_it_was_truncated():
    ids = reward_data.encode_answer(TOKENIZER, USER, "ok", "length", seq_len=99, where="x").ids
    assert ids[-1] != TOKENIZER.eos
    reward_data.check_end(TOKENIZER, ids, "length", "x")
    with pytest.raises(DataError, match="eos"):
        reward_data.check_end(TOKENIZER, ids, "stop", "x")
