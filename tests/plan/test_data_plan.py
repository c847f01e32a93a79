"""`tigerjax data plan`: samples, the line through two of them, a real run of a stage, and what is refused."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

from tigerjax.command.cli import main
from tigerjax.command.data_plan import Stage, StagesOptions
from tigerjax.errors import ConfigError, DataError
from tigerjax.files import jsonl
from tigerjax.plan import data_cost, data_sample
from tigerjax.records import READING

EMBEDDED = Path(__file__).resolve().parents[2] / "data_mixtures" / "embedded"


def test_a_fixed_and_a_linear_part_are_told_apart():
    assert data_cost.line(5.0, 9.0, (2.0, 4.0)) == (1.0, 2.0)
    assert data_cost.line(1.0, 4.0, (2.0, 4.0)) == (0.0, 1.0)  # a fixed part below 0 is noise
    assert data_cost.line(3.0, 2.9, (2.0, 4.0)) == (3.0, 0.0)
    small, large = (data_cost.Measured(s, 0.1, b, b // 2, b // 4) for s, b in ((5.0, 2_000), (9.0, 4_000)))
    figures = data_cost._figures(small, large, (2.0, 4.0), 1000.0, 4)
    assert figures["core_hours"] == float(f"{(1 + 2 * 1000) / 3600:.3g}")
    assert figures["hours"] == float(f"{(1 + 2 * 1000 / 4) / 3600:.3g}")
    assert (figures["disk_gb"], figures["shuffle_gb"], figures["out_gb"]) == (0.001, 0.0005, 0.00025)


def test_a_sample_has_whole_records_from_all_over_each_file_and_none_twice(tmp_path):
    files = []
    for name in "ab":
        files.append(tmp_path / f"{name}.jsonl")
        jsonl.write_jsonl(files[-1], ({"id": f"{name}{i}", "text": "tiger " * 40} for i in range(2000)))
    written = data_sample.write(files, 0.1, tmp_path / "out", READING)
    ids = [record["id"] for _, record in jsonl.read_jsonl(tmp_path / "out")]
    assert written * 1e6 == (tmp_path / "out").stat().st_size and 0.09 < written < 0.12
    assert len(set(ids)) == len(ids)
    for name in "ab":
        numbers = [int(i[1:]) for i in ids if i[0] == name]
        assert numbers == sorted(numbers) and min(numbers) < 50 and max(numbers) > 1800
    data_sample.write(files, 50, tmp_path / "whole", READING)
    assert (tmp_path / "whole").read_bytes() == b"".join(path.read_bytes() for path in files)
    assert data_sample.sizes([*files, tmp_path / "c.jsonl.gz"])[1] == [tmp_path / "c.jsonl.gz"]


def test_the_command_runs_a_stage_on_two_samples_and_says_what_all_of_it_costs(tmp_path):
    report = tmp_path / "plan.json"
    text = EMBEDDED / "corpus_zh.jsonl"
    command = [
        *[sys.executable, "-m", "tigerjax", "data", "plan", "--input", text, "--stages", "clean", "--total-gb", "3"],
        *["--workers", "4", "--sample-mb", "0.2", "--json", report],
    ]
    # In a process of its own: Linux counts the memory of the process that starts a worker as the worker's.
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    figures = json.loads(report.read_text(encoding="utf-8"))
    small, large = figures["samples_mb"]
    assert small < 0.3 * large and figures["input_mb"] == 3000
    clean = figures["stages"]["clean"]
    assert clean["fixed_s"] >= 0 and clean["core_hours"] >= clean["hours"] > 0
    assert 0.01 < clean["peak_gb_of_a_worker"] < 1  # no test of the machine: JAX alone would be more
    assert 1 < clean["out_gb"] <= clean["disk_gb"] < 30


def test_tokens_are_worth_the_chip_hours_of_a_training_plan():
    plan = {"fits": True, "tokens_per_step": 1000, "step_s": 2.0, "chips": 4}
    assert data_cost.training({"tokens": 1_800_000}, plan) == {"days": 3600 / 86400, "chip_hours": 4.0}


def test_a_stage_that_fails_is_one_line(tmp_path):
    (tmp_path / "x.jsonl").write_text('{"id": "a"}\n' * 90_000, encoding="utf-8")
    wanted = data_cost.PlannedStages(stages=["clean"])
    with pytest.raises(
        DataError, match=r"stage clean of a sample of your text failed: record \d+: .*; correct"
    ) as caught:
        data_cost.plan([tmp_path / "x.jsonl"], 1.0, 0.5, wanted, READING, print)
    assert "sample.jsonl" not in str(caught.value)


def test_every_stage_of_text_can_be_planned(tmp_path):
    """Each is a command that there is, and takes the options that it is given."""
    wanted = data_cost.PlannedStages(
        stages=(), sft=[tmp_path], evaluation_sets=[tmp_path], quality_model=tmp_path, tokenizer=tmp_path
    )
    for stage in get_args(Stage):
        words = data_cost.command(stage, [EMBEDDED / "corpus_zh.jsonl"], tmp_path / "out", wanted)
        if stage != "cache":
            assert words[1:3] == ["-m", "tigerjax"]
            assert main([*words[3:], "--dry-run"]) == 0, stage


def test_files_that_hold_less_than_the_sample_are_planned_from_and_too_small_ones_refused(tmp_path, monkeypatch):
    sizes = []

    def run(stage, given, work, wanted):
        sizes.append(given[0].stat().st_size)
        (work / "out").mkdir(parents=True)
        (work / "out" / "x.jsonl").write_bytes(b"{}")
        return data_cost.Measured(sizes[-1] / 1e6, 0.1, 1, 0, 1)

    monkeypatch.setattr(data_cost, "run", run)
    path, wanted = tmp_path / "x.jsonl", data_cost.PlannedStages(stages=["clean"])
    path.write_text("".join(json.dumps({"id": str(n), "text": "tiger " * 20}) + "\n" for n in range(3000)))
    figures = data_cost.plan([path], 1000.0, 64.0, wanted, READING, print)  # the files are a pilot's
    assert sizes[0] < 0.3 * sizes[1] and sizes[1] == path.stat().st_size
    assert figures["stages"]["clean"]["core_hours"] == pytest.approx(1000 / 3600, rel=0.01)
    path.write_text('{"id": "a"}\n' * 9)
    with pytest.raises(DataError, match=r"x.jsonl: 0.000 MB of text, of which no smaller sample can be taken"):
        data_cost.plan([path], 1000.0, 64.0, wanted, READING, print)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"stages": ("against-sft",)}, "stage against-sft and --sft need each other"),
        ({"stages": ("quality",)}, "stage quality and --quality-model need each other"),
        ({"tokenizer": Path("t")}, "stage cache and --tokenizer need each other"),
        ({"stages": ("cache", "clean"), "tokenizer": Path("t")}, "give each stage once, and cache as the last"),
        ({"stages": ("clean", "clean")}, "give each stage once"),
        ({"training": Path("p")}, "--training needs the tokens"),
    ],
)
def test_stages_that_do_not_fit_are_refused(given, says):
    with pytest.raises(ConfigError, match=says):
        dataclasses.replace(StagesOptions(), **given)


def test_what_says_no_size_and_what_is_no_training_plan_are_refused(tmp_path, capsys):
    packed = tmp_path / "x.jsonl.gz"
    jsonl.write_jsonl(packed, [{"id": "a", "text": "tiger"}])
    assert main(["data", "plan", "--input", str(packed)]) == 2
    assert "its size does not say how much text it holds; give the size as --total-gb" in capsys.readouterr().err
    (tmp_path / "p.json").write_text("{}", encoding="utf-8")
    words = ["--stages", "clean", "cache", "--tokenizer", str(tmp_path), "--training", str(tmp_path / "p.json")]
    assert main(["data", "plan", "--input", str(EMBEDDED / "corpus_zh.jsonl"), *words]) == 2
    assert "is not what `tigerjax plan CONFIG --json FILE` writes" in capsys.readouterr().err
