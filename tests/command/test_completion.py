"""The completions that shells are given, by the shells' own machinery."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tigerjax.command import cli, shells, table

ROOT = Path(__file__).resolve().parents[2]
LIMIT_S = 500  # a quiet machine needs a second; a busy one may need a minute
BASH = """source ./script
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))
"$(complete -p tigerjax | sed 's/.*-F \\([^ ]*\\).*/\\1/')"
printf '%s\\n' "${COMPREPLY[@]}"
"""


def with_mixtures(folder: Path) -> None:
    """The quick start's mixtures and a user's own, in files as they are written."""
    (folder / "data_mixtures").mkdir()
    shutil.copy(ROOT / "data_mixtures" / "quickstart.py", folder / "data_mixtures")
    (folder / "my_mixture.py").write_text(MINE, encoding="utf-8")


def in_bash(folder: Path, line: str) -> list[str]:
    """What bash's completion function replies after `line`, whose last word is being typed."""
    (folder / "script").write_text(shells.script("bash", table.COMMANDS), encoding="utf-8")
    command = ["bash", "-c", BASH, "bash", *line.split(" ")]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=LIMIT_S)
    assert done.returncode == 0 and not done.stderr, done.stderr
    return done.stdout.split()


QUICKSTART = ["quickstart_base", "quickstart_holistic", "quickstart_rejection_sampled", "quickstart_sft"]
MINE = """from tigerjax.data import mixture
mixture.holistic(
    "my_holistic", tokenizer=TOKENIZER)
sft("my_chat", tokenizer=TOKENIZER)
sft(f"my_{n}", tokenizer=TOKENIZER)
not_pretraining("my_nothing")
"""


@pytest.mark.parametrize(
    ("line", "replies"),
    [
        ("tigerjax t", ["tokenizer", "train"]),
        ("tigerjax data de", ["dedup", "decontaminate"]),
        ("tigerjax data dedup ", ["exact", "near", "soft", "substrings", "site-lines", "against-sft"]),
        ("tigerjax data dedup against-sft --ac", ["--action"]),
        ("tigerjax data dedup against-sft --docs zh.jsonl --action ", ["cut", "drop", "report"]),
        ("tigerjax train configs/x.py --optim.p", ["--optim.peak-lr"]),
        ("tigerjax train configs/x.py --compute.dtype b", ["bfloat16"]),
        ("tigerjax evaluate c", ["compare"]),
        ("tigerjax evaluate configs/x.py --tas", ["--tasks"]),
        ("tigerjax align init configs/x.py --align.no-b", ["--align.no-beat-reference"]),
        ("tigerjax completion ", ["bash", "zsh", "fish"]),
        ("tigerjax evaluate configs/x.py --tasks c", ["cmrc", "c3", "ceval", "cmmlu"]),
        ("tigerjax evaluate configs/x.py --tasks c3 --chat --tasks gsm8k hum", ["humaneval"]),
        ("tigerjax evaluate configs/x.py --tasks c3 --", None),
        ("tigerjax data stats my", ["my_chat", "my_holistic"]),
        ("tigerjax data inspect quick", QUICKSTART),
        ("tigerjax train configs/x.py --data.mixture my_", ["my_chat", "my_holistic"]),
        ("tigerjax data clean --input ", []),  # files, by bash itself
        ("tigerjax nothing ", []),
    ],
)
def test_bash_completes_commands_options_choices_and_names(line: str, replies: list[str] | None, tmp_path: Path):
    with_mixtures(tmp_path)
    said = in_bash(tmp_path, line)
    assert said == replies if replies is not None else "--chat" in said and "c3" not in said


def test_a_folder_without_mixtures_completes_none(tmp_path: Path):
    assert in_bash(tmp_path, "tigerjax data stats ") == []


def test_bash_knows_every_command_and_option_and_leaves_files_to_the_shell(tmp_path: Path):
    for words, known in shells.options_by_command(table.COMMANDS).items():
        for n in range(len(words)):
            assert words[n] in in_bash(tmp_path, " ".join(["tigerjax", *words[:n], ""])), words
        spelt = {s for o in known if not o.positional for s in o.spellings}
        assert set(in_bash(tmp_path, " ".join(["tigerjax", *words, "--"]))) == spelt | {"--help"}
    assert "complete -o bashdefault -o default" in shells.script("bash", table.COMMANDS)


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_read_their_script(shell: str, tmp_path: Path, capsys):
    assert cli.main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert "optim.peak-lr" in script and "tokenizer" in script
    if shutil.which(shell) is None:
        pytest.skip(f"no {shell} on the PATH to read it")
    (tmp_path / "script").write_text(script, encoding="utf-8")
    done = subprocess.run([shell, "-n", "script"], cwd=tmp_path, capture_output=True, text=True, timeout=LIMIT_S)
    assert done.returncode == 0 and not done.stderr, done.stderr


@pytest.mark.skipif(shutil.which("fish") is None, reason="no fish on the PATH")
@pytest.mark.parametrize(
    ("line", "replies"),
    [
        ("tigerjax data stats my", {"my_chat", "my_holistic"}),
        ("tigerjax evaluate c.py --tasks hum", {"humaneval"}),
        ("tigerjax data de", {"dedup", "decontaminate"}),
        ("tigerjax train c.py --compute.dtype b", {"bfloat16"}),
        ("tigerjax train c.py --optim.p", {"--optim.peak-lr"}),
    ],
)
def test_fish_completes_commands_options_and_choices(line: str, replies: set[str], tmp_path: Path):
    with_mixtures(tmp_path)
    (tmp_path / "script").write_text(shells.script("fish", table.COMMANDS), encoding="utf-8")
    command = ["fish", "--no-config", "-c", f"source ./script; complete -C '{line}'"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=LIMIT_S)
    assert {reply.split("\t")[0] for reply in done.stdout.splitlines()} == replies, done.stderr
