"""What does not fit or says nothing is left out, counted and named before training; rows are as wide as they need."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import world
from world import Letters, ranked, write

from tigerjax.align import encoding, overlong, pair_loader, preference, reward, reward_data, score, widths
from tigerjax.align.answers import Answer, Existing
from tigerjax.config import DpoConfig
from tigerjax.errors import DataError

TOKENIZER = Letters()


def letters(number):
    return "".join("abcdefghij"[int(digit)] for digit in str(number))


def pair(prompt, chosen="good", rejected="bad"):
    return {"prompt_id": prompt, "prompt": prompt, "chosen": chosen, "rejected": rejected}


def fitted(tmp_path, records, seq_len=24, max_dropped=0.5):
    read = reward_data.read(write(tmp_path, records))
    return overlong.fit(*read, TOKENIZER, seq_len=seq_len, max_dropped=max_dropped)


def test_one_overlong_pair_is_left_out_counted_and_named(tmp_path, capsys):
    records = [pair(f"q {letters(i)}") for i in range(9)] + [pair("long one", rejected="x" * 90)]
    kept, counts = fitted(tmp_path, records)
    assert len(kept) == 9 and counts["in"] == 10 and counts["out"] == 9
    assert counts["dropped"] == {"overlong": 1} and "named" not in counts
    told = capsys.readouterr().err
    assert "1 of 10 pairs (10%) are left out: 1 longer than seq_len, such as " in told
    assert "preferences.jsonl:10: id 'long one'" in told


def test_many_overlong_pairs_are_one_line_with_their_count_and_the_first_three(tmp_path, capsys):
    records = [{k: v for k, v in pair(f"q {letters(i)}").items() if k != "prompt_id"} for i in range(9)]
    fitted(tmp_path, records[:4] + [r | {"rejected": "x" * 90} for r in records[4:]], max_dropped=0.6)
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and "5 of 9 pairs (56%) are left out: 5 longer than seq_len" in told
    assert all(f"preferences.jsonl:{line}" in told for line in (5, 6, 7)) and "preferences.jsonl:8" not in told


def test_of_a_ranking_only_the_overlong_answer_is_lost_and_the_prompt_still_weighs_one(tmp_path):
    (one,), counts = fitted(tmp_path, [ranked("q", ["a", "x" * 90, "c"], [["r0"], ["r1"], ["r2"]])], max_dropped=0.7)
    assert [text for text, _ in one.answers] == ["a", "c"] and one.pairs == (reward_data.Pair(0, 1, 1.0, 0.0),)
    assert counts["dropped"] == {"overlong": 2} and counts["out"] == 1


def test_more_than_max_dropped_is_an_error_that_names_the_option(tmp_path):
    records = [pair("q a"), pair("q b", rejected="x" * 90), pair("q c", chosen="x" * 90)]
    with pytest.raises(DataError, match=r"2 of 3 pairs \(67%\).*at most 50% may be.*--data.max-dropped"):
        fitted(tmp_path, records)
    assert len(fitted(tmp_path, records, max_dropped=0.67)[0]) == 1
    with pytest.raises(DataError, match=r"too few are left: raise data\.seq_len"):
        fitted(tmp_path, records[1:], max_dropped=1.0)


def test_empty_texts_and_foreign_prompts_are_counted_and_named(tmp_path, capsys):
    foreign = {"id": "x7", "chosen": "\n\nHuman: a\n\nAssistant: b", "rejected": "\n\nHuman: c\n\nAssistant: d"}
    records = [pair("q a"), pair("q b"), pair("q c"), pair("q d", rejected=""), foreign]
    _, counts = fitted(tmp_path, [*records, ranked("q", ["a", " "], [["r0"], ["r1"]])])
    assert counts["dropped"] == {"empty": 2, "other_prompt": 1} and counts["in"] == 6
    told = capsys.readouterr().err
    assert "2 with an empty text" in told and "preferences.jsonl:4" in told and "preferences.jsonl:6" in told
    assert "id 'x7'" in told and told.count("\n") == 1


def test_whatever_is_no_pair_is_counted_where_the_user_sees_it(tmp_path, capsys):
    scores = {"a": 5, "b": 2, "c": 2}
    tied = {"instruction": "q t", "completions": [{"response": t, "overall_score": n} for t, n in scores.items()]}
    records = [pair("q a"), pair("q b", rejected="good"), pair("q c", rejected="good"), tied]
    _, counts = fitted(tmp_path, records, max_dropped=0.0)
    assert counts["dropped"] == {"identical": 2, "tie": 1}
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and "2 of the same text twice, such as " in told and "preferences.jsonl:2" in told
    assert "1 of answers ranked alike, such as " in told and "preferences.jsonl:4" in told


def test_answers_that_are_preferred_both_ways_are_trained_on_counted_and_named(tmp_path, capsys):
    turned = pair("q a", chosen="bad", rejected="good") | {"prompt_id": "other name"}
    records = [pair("q a"), pair("q b"), turned, turned, pair("q c"), pair("q d", rejected="")]
    kept, counts = fitted(tmp_path, [*records, pair("q b", chosen="ok")])
    assert counts["both_ways"] == 1 and counts["dropped"] == {"empty": 1} and len(kept[0].pairs) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and "1 of 7 pairs (14%) are left out: 1 with an empty text, such as " in told
    assert "; 1 pairs of answers are preferred both ways, such as " in told and "jsonl:3: id 'other name', and" in told
    long = pair("q e", chosen="x" * 90), pair("q e", chosen="bad", rejected="x" * 90)
    assert "both_ways" not in fitted(tmp_path, [*records[1:2], *long], max_dropped=0.9)[1]
    assert "both ways" not in capsys.readouterr().err
    ranks = [ranked("q", ["a", "b", "c"], ranking) for ranking in ([["r0"], ["r1"], ["r2"]], [["r2"], ["r1"], ["r0"]])]
    assert fitted(tmp_path, ranks)[1]["both_ways"] == 3


def test_an_overlong_reference_is_left_out_before_training(capsys):
    def example(name, answer):
        return {"id": name, "messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": answer}]}

    reference = [example("a", "yes"), example("b", "no"), example("c", "x" * 90)]
    room = {"seq_len": 24, "max_dropped": 0.5}
    assert [e["id"] for e in overlong.fitting_reference(reference, TOKENIZER, **room)] == ["a", "b"]
    assert (
        "reference: 1 of 3 examples (33%) are left out: 1 longer than seq_len, such as 'c'" in capsys.readouterr().err
    )
    with pytest.raises(DataError, match="2 of 3 examples"):
        overlong.fitting_reference([reference[0], reference[2], reference[2]], TOKENIZER, **room)


LONG = {"id": "c", "messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "x" * 90}]}
SHORT = {"id": "a", "messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yes"}]}


@pytest.mark.parametrize(
    ("rejected", "reference", "message"),
    [("x" * 90, [SHORT], "2 of 3 pairs"), ("bad", [SHORT, LONG, LONG], "reference: 2 of 3 examples")],
)
def test_a_reward_model_is_not_begun_on_less_than_the_limit_leaves(tmp_path, rejected, reference, message):
    """The model that it would start from is not even opened: there is none."""
    records = [pair("q a"), pair("q b", rejected=rejected), pair("q c", rejected=rejected)]
    data = reward_data.RewardData(write(tmp_path, records), reference)
    config = world.run_config(4)
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, seq_len=24, max_dropped=0.5))
    where = {"init": tmp_path / "none", "run_dir": tmp_path / "run"}
    with pytest.raises(DataError, match=message):
        reward.train(config, reward.RewardConfig(), data=data, tokenizer=TOKENIZER, **where)
    assert not (tmp_path / "run").exists()


def test_preferences_of_which_too_few_fit_stop_a_run_on_them(tmp_path):
    records = [pair("q a"), pair("q b", rejected="x" * 90), pair("q c", rejected="x" * 90)]
    settings = DpoConfig(preferences=tuple(map(str, write(tmp_path, records))))
    config = dataclasses.replace(world.run_config(4), objective=settings)
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, seq_len=24, max_dropped=0.5))
    with pytest.raises(DataError, match="2 of 3 pairs"):
        preference.read(config, settings, TOKENIZER)


def test_calibration_does_not_begin_on_a_reference_of_which_too_little_fits(tmp_path, monkeypatch):
    (tmp_path / "meta.json").write_text("{}")
    monkeypatch.setattr(score, "Tokenizer", lambda path: TOKENIZER)
    monkeypatch.setattr(score, "load", lambda *a, **k: SimpleNamespace(extra={}, tokenizer=TOKENIZER))
    monkeypatch.setattr(score, "Scorer", lambda *a, **k: None)
    monkeypatch.setattr(score, "sft_examples", lambda files: [SHORT, LONG, LONG])
    config = SimpleNamespace(data=SimpleNamespace(tokenizer="tok", seq_len=24, max_dropped=0.5), compute=None)
    with pytest.raises(DataError, match="reference: 2 of 3 examples"):
        score.calibrate_model(config, tmp_path, [], rows=4, truncation_penalty=1.5)


def test_a_prompt_with_60_pairs_does_not_widen_the_rows_of_others(tmp_path):
    records = [pair(f"q {letters(i)}") for i in range(300)]
    records += [pair("many", chosen=f"good {letters(i)}", rejected=f"bad {letters(i)}") for i in range(60)]
    comparisons = reward_data.read(write(tmp_path, records))[0]
    groups = widths.to_batches(comparisons, TOKENIZER, seq_len=24)
    loader = pair_loader.PairLoader(groups, batch_rows=16, seed=0, tokenizer_sha256="")
    epoch = [next(loader) for _ in range(loader.steps_per_epoch)]
    used = sum((batch.last_BC >= 0).sum() for batch in epoch)
    places = sum(batch.last_BC.size for batch in epoch)
    assert used == 720 and places <= 1.05 * used
    assert sum(batch.pairs_BCC.sum() for batch in epoch) == pytest.approx(301)  # each prompt still counts once


@pytest.mark.parametrize("best_only", [False, True])
def test_a_ranking_of_60_answers_keeps_every_pair_in_rows_of_at_most_16(tmp_path, best_only):
    texts = [f"answer {letters(i)}" for i in range(60)]
    ranking = [["r0"]] if best_only else [[f"r{i}"] for i in range(60)]
    (one,) = reward_data.read(write(tmp_path, [ranked("q", texts, ranking)]))[0]
    rows = widths.cut(one, [1] * 60, widths.MOST_ANSWERS)
    assert len(rows) == (7 if best_only else 28) and max(len(row.answers) for row in rows) <= widths.MOST_ANSWERS
    kept = [(row.answers[p.winner], row.answers[p.loser], p.weight) for row in rows for p in row.pairs]
    wanted = [(one.answers[p.winner], one.answers[p.loser], p.weight) for p in one.pairs]
    assert sorted(kept) == sorted(wanted)


def test_equal_widths_give_the_batches_that_one_group_gave(tmp_path):
    records = [ranked(f"q {letters(i)}", ["a", "b", "c"], [["r0"], ["r1"], ["r2"]]) for i in range(10)]
    comparisons = reward_data.read(write(tmp_path, records))[0]
    whole = reward_data.to_batch(comparisons, TOKENIZER, seq_len=24)
    (group,) = widths.to_batches(comparisons, TOKENIZER, seq_len=24)
    assert all(np.array_equal(a, b) for a, b in zip(whole, group, strict=True))
    assert widths.cut(comparisons[0], [1] * 3, widths.MOST_ANSWERS) == [comparisons[0]]


def test_an_epoch_of_several_widths_holds_every_prompt_once_and_resumes_in_place(tmp_path):
    records = [pair(f"q {letters(i)}") for i in range(9)]
    records += [ranked(f"k {letters(i)}", ["a", "b", "c"], [["r0"], ["r1"], ["r2"]]) for i in range(5)]
    groups = widths.to_batches(reward_data.read(write(tmp_path, records))[0], TOKENIZER, seq_len=24)

    def make():
        return pair_loader.PairLoader(groups, batch_rows=4, seed=1, tokenizer_sha256="x")

    loader = make()
    assert loader.steps_per_epoch == 3 + 2
    batches = [next(loader) for _ in range(10)]
    for epoch in (batches[:5], batches[5:]):
        assert sum(b.pairs_BCC.sum() for b in epoch) == pytest.approx(14.0)
        assert sorted(b.tokens_BCT.shape[1] for b in epoch) == [2, 2, 2, 3, 3]
    other, resumed = make(), make()
    [next(other) for _ in range(7)]
    resumed.restore(other.state())
    assert all((a == b).all() for a, b in zip(next(resumed), batches[7], strict=True))


def test_a_question_that_leaves_one_token_is_scored_as_truncated(capsys):
    question = [{"role": "user", "content": "a" * 10}]
    length = len(encoding.encode_answer(TOKENIZER, question, "", "length", seq_len=99, where="x").ids)
    ids, finishes = encoding.encode_all(
        TOKENIZER, [Answer(question, "b", "stop"), Answer(question, "", "stop")], seq_len=length + 1
    )
    assert [len(one) for one in ids] == [length + 1, length + 1] and finishes == ["length", "stop"]
    assert "1 of 2 answers do not fit" in capsys.readouterr().err
    with pytest.raises(DataError, match=r"answer 1 to score, to 'aaaaaaaaaa': question and answer have"):
        encoding.encode_all(TOKENIZER, [Answer(question, "b", "stop")], seq_len=length)


def test_an_existing_answer_that_does_not_fit_has_no_score_instead_of_a_bad_one(capsys):
    question = [{"role": "user", "content": "a"}]
    answers = [
        Answer(question, "b" * 60, "stop"),
        Existing(question, "b" * 60, "stop"),
        Existing(question, "b", "stop"),
    ]
    ids, finishes = encoding.encode_all(TOKENIZER, answers, seq_len=24)
    assert [one and len(one) for one in ids] == [24, None, 5] and finishes == ["length", "stop", "stop"]
    assert "1 of 2 existing answers do not fit seq_len=24 and have no score" in capsys.readouterr().err


@pytest.mark.parametrize("bad", [{"id": ["r0"], "text": "a"}, {"id": None, "text": "a"}])
def test_an_id_of_a_response_that_is_no_name_is_refused(tmp_path, bad):
    with pytest.raises(DataError, match=r"preferences\.jsonl:1: "):
        reward_data.read(write(tmp_path, [ranked("q", [], [["r0"]], responses=[bad])]))
    with pytest.raises(DataError, match=r"preferences\.jsonl:1: ranking names response"):
        reward_data.read(write(tmp_path, [ranked("q", ["a", "b"], [[["r0"]]])]))
