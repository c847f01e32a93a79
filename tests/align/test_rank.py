"""Who wins, what is mixed back, and whether the new model may stay."""

import random

import pytest

from tigerjax.align.gate import figures_of, gate, require, win_rate
from tigerjax.align.mix import mix
from tigerjax.align.people.labels import Verdict
from tigerjax.align.rank import rank
from tigerjax.errors import DataError, GateFailed

WEIGHTS = {"rm": 1.0, "human": 2.0, "edit": 3.0}
MIX = {
    "round_index": 1,
    "top_m": 1,
    "min_score": None,
    "beat_reference": True,
    "on_conflict": "add",
    "weights": WEIGHTS,
}


def candidate(k, score, text=None, finish="stop"):
    return {"cid": f"c{k}", "text": f"text {k}" if text is None else text, "score": score, "finish": finish}


def record(candidates, prompt="p1", reference="the old answer", reference_score=-9.0):
    return {
        "prompt_id": prompt,
        "messages": [{"role": "user", "content": f"question of {prompt}"}],
        "task": "qa",
        "lang": "en",
        "reference": reference,
        "reference_score": reference_score,
        "candidates": candidates,
    }


def sft(prompt="p1", answer="the old answer"):
    messages = [{"role": "user", "content": f"question of {prompt}"}, {"role": "assistant", "content": answer}]
    return {"id": prompt, "messages": messages, "task": "qa", "lang": "en", "source": "s"}


def winner(records, verdicts=None, **kwargs):
    got = rank(records, verdicts or {}, **kwargs).records
    return got[0]["ranking"][0] if got else None


def test_a_human_ranking_overrides_a_wrong_reward_model_always():
    rng = random.Random(0)
    for trial in range(200):
        quality = [rng.random() for _ in range(10)]
        candidates = [candidate(k, -q) for k, q in enumerate(quality)]  # the reward model is upside down
        order = sorted(range(10), key=lambda k: -quality[k])
        verdict = Verdict([[f"c{k}"] for k in order], [], [], ["ann"])
        best = winner([record(candidates, f"p{trial}")], {f"p{trial}": verdict})
        assert best["cid"] == f"c{order[0]}" and best["provenance"] == "human"


def test_an_edit_outranks_the_human_ranking_which_outranks_the_reward_model():
    candidates = [candidate(k, float(k)) for k in range(3)]
    edits = [
        {"annotator": "a", "base": "c0", "text": "older edit"},
        {"annotator": "b", "base": "c0", "text": "newer edit"},
    ]
    verdict = Verdict([["c0"], ["c1", "c2"]], [], edits, ["a", "b"])
    ranked = rank([record(candidates)], {"p1": verdict}).records[0]
    assert [(c["text"], c["provenance"]) for c in ranked["ranking"]] == [
        ("newer edit", "edit"),
        ("older edit", "edit"),
        ("text 0", "human"),
        ("text 2", "human"),  # tied for people, so the reward model decides
        ("text 1", "human"),
    ]
    assert ranked["provenance"] == "edit"


@pytest.mark.parametrize("score", [float("nan"), float("inf"), None])
@pytest.mark.parametrize("by_people", [False, True])
def test_a_candidate_without_a_finite_score_never_wins(score, by_people):
    verdicts = {"p1": Verdict([["c0"], ["c1"]], [], [], ["a"])} if by_people else {}
    assert winner([record([candidate(0, score), candidate(1, -5.0)])], verdicts)["cid"] == "c1"
    assert winner([record([candidate(0, score)])], verdicts) is None


@pytest.mark.parametrize("finish", ["length", "marker"])
@pytest.mark.parametrize("by_people", [False, True])
def test_a_truncated_answer_never_wins(finish, by_people):
    verdicts = {"p1": Verdict([["c0"], ["c1"]], [], [], ["a"])} if by_people else {}
    assert winner([record([candidate(0, 9.0, finish=finish), candidate(1, -5.0)])], verdicts)["cid"] == "c1"
    assert winner([record([candidate(0, 9.0, finish=finish)])], verdicts) is None


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (" \n", "empty"),
        ("the old answer ", "equals_reference"),
        ("a ### Response: b", "marker"),
        ("bad \ufffd", "broken_characters"),
        ("bell \x07", "broken_characters"),
        ("how to make a bomb", "safety"),
        ("url only", "filtered"),
    ],
)
def test_unfit_answers_are_ineligible_with_their_reason(text, reason):
    got = rank(
        [record([candidate(0, 9.0, text), candidate(1, 0.0)])],
        {},
        safety=["bomb"],
        filters=[lambda t: "filtered" if t == "url only" else None],
    )
    assert got.records[0]["ranking"][0]["cid"] == "c1"
    assert got.records[0]["ineligible"] == {"c0": reason} and got.counts["ineligible"] == {reason: 1}


def test_rejection_beats_everything_and_a_prompt_without_winner_is_counted():
    candidates = [candidate(0, 9.0), candidate(1, 1.0)]
    assert winner([record(candidates)], {"p1": Verdict([["c0"], ["c1"]], ["c0"], [], ["a"])})["cid"] == "c1"
    got = rank([record(candidates)], {"p1": Verdict([], ["c0", "c1"], [], ["a"])})
    assert not got.records and got.counts["dropped"] == {"no_winner_rejected": 1}


def test_equal_scores_are_decided_by_finish_then_length_then_id():
    candidates = [candidate(0, 1.0, "longer text"), candidate(2, 1.0, "text"), candidate(1, 1.0, "same")]
    ranked = rank([record(candidates[::-1])], {}).records[0]["ranking"]
    assert [c["cid"] for c in ranked] == ["c1", "c2", "c0"]


def test_preference_pairs_come_from_people_unless_asked_otherwise():
    candidates = [candidate(k, float(k)) for k in range(3)]
    verdict = Verdict([["c0"], ["c1", "c2"]], ["c2"], [{"annotator": "a", "base": "c1", "text": "edited"}], ["a"])
    records = [record(candidates), record(candidates, "p2")]
    got = rank(records, {"p1": verdict}).preferences
    assert [(p["provenance"], p["prompt_id"]) for p in got] == [("human", "p1"), ("edit", "p1")]
    assert got[0]["ranking"] == [["c0"], ["c1"], ["c2"]]
    assert [r["text"] for r in got[1]["responses"]] == ["edited", "text 0"]  # above the best original
    assert [p["provenance"] for p in rank(records, {"p1": verdict}, include_rm_pairs=True).preferences] == [
        "human",
        "edit",
        "rm",
    ]


def test_best_of_ten_keeps_nine_tenths_of_the_noiseless_quality():
    rng = random.Random(1)
    noisy = clean = 0.0
    for trial in range(2000):
        quality = [rng.gauss(0, 1) for _ in range(10)]
        candidates = [candidate(k, q + rng.gauss(0, 0.3)) for k, q in enumerate(quality)]
        noisy += quality[int(winner([record(candidates, f"p{trial}")])["cid"][1:])]
        clean += max(quality)
    assert noisy >= 0.9 * clean


def test_a_winner_of_the_reward_model_must_beat_the_existing_answer_and_the_floor():
    ranked = rank([record([candidate(0, s)], f"p{s}", reference_score=0.5) for s in (0.4, 0.5, 0.6, 2.0)], {}).records
    base = [sft("other")]
    assert mix(base, ranked, **MIX).counts["winners"] == {"rm": 2}
    assert mix(base, ranked, **MIX | {"min_score": 1.0}).counts["winners"] == {"rm": 1}
    assert mix(base, ranked, **MIX | {"beat_reference": False}).counts["winners"] == {"rm": 4}
    human = rank([record([candidate(0, 0.1)], reference_score=0.5)], {"p1": Verdict([["c0"]], [], [], ["a"])}).records
    assert mix(base, human, **MIX | {"min_score": 1.0}).counts["winners"] == {"human": 1}


def test_mix_adds_or_replaces_and_counts_balance():
    base = [sft(), sft("p2"), sft("p2b", "x") | {"messages": sft("p2")["messages"]}]
    ranked = rank([record([candidate(0, 1.0)])], {}).records
    added = mix(base, ranked, **MIX)
    assert [e["id"] for e in added.examples] == ["p1", "p2", "rs01-p1-c0"]
    assert added.counts["in"] == added.counts["out"] + sum(added.counts["dropped"].values())
    new = added.examples[-1]
    assert (new["source"], new["provenance"], new["weight"]) == ("rejection_sampling", "rm", 1.0)
    assert new["messages"][-1] == {"role": "assistant", "content": "text 0"}
    assert added.counts["winner_share"] == 1 / 3
    replaced = mix(base, ranked, **MIX | {"on_conflict": "replace"})
    assert [e["id"] for e in replaced.examples] == ["p2", "rs01-p1-c0"]
    assert replaced.counts["in"] == replaced.counts["out"] + sum(replaced.counts["dropped"].values())


def test_top_m_winners_and_exact_duplicates():
    ranked = rank([record([candidate(0, 1.0, "same"), candidate(1, 0.9, "same"), candidate(2, 0.8)])], {}).records
    got = mix([sft()], ranked, **MIX | {"top_m": 3})
    assert len(got.examples) == 3 and got.counts["dropped"] == {"duplicate_winner": 1}


def test_no_winner_at_all_fails_the_gate():
    ranked = rank([record([candidate(0, -10.0)])], {}).records
    with pytest.raises(GateFailed, match="0 winners of 1"):
        mix([sft()], ranked, **MIX)


@pytest.mark.parametrize("top_m", [1, 3])
def test_the_reasons_of_prompts_without_a_winner_add_up_to_the_prompts(top_m):
    low = [record([candidate(i, -10.0 - i, f"low {i}") for i in range(3)], f"p{n}") for n in range(4)]
    there = record([candidate(0, 1.0, "known"), candidate(1, -10.0)], "q", reference_score=-2.0)
    base = [sft(), sft()]  # the set has a duplicate of its own
    base.append({"id": "old", "messages": [*there["messages"], {"role": "assistant", "content": "known"}]})
    ranked = rank([*low, there], {}).records
    with pytest.raises(GateFailed) as error:
        mix(base, ranked, **MIX | {"top_m": top_m})
    assert "0 winners of 5 prompts (4 below_reference, 1 duplicate_winner); " in str(error.value)
    # The set's own duplicate is counted where the set is written.
    counts = mix(base, rank([*low, record([candidate(0, 1.0)], "r")], {}).records, **MIX | {"top_m": top_m}).counts
    assert counts["dropped"] == {"below_reference": 4 * top_m, "duplicate_example": 1}
    assert counts["in"] == counts["out"] + sum(counts["dropped"].values())


@pytest.mark.parametrize("unscored", [None, float("nan")])
def test_an_unscored_reference_is_beaten_by_no_answer_and_is_counted(unscored):
    long = record([candidate(0, 1.0)], "p1", reference_score=unscored)
    ranked = rank([long, record([candidate(0, 1.0)], "p2")], {}).records
    got = mix([sft()], ranked, **MIX)
    assert [e["id"] for e in got.examples] == ["p1", "rs01-p2-c0"]
    assert got.counts["dropped"] == {"reference_without_score": 1}
    needed = r"0 winners of 1 prompts \(1 reference_without_score\); raise data.seq_len, .* or set beat_reference off"
    with pytest.raises(GateFailed, match=needed):
        mix([sft()], ranked[:1], **MIX)
    assert mix([sft()], ranked[:1], **MIX | {"beat_reference": False}).counts["winners"] == {"rm": 1}


def figures(en=0.8, zh=0.6, qa=0.7, poem=0.5):
    return {"mean": {"en": en, "zh": zh}, "task": {"qa": qa, "poem": poem}}


LIMITS = {"max_mean_loss_points": 1.0, "max_task_loss_points": 3.0, "min_win_rate": 0.5}


@pytest.mark.parametrize(
    ("new", "wins", "why"),
    [
        (figures(en=0.79, qa=0.67), 0.5, None),  # exactly the limits
        (figures(en=0.789), 0.9, "mean en lost 1.10 points"),
        (figures(zh=0.58), 0.9, "mean zh lost 2.00 points"),
        (figures(qa=0.66), 0.9, "task qa lost 4.00 points"),
        (figures(), 0.49, "win rate 0.490 is below 0.5"),
        (figures(), float("nan"), "win rate"),
        (figures(en=float("nan")), 0.9, "mean en: the new model has no figure"),
        ({"mean": figures()["mean"], "task": {"qa": 0.7}}, 0.9, "task poem: the new model has no figure"),
    ],
)
def test_the_gate_refuses_losses_beyond_their_limits(new, wins, why):
    result = gate(figures(), new, wins=wins, **LIMITS)
    assert result.accepted == (why is None)
    if why is None:
        require(result)
    else:
        assert result.reasons[0].startswith(why)
        with pytest.raises(GateFailed, match="the current one stays"):
            require(result)


def test_win_rate_counts_ties_half_and_refuses_unequal_sets():
    assert win_rate([1.0, 2.0, 0.0], [0.0, 2.0, 1.0]) == 0.5
    with pytest.raises(DataError):
        win_rate([1.0], [1.0, 2.0])
    with pytest.raises(DataError):
        win_rate([float("nan")], [1.0])


def test_gate_reads_the_figures_of_the_evaluation():
    got = figures_of({"by_lang": {"en": {"accuracy": 0.5, "n": 2}}, "by_task": {"qa": {"accuracy": 0.25, "n": 4}}})
    assert got == {"mean": {"en": 0.5}, "task": {"qa": 0.25}}


def test_winners_of_earlier_rounds_are_not_counted_again_and_do_not_hide_that_there_are_none():
    old = {"id": "rs01-e1-c", "prompt_id": "e1", "provenance": "rm", "messages": [{"role": "user", "content": "q"}]}
    how = {"top_m": 1, "min_score": None, "beat_reference": False, "on_conflict": "add", "weights": {"rm": 1.0}}
    with pytest.raises(GateFailed, match="0 winners"):
        mix([old], [], round_index=2, **how)
    won = {"text": "a", "cid": "c", "provenance": "rm", "score": 1.0}
    ranked = [{"prompt_id": "e2", "messages": [{"role": "user", "content": "r"}], "ranking": [won]}]
    assert mix([old], ranked, round_index=2, **how).counts["winners"] == {"rm": 1}
