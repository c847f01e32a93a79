"""What every command has: --dry-run, no colours in a pipe, near misses, figures for people, quiet progress."""

import inspect
import json
import re
import shlex
from pathlib import Path

import pytest

from tigerjax.command import arguments, cli, figures, progress, table
from tigerjax.command.groups import FileSamplingOptions
from tigerjax.command.options import ConfigFile
from tigerjax.config import dump
from tigerjax.errors import ConfigError, DataError, near_miss
from tigerjax.processes.rendezvous import HostsConfig

ROOT = Path(__file__).resolve().parents[2]


def example(words: tuple[str, ...]) -> list[str]:
    """The words of a command's own example, its config being one of the repository's."""
    line = re.search(r"Example: tigerjax (.*)", inspect.getdoc(table.COMMANDS[words]))[1]
    return shlex.split(line)


def snapshot(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*"))


@pytest.mark.parametrize("words", table.COMMANDS, ids=" ".join)
def test_a_dry_run_names_what_is_read_and_written_and_writes_nothing(words, tmp_path: Path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    command, given = table.COMMANDS[words], example(words)
    if "dry_run" in inspect.signature(command).parameters:
        assert "--dry-run" in (inspect.getdoc(command) or "")
        return
    assert cli.main([*given, "--dry-run"]) in (0, 3)
    out, err = capsys.readouterr()
    assert out.startswith(f"would run tigerjax {' '.join(words)}\n")
    kinds = {p.name: p.annotation for p in inspect.signature(command).parameters.values()}
    if err:  # the example's inputs are not here: the first one is named
        assert re.fullmatch(r"tigerjax: \S+: input does not exist; nothing was done\n", err), err
        missing = err.split()[1].rstrip(":")
        place = next((i for i, word in enumerate(given) if word == missing), None)
        assert place is not None
    elif "out" in kinds and "--out" in given:
        assert f"  writes  {given[given.index('--out') + 1]} (new)\n" in out
    assert snapshot(tmp_path) == ["configs"]


def test_a_dry_run_refuses_what_the_run_would_refuse_and_sees_what_is_there(tmp_path: Path, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    clean = ["data", "clean", "--input", "data_mixtures/embedded/corpus_*.jsonl", "--out", str(tmp_path / "x")]
    assert cli.main([*clean, "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"  reads   data_mixtures/embedded/corpus_\*.jsonl \(0\.9 MB\)\n", out)
    assert "--workers                1\n" in out and not (tmp_path / "x").exists()
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "thesis.txt").write_text("years of work")
    assert cli.main([*clean, "--dry-run"]) == 0
    assert "holds files" in capsys.readouterr().out
    bad = ["evaluate", "configs/llama2_tiny.py", "--tasks", "all", "--model.num-kv-heads", "3", "--dry-run"]
    assert cli.main(bad) == 2 and "num_heads=4 is no multiple" in capsys.readouterr().err
    assert cli.main(["data", "clean", "--dry-run"]) == 2 and "Missing" in capsys.readouterr().err


@pytest.mark.parametrize("words", ["convert from-hf", "convert resize", "convert to-hf"])
def test_a_dry_run_takes_a_new_folder_in_a_fixed_place_for_what_is_written(words, tmp_path: Path, capsys):
    (tmp_path / "model").mkdir()
    model, new = str(tmp_path / "model"), tmp_path / "new"
    rest = ["--base", model, "--tokenizer", model] if words == "convert resize" else []
    assert cli.main([*words.split(), model, str(new), *rest, "--dry-run"]) == 0
    assert f"  writes  {new} (new)\n" in capsys.readouterr().out and not new.exists()
    assert cli.main([*words.split(), model, model, *rest, "--dry-run"]) == 2
    assert "would replace" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["convert from-hf a new", "convert to-hf a new", "convert resize a new"])
def test_a_dry_run_calls_a_positional_output_written(command: str, tmp_path: Path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a").mkdir()
    (tmp_path / "t").mkdir()
    more = "--base t --tokenizer t" if "resize" in command else "--tokenizer t"
    assert cli.main(shlex.split(f"{command} {more} --dry-run")) == 0
    out = capsys.readouterr().out
    assert "  reads   a " in out and "  writes  new (new)\n" in out
    assert cli.main(shlex.split(f"{command.replace('new', 'a')} {more} --dry-run")) == 2
    assert "would replace what" in capsys.readouterr().err


def test_a_dry_run_of_a_new_project_names_the_folder_that_it_would_write(tmp_path: Path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in ("base", "zh.txt", "en.txt", "sft.jsonl"):
        (tmp_path / name).write_text("x")
    assert cli.main(shlex.split("new mine --base base --zh zh.txt --en en.txt --sft sft.jsonl --dry-run")) == 0
    assert "  writes  mine (new)\n" in capsys.readouterr().out
    assert not (tmp_path / "mine").exists()


def test_removing_checkpoints_can_be_tried_first(tmp_path: Path, capsys):
    (tmp_path / "run" / "checkpoints" / "5.damaged").mkdir(parents=True)
    rm = ["checkpoint", "rm", str(tmp_path / "run"), "--damaged"]
    assert cli.main([*rm, "--dry-run"]) == 0
    assert "would remove" in capsys.readouterr().out and (tmp_path / "run" / "checkpoints" / "5.damaged").is_dir()
    assert cli.main(rm) == 0 and not (tmp_path / "run" / "checkpoints" / "5.damaged").exists()


@pytest.mark.parametrize(
    ("command", "near"),
    [
        ("tokenizer train --inptu a", "no option --inptu; did you mean --input?"),
        ("train configs/llama2_tiny.py --peak-lr 1", "no option --peak-lr; did you mean --optim.peak-lr?"),
        ("train configs/llama2_tiny.py --compute.dtype float33", "none of float32, bfloat16; did you mean float32 or"),
        ("train configs/llama2_tin.py", "does not exist; did you mean configs/llama2_tiny.py"),
        ("data dedup against-sft --docs a --sft b --out c --action cutt", "did you mean cut?"),
        ("data clean --input README.md --out c --on languag", "did you mean language"),
        ("evaluate configs/llama2_tiny.py --tasks gsm9k --data-dir x", "no benchmark 'gsm9k'; did you mean gsm8k"),
        ("plan configs/llama2_tiny.py --topology v5q:4x4x4", "did you mean v5p or v5e"),
        ("plan configs/llama2_tiny.py --topology v5p-128 --dry-run", "here it is v5p:4x4x4"),
        ("checkpoint lss", "did you mean `tigerjax checkpoint ls`?"),
    ],
)
def test_a_mistyped_word_is_answered_with_the_near_miss(command: str, near: str, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    assert cli.main(shlex.split(command)) == 2
    assert near in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "line"),
    [
        ("data clean", "Missing: --input PATH …, --out PATH; `tigerjax data clean --help` shows what there is"),
        ("data clean --out x --input", "--input needs a value: --input PATH …; `tigerjax data clean --help` shows"),
        ("checkpoint ls a b", "'b' is one value too many: RUN takes one; `tigerjax checkpoint ls --help` shows"),
        ("checkpoint ls", "Missing: RUN; `tigerjax checkpoint ls --help` shows what there is"),
        ("checkpoint rm a --step two", "--step two: invalid literal .* 'two'; give a whole number, such as 8"),
        ("quickstart now", "'now' belongs to no option; `tigerjax quickstart --help` shows what there is"),
        ("train configs/llama2_tiny.py --optim.clip-norm x", "'x'; give a number, such as 3e-4"),
        ("train configs/llama2_tiny.py --seed", "--seed needs a value: --seed INT; `tigerjax train --help` shows"),
        ("train configs/llama2_tiny.py --dry-run yes", "'yes' is one value too many: --dry-run takes none"),
        ("plan configs/llama2_tiny.py --topology a --search no", "--search takes none, write --search or --no-search"),
        (
            "plan configs/llama2_tiny.py --topology a --search=yes",
            "a switch takes no value; write --search or --no-search",
        ),
        ("train configs/llama2_tiny.py --hosts.start-timeout-s 0", "--hosts.start-timeout-s 0 must be at least 1"),
        ("train configs/llama2_tiny.py --health.spike -1", "--health.spike -1 must be above 0"),
        (
            "train --seed 1",
            "give a config file or the folder of a run first, as in `tigerjax train configs/llama2_tiny.py ",
        ),
    ],
)
def test_words_that_do_not_fit_are_one_line_that_says_what_fits(command: str, line: str, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    assert cli.main(shlex.split(command)) == 2
    (error,) = capsys.readouterr().err.splitlines()
    assert re.search(line, error), error


def test_options_reach_the_command_through_its_groups():
    words = "configs/llama2_tiny.py --prompts p --out o --top_k=3 --n 2 --hosts.find one --seed 5 --no-compute.x"
    with pytest.raises(ConfigError, match="no option --no-compute"):
        arguments.bind(table.COMMANDS["sample",], words.split(), "tigerjax sample")
    call = arguments.bind(table.COMMANDS["sample",], words.split()[:-1], "tigerjax sample")
    given = call.arguments()
    assert given["sampling"] == FileSamplingOptions(top_k=3, n=2) and given["hosts"] == HostsConfig(find="one")
    assert given["config"] == ConfigFile(Path("configs/llama2_tiny.py"), ["--seed", "5"], "tigerjax sample")
    assert given.keys() == {"config", "prompts", "out", "sampling", "hosts"}


def test_overrides_change_the_fields_that_they_name_and_no_other(monkeypatch):
    monkeypatch.chdir(ROOT)
    words = "--optim.clip-norm None --data.modules a b --compute.splash.fused-backward --optim.peak_lr=1e-3"
    words += " --seed 1 --seed 2"
    run = arguments.override(ConfigFile(Path("configs/llama2_tiny.py"), words.split(), "tigerjax train"))
    plain = arguments.override(ConfigFile(Path("configs/llama2_tiny.py"), [], "tigerjax train"))
    changed = {line.partition(" = ")[::2] for line in set(dump(run)) - set(dump(plain))}
    assert changed == {
        ("compute.splash.fused_backward", "True"),
        ("data.modules", "('a', 'b')"),
        ("optim.clip_norm", "None"),
        ("optim.peak_lr", "0.001"),
        ("seed", "2"),
    }


def test_a_word_that_is_near_nothing_gets_no_guess():
    assert (
        near_miss("zzz", ["alpha", "beta"]) == "" and near_miss("alpah", ["alpha", "beta"]) == "; did you mean alpha?"
    )


def test_a_value_after_a_choice_is_no_choice():
    words = ["--tokenizer", "tok", "runs/sft", "--dtype=bfloat16", "out"]
    call = arguments.bind(table.COMMANDS["convert", "to-hf"], words, "tigerjax convert to-hf")
    assert call.given == {
        "--tokenizer": Path("tok"),
        "checkpoint": Path("runs/sft"),
        "--dtype": "bfloat16",
        "out": Path("out"),
    }


def test_figures_are_printed_for_people_and_kept_as_they_are(tmp_path: Path, capsys):
    shown = {
        "sources": {"zh": {"rows": 11, "share": 1 / 3}, "en": {"rows": 22, "share": 2 / 3}},
        "dropped": {},
        "shares": {"zh": 0.1},
        "many": list(range(99)),
        "verified": True,
    }
    figures.show(shown, tmp_path / "f.json")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{'sources.zh':24} rows 11, share 0.333333"
    assert lines[2:4] == [f"{'dropped':24} none", f"{'shares':24} zh 0.1"]
    assert lines[4].endswith("22, 23, … (99 in all)") and lines[5] == f"{'verified':24} yes"
    assert json.loads((tmp_path / "f.json").read_text()) == shown


def test_nothing_is_coloured_in_a_pipe(tmp_path: Path, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    (tmp_path / "report.json").write_text('{"version": "0", "total_seconds": 1.0}')
    (tmp_path / "align.json").write_text("{}")
    for command in (f"report {tmp_path}", "--help", "data", "train configs/llama2_tiny.py --dry-run"):
        cli.main(shlex.split(command))
    cli.main(["train", "configs/llama2_tiny.py", "--help"])
    said = capsys.readouterr()
    assert said.out and "\x1b" not in said.out + said.err


class Clock:
    """Seconds that only pass when they are told to."""

    now = 100.0

    def monotonic(self) -> float:
        return self.now


def test_progress_is_quiet_when_short_and_tells_rate_and_time_left_when_long(monkeypatch, unhurried, capsys):
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    for name, seconds in unhurried.items():
        monkeypatch.setattr(progress, name, seconds)
    say = progress.show_progress("cleaned", "blocks")
    for done in range(1, 5):
        clock.now += 1
        say(done, 4)
    assert capsys.readouterr().err == ""  # over in less than five seconds
    say = progress.show_progress("cleaned", "blocks")
    for done in range(1, 101):
        clock.now += 1
        say(done, 100)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 10 and lines[0] == "cleaned 10/100 blocks (10%) 1/s 90 s left"
    assert lines[-1] == "cleaned 100/100 blocks (100%) 1/s in 100 s"
    rows = progress.show_progress("made", "rows")
    for done in range(1, 12):
        clock.now += 2
        rows(1000 * done, 0)  # nobody knows how many there will be
    assert capsys.readouterr().err.splitlines() == ["made 5,000 rows 500/s", "made 10,000 rows 500/s"]
    for total, line in (
        (int(2.5e9), "read 1.25/2.50 GB (50%) 0.0625 GB/s 20 s left"),
        (50_000_000, "read 25/50 MB (50%) 1.25 MB/s 20 s left"),
        (400_000, "read 200/400 kB (50%) 10 kB/s 20 s left"),
    ):
        read = progress.show_progress("read", "GB")
        read(0, total)
        clock.now += 20
        read(total // 2, total)
        assert capsys.readouterr().err.splitlines() == [line]


def test_no_control_character_of_foreign_data_reaches_the_terminal(tmp_path: Path, capsys):
    path = tmp_path / "x.jsonl"
    path.write_text('{"id": "a", "text": "b", "source": "pile\\u001b[31m"}\n' * 2, encoding="utf-8")
    assert cli.main(["data", "clean", "--input", str(path), "--out", str(tmp_path / "out\x1b[31m")]) == 3
    figures.show({"tasks": {"\x1b[31mred": {"right": "\x9b1m"}}}, None)
    out, err = capsys.readouterr()
    assert "\ufffd[31mred" in out and "\ufffd1m" in out and "x.jsonl:2" in err
    assert not {"\x1b", "\x9b"} & set(out + err)


def test_an_error_that_quotes_a_control_character_is_cleaned(monkeypatch, capsys):
    def fail(_: object) -> None:
        raise DataError("x.jsonl:1: id \x1b]0;title\x07 is broken")

    monkeypatch.setattr(cli, "_run", fail)
    assert cli.main([]) == 3
    assert capsys.readouterr().err == "tigerjax: x.jsonl:1: id \ufffd]0;title\ufffd is broken\n"
