"""Two commands in one folder: the second is refused in one line, and a killed one leaves no lock."""

import errno
import functools
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tigerjax.command import cli
from tigerjax.convert import hf, read
from tigerjax.errors import ConfigError
from tigerjax.files import lock
from tigerjax.files.lock import NAME, locked, locked_beside

ROOT = Path(__file__).resolve().parents[2]


def holder(folder: Path, how: str = "locked") -> subprocess.Popen[bytes]:
    """A process that holds the lock of the folder until it is ended."""
    code = (
        f"import sys, time\nfrom pathlib import Path\nfrom tigerjax.files.lock import {how} as hold\n"
        "with hold(Path(sys.argv[1])):\n    print('held', flush=True)\n    time.sleep(600)\n"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([sys.executable, "-c", code, folder], env=environment, stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline() == b"held\n"
    return process


def test_the_second_command_in_a_folder_is_refused_and_told_by_whom(tmp_path):
    process = holder(tmp_path / "run")
    try:
        with pytest.raises(ConfigError, match=rf"run is in use by process {process.pid} on .*; wait until") as caught:
            with locked(tmp_path / "run", wait_s=0.2):
                raise AssertionError
        assert "\n" not in str(caught.value)
    finally:
        process.kill()
        process.wait()


def test_a_place_that_takes_no_file_is_not_said_to_be_in_use():
    with pytest.raises(ConfigError, match="/proc/x: no file can be made in /proc; give another folder"):
        with locked_beside(Path("/proc/x"), wait_s=0):
            raise AssertionError


def test_a_killed_command_leaves_no_lock(tmp_path):
    process = holder(tmp_path)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert (tmp_path / NAME).exists()
    with locked(tmp_path, wait_s=0):
        assert f"process {os.getpid()}" in (tmp_path / NAME).read_text()
    assert not (tmp_path / NAME).exists()


def test_a_folder_is_free_again_after_the_block_and_after_its_error(tmp_path):
    for _ in range(2):
        with pytest.raises(ValueError, match="mine"), locked(tmp_path / "a" / "b", wait_s=0):
            raise ValueError("mine")
    assert not (tmp_path / "a").exists()  # nothing was put into it
    with locked(tmp_path / "c", wait_s=0):
        (tmp_path / "c" / "mine").write_text("mine")
    assert [p.name for p in (tmp_path / "c").iterdir()] == ["mine"]


def test_whoever_waits_gets_the_lock_when_it_is_free(tmp_path):
    process = holder(tmp_path)
    process.terminate()
    with locked(tmp_path, wait_s=300):  # refused where it does not get it
        pass
    process.wait()


def test_a_lock_follows_no_link(tmp_path):
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / NAME).symlink_to(tmp_path / "mine")
    with pytest.raises(OSError):
        with locked(tmp_path / "run", wait_s=0):
            raise AssertionError
    assert (tmp_path / "mine").read_text() == "mine"


def test_a_file_system_without_locks_is_told_and_the_work_goes_on(tmp_path, monkeypatch, capfd):
    def refuse(held, how):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("tigerjax.files.lock.fcntl.flock", refuse)
    with locked(tmp_path / "run"):
        assert "this file system has no locks" in capfd.readouterr().err


@pytest.mark.parametrize("place", ["file", "file/below"])
def test_a_file_where_a_folder_is_needed_is_named_as_no_folder(tmp_path, place):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(NotADirectoryError) as caught, locked(tmp_path / place, wait_s=0):
        raise AssertionError
    assert caught.value.filename == str(tmp_path / place) and (tmp_path / "file").read_text() == "mine"


@pytest.fixture
def impatient(monkeypatch):
    """A second command that does not wait for the first one."""
    monkeypatch.setattr(lock, "_held", functools.partial(_at_once, lock._held))


def _at_once(held, path, what, wait_s):
    return held(path, what, 0.0)


COMMANDS = {
    "checkpoint rm": ("run", "locked", "checkpoint rm run --damaged"),
    "quickstart": ("out", "locked_beside", "quickstart --out out"),
    "tokenizer train": ("out", "locked_beside", "tokenizer train --input a.jsonl --vocab-size 300 --out out"),
    "tokenizer sample": ("out", "locked_beside", "tokenizer sample --input a.jsonl --out out"),
    "data clean": ("out", "locked_beside", "data clean --input a.jsonl --out out"),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_the_second_of_two_commands_in_one_folder_gets_one_line(tmp_path, monkeypatch, capsys, impatient, name):
    folder, how, words = COMMANDS[name]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n')
    (tmp_path / "run" / "checkpoints" / "5.damaged").mkdir(parents=True)
    process = holder(tmp_path / folder, how)
    try:
        assert cli.main(words.split()) == 2
        (line,) = [line for line in capsys.readouterr().err.splitlines() if "in use" in line]
        assert f"{folder} is in use by process {process.pid} on {socket.gethostname()}, which began at " in line
    finally:
        process.kill()
        process.wait()
    assert (tmp_path / "run" / "checkpoints" / "5.damaged").is_dir()


def test_a_conversion_holds_its_output(tmp_path, impatient):
    process = holder(tmp_path / "out", "locked_beside")
    try:
        with pytest.raises(ConfigError, match="out is in use by process"):
            read.stream_model(tmp_path / "out", pytest.fail, None, kind="llama", tokenizer_sha256=None, extra={})
        with pytest.raises(ConfigError, match="out is in use by process"):
            hf.to_hf({}, None, tmp_path / "out", hf.Export(tokenizer=None))
    finally:
        process.kill()
        process.wait()
