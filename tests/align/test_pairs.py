"""Rounds that train on pairs: which two answers of a prompt they are, and that the next model learns from them."""

import dataclasses
import json

from test_rank import candidate, record
from test_rounds import World
from tiny_project import COMPUTE, MODEL, ROOT

from tigerjax import config as config_lib
from tigerjax.align import project
from tigerjax.align.people.labels import Verdict
from tigerjax.align.rank import rank
from tigerjax.checkpoint.model import load_model
from tigerjax.config import DpoConfig

CONFIG = ROOT / "configs" / "quickstart_dpo.py"


def pairs(candidates, verdict=None):
    """(better, worse) texts of the pairs of one prompt."""
    got = rank([record(candidates)], {"p1": verdict} if verdict else {}).pairs
    for pair in got:
        assert len(pair["ranking"]) == 2 and pair["messages"][0]["role"] == "user"
    return [tuple(r["text"] for r in pair["responses"]) for pair in got]


def test_a_pair_is_the_answer_that_may_win_above_the_worst_one():
    best, cut, worst = candidate(0, 1.0), candidate(1, 2.0, finish="length"), candidate(2, -1.0, finish="length")
    assert pairs([best, cut, worst]) == [("text 0", "text 2")]
    unscored = candidate(3, float("nan"))
    assert pairs([best, unscored]) == []  # alone
    assert pairs([best, candidate(1, 0.5, "text 0")]) == []  # the same text
    assert pairs([candidate(0, 1.0), candidate(1, 0.5, " ")]) == []  # nothing to say
    assert pairs([cut]) == []  # none may win


def test_what_people_rejected_or_wrote_is_in_the_pair():
    answers = [candidate(0, 1.0), candidate(1, 0.5), candidate(2, -1.0)]
    edit = {"annotator": "a", "base": "c1", "text": "edited"}
    assert pairs(answers, Verdict([["c1"], ["c0"]], ["c0"], [], ["a"])) == [("text 1", "text 0")]
    assert pairs(answers, Verdict([["c1"], ["c0"]], [], [edit], ["a"])) == [("edited", "text 2")]


def test_a_round_trains_on_its_pairs_where_the_config_says_so_and_still_mixes_its_winners(tmp_path):
    world, given = World(tmp_path / "w"), []

    def train(file, place):
        given.append(file)
        return World.train(world, file, place)

    got = world.run(train=train, trains_on="pairs")
    assert given == [got.folder / "rank" / "pairs.jsonl"] and len(world.read("mix/sft.jsonl")) == 220
    made = world.read("rank/pairs.jsonl")
    assert len(made) == 20 == got.figures["counts"]["rank"]["pairs"]
    assert {tuple(r["text"] for r in pair["responses"]) for pair in made if pair["provenance"] == "rm"} == {
        ("answer 10", "answer 1")
    }


def test_the_next_model_of_a_project_learns_from_the_pairs_and_the_files_of_its_config(made, tmp_path):
    run = config_lib.load(CONFIG)
    question = {"messages": [{"role": "user", "content": "Say 你好"}]}
    more, file = tmp_path / "more.jsonl", tmp_path / "pairs.jsonl"
    more.write_text(json.dumps(question | {"chosen": "你好", "rejected": "no"}) + "\n", encoding="utf-8")
    responses = [{"id": "a", "text": "yes"}, {"id": "b", "text": "no", "finish": "length"}]
    file.write_text(json.dumps(question | {"responses": responses, "ranking": [["a"], ["b"]]}) + "\n", encoding="utf-8")
    config = dataclasses.replace(
        run,
        model=MODEL,
        compute=COMPUTE,
        data=dataclasses.replace(run.data, tokenizer=str(made / "tokenizer"), cache_dir=str(tmp_path / "cache")),
        checkpoint=dataclasses.replace(run.checkpoint, init_from=str(made / "chat")),
        optim=dataclasses.replace(run.optim, total_steps=2, warmup_steps=1),
        global_batch_size=1,
        log_every_steps=1,
        objective=DpoConfig(preferences=(str(more),)),
    )
    project._train(config, file, tmp_path / "run", None)
    trained, start = load_model(tmp_path / "run"), load_model(made / "chat")
    assert trained.step == 2 and trained.sha256 != start.sha256
    saved = (tmp_path / "run/config.txt").read_text(encoding="utf-8")
    assert f"objective.preferences = ({str(file)!r}, {str(more)!r})" in saved
