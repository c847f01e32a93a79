"""A project file fills in what is not typed, `tigerjax new` writes one, and every command can name the next."""

import dataclasses
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hand_tokenizer import PIECES, model_bytes
from project_files import completed
from tiny_model import CONFIG

from tigerjax import config as config_lib
from tigerjax.command import cli, next_step, options, project
from tigerjax.command.arguments import bind
from tigerjax.command.table import COMMANDS
from tigerjax.convert import hf
from tigerjax.model.hf_weights import hf_rows
from tigerjax.model.weights import put


def test_report_takes_what_the_last_stage_has_made(mine, capsys):
    assert completed("report", "", Path("tigerjax.toml").read_text()) == []
    for run in ("reward", "pretrain", "sft"):
        assert completed("report", "runs/other", Path("tigerjax.toml").read_text()) == ["runs/other"]
        Path("runs", run).mkdir(parents=True)
        Path("runs", run, "metrics.jsonl").touch()
        assert completed("report", "", Path("tigerjax.toml").read_text()) == ["runs/reward"]
    Path("runs/align/rounds/01/gate").mkdir(parents=True)
    assert completed("report", "", Path("tigerjax.toml").read_text()) == ["runs/reward"]  # no round has ended
    Path("runs/align/rounds/01/gate/manifest.json").touch()
    assert completed("report", "", Path("tigerjax.toml").read_text()) == ["runs/align"]
    assert capsys.readouterr().err.splitlines()[-1] == "tigerjax.toml: runs/align"
    Path("sft.py").write_text("broken(")
    assert completed("report", "", Path("tigerjax.toml").read_text()) == ["runs/align"]


@pytest.mark.parametrize(
    ("command", "typed", "message", "more"),
    [
        (
            "tokenizer train",
            "",
            "--vocab-size 3 is small",
            "; tigerjax.toml has --vocab-size, below ['tokenizer train']",
        ),
        ("tokenizer train", "--vocab-size 4", "--vocab-size 4 is small", ""),
        ("tokenizer train", "", "--vocab-size-max 4 is small", ""),
        ("tokenizer train", "", "clean/zh.jsonl: no such file", "; `tigerjax data clean` writes it"),
        ("tokenizer train", "", "unclean: no such file", ""),
        ("train", "", "runs/base is not there", "; `tigerjax convert from-hf` writes it"),
        ("data clean", "", "zh.jsonl: no such file", ""),
        ("report", "", "clean: no such file", ""),
    ],
)
def test_an_error_says_where_a_value_stands_and_which_command_writes_a_missing_file(
    command, typed, message, more, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    tables = project.parsed(
        '["data clean"]\ninput = "zh.jsonl"\nout = "clean"\n["tokenizer train"]\nvocab-size = 3\n'
        '["convert from-hf hf runs/base"]\n["train pretrain.py"]\n',
        COMMANDS,
    )
    assert project.explanation(message, tables, command.split(), shlex.split(typed)) == more
    (tmp_path / "clean").mkdir()
    if "writes" in more and "clean" in more:
        assert project.explanation(message, tables, command.split(), shlex.split(typed)) == ""


def test_commands_that_are_named_next_can_be_pasted_where_a_path_has_a_blank():
    assert "'my runs/x'" in str(next_step.after(("data", "clean"), {"out": "my runs/x"}))


def test_a_new_project_takes_paths_with_blanks_and_quotes(home, tmp_path, monkeypatch, capsys):
    shutil.copytree(home, tmp_path / "my home")
    monkeypatch.chdir(tmp_path / "my home")
    shutil.move("base", "it's a base")
    Path("a b").mkdir()
    typed = NEW.replace("--base base", '--base "it\'s a base"').replace("new mine", "new 'a b/mine'")
    assert cli.main(shlex.split(typed)) == 0
    assert "next: cd 'a b/mine' && tigerjax data clean" in capsys.readouterr().err
    monkeypatch.chdir("a b/mine")
    tables = project.read(COMMANDS)
    words = project.complete(tables, ("convert", "from-hf"), COMMANDS["convert", "from-hf"], [])
    assert words[:2] == ["../../it's a base", "runs/base"]
    bind(COMMANDS["convert", "from-hf"], words, "tigerjax")


def test_the_file_in_the_current_folder_is_read(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "zh.jsonl").write_text('{"id": "a", "text": "老虎在山里走。"}\n', encoding="utf-8")
    (tmp_path / "tigerjax.toml").write_text(
        '["data clean"]\ninput = ["zh.jsonl"]\nout = "clean"\n["data dedup exact"]\ninput = ["clean"]\nout = "exact"\n'
    )
    assert cli.main(["data", "clean"]) == 0
    assert capsys.readouterr().err.splitlines() == [
        "tigerjax.toml: --input zh.jsonl --out clean",
        "next: tigerjax data dedup exact",
    ]
    assert cli.main(["data", "dedup", "exact"]) == 0 and (tmp_path / "exact" / "zh.jsonl").is_file()
    (tmp_path / "tigerjax.toml").write_bytes(b"\xff")
    assert cli.main(["data", "clean"]) == 2 and "not UTF-8 at byte 0" in capsys.readouterr().err
    assert cli.main(["data", "clean", "--help"]) == 0


@pytest.mark.parametrize("command", next_step.NEXT, ids=" ".join)
def test_the_command_that_is_named_next_exists_and_has_these_options(command):
    assert command in COMMANDS
    given = {"out": "made", "dir": "made", "run": "runs/x", "name": "mine"}
    words = next_step.after(command, given).removeprefix("cd mine && ").split()
    follows = max((known for known in COMMANDS if tuple(words[1 : 1 + len(known)]) == known), key=len)
    known = {spelling for o in options.of_command(COMMANDS[follows]) for spelling in o.spellings}
    if options.takes_config(COMMANDS[follows]):
        known |= {"--checkpoint.init-from", "--data.mixture"}
    assert {word for word in words if word.startswith("--")} <= known
    named = set(re.findall(r"{([\w-]+)}", next_step.NEXT[command])) - {"run"}
    assert named <= {o.name.removeprefix("--") for o in options.of_command(COMMANDS[command])}


def test_every_command_names_the_next_one_or_is_said_to_be_the_last():
    assert next_step.NEXT.keys() | next_step.LAST.keys() == COMMANDS.keys()
    assert not next_step.NEXT.keys() & next_step.LAST.keys()
    assert next_step.after(("completion",), {"shell": "bash"}) is None


def test_the_next_command_is_named_on_stderr_without_a_project_and_without_a_terminal(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("zh.jsonl").write_text('{"id": "a", "text": "老虎在山里走。"}\n', encoding="utf-8")
    assert cli.main(shlex.split("data clean --input zh.jsonl --out clean --json figures.json")) == 0
    out, err = capsys.readouterr()
    assert "next:" not in out and err == "next: tigerjax data dedup exact --input clean --out DIR\n"
    assert cli.main(shlex.split("data clean --input zh.jsonl --out other --dry-run")) == 0
    assert "next:" not in capsys.readouterr().err  # nothing has ended


def test_the_next_command_has_the_defaults_of_the_one_that_has_ended(tmp_path):
    call = bind(COMMANDS["quickstart",], [], "tigerjax quickstart")
    assert next_step.after(("quickstart",), call.names()) == "tigerjax chat runs/quickstart"
    call = bind(COMMANDS["data", "stats"], shlex.split("mine --modules a b --seq-len 8"), "tigerjax data stats")
    assert "--modules a b --seq-len 8" in str(next_step.after(("data", "stats"), call.names()))


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with a tiny Llama in the form of Hugging Face, and the files of its user."""
    home = tmp_path_factory.mktemp("user")
    config = dataclasses.replace(CONFIG, vocab_size=PIECES, padded_vocab_size=PIECES)
    weights = {}
    for row in hf_rows(config, rows=PIECES):
        put(weights, row.ours, np.zeros(row.stacked_shape(config), np.float32))
    hf.to_hf(weights, config, home / "base", hf.Export(tokenizer=None))
    (home / "base" / "tokenizer.model").write_bytes(model_bytes())
    (home / "base" / "tokenizer.json").unlink(missing_ok=True)
    embedded = Path(__file__).resolve().parents[2] / "data_mixtures" / "embedded"
    for name, lines in (("zh", 1406), ("en", 1)):
        text = (embedded / f"corpus_{name}.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
        (home / f"{name}{'_a' if name == 'zh' else ''}.jsonl").write_text("".join(text[:lines]), encoding="utf-8")
    (home / "zh_b.jsonl").write_text('{"text": "老虎在山里走。"}\n', encoding="utf-8")
    for name, source in (("sft", "sft"), ("pairs", "preferences"), ("asked", "dev")):
        first = (embedded / f"{source}.jsonl").read_text(encoding="utf-8").splitlines()[0]
        (home / f"{name}.jsonl").write_text(f"{first}\n", encoding="utf-8")
    return home


NEW = "new mine --base base --zh 'zh_*.jsonl' --en en.jsonl --sft sft.jsonl --vocab-size 300 --seq-len 32 --device cpu"


@pytest.fixture
def mine(home, tmp_path, monkeypatch, capsys):
    shutil.copytree(home, tmp_path / "home")
    monkeypatch.chdir(tmp_path / "home")
    assert cli.main(shlex.split(f"{NEW} --preferences pairs.jsonl --evaluation-set asked.jsonl")) == 0
    assert "next: cd mine && tigerjax data clean" in capsys.readouterr().err
    monkeypatch.chdir("mine")
    return Path()


def test_a_new_project_has_configs_that_load_and_tables_whose_options_exist(mine):
    tables = project.read(COMMANDS)
    assert [" ".join(table.command) for table in tables][:4] == [
        "data clean",
        "data dedup exact",
        "data dedup near",
        "data dedup against-sft",
    ]
    for table in tables:
        words = project.complete(tables, table.command, COMMANDS[table.command], table.positional)
        bind(COMMANDS[table.command], words, "tigerjax")  # every word has its option, and nothing is missing
    model = config_lib.load("pretrain.py").model
    assert (model.num_layers, model.rope_base, model.vocab_size, model.padded_vocab_size) == (2, 3000.0, 300, 512)
    assert config_lib.load("sft.py").checkpoint.init_from == "runs/pretrain"
    assert config_lib.load("reward.py").data.seq_len == 32


def test_a_new_project_registers_its_mixtures_of_all_files(mine):
    text = Path("mixture.py").read_text()
    for file in (
        "runs/text/zh_a.jsonl",
        "runs/text/zh_b.jsonl",
        "runs/text/en.jsonl",
        "runs/clean/sft.jsonl",
    ):
        assert file in text
    done = subprocess.run(
        [sys.executable, "-m", "tigerjax", *"train sft.py --checkpoint.init-from None --dry-run".split()],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and "data.mixture = 'mine_sft'" in done.stdout, done.stderr


def test_the_readme_of_a_new_project_lists_the_commands_in_order(mine):
    steps = [line for line in Path("README.md").read_text().splitlines() if line.startswith("$ tigerjax")]
    assert len(steps) == 14 and steps[0] == "$ tigerjax data clean" and steps[-1] == "$ tigerjax convert to-hf"
    tables = project.read(COMMANDS)
    assert [project.following(tables, t.command, t.positional) for t in tables[:-1]] == [s[2:] for s in steps[1:]]


def test_the_readme_of_a_new_project_says_how_people_answer_and_how_benchmarks_are_asked(mine, monkeypatch):
    text = Path("README.md").read_text()
    assert "`tigerjax align import --labels FILE`" in text and "`tigerjax align status`" in text
    assert "`tigerjax evaluate sft.py --tasks mmlu ceval --data-dir DIR`" in text
    monkeypatch.chdir("..")
    assert cli.main(shlex.split(NEW.replace("new mine", "new plain"))) == 0
    assert "align" not in Path("plain/README.md").read_text()  # it has no rounds


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mine": "."}, ". exists; give the name of a new folder"),
        ({"mine": "base"}, "name base would replace what base names"),
        ({"mine": "my-model"}, "'my-model' names Python modules and mixtures; use letters, digits and _"),
        ({"--base base": "--base ."}, "config.json"),
        ({"--vocab-size 300": "--vocab-size 267"}, "--vocab-size 267 is below the 268 entries of base"),
        ({"--vocab-size 300": "--vocab-size 268"}, "base has no chat template, which fine-tuning needs; give Chinese"),
        ({"--zh 'zh_*.jsonl'": ""}, "--vocab-size 300 extends base by Chinese pieces; give Chinese text to --zh"),
        ({"--en en.jsonl": "--en fr.jsonl"}, "fr.jsonl: no such file"),
        ({"--en en.jsonl": "--en base"}, "name the files in it"),
        ({"--sft sft.jsonl": "--sft zh_a.jsonl"}, "have one name"),
        ({"--seq-len 32": "--seq-len 1"}, "--seq-len 1 must be"),
        ({"--seq-len 32 --device cpu": "--seq-len 80"}, "of compute.splash.block_q=512; change one (--seq-len, "),
    ],
)
def test_a_new_project_refuses_what_cannot_work_and_writes_nothing(home, monkeypatch, capsys, changes, message):
    monkeypatch.chdir(home)
    command = NEW
    for old, new in changes.items():
        command = command.replace(old, new, 1)
    before = sorted(home.iterdir())
    assert cli.main(shlex.split(command)) in (2, 3)
    assert message in capsys.readouterr().err and sorted(home.iterdir()) == before


@pytest.mark.parametrize(
    ("part", "line", "message"),
    [
        ("zh_b.jsonl", '{"txt": "老虎"}', "zh_b.jsonl:2: "),
        ("en.jsonl", "{", "en.jsonl:2: "),
        ("sft.jsonl", '{"messages": "x"}', "sft.jsonl:2: "),
        ("pairs.jsonl", '{"chosen": "a"}', "pairs.jsonl:2: "),
        ("asked.jsonl", '{"id": "b"}', "asked.jsonl:2: "),
        ("sft.jsonl", None, "sft.jsonl: is empty"),
    ],
)
def test_a_new_project_reads_the_first_records_of_every_file(home, tmp_path, monkeypatch, capsys, part, line, message):
    shutil.copytree(home, tmp_path / "home")
    monkeypatch.chdir(tmp_path / "home")
    Path(part).write_text("" if line is None else f"{Path(part).read_text()}{line}\n", encoding="utf-8")
    assert cli.main(shlex.split(f"{NEW} --preferences pairs.jsonl --evaluation-set asked.jsonl")) == 3
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1 and not Path("mine").exists()


def test_a_new_project_takes_the_vocabulary_that_a_small_text_can_give(home, tmp_path, monkeypatch, capsys):
    """`tokenizer train` and `extend` then run on the cleaned text without an edit of tigerjax.toml."""
    shutil.copytree(home, tmp_path / "home")
    monkeypatch.chdir(tmp_path / "home")
    embedded = Path(__file__).resolve().parents[2] / "data_mixtures" / "embedded" / "corpus_zh.jsonl"
    Path("zh_a.jsonl").write_text("".join(embedded.read_text("utf-8").splitlines(keepends=True)[:200]), "utf-8")
    asked = NEW.replace("--vocab-size 300", "--vocab-size 60515")
    assert cli.main(shlex.split(asked)) == 2
    said = capsys.readouterr().err
    fits = int(re.search(r"give more text, or --vocab-size (\d+)$", said.strip())[1])
    assert PIECES < fits < 4000 and not Path("mine").exists()
    assert cli.main(shlex.split(NEW.replace("--vocab-size 300", f"--vocab-size {fits}"))) == 0
    assert cli.main(shlex.split(NEW.replace("--vocab-size 300", "").replace("new mine", "new other"))) == 0
    assert f"note: vocabulary of {fits:,} entries, and not TigerBot's 60,515" in capsys.readouterr().err
    monkeypatch.chdir("other")
    for command in ("data clean", "data dedup exact", "data dedup near", "data dedup against-sft"):
        assert cli.main(command.split()) == 0
    assert cli.main(["tokenizer", "train"]) == cli.main(["tokenizer", "extend"]) == 0
    assert f"vocab_size={fits}," in Path("pretrain.py").read_text()


def test_rows_past_the_positions_of_the_base_get_a_note_whose_rope_can_be_pasted(home, tmp_path, monkeypatch, capsys):
    shutil.copytree(home, tmp_path / "home")
    monkeypatch.chdir(tmp_path / "home")
    config = Path("base/config.json")
    config.write_text(json.dumps(json.loads(config.read_text()) | {"max_position_embeddings": 32}))
    assert cli.main(shlex.split(NEW.replace("new mine", "new fits"))) == 0
    assert "note:" not in capsys.readouterr().err
    assert cli.main(shlex.split(NEW.replace("--seq-len 32", "--seq-len 80"))) == 0
    said = capsys.readouterr().err
    assert "note: --seq-len 80 is past the 32 positions that base was trained on" in said and "--seq-len 32\n" in said
    text = Path("mine/pretrain.py").read_text().replace("ModelConfig, RunConfig", "ModelConfig, RopeConfig, RunConfig")
    rope = re.search(r"write (rope=RopeConfig\(.*?\)) into", said)[1]
    Path("mine/pretrain.py").write_text(text.replace("model=ModelConfig(", f"model=ModelConfig({rope}, "))
    found = config_lib.load("mine/pretrain.py").model.rope
    assert (found.kind, found.factor, found.original_max_position_embeddings) == ("yarn", 3, 32)


def test_a_text_without_enough_chinese_is_refused_with_what_to_give(home, tmp_path, monkeypatch, capsys):
    shutil.copytree(home, tmp_path / "home")
    monkeypatch.chdir(tmp_path / "home")
    for name in ("zh_a", "zh_b"):
        Path(f"{name}.jsonl").write_text('{"text": "x"}\n')
    assert cli.main(shlex.split(NEW.replace("--vocab-size 300", ""))) == 2
    assert "too few to extend the 268 entries" in capsys.readouterr().err
