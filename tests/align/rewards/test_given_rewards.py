"""How a reward is called: a folder, a function, or a file of parts; and what a sum makes of their scores."""

import importlib
import math
import sys

import pytest
from fake_api import Sent

from tigerjax.align.answers import Answer, AnswerScore, score_records
from tigerjax.align.rewards import functions, given, reward
from tigerjax.align.rewards.reward import Reward, refuse_floors, uses
from tigerjax.errors import ConfigError, DataError, JudgeError

ASKED = [{"role": "user", "content": "q"}]


def answers(*texts):
    return [Answer(ASKED, text, "stop", {"prompt_id": "p1"}) for text in texts]


def no_model(path):
    raise AssertionError(path)


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Writes a module of the user's and imports it anew."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def write(text, name="own_rewards"):
        (tmp_path / f"{name}.py").write_text(text)
        sys.modules.pop(name, None)
        importlib.invalidate_caches()
        sys.dont_write_bytecode = True  # two versions within a second would have one time stamp
        return name

    yield write
    for name in ("own_rewards", "own_words"):
        sys.modules.pop(name, None)


SUM = """
[long]
reward = "own_rewards:long"
weight = 0.5

[polite]
reward = "own_rewards:polite"
weight = 0
floor = 1
"""
CODE = """
def long(answers):
    return [len(text) for _, text, *_ in answers]

def polite(answers):
    return ["damn" not in answer.text if answer.text else None for answer in answers]
"""


def test_a_folder_and_a_function_are_one_part_and_a_file_has_named_ones(tmp_path):
    assert given.read("runs/reward/model").parts[""].reward == "runs/reward/model"
    assert not given.read("m:f").summed and given.absolute("m:f") == "m:f"
    (tmp_path / "r.toml").write_text('[a]\nreward = "model"\n[b]\nreward = "m:f"\nweight = -2\nfloor = 0\n')
    found = given.read(str(tmp_path / "r.toml"))
    assert found.summed and found.parts["a"].reward == str(tmp_path / "model") and found.floors == {"b": 0}
    assert found.parts["b"].reward == "m:f" and found.parts["b"].weight == -2
    with pytest.raises(ConfigError, match=r"\[b\] has a floor, and reinforcement learning has no winners"):
        refuse_floors(found, "reinforcement learning")


JUDGE = '[a.judge]\nurl = "http://x/v1"\nmodel = "m"\ntemplate = "t"\nlowest = 0\nhighest = 1\n'


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "has 0 parts, needs 1 to 16"),
        ("[a", "mend it"),
        ("x = 1\n", "[x] is 1, which stands in no table"),
        ("[a]\n", "[a]: a part of a reward is `reward` or `judge`; give one"),
        ('[a]\nreward = "m"\nwieght = 1\n', "[a]: 'wieght' is no field here; did you mean weight?"),
        ('[a]\nreward = "m"\nweight = "1"\n', "[a]: weight='1' must be at least"),
        ('[a]\nreward = "m"\nweight = nan\n', "[a]: weight=nan must be at least"),
        ('[a]\nreward = "m"\nweight = 0\n', "every weight is 0"),
        ("[a]\nreward = 3\n", "[a]: reward is 3, must be text"),
        ('[a]\nreward = "b.toml"\n', "b.toml is a file of rewards itself; write its parts here"),
        ('[a]\njudge = "m"\n', "[a]: judge is 'm', must be a table"),
        ('[a.judge]\nurl = "u"\n', "[a] judge: lacks model, template, lowest, highest"),
        (JUDGE.replace("1\n", "0\n"), "[a]: judge.lowest=0 must be below judge.highest=0"),
        (JUDGE.replace("http://x", "x"), "[a]: judge.url='x/v1' must be an address such as"),
        (JUDGE + "key = 'sk'\n", "[a] judge: 'key' is no field here; did you mean key_env?"),
        (JUDGE + "key_env = 'K'\nkey_file = 'k'\n", "are both given; keep one"),
        (JUDGE + "body = {model = 'x'}\n", "judge.body has model, which is set for each question"),
        (JUDGE + "reward = 'm'\n", "'reward' is no field here"),
        ('[a]\nreward = ""\n', "[a]: reward is '', must be a text of characters that can be seen"),
        ('[a]\nreward = "a\\u0000b"\n', "must be a text of characters that can be seen"),
        (JUDGE.replace('"m"', '" "'), "[a] judge: model is ' ', must be a text of characters that can be seen"),
        ('["a\\u001b[2J"]\nreward = "m"\n', "must be a name of 1 to 40 letters"),
    ],
)
def test_a_file_that_is_wrong_is_refused_with_the_part_and_the_field(tmp_path, text, said):
    (tmp_path / "r.toml").write_text(text)
    with pytest.raises(ConfigError) as error:
        given.read(str(tmp_path / "r.toml"))
    assert said in str(error.value) and "\n" not in str(error.value).replace("line", "")
    with pytest.raises(DataError, match="no such file of rewards"):
        given.read(str(tmp_path / "other.toml"))


def test_a_sum_has_its_parts_and_says_what_is_below_a_floor(tmp_path, module):
    module(CODE)
    (tmp_path / "r.toml").write_text(SUM)
    scores = Reward(given.read(str(tmp_path / "r.toml")), no_model)(answers("ab", "damn", ""))
    assert [score.total for score in scores] == [1, 2, 0]
    assert scores[1].parts == {"long": 4, "polite": 0} and [list(s.below) for s in scores] == [
        [],
        ["polite"],
        ["polite"],
    ]
    assert math.isnan(scores[2].parts["polite"])  # what could not be scored is below its floor
    candidates = [{"cid": f"c{i}", "text": text, "finish": "stop"} for i, text in enumerate(("ab", "damn"))]
    record = {"prompt_id": "p", "messages": ASKED, "candidates": candidates, "reference": ""}
    (scored,) = score_records([record], Reward(given.read(str(tmp_path / "r.toml")), no_model))[0]
    assert scored["candidates"][0] == candidates[0] | {"score": 1, "parts": {"long": 2, "polite": 1}}
    assert scored["candidates"][1]["below"] == ["polite"] == scored["reference_below"]
    assert scored["reference_parts"] == {"long": 0, "polite": None}


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("[float('nan')] * len(a)", r"gave nan as a score of the answer 'x' to prompt 'p1' \(1 of 2\)"),
        ("[1, float('inf')]", r"gave inf as a score of the answer 'y' to prompt 'p1' \(2 of 2\)"),
        ("[1, 10**400]", "gave 1000.* as a score of the answer 'y'"),
        ("[1]", "gave 1 scores for 2 answers"),
        ("['1', '2']", "gave '1' as a score"),
        ("3", "gave 3, which is no list of scores"),
        ("None", "gave None, which is no list of scores"),
        ("__import__('numpy').float32(1)", "which is no list of scores"),
        ("[__import__('numpy').complex64(1)] * 2", "gave np.complex64.* as a score of the answer 'x'"),
        ("[__import__('numpy').array('1')] * 2", "gave array.* as a score of the answer 'x'"),
        ("{x.text: 1.0 for x in a}", r"gave \{'x': 1.0, 'y': 1.0\}, which is no list of scores"),
        ("{1.0, 2.0}", "gave .*, which is no list of scores"),
        ("bytes([1, 2])", "which is no list of scores"),
        ("[a.pop(0) and 1.0, 2.0]", "changed the list that it was given"),
        ("a.reverse() or [1.0, 2.0]", "changed the list that it was given"),
        ("1 / 0", r"failed with ZeroDivisionError: division by zero \(.*own_rewards\.py:1\)"),
    ],
)
def test_what_a_function_gives_that_is_no_score_is_refused_with_the_answer(module, body, said):
    function = functions.imported(f"{module(f'f = lambda a: {body}')}:f")
    with pytest.raises(DataError, match=said):
        functions.scores(function, "own_rewards:f", answers("x", "y"))


def test_an_async_function_gives_no_scores_and_python_does_not_warn(module, recwarn):
    function = functions.imported(f"{module('async def f(answers): return [1.0]')}:f")
    with pytest.raises(DataError, match=r"gave <coroutine object f.*, which is no list of scores"):
        functions.scores(function, "own_rewards:f", answers("x"))
    assert not [*recwarn]


def test_numbers_of_arrays_are_scores(module):
    for body in ("np.ones(1, np.float16)", "jnp.ones(1, jnp.bfloat16)", "[np.True_]", "[jnp.int8(1)]", "iter([True])"):
        code = f"import numpy as np, jax.numpy as jnp\nf = lambda a: {body}"
        assert functions.scores(functions.imported(f"{module(code)}:f"), "own_rewards:f", answers("x")) == [1.0]


def test_what_a_function_does_to_its_answers_reaches_no_record_and_no_other_answer(module):
    body = "[len(x.messages.append(0) or x.messages) + len(x.prompt.pop('messages')) for x in a]"
    function = functions.imported(f"{module(f'f = lambda a: {body}')}:f")
    candidates = [{"cid": f"c{i}", "text": "t", "finish": "stop"} for i in range(3)]
    record = {"prompt_id": "p", "messages": [*ASKED], "candidates": candidates, "reference": "r"}
    (scored,) = score_records(
        [record], lambda given: [AnswerScore(s) for s in functions.scores(function, "own_rewards:f", given)]
    )[0]
    assert [c["score"] for c in scored["candidates"]] == [4, 4, 4] and scored["reference_score"] == 4
    assert scored["messages"] == ASKED == record["messages"]


def test_a_judge_is_asked_before_anything_else_is_scored(tmp_path, config_of, fake):
    """A judge that fails costs no scores of the other parts, which are not kept."""
    judge, scored = config_of(), []
    fields = f'url = "{judge.url}"\nmodel = "m"\ntemplate = "judge.md"\nlowest = 1\nhighest = 10\npatience_s = 0\n'
    (tmp_path / "r.toml").write_text(f'[m]\nreward = "model"\n[taste.judge]\n{fields}')

    def load(path):
        return lambda given: scored.append(len(given)) or [0.5] * len(given)

    whole = Reward(given.read(str(tmp_path / "r.toml")), load)
    fake.respond = lambda number, body: Sent(status=503, raw=b"")
    with pytest.raises(JudgeError):
        whole(answers("x", "y"))
    assert scored == []
    fake.respond = lambda number, body: Sent("Score: 3")
    assert [(s.total, [*s.parts]) for s in whole(answers("x"))] == [(3.5, ["m", "taste"])]


def test_what_a_reward_uses_changes_with_its_code_its_floors_and_its_template_and_nothing_else(
    tmp_path, module, config_of
):
    (tmp_path / "own_words.py").write_text("BAD = ['damn']\n")
    code = "import own_words\n" + CODE.replace('"damn" not in', "own_words.BAD[0] not in")
    module(code)
    path = tmp_path / "r.toml"
    judge = config_of()
    asked = f'[taste.judge]\nurl = "{judge.url}"\nmodel = "m"\ntemplate = "judge.md"\nlowest = 1\nhighest = 10\n'
    path.write_text(SUM + asked)
    first = uses(given.read(str(path)))
    assert first.inputs == [] and set(first.settings) == {"long", "polite", "taste"}

    def now():
        return uses(given.read(str(path)))

    path.write_text("# a comment\n" + SUM + asked + "timeout_s = 3\ncache = 'elsewhere'\nmax_unread = 0.1\n")
    assert now() == first
    path.write_text(SUM.replace("floor = 1", "floor = 0.5") + asked)
    assert now() != first
    path.write_text(SUM + asked)
    for changed in ("judge.md", "own_words.py", "own_rewards.py"):
        before = (tmp_path / changed).read_text()
        (tmp_path / changed).write_text(before + "\n\n# more" if changed.endswith("py") else before + "!")
        for name in ("own_rewards", "own_words"):
            sys.modules.pop(name, None)
        assert now() != first, changed
        (tmp_path / changed).write_text(before)
        for name in ("own_rewards", "own_words"):
            sys.modules.pop(name, None)
    assert now() == first
    assert uses(given.read("runs/model")) == ([type(tmp_path)("runs/model")], {})


def test_a_reward_is_opened_before_it_is_needed(tmp_path, module, config_of, fake):
    module(CODE)
    judge = config_of()
    (tmp_path / "r.toml").write_text(
        '[m]\nreward = "model"\n'
        + SUM
        + f'[taste.judge]\nurl = "{judge.url}"\nmodel = "m"\ntemplate = "judge.md"\nlowest = 1\nhighest = 10\n'
    )
    opened = []
    fake.respond = lambda number, body: Sent(status=503, raw=b"")
    reward.check(given.read(str(tmp_path / "r.toml")), opened.append, answers("x")[0], ask=False)
    assert opened == [str(tmp_path / "model")] and not fake.asked
    with pytest.raises(JudgeError, match=r"HTTP 503 \(1 tries"):
        reward.check(given.read(str(tmp_path / "r.toml")), opened.append, answers("x")[0], ask=True)
    fake.respond = lambda number, body: Sent("Score: 3")
    reward.check(given.read(str(tmp_path / "r.toml")), opened.append, answers("x")[0], ask=True)
    assert len(fake.asked) == 2
    for name, said in (("own_rewards:none", "has no function none"), ("nowhere_at_all:f", "cannot be imported")):
        with pytest.raises(ConfigError, match=said):
            reward.check(given.read(name), opened.append, None, ask=True)


@pytest.mark.parametrize(
    ("part", "said"),
    [
        ('reward = "gone"', "[p] reward: {folder}/gone is not there"),
        ('reward = "nowhere_at_all:f"', "[p] reward: the reward is nowhere_at_all:f, and "),
        ('judge = {template = "gone.md"', "[p]: judge.template {folder}/gone.md: No such file"),
        ('judge = {template = "judge.md", key_file = "gone"', "[p]: judge.key_file {folder}/gone: No such file"),
    ],
)
def test_what_a_part_names_wrongly_is_told_with_file_and_part(tmp_path, config_of, part, said):
    config_of()  # writes judge.md
    more = ', url = "http://x/v1", model = "m", lowest = 0, highest = 1}' if "judge" in part else ""
    (tmp_path / "r.toml").write_text(f"[p]\n{part}{more}\n")
    of = given.read(str(tmp_path / "r.toml"))

    def load(path):
        raise DataError(f"{path} is not there")

    begins = f"{tmp_path}/r.toml: {said.format(folder=tmp_path)}"
    uses_it = [uses] if "gone.md" in part or ":f" in part else []
    for call in (lambda of: reward.check(of, load, None, ask=False), lambda of: Reward(of, load), *uses_it):
        with pytest.raises((ConfigError, DataError)) as error:
            call(of)
        assert str(error.value).startswith(begins)
