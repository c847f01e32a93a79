"""Tables, ratios and paired intervals from results that are made up here."""

import json
import math

import pytest

from tigerjax.command.cli import main
from tigerjax.errors import DataError
from tigerjax.evaluate import compare, published, scores_page, suite
from tigerjax.files import jsonl, manifest


def evaluation(folder, rights):
    """An evaluation folder of {task: [(group, right)]}."""
    tasks = {}
    for name, answers in rights.items():
        asked = [{"id": str(n), "group": g, "right": r, "answer": 0} for n, (g, r) in enumerate(answers)]
        (folder / suite.ITEMS).mkdir(parents=True, exist_ok=True)
        jsonl.write_jsonl(folder / suite.ITEMS / f"{name}.jsonl", asked)
        tasks[name] = {"metric": "acc", "lang": "en"} | suite.count(asked)
    figures = suite.summary({"tasks": tasks}, {"c3": "not there"}, suite.EvaluationConfig())
    manifest.write_json(folder / suite.RESULTS, figures)
    return folder


def rights(pattern, group=""):
    return [(group, c == "1") for c in pattern]


def test_the_score_of_groups_is_the_mean_of_their_shares():
    asked = [{"id": "", "group": g, "right": r, "answer": 0} for g, r in rights("1100", "a") + rights("11", "b")]
    found = suite.count(asked)
    assert found["score"] == 0.75 and found["groups"] == {"a": 0.5, "b": 1.0} and found["n"] == 6
    assert found["stderr"] == pytest.approx(math.sqrt(0.25 / 3) / 2)


def test_paired_differences_and_their_interval(tmp_path):
    one = evaluation(tmp_path / "one/evaluation", {"piqa": rights("11001100"), "boolq": rights("10")})
    two = evaluation(tmp_path / "two/evaluation", {"piqa": rights("11101110")})
    found = compare.compare([one, two])
    assert found["models"] == ["one/evaluation", "two/evaluation"]
    (difference,) = found["tasks"]["piqa"]["differences"]
    values = [0, 0, 1, 0, 0, 0, 1, 0]
    deviation = math.sqrt(sum((v - 0.25) ** 2 for v in values) / 7 / 8)
    assert difference["difference"] == 0.25 and difference["n"] == 8
    assert difference["high"] - difference["low"] == pytest.approx(2 * 1.96 * deviation)
    assert found["tasks"]["boolq"] == {"scores": [0.5, None], "differences": [None]}
    assert found["means"]["mean_en"] == [None, None]


def test_the_same_answers_differ_by_nothing(tmp_path):
    one = evaluation(tmp_path / "one", {"piqa": rights("1100")})
    (difference,) = compare.compare([one, one.parent / "one"])["tasks"]["piqa"]["differences"]
    assert difference == {"difference": 0.0, "low": 0.0, "high": 0.0, "n": 4}


def test_other_questions_are_not_compared(tmp_path):
    one = evaluation(tmp_path / "one", {"piqa": rights("1100")})
    two = evaluation(tmp_path / "two", {"piqa": rights("110")})
    with pytest.raises(DataError, match="asked 4 and 3"):
        compare.compare([one, two])


def test_the_table_says_missing_and_incomplete_and_the_ratio_is_to_published_figures():
    results = {
        "tasks": {"piqa": {"metric": "acc", "score": 0.5, "stderr": 0.01, "n": 9}},
        "missing": {"c3": "x"},
        "mean_en": 0.3329,
        "mean_zh": None,
        "chat": False,
    }
    rows = scores_page.score_table(results).rows
    assert ["piqa", "acc", "50.00", "1.96", "9"] in rows and ["c3", "acc", "missing", "", ""] in rows
    assert ["Chinese, mean of 4", "", "incomplete", "", ""] in rows
    ratios = {row[0]: row for row in scores_page.ratio_table(results).rows}
    assert set(ratios) == {name for name, m in published.MODELS.items() if not m.chat}
    assert ratios["TigerBot-70B-base"] == ["TigerBot-70B-base", "66.58", "65.26", "0.500", "incomplete"]


def test_compare_from_the_command_line(tmp_path, capsys):
    one = evaluation(tmp_path / "one", {"piqa": rights("1100")})
    two = evaluation(tmp_path / "two", {"piqa": rights("1110")})
    arguments = [str(one), str(two), "--out", str(tmp_path / "x.html"), "--json", str(tmp_path / "x.json")]
    assert main(["evaluate", "compare", *arguments]) == 0
    assert "+25.00 [-24.00, +74.00]" in capsys.readouterr().out
    assert "two - one" in (tmp_path / "x.html").read_text()
    assert json.loads((tmp_path / "x.json").read_text())["models"] == ["one", "two"]
    assert main(["evaluate", "compare", str(one)]) == 3
    assert main(["evaluate", "compare", str(one), str(tmp_path)]) == 3
