"""Five simulated annotators, two careless and one adversarial: they are named, and the round gets better winners."""

import importlib.util
import statistics
from pathlib import Path

import pytest

STUDY = Path(__file__).resolve().parents[3] / "benchmarks" / "studies" / "people.py"
SEEDS, PROMPTS = range(100, 104), 150  # none of the seeds whose figures the documentation shows


@pytest.fixture(scope="module")
def worlds():
    spec = importlib.util.spec_from_file_location("people_study", STUDY)
    study = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(study)
    return [study.simulate(seed, prompts=PROMPTS) for seed in SEEDS]


def test_gold_questions_and_agreement_name_the_careless_and_the_adversarial_and_nobody_else(worlds):
    for world in worlds:
        assert set(world["named"]) == {"cat", "dan", "eve"}
        # A guesser passes five gold questions now and then, and is then named by agreement alone.
        assert {"eve"} < set(world["set_aside"]) <= {"cat", "dan", "eve"}
        gold, agreement = world["named"]["eve"]
        assert gold.startswith("adversarial") and "gold questions" in gold
        assert agreement.startswith("adversarial") and "Kendall's tau -0." in agreement
        assert all(world["named"][who][0].startswith("careless") for who in ("cat", "dan"))
    assert sum(len(world["set_aside"]) == 3 for world in worlds) >= len(worlds) - 1
    named_by_agreement = sum(len(world["named"][who]) == 2 for world in worlds for who in ("cat", "dan"))
    assert named_by_agreement >= len(worlds)  # chance agreement is above 0.2 now and then


def test_the_winners_are_right_at_least_as_often_as_with_the_reward_model_alone(worlds):
    for world in worlds:
        assert world["right"]["team"] >= world["right"]["reward model alone"]
        assert world["round"]["team"] >= world["round"]["reward model alone"]
        assert world["right"]["team and adjudicator"] >= world["right"]["team"]
    # Without the rules of a team these five make the round worse than no people at all.
    means = {arm: statistics.fmean(world["right"][arm] for world in worlds) for arm in worlds[0]["right"]}
    assert means["team, nobody set aside"] < means["reward model alone"] < means["team"]
