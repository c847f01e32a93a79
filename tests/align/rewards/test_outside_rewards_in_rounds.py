"""Rounds whose rewards come from outside: a function, and a sum with a judge that fails in the middle of a step."""

import importlib
import json
import sys

import pytest
from fake_api import Sent
from tiny_project import ROOT, align, config_words

from tigerjax.command.cli import main
from tigerjax.files import manifest

CODE = """
def short(answers):
    return [-len(text) for _, text, *_ in answers]

def safe(answers):
    return [float(len(one.text) % 2 == 0) for one in answers]
"""
SUM = """
[short]
reward = "round_rewards:short"
weight = 0.01

[safe]
reward = "round_rewards:safe"
weight = 0
floor = 1

[taste]
[taste.judge]
url = "{url}"
model = "m"
template = "judge.md"
lowest = 1
highest = 9
patience_s = 0.3
calls = 1
"""


@pytest.fixture
def place(tmp_path, monkeypatch, made):
    """A folder with a module of rewards, and words that begin an alignment there."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    (tmp_path / "round_rewards.py").write_text(CODE)
    forget()
    yield tmp_path
    forget()


def forget():
    """The module is imported anew, as by another command."""
    sys.modules.pop("round_rewards", None)
    importlib.invalidate_caches()


def init(made, out, reward, *more):
    words = ["init", ROOT / "configs" / "quickstart_rejection_sampled.py", "--out", out, "--sft", made / "sft.jsonl"]
    words += ["--models", made / "ends", "--evaluation-set", made / "questions.jsonl", "--n", 4, "--max-new-tokens", 8]
    return [*words, "--reward", reward, *config_words(made, 4, 8), *more]


def scored(out):
    return [json.loads(line) for line in (out / "rounds/01/score/scored.jsonl").read_text().splitlines()]


def written(out, *steps):
    return [(out / "rounds/01" / step / manifest.FILE).read_bytes() for step in steps]


def test_a_function_scores_a_round_and_a_step_is_done_again_when_its_file_has_changed(place, made, capfd):
    out = place / "al"
    align(*init(made, out, "round_rewards:none"), code=2)
    (place / "round_rewards.py").write_text("def short(answers):\n    return [float('nan')]\n")
    forget()
    align(*init(made, out, "round_rewards:short"), code=3)
    assert "gave nan as a score of the answer '你好' to prompt 'e" in capfd.readouterr().err and not out.exists()
    (place / "round_rewards.py").write_text(CODE)
    forget()
    align(*init(made, out, "round_rewards:short"))
    for step in ("prompts", "sample", "score"):
        align(step, out)
    assert all(c["score"] == -len(c["text"]) for record in scored(out) for c in record["candidates"])
    before = written(out, "sample", "score")
    align("score", out)
    assert written(out, "sample", "score") == before
    (place / "round_rewards.py").write_text(CODE.replace("-len", "-2 * len"))
    forget()
    align("score", out)
    after = written(out, "sample", "score")
    assert after[0] == before[0] and after[1] != before[1]
    assert all(c["score"] == -2 * len(c["text"]) for record in scored(out) for c in record["candidates"])
    made_of = json.loads(after[1])["config"]["settings"]["reward"][""]
    assert made_of["function"] == "round_rewards:short" and len(made_of["sha256"]) == 64


def judged(number, body):
    """As good as the last digit of the number of characters."""
    return Sent(f"Score: {len(body['messages'][0]['content']) % 9 + 1}")


def test_a_judge_that_fails_stops_a_round_which_goes_on_where_it_was(place, made, fake, capfd):
    (place / "judge.md").write_text("{{question}} {{answer}}")
    (place / "reward.toml").write_text(SUM.format(url=fake.url))
    out, down = place / "al", Sent(status=503, raw=b"")
    fake.respond = lambda number, body: down
    words = init(made, out, place / "reward.toml", "--align.allow-partial", "--align.min-win-rate", 0)
    align(*words, "--ask-judge", code=1)
    assert "HTTP 503" in capfd.readouterr().err and not out.exists()
    asked = len(fake.asked)
    align(*words)
    later = f"judge taste: {fake.url} will be asked when the round is scored; --ask-judge asks it once now"
    assert later in capfd.readouterr().err
    (place / "other.toml").write_text(SUM.format(url=fake.url) + "asked_again = 1\n")
    align("set", out, "--reward", place / "other.toml")
    assert later in capfd.readouterr().err and len(fake.asked) == asked  # a judge that is down is no wrong setting
    align("set", out, "--reward", place / "reward.toml", "--ask-judge", code=1)
    align("set", out, "--ask-judge", code=1)
    assert "HTTP 503" in capfd.readouterr().err
    (place / "judge.md").rename(place / "gone.md")
    align("set", out, "--reward", place / "reward.toml", code=2)  # its form is checked
    said = f"reward.toml: [taste]: judge.template {place / 'judge.md'}: No such file"
    assert said in capfd.readouterr().err
    (place / "gone.md").rename(place / "judge.md")
    align("set", out, "--reward", place / "reward.toml")
    for step in ("prompts", "sample"):
        align(step, out)
    fake.asked.clear()
    fake.respond = lambda number, body: judged(number, body) if number <= 7 else down
    align("score", out, code=1)
    said = capfd.readouterr().err.splitlines()[-1]
    assert "HTTP 503 (" in said and "the replies so far are kept" in said
    assert not (out / "rounds/01/score").exists()
    fake.respond = judged
    tried = len(fake.asked)
    align("score", out)
    distinct = {(r["messages"][-1]["content"], text) for r in scored(out) for text in texts(r)}
    assert len(fake.asked) - tried == len(distinct) - 7
    for record in scored(out):
        for c in record["candidates"]:
            assert c["score"] == pytest.approx(0.01 * c["parts"]["short"] + c["parts"]["taste"])
            assert ("below" in c) == (len(c["text"]) % 2 == 1) and c["parts"]["safe"] == (len(c["text"]) % 2 == 0)
    assert main(["align", "run", str(out)]) == 0
    ranked = [json.loads(line) for line in (out / "rounds/01/rank/ranked.jsonl").read_text().splitlines()]
    winners = [c for record in ranked for c in record["ranking"]]
    assert winners and not [c for c in winners if len(c["text"]) % 2]
    asked = len(fake.asked)
    (place / "reward.toml").write_text(SUM.format(url=fake.url).replace("floor = 1", "floor = 0") + "asked_again = 5\n")
    align("run", out)  # the round has ended, and stays as it is
    assert len(fake.asked) == asked


def texts(record):
    return [*(c["text"] for c in record["candidates"]), record["reference"]]
