"""Worker processes of a stage that are killed, or whose stage is."""

import functools
import os
import signal
import subprocess
import sys
import time

import pytest

from tigerjax.command.cli import main
from tigerjax.errors import ConfigError, WorkerLost
from tigerjax.files import jsonl
from tigerjax.stages.runner import Runner


def killed(number):
    """As the kernel kills a process when memory is short."""
    if number == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def sleeping(folder, number):
    (folder / str(os.getpid())).touch()
    time.sleep(3600)  # longer than a test may take


def test_a_killed_worker_ends_the_step_with_one_line(tmp_path):
    with (
        pytest.raises(WorkerLost, match=r"step scan: a worker process was killed.*fewer than --workers 2"),
        Runner(workers=2) as runner,
    ):
        runner.each(killed, range(4), tmp_path, "scan")


@pytest.mark.parametrize("name", ["lokal", "Local", "sparkk://host:7077", "slrum --mem=4G"])
def test_a_misspelt_runner_is_refused_before_beam_is_asked(name, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: pytest.fail("Beam was looked for"))
    with pytest.raises(ConfigError, match=rf"runner '{name}': it is not known; give local, spark://HOST:PORT"):
        Runner(name)


def test_a_stage_whose_worker_is_killed_exits_1_and_leaves_nothing(tmp_path, monkeypatch, capsys):
    for name in ("a", "b"):
        jsonl.write_jsonl(tmp_path / f"{name}.jsonl", [{"id": name, "text": "some text"}])
    # Every worker ends as it starts.
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(
        "import os, sys\nif '--multiprocessing-fork' in sys.argv:\n    os.kill(os.getpid(), 9)\n"
    )
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'site'}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    words = ["data", "clean", "--input", str(tmp_path / "a.jsonl"), str(tmp_path / "b.jsonl"), "--workers", "2"]
    assert main([*words, "--out", str(tmp_path / "out")]) == 1
    assert "worker process was killed" in capsys.readouterr().err
    assert not (tmp_path / "out").exists() and not (tmp_path / "out.partial").exists()


def test_an_error_in_the_middle_ends_workers_that_are_busy(tmp_path):
    with pytest.raises(KeyboardInterrupt), Runner(workers=2) as runner:
        runner.each(killed, [0, 1], tmp_path, "first")
        pool = runner._steps._pool
        pool.executor.map(functools.partial(sleeping, tmp_path), range(2))
        while len(list(tmp_path.iterdir())) < 2:
            time.sleep(0.05)
        raise KeyboardInterrupt
    assert not any(alive(int(path.name)) for path in tmp_path.iterdir())


@pytest.mark.parametrize("how", ["kill", "Ctrl-C"])
def test_workers_end_without_a_word_when_the_stage_is_ended(tmp_path, how):
    """Otherwise they would go on for ever, holding memory and writing into a folder that a new run uses.

    A terminal sends Ctrl-C to every process.
    """
    from child_processes import heeding_ctrl_c  # here, as the stage below imports this file without it

    code = (
        "import sys, pathlib, functools; sys.path.insert(0, sys.argv[1])\n"
        "from test_runner import sleeping\n"
        "from tigerjax.stages.runner import Runner\n"
        "if __name__ == '__main__':\n"
        "    folder = pathlib.Path(sys.argv[2])\n"
        "    with Runner(workers=2) as runner:\n"
        "        runner.each(functools.partial(sleeping, folder), range(2), folder, 'step')\n"
    )
    (tmp_path / "code.py").write_text(code)
    (tmp_path / "met").mkdir()
    here = os.path.dirname(os.path.abspath(__file__))
    command = [sys.executable, str(tmp_path / "code.py"), here, str(tmp_path / "met")]
    with heeding_ctrl_c():
        stage = subprocess.Popen(command, start_new_session=True, stderr=subprocess.PIPE, text=True)
    try:
        until = time.monotonic() + 60
        while len(list((tmp_path / "met").iterdir())) < 2 and time.monotonic() < until:
            time.sleep(0.1)
    finally:
        stage.kill() if how == "kill" else os.killpg(stage.pid, signal.SIGINT)
        _, said = stage.communicate(timeout=60)
    assert "SpawnProcess" not in said and said.count("KeyboardInterrupt") == (how == "Ctrl-C")
    workers = [int(path.name) for path in (tmp_path / "met").iterdir()]
    assert len(workers) == 2
    until = time.monotonic() + 30
    while any(map(alive, workers)) and time.monotonic() < until:
        time.sleep(0.1)
    assert not any(map(alive, workers))


def alive(pid):
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize(
    ("words", "needed"),
    [
        ("DirectRunner '--a b", "No closing quotation; close the quote"),
        ("", "begin with a name"),
        ("--a 4", "begin with"),
    ],
)
def test_words_that_are_no_runner_are_refused_before_any_work(words, needed):
    with pytest.raises(ConfigError, match=needed):
        Runner(words)
