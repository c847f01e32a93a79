"""The YAML tasks through the harness's own TaskManager: the thirteen score as `tigerjax evaluate` has it."""

import dataclasses
import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from text_model import StandIn, likelihood
from thirteen import N, write_all
from tiny import weights
from tiny_model import CONFIG

pytest.importorskip("lm_eval")

from lm_eval.api.registry import model_registry
from lm_eval.tasks import TaskManager

from tigerjax.checkpoint.model import save_model
from tigerjax.command.cli import main
from tigerjax.errors import ConfigError
from tigerjax.evaluate import harness, suite
from tigerjax.evaluate.benchmarks import BENCHMARKS, chosen
from tigerjax.evaluate.harness_tasks import YAML
from tigerjax.evaluate.items import Missing
from tigerjax.evaluate.suite import EvaluationConfig
from tigerjax.files import paths
from tigerjax.tokenizer.load import Tokenizer
from tigerjax.tokenizer.train import train_model

ROOT = Path(__file__).resolve().parents[2]
THIRTEEN = [name for name, benchmark in BENCHMARKS.items() if benchmark.counted]
LACKING = ["cmrc2018", "c3", "ocnli"]


def says(text):
    """An answer to every kind of question, right for some: a number, a letter, a place and a function."""
    n = int(-likelihood(text) * 1000)
    if "def double" in text:
        return "    return x * 2\n"
    return f"The answer is {n % 3}. {'ABCD'[n % 4]}" if "在哪" not in text else f"答案是{'北京市' * (n % 2 + 1)}。"


@pytest.fixture
def data(tmp_path):
    write_all(tmp_path / "data")
    return tmp_path / "data"


def test_the_folder_holds_the_thirteen_their_means_and_what_the_harness_lacks():
    manager = TaskManager(include_path=str(YAML), include_defaults=False)
    files = {path.stem for path in YAML.glob("*.yaml")}
    assert files == {"tigerbot", "tigerbot_en", "tigerbot_zh", *LACKING, *(f"tigerbot_{n}" for n in THIRTEEN)}
    assert files <= set(manager.all_tasks) and {"tigerbot_en", "tigerbot_zh"} <= set(manager.all_groups)
    for lang in ("en", "zh"):
        members = yaml.safe_load((YAML / f"tigerbot_{lang}.yaml").read_text())["task"]
        assert members == [f"tigerbot_{n}" for n in THIRTEEN if BENCHMARKS[n].lang == lang]


@pytest.mark.parametrize("chat", [False, True])
def test_all_thirteen_score_as_tigerjax_evaluate_does(data, tmp_path, chat):
    ours, theirs = StandIn(says), StandIn(says)
    config = EvaluationConfig(data_dir=data, chat=chat, allow_code=True)
    want = suite.evaluate(ours, chosen(["all"]), tmp_path / "out", config)
    found = harness.evaluate(theirs, ["tigerbot"], config, out=tmp_path / "theirs")
    assert found["complete"] and not found["missing"]
    for name in THIRTEEN:
        assert found["tasks"][f"tigerbot_{name}"]["score,none"] == want["tasks"][name]["score"], name
        assert found["tasks"][f"tigerbot_{name}"]["score_stderr,none"] == want["tasks"][name]["stderr"], name
        assert (
            len((tmp_path / f"theirs/items/tigerbot_{name}.jsonl").read_text().splitlines()) == want["tasks"][name]["n"]
        )
        assert found["tasks"][f"tigerbot_{name}"]["sample_len"] == want["tasks"][name]["n"]
    assert 3 < len({r["score"] for r in want["tasks"].values()}), "scores that are all alike compare nothing"
    assert sorted(theirs.asked) == sorted(ours.asked)
    assert chat == any("[I]" in text for text in theirs.asked)
    for lang in ("en", "zh"):
        mean = found["tasks"][f"tigerbot_{lang}"]["score,none"]
        assert mean == pytest.approx(want[f"mean_{lang}"], abs=1e-12)
        assert 0 < found["tasks"][f"tigerbot_{lang}"]["score_stderr,none"] < 0.1
    kept = json.loads((tmp_path / "theirs/results.json").read_text())
    assert kept["tasks"] == json.loads(json.dumps(found["tasks"])) and kept["chat"] is chat


def test_all_thirteen_are_read_from_a_bucket_as_from_a_disk_and_one_that_may_not_be_is_not_missing(data, cloud):
    far = paths.of("gs://bucket/data")
    paths.upload(data, far)

    def items(name, folder):
        return [dataclasses.replace(item, id="") for item in BENCHMARKS[name].read(folder / name)]

    for name in THIRTEEN:
        assert items(name, far) == items(name, data), name
    one, other = (
        harness.evaluate(StandIn(says), ["tigerbot_zh"], EvaluationConfig(data_dir=folder)) for folder in (data, far)
    )
    assert one == other and one["complete"]
    for asked in ("piqa", "ceval"):
        cloud.refuse = lambda method, name, asked=asked: 403 if asked in name else None
        with pytest.raises(OSError, match="Forbidden"):
            items(asked, far)


def test_a_missing_benchmark_leaves_its_mean_out_and_the_others_in(data):
    (data / "piqa/dev.jsonl").unlink()
    found = harness.evaluate(StandIn(says), ["tigerbot"], EvaluationConfig(data_dir=data))
    assert set(found["missing"]) == {"tigerbot_piqa", "tigerbot_humaneval"} and not found["complete"]
    assert found["missing"]["tigerbot_piqa"].endswith("piqa/dev.jsonl is not there")
    assert found["missing"]["tigerbot_humaneval"] == suite.NOT_ALLOWED
    assert "tigerbot_en" not in found["tasks"] and "score,none" in found["tasks"]["tigerbot_zh"]
    assert len([name for name in found["tasks"] if name.startswith("tigerbot_")]) == 11 + 1


def test_nothing_is_read_without_a_folder():
    with pytest.raises(ConfigError, match="give --metadata data_dir=DIR"):
        harness.evaluate(StandIn(), ["tigerbot_piqa"], EvaluationConfig())


@pytest.mark.slow  # the harness's own tasks are listed first
def test_an_unknown_task_is_named():
    with pytest.raises(ConfigError, match="no task 'tigerbot_glue'"):
        harness.evaluate(StandIn(), ["tigerbot_glue"], EvaluationConfig())


class Pairs(StandIn):
    """Scores what follows `first`, by its text and what stands before it."""

    def loglikelihoods(self, requests, progress=None):
        pairs = [(self.text(ids[:first]), self.text(ids[first:])) for ids, first in requests]
        self.asked += pairs
        return [(likelihood(before + "|" + after), False) for before, after in pairs]


def test_c3_and_ocnli_in_the_harness_own_way(data):
    model = Pairs()
    found = harness.evaluate(model, ["c3", "ocnli"], EvaluationConfig(data_dir=data))["tasks"]
    right = normed = 0
    for n in [*range(5), *range(4)]:
        ask = f"文章：甲：你好。乙：{n}。\n问题：颜色？\n答案："
        scores = [likelihood(f"{ask}|{choice}") for choice in ("红", "蓝色")]
        right += scores[0] > scores[1]
        normed += scores[0] > scores[1] / 2
    assert found["c3"]["acc,none"] == right / N and found["c3"]["acc_norm,none"] == normed / N
    right = calibrated = 0
    for n in range(N):
        ask = f"语句一：“甲{n}”\n语句二：“乙”\n请问这两句话是什么关系？"
        words, gold = ["矛盾", "蕴含", "无关"], (2, 0, 1)[n % 3]
        scores = [likelihood(f"{ask}|\n{word}") for word in words]
        # Without a context the harness gives the bos alone, which the stand-in shows as nothing.
        alone = [s - likelihood(f"|\n{word}") for s, word in zip(scores, words, strict=True)]
        right += scores.index(max(scores)) == gold
        calibrated += alone.index(max(alone)) == gold
    assert found["ocnli"]["acc,none"] == right / N and 0 < found["ocnli"]["acc_stderr,none"] < 1
    assert found["ocnli"]["acc_mutual_info,none"] == calibrated / N and calibrated != right


def test_cmrc2018_in_the_harness_own_way(data):
    said = [
        "答案是北京市。",
        "北京市北京市",
        "答案是 北京市\n还有",
        "上海",
        "",
        "答案是北京市北京市，就是",
        *["不知道"] * 3,
    ]
    model = StandIn(lambda text: said[int(text.rsplit("在哪", 1)[1][0])])
    found = harness.evaluate(model, ["cmrc2018"], EvaluationConfig(data_dir=data))["tasks"]["cmrc2018"]
    assert found["exact_match,none"] == sum([True, True, True, False, False, False]) / N
    assert model.asked[0].endswith("\n文章：他在北京。\n问：在哪0？\n答：")


@pytest.fixture
def run_dir(tmp_path):
    """A config, its checkpoint and its tokenizer."""
    train_model([ROOT / "data_mixtures/embedded/corpus_en.jsonl"], 600, tmp_path / "tok")
    tokenizer = Tokenizer(tmp_path / "tok")
    config = dataclasses.replace(CONFIG, vocab_size=tokenizer.size, padded_vocab_size=tokenizer.size + 8)
    save_model(tmp_path / "run", weights(config), config, tokenizer_sha256=tokenizer.sha256, step=7)
    (tmp_path / "tiny_config.py").write_text(
        (ROOT / "configs/quickstart_base.py").read_text().replace("def config() ->", "def whole() ->")
        + "\n\ndef config() -> RunConfig:\n    from dataclasses import replace\n    run = whole()\n"
        f"    return replace(run, data=replace(run.data, tokenizer={str(tmp_path / 'tok')!r}, seq_len=96))\n"
    )
    return tmp_path


def evaluated(run_dir, data, *words):
    """(exit code, tasks) of `tigerjax evaluate` on the model in a folder."""
    command = ["evaluate", str(run_dir / "tiny_config.py"), "--model", str(run_dir / "run"), "--batch-size", "4"]
    command += ["--data-dir", str(data), "--out", str(run_dir / "out"), "--json", str(run_dir / "figures.json")]
    code = main([*command, *words])
    return code, json.loads((run_dir / "figures.json").read_text())["tasks"]


def test_a_model_on_disk_has_one_score_either_way_and_missing_data_exits_3(data, run_dir, capsys):
    code, ours = evaluated(run_dir, data, "--tasks", "boolq")
    assert code == 0
    (data / "siqa/dev.jsonl").unlink()
    code, theirs = evaluated(run_dir, data, "--harness", "--tasks", "tigerbot_boolq", "tigerbot_siqa")
    kept = run_dir / "out/harness"
    assert json.loads((kept / "results.json").read_text())["tasks"] == theirs
    assert len((kept / "items/tigerbot_boolq.jsonl").read_text().splitlines()) == N
    assert "standard error" in (kept / "report.html").read_text()
    assert code == 3 and theirs["tigerbot_boolq"]["score,none"] == ours["boolq"]["score"]
    said = capsys.readouterr()
    assert "incomplete: tigerbot_siqa missing" in said.err and "siqa/dev.jsonl is not there" in said.out


def test_the_command_knows_our_model_beside_the_harness_own_and_ends_with_our_exit_codes(monkeypatch, capsys):
    def missing():
        raise Missing("piqa/dev.jsonl")

    command = importlib.import_module("tigerjax.evaluate.__main__")
    monkeypatch.setattr(command, "cli_evaluate", lambda: None)
    assert command.main() == 0 and {"tigerjax", "hf", "vllm"} <= set(model_registry.keys())
    for does, code, line in (
        (lambda: harness.TigerLM.create_from_arg_obj({"pretrained": "x"}), 2, "not ['pretrained']"),
        (missing, 3, "piqa/dev.jsonl is not there"),
    ):
        monkeypatch.setattr(command, "cli_evaluate", does)
        assert command.main() == code and line in capsys.readouterr().err


@pytest.mark.slow
def test_the_harness_own_command_runs_them(data, run_dir):
    assert not set(LACKING) & set(TaskManager().all_tasks), "the harness has it now; ours overrides it"
    code, ours = evaluated(run_dir, data, "--tasks", "boolq")
    own = [sys.executable, "-m", "tigerjax.evaluate", "run", "--model", "tigerjax", "--include_path", str(YAML)]
    own += ["--model_args", f"config={run_dir}/tiny_config.py,model={run_dir}/run,rows=4"]
    own += ["--metadata", f"data_dir={data}", "--output_path", str(run_dir / "theirs.json")]
    done = subprocess.run([*own, "--tasks", "tigerbot_boolq"], capture_output=True, text=True, cwd=ROOT)
    assert code == 0 and done.returncode == 0, done.stderr[-2000:]
    (written,) = run_dir.glob("theirs*.json")
    theirs = json.loads(written.read_text())["results"]
    assert theirs["tigerbot_boolq"]["score,none"] == ours["boolq"]["score"]
    (data / "siqa/dev.jsonl").unlink()
    done = subprocess.run([*own, "--tasks", "tigerbot_siqa"], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 3 and "siqa/dev.jsonl is not there" in done.stderr and "Traceback" not in done.stderr
