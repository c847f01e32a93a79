"""The completions that shells are given, by the shells' own machinery."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tigerjax import cli
from tigerjax.commands import completion

BASH = """source ./script
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))
"$(complete -p tigerjax | sed 's/.*-F \\([^ ]*\\).*/\\1/')"
printf '%s\\n' "${COMPREPLY[@]}"
"""


def in_bash(folder: Path, line: str) -> list[str]:
    """What bash's completion function replies after `line`, whose last word is being typed."""
    (folder / "script").write_text(completion.bash(), encoding="utf-8")
    command = ["bash", "-c", BASH, "bash", *line.split(" ")]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and not done.stderr, done.stderr
    return done.stdout.split()


@pytest.mark.parametrize(
    ("line", "replies"),
    [
        ("tigerjax t", ["tokenizer", "train"]),
        ("tigerjax data de", ["dedup", "decontaminate"]),
        ("tigerjax data dedup ", ["exact", "near", "against-sft"]),
        ("tigerjax data dedup against-sft --ac", ["--action"]),
        ("tigerjax data dedup against-sft --docs zh.jsonl --action ", ["cut", "drop", "report"]),
        ("tigerjax train configs/x.py --optim.p", ["--optim.peak-lr"]),
        ("tigerjax train configs/x.py --compute.dtype b", ["bfloat16"]),
        ("tigerjax evaluate c", ["compare"]),
        ("tigerjax evaluate configs/x.py --tas", ["--tasks"]),
        ("tigerjax align init configs/x.py --align.no-b", ["--align.no-beat-reference"]),
        ("tigerjax completion ", ["bash", "zsh", "fish"]),
        ("tigerjax data clean --input ", []),  # files, by bash itself
        ("tigerjax nothing ", []),
    ],
)
def test_bash_completes_commands_options_and_choices(line: str, replies: list[str], tmp_path: Path):
    assert in_bash(tmp_path, line) == replies


def test_bash_knows_every_command_and_option_and_leaves_files_to_the_shell(tmp_path: Path):
    for words, known in completion._commands():
        for n in range(len(words)):
            assert words[n] in in_bash(tmp_path, " ".join(["tigerjax", *words[:n], ""])), words
        spelt = {s for o in known if not o.positional for s in o.spellings}
        assert set(in_bash(tmp_path, " ".join(["tigerjax", *words, "--"]))) == spelt | {"--help"}
    assert "complete -o bashdefault -o default" in completion.bash()


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_read_their_script(shell: str, tmp_path: Path, capsys):
    assert cli.main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert "optim.peak-lr" in script and "tokenizer" in script
    if shutil.which(shell) is None:
        pytest.skip(f"no {shell} on the PATH to read it")
    (tmp_path / "script").write_text(script, encoding="utf-8")
    done = subprocess.run([shell, "-n", "script"], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and not done.stderr, done.stderr


@pytest.mark.skipif(shutil.which("fish") is None, reason="no fish on the PATH")
@pytest.mark.parametrize(
    ("line", "replies"),
    [
        ("tigerjax data de", {"dedup", "decontaminate"}),
        ("tigerjax train c.py --compute.dtype b", {"bfloat16"}),
        ("tigerjax train c.py --optim.p", {"--optim.peak-lr"}),
    ],
)
def test_fish_completes_commands_options_and_choices(line: str, replies: set[str], tmp_path: Path):
    (tmp_path / "script").write_text(completion.fish(), encoding="utf-8")
    command = ["fish", "--no-config", "-c", f"source ./script; complete -C '{line}'"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert {reply.split("\t")[0] for reply in done.stdout.splitlines()} == replies, done.stderr
