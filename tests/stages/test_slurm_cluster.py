"""Stages as array jobs of a real Slurm: a controller and two nodes on this machine."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from stage_runs import FILES, STAGES, assert_changed, assert_same, documents, needs, stages

from tigerjax.command.cli import main

ROOT = Path(__file__).resolve().parents[2]
MISSING = [program for program in ("slurmctld", "slurmd", "munged", "sbatch") if shutil.which(program) is None]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        bool(MISSING) or os.getuid() != 0,
        reason=f"{' and '.join(MISSING) or 'root'} not installed here: apt-get install slurm-wlm munge, and be root",
    ),
]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    folder = tmp_path_factory.mktemp("slurm")
    with socket.socket() as free:  # the two ports behind it are free as well, as a rule
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    # Elements run no test's code: they import tigerjax from this checkout, and the functions of `tasks`.
    path = os.pathsep.join([str(ROOT), str(Path(__file__).parent)])
    env = {"SLURM_CONF": str(folder / "slurm.conf"), "PYTHONPATH": path, "SLURM_UP_PORT": port}
    env["SLURM_UP_MORE"] = (
        "SchedulerParameters=batch_sched_delay=1"  # Slurm waits 3 s before it starts the next element
    )
    before = {name: os.environ.get(name) for name in env}
    os.environ.update(env)
    try:
        subprocess.run(["sh", str(ROOT / "tests" / "slurm_up.sh"), str(folder)], check=True)
        until = time.monotonic() + 60
        while "idle" not in (said := subprocess.run(["sinfo"], capture_output=True, text=True).stdout):
            assert time.monotonic() < until, said
            time.sleep(0.5)
        yield folder
    finally:
        for name in ("slurmd-n1", "slurmd-n2", "slurmctld", "munged"):
            if (folder / f"{name}.pid").exists():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int((folder / f"{name}.pid").read_text()), signal.SIGTERM)
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return documents(tmp_path_factory.mktemp("corpus"))


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_on_slurm_writes_the_bytes_of_local(cluster, corpus, stage, tmp_path, monkeypatch):
    needs(stage)
    monkeypatch.chdir(tmp_path)
    words = [*stages(corpus)[stage], "--out"]
    assert main([*words, "local"]) == 0
    assert_changed(tmp_path / "local")
    assert main([*words, "on-slurm", "--runner", "slurm --partition=cpu"]) == 0
    assert_same(tmp_path / "local", tmp_path / "on-slurm")


def test_a_bad_record_is_the_one_line_of_local(cluster, corpus, tmp_path, capsys):
    (tmp_path / "bad.jsonl").write_text('{"id": "x", "text": "one"}\n{"id": "y", "text": "broken\n')
    said = []
    for runner in ("local", "slurm"):
        words = ["data", "dedup", "exact", "--input", str(corpus / "en-0.jsonl"), str(tmp_path / "bad.jsonl")]
        assert main([*words, "--out", str(tmp_path / "out"), "--runner", runner]) == 3
        said.append(capsys.readouterr().err.splitlines()[-1])
        assert not (tmp_path / "out").exists() and not (tmp_path / "out.partial").exists()
    assert "bad.jsonl:2: broken JSON" in said[0] and said[0] == said[1]


def test_an_element_that_is_killed_in_the_middle_changes_no_byte(cluster, corpus, tmp_path):
    words = [*stages(corpus)["near"], "--out"]
    assert main([*words, str(tmp_path / "local")]) == 0
    command = [sys.executable, "-m", "tigerjax", *words, str(tmp_path / "slurm"), "--runner", "slurm"]
    stage = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        while not (made := list(tmp_path.glob("slurm.partial*/work-*/part-*.npz"))) and stage.poll() is None:
            time.sleep(0.02)
        assert stage.poll() is None, stage.communicate()
        # A running one: the signal for one that waits would cancel all of its array.
        squeue = ["squeue", "--noheader", "--states=RUNNING", "--format=%A"]
        while not (running := subprocess.run(squeue, capture_output=True, text=True).stdout.split()):
            assert stage.poll() is None, stage.communicate()
        subprocess.run(["scancel", "--signal=KILL", running[0]], check=True)
        assert 0 < len(made) < 2 * FILES, "it was to be killed in the middle"
        _, said = stage.communicate(timeout=400)
    finally:
        stage.kill()
    assert stage.returncode == 0, said
    assert_same(tmp_path / "local", tmp_path / "slurm")


def test_a_tokenizer_is_measured_and_checked_on_slurm_as_here(cluster, corpus, work, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    texts = ["--text", *map(str, sorted(corpus.glob("zh-*.jsonl")))]
    for name, more in (("stats", []), ("verify", ["--base", str(work / "base_tokenizer")])):
        words = ["tokenizer", name, str(work / "tokenizer"), *more, *texts]
        assert main([*words, "--json", f"{name}_here.json"]) == 0
        assert main([*words, "--json", f"{name}_slurm.json", "--runner", "slurm --partition=cpu"]) == 0
        assert Path(f"{name}_here.json").read_bytes() == Path(f"{name}_slurm.json").read_bytes()
