"""A whole round with small functions for models: each step is whole or absent, and a restart changes nothing."""

import dataclasses
import itertools
import json
import os

import pytest

from tigerjax.align import rounds, stand_in, steps, summary
from tigerjax.align.answers import AnswerScore, Existing, totals
from tigerjax.align.config import AlignConfig
from tigerjax.errors import Blocked, ConfigError, DataError
from tigerjax.files import manifest

CONFIG = AlignConfig(prompt_fraction=0.1, seed=0, beat_reference=False)
NONE = AnswerScore(float("nan"))
FUNCTIONS = ("sample", "score", "labels", "train", "answers", "accuracy")


class Stop(Exception):
    """The machine went away."""


class World:
    """Fake models: the answer of quality q is the text "answer q"; the reward model reads q."""

    def __init__(self, folder, stop_at=None, better=True):
        self.folder, self.stop_at, self.calls, self.better = folder, stop_at, 0, better
        folder.mkdir(exist_ok=True)
        self.sft, self.key = folder / "sft_in.jsonl", folder / "answer_key.jsonl"
        rows = [
            {
                "id": f"e{i:03d}",
                "messages": [{"role": "user", "content": f"q{i}"}, {"role": "assistant", "content": "answer 0"}],
                "task": "qa",
                "lang": ("en", "zh")[i % 2],
                "source": "s",
            }
            for i in range(200)
        ]
        self.sft.write_text("".join(json.dumps(r) + "\n" for r in rows))
        keys = [
            {"prompt_id": r["id"], "annotator": "key", "accept": ["answer 7", "answer 9"], "edit": "answer best"}
            for r in rows
        ]
        self.key.write_text("".join(json.dumps(k) + "\n" for k in keys))
        for name in ("current", "reward_model"):
            (folder / name).mkdir(exist_ok=True)
            (folder / name / "weights").write_text("0.5")

    def tick(self):
        self.calls += 1
        if self.calls == self.stop_at:
            raise Stop

    def sample(self, prompts, place):
        self.tick()
        for at, prompt in enumerate(reversed(prompts)):
            if at == len(prompts) // 2:
                self.tick()
            with open(place / "log.txt", "a") as log:
                log.write("x")
            texts = [f"answer {k}" for k in range(1, 11)]
            candidates = [
                {"cid": f"{prompt['prompt_id']}-{k}", "text": t, "finish": "stop"} for k, t in enumerate(texts)
            ]
            yield {"prompt_id": prompt["prompt_id"], "messages": prompt["messages"], "candidates": candidates}

    def score(self, items):
        self.tick()
        return totals(float(text.split()[1]) if text.split()[1].isdigit() else 0.0 for _, text, *_ in items)

    def labels(self, queue):
        self.tick()
        out = queue.parent / "answers.jsonl"
        stand_in.answer(queue, self.key, out)
        return [out]

    def train(self, sft, place):
        self.tick()
        (place / "half").write_text("half")
        self.tick()
        (place / "half").unlink()
        (place / "weights").write_text("0.9" if self.better else "0.1")

    def answers(self, checkpoint):
        self.tick()
        quality = int(10 * float((checkpoint / "weights").read_text()))
        candidates = [{"text": f"answer {quality}", "finish": "stop"}]
        messages = ([{"role": "user", "content": f"held {i}"}] for i in range(4))
        return [{"messages": m, "candidates": candidates} for m in messages]

    def accuracy(self, records):
        self.tick()
        accuracy = {"accuracy": int(records[0]["candidates"][0]["text"].split()[1]) / 10, "n": 10}
        return {"overall": accuracy["accuracy"], "by_lang": {"en": accuracy}, "by_task": {"qa": accuracy}}

    def run(self, index=1, config=CONFIG, gold=(), safety=(), **changes):
        given = {name: getattr(self, name) for name in FUNCTIONS} | changes
        functions = rounds.RoundFunctions(count_tokens=lambda messages: 1, max_tokens=9, **given)
        models = {"current": self.folder / "current", "reward": [self.folder / "reward_model"]}
        inputs = rounds.RoundInputs(sft=[self.sft], **models, gold=gold, safety=safety)
        return rounds.run_round(self.folder / "rounds", index, config, functions, inputs)

    def read(self, file):
        return [json.loads(line) for line in (self.folder / "rounds" / "01" / file).read_text().splitlines()]


def contents(folder):
    """Bytes of all files of the round; of manifests what was counted (their times and paths differ)."""
    out = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        name = str(path.relative_to(folder))
        out[name] = json.loads(path.read_text())["counts"] if path.name == manifest.FILE else path.read_bytes()
    return out


def test_a_round_ends_in_a_mixed_set_of_the_best_answers_with_their_provenance(tmp_path):
    world = World(tmp_path / "w")
    got = world.run()
    assert got.accepted and got.checkpoint == got.folder / "train" / "run"
    assert got.figures["winners"] == {"rm": 19, "edit": 1}  # 20 prompts: 1 is ranked by people, and it is edited
    assert (got.figures["reward_before"], got.figures["reward_after"]) == (5.0, 9.0)
    examples = world.read("mix/sft.jsonl")
    assert len(examples) == 220 and got.sft == got.folder / "mix" / "sft.jsonl"
    new = [e for e in examples if e["source"] == "rejection_sampling"]
    assert {e["messages"][-1]["content"] for e in new if e["provenance"] == "rm"} == {"answer 10"}
    assert [e["messages"][-1]["content"] for e in new if e["provenance"] == "edit"] == ["answer best"]
    assert all(s["state"] == "done" for s in steps.status(got.folder))
    assert not list(got.folder.glob("*.work-*")) and not list(got.folder.glob("*.partial"))


def test_a_round_killed_at_any_call_and_restarted_leaves_the_same_bytes(tmp_path):
    whole = World(tmp_path / "whole")
    result = whole.run()
    expected = contents(result.folder)
    for stop_at in itertools.count(1):
        broken = World(tmp_path / f"stop{stop_at}", stop_at=stop_at)
        try:
            broken.run()
        except Stop:
            pass
        else:
            break
        assert contents(broken.run().folder) == expected, f"differs when killed at call {stop_at}"
    assert stop_at == whole.calls + 1 > 10


def run_and_die(world, at):
    """Runs a round in a child that dies before its rename number `at` as by SIGKILL: nothing is cleaned up. 9 or 0."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    renames, rename = itertools.count(1), os.replace
    os.replace = lambda *paths: os._exit(9) if next(renames) == at else rename(*paths)
    code = 1
    try:
        world.run()
        code = 0
    finally:
        os._exit(code)


def test_a_round_whose_process_dies_before_any_rename_and_restarts_leaves_the_same_bytes(tmp_path):
    """Every file and folder appears by a rename, so these are all the states that a kill can leave, in every step."""
    expected = contents(World(tmp_path / "whole").run().folder)
    unfinished = set()
    for stop_at in itertools.count(1):
        world = World(tmp_path / f"stop{stop_at}")
        code = run_and_die(world, stop_at)
        folder = world.folder / "rounds" / "01"
        states = [s["step"] for s in steps.status(folder) if s["state"] != "done"]
        unfinished.add(states[0] if states else "gate")
        assert contents(world.run().folder) == expected, f"differs when killed before rename {stop_at}"
        assert not list(folder.glob("*.partial"))
        if code == 0:
            break
        assert code == 9
    assert unfinished == set(steps.STEPS) and stop_at > 2 * len(steps.STEPS)


def test_a_finished_round_is_not_computed_again_and_a_changed_setting_redoes_what_follows(tmp_path):
    world = World(tmp_path / "w")
    first = world.run()
    calls = world.calls
    again = world.run()
    assert again == first and world.calls == calls + 1  # labels are asked for again: people may have added some
    folder = first.folder
    before = (folder / "sample" / manifest.FILE).read_bytes()
    (world.folder / "reward_model" / "weights").write_text("other")
    world.run()
    assert (folder / "sample" / manifest.FILE).read_bytes() == before
    assert world.calls > calls + 2


def ended(folder, step):
    return (folder / "rounds" / "01" / step / manifest.FILE).read_bytes()


def test_a_step_is_done_again_only_when_something_that_it_uses_has_changed(tmp_path):
    world = World(tmp_path / "w")
    world.run()
    called = []
    for changed, first in ({"min_win_rate": 0.6}, "gate"), ({"top_m": 2}, "mix"), ({"allow_partial": True}, "labels"):
        before = {step: ended(world.folder, step) for step in steps.STEPS}
        world.run(config=dataclasses.replace(CONFIG, **changed))
        again = [step for step in steps.STEPS if ended(world.folder, step) != before[step]]
        called.append((again[0], first))
    assert called == [("gate", "gate"), ("mix", "mix"), ("labels", "labels")]


def test_missing_labels_can_be_allowed_later_and_nothing_is_sampled_again(tmp_path):
    world = World(tmp_path / "w")
    with pytest.raises(Blocked):
        world.run(labels=lambda queue: [])
    before = {step: ended(world.folder, step) for step in ("prompts", "sample", "score", "queue")}
    got = world.run(config=dataclasses.replace(CONFIG, allow_partial=True), labels=lambda queue: [])
    assert got.figures["winners"] == {"rm": 20}
    assert {step: ended(world.folder, step) for step in before} == before


def test_a_string_that_joins_the_safety_list_later_counts(tmp_path):
    world = World(tmp_path / "w")
    world.run()
    assert "answer 10" in {w["text"] for r in world.read("rank/ranked.jsonl") for w in r["ranking"]}
    world.run(safety=["answer 10"])
    assert "answer 10" not in {w["text"] for r in world.read("rank/ranked.jsonl") for w in r["ranking"]}
    assert not [e for e in world.read("mix/sft.jsonl") if e["messages"][-1]["content"] == "answer 10"]


def test_an_existing_answer_without_a_score_is_beaten_by_no_answer_of_the_reward_model(tmp_path):
    world = World(tmp_path / "w")
    sound = world.score

    def score(items):
        return [NONE if isinstance(i, Existing) else s for i, s in zip(items, sound(items), strict=True)]

    got = world.run(config=dataclasses.replace(CONFIG, beat_reference=True), score=score)
    counts = got.figures["counts"]
    assert counts["score"]["references_without_score"] == 20
    assert counts["mix"]["dropped"]["reference_without_score"] == 19 and got.figures["winners"] == {"edit": 1}


def test_missing_labels_block_the_round_until_people_deliver(tmp_path):
    world = World(tmp_path / "w")
    with pytest.raises(Blocked, match="1 of 1 rankings and 1 of 1 edits"):
        world.run(labels=lambda queue: [])
    states = {s["step"]: s["state"] for s in steps.status(tmp_path / "w" / "rounds" / "01")}
    assert states["queue"] == "done" and states["labels"] == "missing" == states["rank"]
    assert world.run().accepted


def test_partial_labels_fall_back_to_the_reward_model_and_are_recorded(tmp_path):
    world = World(tmp_path / "w")
    config = AlignConfig(prompt_fraction=0.1, seed=0, beat_reference=False, allow_partial=True)
    got = world.run(config=config, labels=lambda queue: [])
    assert got.figures["winners"] == {"rm": 20}
    missing = json.loads((got.folder / "labels" / "missing.json").read_text())
    assert len(missing["rank"]) == 1 == len(missing["edit"])


def test_a_worse_model_is_refused_and_the_current_one_stays(tmp_path):
    world = World(tmp_path / "w", better=False)
    got = world.run()
    assert not got.accepted and got.checkpoint == tmp_path / "w" / "current"
    assert got.figures["gate"] == "rejected" and len(got.figures["reasons"]) == 3


def test_the_second_round_draws_other_prompts(tmp_path):
    world = World(tmp_path / "w")
    world.run(1)
    world.run(2)
    drawn = [
        {json.loads(line)["prompt_id"] for line in (tmp_path / "w" / "rounds" / n / "prompts" / "prompts.jsonl").open()}
        for n in ("01", "02")
    ]
    assert len(drawn[0]) == 20 == len(drawn[1]) and not drawn[0] & drawn[1]


def test_a_prompt_without_any_valid_score_is_dropped_and_counted(tmp_path):
    world = World(tmp_path / "w")
    sound = world.score

    def score(items):
        return [
            NONE if m[0]["content"] == items[0][0][0]["content"] else s
            for (m, *_), s in zip(items, sound(items), strict=True)
        ]

    got = world.run(score=lambda items: score(items) if len(items) > 10 else sound(items))
    assert got.figures["counts"]["score"] == {"in": 20, "out": 19, "dropped": {"no_valid_candidate": 1}}


def test_skipped_prompts_are_counted_and_strange_ones_refused(tmp_path):
    world = World(tmp_path / "w")
    sound = world.sample
    with pytest.raises(DataError, match="not asked for"):
        world.run(sample=lambda p, place: [*sound(p, place), {"prompt_id": "strange", "candidates": []}])
    got = world.run(sample=lambda p, place: list(sound(p, place))[1:])
    assert got.figures["counts"]["sample"] == {"in": 20, "out": 19, "dropped": {"skipped": 1}}


def test_the_best_candidate_model_is_the_newest_of_equals():
    models = [{"path": str(i), "sha256": str(i), "metric": m, "step": i} for i, m in enumerate((0.5, 0.7, 0.7, 0.1))]
    assert rounds.choose_candidate(models)["path"] == "2"
    with pytest.raises(ConfigError):
        rounds.choose_candidate([{"metric": float("nan"), "step": 0, "sha256": ""}])


def test_the_stand_in_ranks_right_answers_first_rejects_wrong_ones_and_edits(tmp_path):
    item = {"prompt_id": "p", "batch_sha256": "s", "rank": True, "edit": True, "messages": []}
    texts = {"A": "It is Paris.", "B": "It is London.", "C": "PARIS"}
    item["candidates"] = [{"label": label, "text": text} for label, text in texts.items()]
    (tmp_path / "queue.jsonl").write_text(json.dumps(item) + "\n" + json.dumps(item | {"prompt_id": "unknown"}) + "\n")
    key = {"prompt_id": "p", "annotator": "key", "accept": ["Paris"], "edit": "It is Paris."}
    (tmp_path / "key.jsonl").write_text(json.dumps(key) + "\n")
    counts = stand_in.answer(tmp_path, tmp_path / "key.jsonl", tmp_path / "out.jsonl")
    ranking, edit = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert ranking["ranking"] == [["A", "C"], ["B"]] and ranking["reject"] == ["B"]
    assert edit["base"] == "C" and edit["text"] == "It is Paris."
    assert counts == {"asked": 2, "unknown": 1, "rankings": 1, "edits": 1}


def test_the_report_of_rounds_has_the_held_out_answers_of_both_models_and_who_chose(tmp_path):
    world = World(tmp_path / "w")
    with pytest.raises(DataError, match="no round has ended"):
        summary.collect(world.folder)
    ended = world.run()
    (entry,) = summary.collect(world.folder)["align_rounds"]
    assert (entry["round"], entry["gate"], entry["win_rate"]) == (1, "accepted", 1.0)
    assert entry["winners"] == ended.figures["winners"] and len(entry["scored_by"]) == 16
    assert entry["before"] == {"reward": 5.0, "accuracy": 0.5, "characters": len("answer 5"), "scores": [5.0] * 4}
    assert entry["after"] == {"reward": 9.0, "accuracy": 0.9, "characters": len("answer 9"), "scores": [9.0] * 4}
