"""Help that describes: every option has a line that says what it means and what holds without it; no name means two."""

import re
from pathlib import Path

import pytest

from tigerjax.command import cli, meanings, names, options, table, usage
from tigerjax.config import RunConfig

ROOT = Path(__file__).resolve().parents[2]
FIELDS = [
    spelling
    for field in (*options.of_config(RunConfig), *options.of_subclasses(RunConfig))
    for spelling in field.spellings
]
OWN = {
    " ".join(words): [o for o in options.of_command(command) if not o.name.startswith(usage.HOSTS)]
    for words, command in table.COMMANDS.items()
}


def help_of(words: str, capsys, *more: str) -> str:
    assert cli.main([*words.split(), *(more or ("--help",))]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("words", OWN)
def test_every_option_says_what_it_means_and_what_holds_without_it(words: str, capsys):
    shown = re.split(r"\n(?=  \S)", help_of(words, capsys))
    for option in OWN[words]:
        head = usage.broken(f"  {option.name} {option.kind}".rstrip())
        (line,) = [entry for entry in shown if f"{entry}\n".startswith((f"{head} ", f"{head}\n"))]
        text = line.removeprefix(head).strip()
        assert len(meanings.meaning(words, option)) > 8, option.name
        assert len(text.split("\n\n")[0].splitlines()) <= 3, line
        is_off = option.switch and option.default is False
        assert is_off or re.search(r"\((default: .+|required)\)", " ".join(text.split())), line
        assert not re.search(r"default: (None|\(\)|\[\])", text), line


def test_every_field_of_a_config_and_every_option_for_hosts_says_what_it_means():
    hosts = [o for c in table.COMMANDS.values() for o in options.of_command(c) if o.name.startswith(usage.HOSTS)]
    for option in [*options.of_config(RunConfig), *hosts]:
        assert len(option.meaning) > 8, option.name
        if option.default is None:  # what None does is said
            assert "None" in option.meaning or meanings.UNSET.get(option.name), option.name


def test_no_text_about_an_option_is_left_over():
    known = {o.name for own in OWN.values() for o in own} | {o.name for o in options.of_config(RunConfig)}
    for name in [*meanings.MEANINGS, *meanings.UNSET]:
        words, _, option = name.rpartition(" ")
        assert not words or option in {o.name for o in OWN[words]}, name
        assert words or option in known or option.startswith(usage.HOSTS), name


def test_an_option_has_one_type_and_one_meaning_in_all_commands():
    """Apart from what a command reads and writes, and the settings that `align set` leaves unchanged."""
    files = {"--out", "--input", "--model", "--tokenizer", "--base", "--sft", "out", "folder", "--action"}
    kinds: dict[str, set[str]] = {}
    for own in OWN.values():
        for option in own:
            kinds.setdefault(option.name, set()).add(option.kind)
    for name, found in kinds.items():
        assert len({kind.removesuffix(" …") for kind in found}) == 1 or name in ("--dtype", *files), (name, found)


def test_a_switch_that_is_on_says_how_it_is_switched_off(capsys):
    assert "(default: on; off: --align.no-beat-reference)" in " ".join(help_of("align init", capsys).split())


def test_options_for_several_hosts_are_one_line_and_have_a_page_of_their_own(capsys):
    out = help_of("train", capsys)
    assert "--hosts.coordinator" not in out and "On several hosts: see `tigerjax train --help-hosts`" in out
    page = help_of("train", capsys, "--help-hosts")
    assert all(name in page for name in ("--hosts.coordinator TEXT", "HOST:PORT", "JAX_COORDINATOR_ADDRESS", "Slurm"))
    assert cli.main(["data", "clean", "--help-hosts"]) == 2
    assert "tigerjax data clean runs on one host" in capsys.readouterr().err


@pytest.mark.parametrize("words", ["", "train", "data", "data clean"])
def test_help_is_a_word_too(words: str, capsys):
    cli.main(["help", *words.split()])
    asked = capsys.readouterr()
    cli.main([*words.split(), "--help"])
    assert asked == capsys.readouterr() and asked.out


def test_the_overview_has_every_command_once_by_task_and_names_the_program_once(capsys):
    out = help_of("", capsys)
    assert [words for s in table.SECTIONS.values() for words in s] == list(table.COMMANDS)
    places = [out.index(f"\n{title}\n") for title in table.SECTIONS]
    assert places == sorted(places) and out.splitlines()[0].count("tigerjax") == 1
    for words in table.COMMANDS:
        assert out.count(f"\n  {' '.join(words):24} ") == 1
    assert all(len(line) <= usage.LINE for line in out.splitlines())


@pytest.mark.parametrize("key", names.RENAMED)
def test_an_old_name_is_refused_with_the_new_one(key: str, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    words, _, old = key.rpartition(" ")
    words = words or ("reward score" if "reward" in old else "train")
    config = ["configs/llama2_tiny.py"] if options.takes_config(table.COMMANDS[tuple(words.split())]) else []
    assert cli.main([*words.split(), *config, old, "8"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line == f"tigerjax: no option {old}; {old} is now {names.RENAMED[key]}"
    known = {o.name for o in OWN[words]} | set(FIELDS if config else [])
    assert old not in known and names.RENAMED[key].split()[0].rstrip(",") in known


def test_the_page_of_errors_lists_every_renamed_option():
    page = (ROOT / "docs" / "ERRORS.md").read_text(encoding="utf-8").partition("## Renamed options")[2]
    listed = re.findall(r"^\| `(--\S+)` \| `(--\S+)`", page, re.MULTILINE)
    assert set(listed) == {(k.split()[-1], new.split()[0].rstrip(",")) for k, new in names.RENAMED.items()}


@pytest.mark.parametrize(
    ("typed", "ours"),
    [
        ("train C --lr 1", "no option --lr; here it is --optim.peak-lr"),
        ("train C --learning_rate=1", "no option --learning_rate; here it is --optim.peak-lr"),
        ("train C --gradient-accumulation-steps 4", "here it is --optim.gradient-accumulation-steps"),
        ("train C --per-device-train-batch-size 4", "here it is --global-batch-size (sequences of a step, over all"),
        ("train C --num-train-epochs 3", "here it is --optim.total-steps (rows of an epoch"),
        ("train C --epochs 3", "here it is --optim.total-steps"),
        ("train C --model.hidden-size 8", "here it is --model.model-dim"),
        ("train C --bf16", "here it is --compute.dtype bfloat16"),
        ("train C --deepspeed x.json", "here it is --mesh.fsdp"),
        ("train C --resume-from-checkpoint x", "here it is the same command"),
        ("reward train C --output-dir x", "here it is --out"),
        ("sample C --num-return-sequences 3", "here it is --n"),
        ("data clean --num-proc 3", "here it is --workers"),
        ("plan C --accelerator-type v5p-8", "here it is --topology"),
        ("plan C --topology v5p-128", "topology 'v5p-128' is Cloud's name; here it is v5p:4x4x4"),
        ("data clean --lr 3", "no option --lr; `tigerjax data clean --help` shows what there is"),
    ],
)
def test_a_name_of_another_trainer_is_answered_with_ours(typed: str, ours: str, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    assert cli.main(typed.replace(" C ", " configs/llama2_tiny.py ").split()) == 2
    assert ours in capsys.readouterr().err


def test_every_counterpart_of_another_trainers_name_is_an_option_of_ours():
    known = {s for own in OWN.values() for o in own for s in o.spellings} | set(FIELDS)
    for name, ours in names.ELSEWHERE.items():
        assert not ours.startswith("--") or ours.split()[0] in known, name
        assert f"--{name}" not in known or name in ("batch-size",), name
    assert set(names.SYNONYMS.values()) <= set(names.ELSEWHERE)
    assert set(names.COMMANDS_ELSEWHERE.values()) <= set(OWN) and not set(names.COMMANDS_ELSEWHERE) & set(OWN)


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("trian configs/llama2_tiny.py", "`tigerjax train`?"),
        ("infer runs/sft", "`tigerjax sample`?"),
        ("evalute configs/llama2_tiny.py --tasks all", "`tigerjax evaluate`?"),
        ("smaple c --prompts p", "`tigerjax sample`?"),
        ("tokenizer trian --input x", "`tigerjax tokenizer train`?"),
        ("tokeniser train --input x", "`tigerjax tokenizer train`?"),
        ("data dedup naer --input x", "`tigerjax data dedup near`?"),
        ("dtaa clean --input x", "`tigerjax data clean`?"),
        ("algin run runs/align", "`tigerjax align run`?"),
        ("convert form-hf a b", "`tigerjax convert from-hf`?"),
        ("convert to_hf a b", "`tigerjax convert to-hf`?"),
        ("decontaminate --docs x", "`tigerjax data decontaminate`?"),
        ("verify runs/x", "`tigerjax tokenizer verify` or `tigerjax checkpoint verify`?"),
        ("pretrain configs/llama2_tiny.py", "`tigerjax train`?"),
        ("finetune", "`tigerjax train`?"),
        ("generate", "`tigerjax sample`?"),
        ("trian my_run.py --out x", "no command 'trian'; did you mean `tigerjax train`?"),
        ("clean zh", "no command 'clean'; did you mean `tigerjax data clean`?"),
        ("bla", "`tigerjax --help` lists the commands"),
        ("--bla", "no command '--bla'; `tigerjax --help` lists the commands"),
    ],
)
def test_a_slip_in_any_word_of_a_command_is_answered_with_the_command(typed: str, meant: str, capsys):
    assert cli.main(typed.split()) == 2
    out, err = capsys.readouterr()
    assert not out and meant in err and len(err.splitlines()) == 1
