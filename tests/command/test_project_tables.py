"""The tables of a project file: what they add to a command, which command comes next, and what is wrong in them."""

import shlex
from pathlib import Path

import pytest
from project_files import TABLES, completed

from tigerjax.align import summary
from tigerjax.command import project
from tigerjax.command.table import COMMANDS
from tigerjax.errors import ConfigError


@pytest.mark.parametrize(
    ("command", "typed", "words"),
    [
        ("data clean", "", ["--input", "zh.jsonl", "en files/*.jsonl", "--out", "clean", "--drop-denied"]),
        ("data clean", "--out=other", ["--out=other", "--input", "zh.jsonl", "en files/*.jsonl", "--drop-denied"]),
        ("data clean", "--no-drop-denied --input x", ["--no-drop-denied", "--input", "x", "--out", "clean"]),
        ("train", "pretrain.py", ["pretrain.py", "--optim.peak-lr", "0.0001"]),
        ("train", "pretrain.py --optim.peak_lr 1", ["pretrain.py", "--optim.peak_lr", "1"]),
        ("train", "sft.py", ["sft.py"]),
        ("train", "other.py", ["other.py"]),
        ("convert to-hf", "", ["runs/sft", "hf", "--dtype", "bfloat16", "--no-verify"]),
        ("convert to-hf", "runs/sft", ["runs/sft", "hf", "--dtype", "bfloat16", "--no-verify"]),
        ("convert to-hf", "runs/other hf", ["runs/other", "hf"]),
        ("tokenizer stats", "tok --text x", ["tok", "--text", "x"]),
    ],
)
def test_what_is_typed_counts_more_than_the_project_file(command, typed, words):
    assert completed(command, typed) == words


ALIGNED = '["align init sft.py"]\nout = "runs/a"\n["align run runs/align"]\n'


@pytest.mark.parametrize(
    ("command", "typed", "words"),
    [
        ("align status", "", ["runs/align"]),
        ("align import", "--labels a.jsonl", ["runs/align", "--labels", "a.jsonl"]),
        ("align set", "--align.allow-partial", ["runs/align", "--align.allow-partial"]),
        ("align gate", "runs/other", ["runs/other"]),
        ("checkpoint ls", "", []),
    ],
)
def test_a_command_about_the_alignment_takes_the_folder_that_the_project_names(command, typed, words):
    assert completed(command, typed, ALIGNED) == words
    assert completed(command, typed, ALIGNED.partition("\n[")[0])[:1] == [w.replace("align", "a") for w in words[:1]]
    assert completed(command, typed) == shlex.split(typed)  # a project without rounds


def test_steps_of_a_round_lead_back_to_align_run_and_then_to_the_export_of_its_model(tmp_path, monkeypatch):
    """They have no tables. Before, `align status` said `--rounds N`, and `align run` exported the model before it."""
    monkeypatch.chdir(tmp_path)
    tables = project.parsed(TABLES.replace('["convert', ALIGNED + '["convert'), COMMANDS)
    steps = [("align", step) for step in ("set", "import", "mix", "gate", "status")]
    assert {project.following(tables, step, ["runs/align"]) for step in steps} == {"tigerjax align run"}
    assert project.following(tables, ("align", "status"), ["runs/other"]) is None
    Path("runs/align/rounds/01/gate").mkdir(parents=True)
    Path("runs/align/rounds/01/gate/manifest.json").touch()
    model, exports = "runs/align/rounds/01/train/run", "tigerjax convert to-hf"
    for checkpoint, export in ((model, f"{exports} {model} hf --dtype bfloat16 --no-verify"), ("runs/sft", exports)):
        monkeypatch.setattr(summary, "outcomes", lambda _, checkpoint=checkpoint: [{"checkpoint": checkpoint}])
        for step in (*steps[1:], ("align", "run")):
            assert project.following(tables, step, ["runs/align"]) == export
    assert project.following(tables, ("align", "set"), ["runs/align"]) == "tigerjax align run --rounds 2"
    Path("runs/align/rounds/02").mkdir()
    assert {project.following(tables, step, ["runs/align"]) for step in steps} == {"tigerjax align run --rounds 2"}


def test_what_the_project_file_adds_is_shown_on_stderr(capsys):
    completed("data clean", "--out other")
    out, err = capsys.readouterr()
    assert (out, err) == ("", "tigerjax.toml: --input zh.jsonl 'en files/*.jsonl' --drop-denied\n")


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ('["data clean"]\ninptu = "x"', r"\['data clean'\] has 'inptu', which is no option; did you mean --input\?"),
        ('["data claen"]\n', r"'data claen'\] is no command; did you mean data clean"),
        ('out = "x"\n', "out stands in no table"),
        ('["data clean"\n', "tigerjax.toml: .*line 1"),
        ('["data clean"]\ninput = {a = 1}', "input must be text, a number, or a list of them"),
        ('["data \'clean"]\n', "close the quotes"),
    ],
)
def test_a_wrong_project_file_is_one_line(tables, message):
    with pytest.raises(ConfigError, match=message) as error:
        completed("data clean", "", tables)
    assert "\n" not in str(error.value)


def test_one_of_several_tables_must_be_typed():
    with pytest.raises(ConfigError, match=r"2 tables .* type one of `tigerjax train pretrain.py`, `tigerjax train sft"):
        completed("train", "")


def test_a_command_that_ends_names_the_next_table():
    tables = project.parsed(TABLES, COMMANDS)
    assert project.following(tables, ("data", "clean"), []) == "tigerjax train pretrain.py"
    assert project.following(tables, ("train",), ["sft.py"]) == "tigerjax convert to-hf"
    assert project.following(tables, ("convert", "to-hf"), ["runs/sft", "hf"]) is None
    assert project.following(tables, ("report",), ["runs/sft"]) is None
