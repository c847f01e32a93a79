"""Our own server as the judge of answers: what it says is its score, and garbage is none."""

import dataclasses

import jax.numpy as jnp
import pytest
from live_server import BATCHING, listening

from tigerjax.align.answers import Answer
from tigerjax.align.rewards import requests
from tigerjax.align.rewards.config import JudgeConfig
from tigerjax.align.rewards.judge import Judge
from tigerjax.errors import DataError
from tigerjax.serve.engine import Engine

ASKED = [{"role": "user", "content": "q"}]
ANSWERS = [Answer(ASKED, text, "stop", {"prompt_id": f"p{text}"}) for text in "abcdefgh"]


@pytest.fixture
def judge_at(tmp_path):
    (tmp_path / "judge.md").write_text("{{question}} {{answer}}")

    def make(url, **changed):
        given = {"url": f"{url}/v1", "model": "tiny", "template": str(tmp_path / "judge.md"), "lowest": 1, "highest": 9}
        given |= {"cache": str(tmp_path / "replies"), "body": {"temperature": 0, "max_tokens": 1}, "patience_s": 30}
        return Judge("tiny", JudgeConfig(**given | changed))

    return make


@pytest.fixture(scope="module")
def digits(tiny):
    """The tiny model with a head that knows 3 and 8 only: which of them depends on what it reads."""
    three, eight = 3 + ord("3"), 3 + ord("8")
    head = jnp.zeros_like(tiny.weights["head"])
    column = tiny.weights["head"][:, three]
    return tiny.weights | {"head": head.at[:, three].set(column).at[:, eight].set(-column)}


def test_our_server_judges_and_what_it_said_is_not_asked_again(served, digits, judge_at, capfd, monkeypatch):
    monkeypatch.setattr(requests, "CUT", "")  # this model never ends: its one digit is all that it has to say
    engine = Engine(dataclasses.replace(served.engine.model, weights=digits), batching=BATCHING)
    try:
        with listening(dataclasses.replace(served, engine=engine)) as url:
            scores = judge_at(url)(ANSWERS)
            assert set(scores) <= {3, 8} and "calls 8, tokens read " in capfd.readouterr().err
            judge = judge_at(url)
        assert judge(ANSWERS) == scores and "calls 0" in capfd.readouterr().err  # the server has gone
    finally:
        engine.close()


def test_what_an_untrained_model_says_is_no_score(live, judge_at):
    with pytest.raises(DataError, match=r"judge tiny gave no score from 1 to 9 for the answer 'a' to prompt 'pa'"):
        judge_at(live.url, body={"temperature": 0, "max_tokens": 4}, asked_again=0)(ANSWERS[:1])
