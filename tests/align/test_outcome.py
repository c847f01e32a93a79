"""How a round ended is said where people look: the verdict, the figures behind it, and the model that comes next."""

import dataclasses
import json
from pathlib import Path

import pytest
from test_rounds import CONFIG, World

from tigerjax.align import gate, summary
from tigerjax.align import settings as settings_lib
from tigerjax.align.config import AlignConfig
from tigerjax.align.steps import STEPS
from tigerjax.command.cli import main
from tigerjax.command.groups import SamplingOptions
from tigerjax.errors import GateFailed
from tigerjax.files import manifest


def ended(folder: Path, after: list[float], *, accepted: bool = True, reasons: tuple[str, ...] = ()) -> Path:
    """A project whose first round has ended: the current model scored 1.0 on each held-out prompt, the new `after`."""
    align = dataclasses.asdict(AlignConfig(prompt_fraction=0.1, seed=0))
    given = {"sft": "s", "models": ["c"], "reward": "r", "evaluation_set": "q", "gold": [], "safety": None}
    given |= {"config": "x", "overrides": [], "score_batch_size": 8, "exclude": None}
    sampling = dataclasses.asdict(SamplingOptions())
    settings_lib.write(folder, settings_lib.AlignSettings(align=align, sampling=sampling, **given))
    for step in ("candidate", *STEPS):
        place = folder / "rounds" / "01" / step
        place.mkdir(parents=True)
        counts = {"winners": {"rm": 2}} if step == "mix" else {}
        manifest.write_json(place / manifest.FILE, {"stage": step, "counts": counts})
    manifest.write_json(folder / "rounds/01/candidate/candidate.json", {"chosen": {"path": "models/current"}})
    before = [1.0] * len(after)
    figures = {"win_rate": gate.win_rate(after, before), "accuracy_before": 0.25, "accuracy_after": 0.5}
    figures |= {"reward_before": 1.0, "reward_after": sum(after) / len(after)}
    sides = {"before": [[s, 9] for s in before], "after": [[s, 9] for s in after]}
    verdict = {"accepted": accepted, "reasons": list(reasons), "figures": figures, "held_out": sides}
    manifest.write_json(folder / "rounds/01/gate/gate.json", verdict)
    return folder


def status(folder: Path, capsys: pytest.CaptureFixture[str]) -> tuple[str, dict]:
    assert main(["align", "status", str(folder), "--json", str(folder / "status.json")]) == 0
    (outcome,) = json.loads((folder / "status.json").read_text(encoding="utf-8"))["rounds"]
    return capsys.readouterr().out, outcome


def test_status_says_the_verdict_win_rate_accuracies_and_the_next_model(tmp_path, capsys):
    said, outcome = status(ended(tmp_path / "al", [2.0, 2.0, 1.0, 0.0]), capsys)
    for line in (
        "round 01: accepted by the gate",
        "win rate          62.5% (won 2, equal 1, lost 1)",
        "held-out accuracy 25.0% -> 50.0%",
        "mean reward       1.00 -> 1.25",
        f"next model        {tmp_path / 'al/rounds/01/train/run'}",
    ):
        assert line in said, (line, said)
    assert "note" not in said and "note" not in outcome
    assert outcome["gate"] == "accepted" and outcome["held_out"] == {"won": 2, "equal": 1, "lost": 1}
    assert outcome["checkpoint"] == str(tmp_path / "al/rounds/01/train/run")


def test_a_refused_model_is_named_with_every_reason_and_the_current_one_stays_next(tmp_path, capsys):
    reasons = ("mean en lost 2.00 points, more than 1.0", "win rate 0.000 is below 0.5")
    said, outcome = status(ended(tmp_path / "al", [0.0], accepted=False, reasons=reasons), capsys)
    assert "round 01: rejected by the gate" in said and "next model        models/current" in said
    assert all(f"refused because   {reason}" in said for reason in reasons)
    assert outcome["reasons"] == list(reasons) and "note" not in outcome


def test_a_tie_passes_the_gate_and_is_called_no_improvement(tmp_path, capsys):
    said, outcome = status(ended(tmp_path / "al", [1.0, 1.0, 1.0]), capsys)
    assert "accepted by the gate" in said and "win rate          50.0% (won 0, equal 3, lost 0)" in said
    assert "a tie: both models score the same on every held-out prompt (3); by the reward this is no" in said
    assert outcome["note"].startswith("a tie")


@pytest.mark.parametrize(
    ("wins", "tally", "word"),
    [
        (0.5, gate.Tally(3, 2, 3), "wins as often as it loses"),
        (0.4, gate.Tally(1, 2, 2), "loses more often than it wins; align.min_win_rate lets it pass"),
        (0.5, None, "a tie"),
    ],
)
def test_an_accepted_model_that_does_not_win_says_so(wins, tally, word):
    assert word in gate.remark(wins, tally)
    assert gate.remark(0.51, tally) == ""


def test_a_gate_of_an_older_version_has_a_verdict_without_counts():
    verdict = {"accepted": True, "figures": {"win_rate": 0.5}}
    assert gate.beside(verdict)["note"].startswith("a tie: the new model wins as often as it loses")
    assert "held_out" not in gate.beside(verdict)


def test_before_any_round_has_ended_status_lists_none(tmp_path, capsys):
    folder = ended(tmp_path / "al", [1.0])
    (folder / "rounds/01/gate" / manifest.FILE).unlink()
    assert main(["align", "status", str(folder), "--json", str(folder / "status.json")]) == 0
    assert json.loads((folder / "status.json").read_text(encoding="utf-8"))["rounds"] == []
    assert "by the gate" not in capsys.readouterr().out


def test_when_all_answers_are_cut_the_error_says_so_and_names_max_new_tokens(tmp_path):
    world = World(tmp_path / "w")
    sound = world.sample

    def cut(prompts, place):
        for record in sound(prompts, place):
            yield record | {"candidates": [c | {"finish": "length"} for c in record["candidates"]]}

    config = dataclasses.replace(CONFIG, allow_partial=True)
    with pytest.raises(GateFailed, match=r"0 winners of 20 prompts \(20 no_winner_truncated\); raise max_new_tokens"):
        world.run(config=config, sample=cut, labels=lambda queue: [])


def test_the_reasons_of_a_round_without_winners_add_up_to_its_prompts(tmp_path):
    world = World(tmp_path / "w")
    examples = world.sft.read_text().splitlines()
    world.sft.write_text("\n".join([*examples, examples[0].replace('"id": "', '"id": "again-')]) + "\n")
    sound = world.sample

    def some_cut(prompts, place):
        for n, record in enumerate(sound(prompts, place)):
            finish = "length" if n < 7 else "stop"
            yield record | {"candidates": [c | {"finish": finish} for c in record["candidates"]]}

    config = dataclasses.replace(CONFIG, allow_partial=True, top_m=3, min_score=99.0)
    with pytest.raises(GateFailed, match=r"0 winners of 20 prompts \(13 below_min_score, 7 no_winner_truncated\); "):
        world.run(config=config, sample=some_cut, labels=lambda queue: [])


def test_a_round_says_by_which_reward_it_was_scored_whatever_model_answered(monkeypatch, tmp_path):
    def scored_by(*inputs, more=0, **settings):
        config = {"align": {"more_candidates": more}, "settings": settings or None}
        made = {"config": config, "inputs": [{"path": name, "sha256": name} for name in inputs]}
        monkeypatch.setattr(summary.manifest, "read", lambda folder: made)
        return summary._scored_by(tmp_path)

    same = scored_by("sample1", "model")
    assert same == scored_by("sample2", "model") == scored_by("sample3", "model", "sampler", more=4)
    other = [scored_by("sample1", "model2"), scored_by("sample1", reward={"a": {"weight": 1}})]
    other.append(scored_by("sample1", reward={"a": {"weight": 2}}))
    assert len({same, *other}) == 4
