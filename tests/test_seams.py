"""Where a change goes (docs/ARCHITECTURE.md): each kind of change is made up here, through the one place that the table
there names for it, and is used from end to end. So none of them needs an edit anywhere else in the package."""

import dataclasses
import json
from concurrent.futures import ThreadPoolExecutor

import flax.linen as nn
import jax
import numpy as np
import pytest
from tiny_run import SILENT, TinyLoader, tiny_config

from tigerjax.checkpoint.model import load_model, save_model
from tigerjax.command.cli import main
from tigerjax.config import FLOAT32, ModelConfig, ObjectiveConfig, dump
from tigerjax.config.ranges import Count, PositiveFactor
from tigerjax.errors import ConfigError, DataError
from tigerjax.files import packed
from tigerjax.model import families
from tigerjax.model.layers import init
from tigerjax.model.llama.face import FAMILY as llama
from tigerjax.records import formats
from tigerjax.stages import runner as runners
from tigerjax.stages.local import reported
from tigerjax.stages.outcomes import outcome, result
from tigerjax.text import rules
from tigerjax.train import objective as objectives
from tigerjax.train.loop import train


def lines_of(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


# A source format: an entry in records/formats.py, FORMATS


def pairs(block, on_bytes=None):
    """The records of a file of lines `id|text`."""
    with packed.reading(block.path) as (file, _):
        yield from enumerate(file, 1)


def parse_pair(where, line):
    identity, mark, text = line.decode().rstrip("\n").partition("|")
    if not mark:
        raise DataError(f"{where}: no | in it")
    return {"id": identity, "text": text}


@pytest.fixture
def pair_format(monkeypatch, tmp_path):
    made_up = formats.Format(pairs, parse_pair, endings=(".pairs",), compressed=(".gz",))
    monkeypatch.setattr(formats, "FORMATS", (*formats.FORMATS, made_up))
    file = tmp_path / "a.pairs"
    file.write_text("b|The second of all texts.\na|The first of all texts.\nc|THE THIRD OF ALL TEXTS.\n")
    return file


def test_a_new_format_is_read_by_every_stage(pair_format, tmp_path):
    assert main(["data", "clean", "--input", str(pair_format), "--out", str(tmp_path / "clean")]) == 0
    assert [r["id"] for r in lines_of(tmp_path / "clean" / "a.jsonl")] == ["b", "a", "c"]
    assert main(["data", "dedup", "exact", "--input", str(pair_format), "--out", str(tmp_path / "dedup")]) == 0
    assert [r["id"] for r in lines_of(tmp_path / "dedup" / "a.jsonl")] == ["a", "b", "c"]


def test_a_line_that_is_no_record_of_a_new_format_is_named(pair_format, tmp_path, capsys):
    pair_format.write_text("a|One.\ntwo\n")
    assert main(["data", "dedup", "exact", "--input", str(pair_format), "--out", str(tmp_path / "dedup")]) == 3
    assert "a.pairs:2: no | in it" in capsys.readouterr().err


# A cleaning rule: an entry in text/rules.py, REWRITES or FILTERS


def shouting(record):
    """A document in capitals."""
    return record.get("text", "").isupper()


def test_a_new_rule_is_known_to_the_command_the_manifest_and_the_page(pair_format, monkeypatch, tmp_path):
    rule = rules.Filter(shouting, default=False)
    monkeypatch.setattr(rules, "FILTERS", (*rules.FILTERS, rule))
    monkeypatch.setitem(rules.RULES, rule.name, rule)  # RULES is made of REWRITES and FILTERS at import
    out = tmp_path / "clean"
    assert main(["data", "clean", "--input", str(pair_format), "--out", str(out), "--on", "shouting"]) == 0
    made = json.loads((out / "manifest.json").read_text())
    assert made["counts"] == {"in": 3, "out": 2, "dropped": {"shouting": 1}}
    assert made["config"]["rules"]["shouting"] == 1
    assert "shouting" in (out / "report.html").read_text(encoding="utf-8")


# A runner of data stages: an entry in stages/runner.py, RUNNERS


class Threads:
    """The steps in threads of this process."""

    def __init__(self, name, workers):
        self.pool = ThreadPoolExecutor(workers)

    def each(self, function, items, folder, report):
        done = self.pool.map(lambda item: outcome(function, item), items)
        return [result(one) for one in reported(done, report, len(items))]

    def cores(self):
        return None

    def close(self):
        self.pool.shutdown(cancel_futures=True)


@pytest.fixture
def threads(monkeypatch):
    monkeypatch.setitem(runners.RUNNERS, "threads", Threads)


def test_a_new_runner_gives_the_same_bytes(threads, pair_format, tmp_path):
    stage = ["data", "dedup", "exact", "--input", str(pair_format), "--shards", "3", "--out"]
    assert main([*stage, str(tmp_path / "local")]) == 0
    assert main([*stage, str(tmp_path / "threads"), "--runner", "threads", "--workers", "3"]) == 0
    assert (tmp_path / "threads/a.jsonl").read_bytes() == (tmp_path / "local/a.jsonl").read_bytes()


def refused(item):
    if item > 1:
        raise DataError(f"item {item} is bad")
    return item


def test_a_new_runner_raises_the_first_error_of_a_step_and_reports_it(threads, tmp_path):
    met = []
    with runners.Runner("threads", 2, lambda what, unit: lambda done, total: met.append((what, done, total))) as runner:
        assert runner.each(refused, [0, 1], tmp_path, "fine") == [0, 1]
        assert met == [("fine", 1, 2), ("fine", 2, 2)]
        with pytest.raises(DataError, match="item 2 is bad"):
            runner.each(refused, [0, 2, 3], tmp_path, "bad")


def test_a_new_runner_is_told_from_those_of_beam(threads):
    assert [runners.is_beam(name) for name in ("threads", "local", "DirectRunner --a 1")] == [False, False, True]


# An objective: a subclass of ObjectiveConfig with its numbers, an entry in train/objective.py, OBJECTIVES


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ScaledConfig(ObjectiveConfig):
    """The token loss, times a number."""

    factor: PositiveFactor


def scaled(config, mesh):
    plain = objectives.token_objective(config, mesh)

    def loss(weights, batch):
        total, weight, aux = plain.loss(weights, batch)
        return config.objective.factor * total, weight, aux

    return dataclasses.replace(plain, loss=loss)


def test_a_new_objective_is_chosen_by_the_config(monkeypatch, tmp_path):
    monkeypatch.setitem(objectives.OBJECTIVES, ScaledConfig, scaled)
    plain = tiny_config(total_steps=3, every_steps=3)
    run = dataclasses.replace(plain, objective=ScaledConfig(factor=2.0))
    for folder, config in (("plain", plain), ("scaled", run)):
        train(config, TinyLoader(), run_dir=tmp_path / folder, reporting=SILENT)
    first, twice = (lines_of(tmp_path / name / "metrics.jsonl")[0]["loss_nats"] for name in ("plain", "scaled"))
    assert twice == pytest.approx(2 * first)
    written = (tmp_path / "scaled/config.txt").read_text().splitlines()
    assert set(written) - set(dump(plain)) == {f"objective = {__name__}.ScaledConfig", "objective.factor = 2.0"}


def test_an_objective_that_nobody_makes_is_refused(tmp_path):
    run = dataclasses.replace(tiny_config(), objective=ScaledConfig(factor=2.0))
    with pytest.raises(ConfigError, match="no objective has settings of type ScaledConfig; add it to OBJECTIVES"):
        train(run, TinyLoader(), run_dir=tmp_path, reporting=SILENT)


# A model family: a folder beside model/llama whose face has a `Family`, and an entry in model/families.py, FAMILIES


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class WhaleConfig(ModelConfig):
    """The sizes of a family that is made up; its layers are a Llama's."""

    blowholes: Count


def test_a_new_family_goes_to_hugging_face_and_back(monkeypatch, tmp_path):
    own = {"CONFIG": WhaleConfig, "KIND": "whale", "REWARD_KIND": "whale-reward", "HF_MODEL_TYPE": "whale"}
    own |= {"HF_LANGUAGE": "Whale", "HF_REWARD": "WhaleReward"}
    own |= {"own_sizes": lambda fields: {"blowholes": fields.whole("blowholes", 1)}}
    own |= {"own_fields": lambda config: {"blowholes": config.blowholes}}
    monkeypatch.setattr(families, "FAMILIES", (llama, whale := dataclasses.replace(llama, **own)))

    plain = tiny_config().model
    sizes = {f.name: getattr(plain, f.name) for f in dataclasses.fields(plain)}
    config = WhaleConfig(**sizes, blowholes=2)
    weights = nn.unbox(init(whale.language_model(config, FLOAT32), jax.random.key(0)))
    save_model(tmp_path / "whale", weights, config)
    assert main(["convert", "to-hf", str(tmp_path / "whale"), str(tmp_path / "hf"), "--verify"]) == 0
    assert json.loads((tmp_path / "hf/config.json").read_text())["architectures"] == ["Whale"]
    assert main(["convert", "from-hf", str(tmp_path / "hf"), str(tmp_path / "back"), "--verify"]) == 0
    back = load_model(tmp_path / "back")
    assert (back.kind, back.config) == ("whale", config)
    jax.tree.map(np.testing.assert_array_equal, back.weights, jax.device_get(weights))
