"""Prompts that say nothing, more answers where they are needed, a control with random winners, and diversity."""

import dataclasses
import json
import math

import pytest
from test_rank import MIX, candidate, record
from test_rounds import CONFIG, World

from tigerjax.align import summary
from tigerjax.align.config import AlignConfig
from tigerjax.align.control import training_set
from tigerjax.align.diversity import alike, of_candidates, of_winners
from tigerjax.align.mix import mix
from tigerjax.align.people.labels import Verdict
from tigerjax.align.rank import rank
from tigerjax.errors import ConfigError
from tigerjax.report.rounds import rounds


def test_prompts_whose_scores_are_alike_are_counted_and_with_min_spread_have_no_winner():
    same, close, far = (record([candidate(0, 1.0), candidate(1, 1.0 + by)], f"p{by}") for by in (0.0, 0.05, 1.0))
    lone = record([candidate(0, 1.0), candidate(1, None)], "lone")
    got = rank([same, close, far, lone], {})
    assert got.counts["alike"] == 1 and len(got.records) == 4
    got = rank([same, close, far, lone], {}, min_spread=0.1)
    assert got.counts["dropped"] == {"alike_scores": 2} and got.counts["alike"] == 2
    assert [r["prompt_id"] for r in got.records] == ["lone", "p1.0"]
    judged = rank([same], {"p0.0": Verdict([["c1"]], [], [], [])}, min_spread=0.1)
    assert judged.records[0]["ranking"][0]["cid"] == "c1" and judged.counts["dropped"] == {}
    assert not alike([candidate(0, 1.0)], 9.0)


def test_the_control_gets_random_answers_to_the_prompts_that_won():
    texts = [[candidate(f"{n}-{k}", float(k), f"text {n} {k}") for k in range(6)] for n in range(40)]
    ranked = rank([record(own, f"p{n:02d}") for n, own in enumerate(texts)], {}).records
    won = [e for e in mix([], ranked, **MIX).examples if e["prompt_id"] != "p00"]
    config = AlignConfig(prompt_fraction=0.1, seed=3)
    control = training_set(config, [], ranked, None, won=won, round_index=1)
    assert {e["prompt_id"] for e in control} == {f"p{n:02d}" for n in range(1, 40)}
    chosen = [int(e["messages"][-1]["content"][-1]) for e in control]
    assert len(set(chosen)) == 6 and sum(chosen) / len(chosen) < 4  # the winners all are 5
    assert control == training_set(config, [], ranked, None, won=won, round_index=1)
    pairs = [{"prompt_id": f"p{n}", "ranking": [["a"], ["b"]]} for n in range(40)]
    turned = [p["ranking"][0] == ["b"] for p in training_set(config, [], [], pairs, won=[], round_index=1)]
    assert 10 < sum(turned) < 30


def test_diversity_by_values_written_out():
    """Two prompts: 2 of 4 texts and 1 of 1 differ; 6 nats over 2 + 1 + 1 draws and the 2 ends of stopped answers."""

    def drawn(text, logprob, tokens, finish="stop"):
        return {"text": text, "logprob": logprob, "ntok": tokens, "finish": finish}

    four = [drawn("ab", -2.0, 1), drawn("ab", -2.0, 1), drawn("ab", -1.0, 1, "length"), drawn("cd", -1.0, 1, "length")]
    records = [{"prompt_id": "p", "candidates": four}, {"prompt_id": "q", "candidates": [drawn("x", -3.0, 2)]}]
    assert of_candidates(records) == {"distinct_share": (0.5 + 1) / 2, "entropy_nats": 9 / 9}
    winners = [
        {"prompt_id": p, "messages": [{"content": text}]} for p, text in (("p", "abab"), ("p", "ab"), ("q", "x"))
    ]
    found = of_winners(winners, records)
    assert found == {"distinct_winners": 1.0, "distinct_pairs": 2 / 4, "winner_nats": (2 + 3) / (2 + 3)}
    assert of_winners([], records) == {} and of_candidates([]) == {}


class Thrifty(World):
    """A world where only further candidates win, and where the trainer knows which set it gets."""

    def sample(self, prompts, place):
        for one in super().sample(prompts, place):
            yield one | {"candidates": [c | {"text": "answer 1"} for c in one["candidates"]]}

    def sample_more(self, more, place, prompts):
        self.asked = [p["prompt_id"] for p in prompts]
        for one in super().sample(prompts, place):
            yield one | {"candidates": [*([one["candidates"][0]] * 9), one["candidates"][8]]}

    def train(self, sft, place):
        (place / "weights").write_text("0.7" if sft.name == "control.jsonl" else "0.9")


@pytest.mark.parametrize("more", [0, 5])
def test_a_round_answers_prompts_again_until_one_wins_and_reports_its_control(tmp_path, more):
    world = Thrifty(tmp_path / "w")
    config = dataclasses.replace(CONFIG, more_candidates=more, control=True, min_spread=0.0, allow_partial=True)
    ended = world.run(config=config, sample_more=world.sample_more)
    counts = ended.figures["counts"]
    assert counts["score"].get("answered_again", 0) == (20 if more else 0)
    assert counts["rank"]["alike"] == (0 if more else 19)  # of twenty prompts people judge one
    assert counts["rank"]["dropped"] == ({} if more else {"alike_scores": 19})
    if more:
        assert counts["score"]["decided_then"] == 20 and len(world.asked) == 20
    control = ended.figures["control"]
    assert control == {"accuracy": 0.7, "reward": 7.0, "win_rate": 1.0} and ended.figures["gate"] == "accepted"
    gate = json.loads((world.folder / "rounds/01/gate/gate.json").read_text())
    assert gate["figures"]["control"] == control and (world.folder / "rounds/01/gate/control/weights").is_file()
    (entry,) = summary.collect(world.folder)["align_rounds"]
    page = rounds({"align_rounds": [entry]})
    assert "A control got random winners" in page["each"][0]["control"] and "different winners" in page["answers"].heads
    assert math.isclose(entry["diversity"]["distinct_share"], 0.1)


def test_rounds_without_a_sampler_for_more_candidates_say_so(tmp_path):
    world = World(tmp_path / "w")
    with pytest.raises(ConfigError, match=r"align\.more_candidates=3: these rounds have no sampler"):
        world.run(config=dataclasses.replace(CONFIG, more_candidates=3, beat_reference=True, min_spread=99.0))
