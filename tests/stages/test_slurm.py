"""Stages as array jobs of Slurm, with a stand-in for its programs."""

import functools
import os
from pathlib import Path

import pytest
import standing_in
import tasks

from tigerjax.command.cli import main
from tigerjax.errors import ConfigError, DataError, WorkerLost
from tigerjax.files import jsonl
from tigerjax.stages import slurm
from tigerjax.stages.runner import Runner


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """The folder in which the stand-in keeps its state."""
    state = tmp_path / "slurm"
    monkeypatch.setenv("PATH", f"{standing_in.install(state)}{os.pathsep}{os.environ['PATH']}")
    here = [str(Path(tasks.__file__).parent), str(Path(slurm.__file__).parents[2])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([*here, os.environ.get("PYTHONPATH", "")]))
    for name, seconds in (("LOOK_S", 0.05), ("ASK_S", 0.2), ("LATE_S", 0.5)):
        monkeypatch.setattr(slurm, name, seconds)
    monkeypatch.setattr(slurm, "MOST_ELEMENTS", 2)
    return state


def test_a_stage_on_slurm_writes_the_bytes_of_local(cluster, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b", "c"):
        jsonl.write_jsonl(Path(f"{name}.jsonl"), [{"id": f"{name}{n}", "text": f"text {n % 5}"} for n in range(9)])
    words = ["data", "dedup", "exact", "--input", "a.jsonl", "b.jsonl", "c.jsonl", "--shards", "3", "--out"]
    assert main([*words, "local"]) == 0
    assert main([*words, "slurm-out", "--runner", "slurm --partition=cpu --mem=2G"]) == 0
    names = sorted(p.relative_to("local") for p in Path("local").rglob("*") if p.is_file())
    assert names == sorted(p.relative_to("slurm-out") for p in Path("slurm-out").rglob("*") if p.is_file())
    for name in names:
        if name.name != "manifest.json":
            assert ("slurm-out" / name).read_bytes() == ("local" / name).read_bytes(), name
    assert "--partition=cpu --mem=2G --parsable --array=0-1" in (cluster / "job-1").read_text()


def test_results_come_in_the_order_of_the_items_and_the_first_error_is_raised(cluster, tmp_path):
    met = []
    with Runner("slurm", progress=lambda what, unit: lambda done, total: met.append((done, total))) as runner:
        assert runner.each(tasks.squared, range(5), tmp_path, "scan") == [{"squared": n * n} for n in range(5)]
        assert met[-1] == (5, 5)
        with pytest.raises(DataError, match="item 3 is bad"):
            runner.each(tasks.refused, range(5), tmp_path, "bad")
        with pytest.raises(RuntimeError, match="ZeroDivisionError"):
            runner.each(tasks.buggy, range(2), tmp_path, "bug")
        assert runner.each(tasks.squared, [], tmp_path, "none") == []
        assert runner.cores() is None
    assert not list((tmp_path / "results").iterdir())


def test_what_a_lost_element_left_is_sent_again(cluster, tmp_path):
    (cluster / "silent").touch()  # Slurm does not answer the first question
    with Runner("slurm") as runner:
        assert runner.each(functools.partial(tasks.lost_once, tmp_path), range(4), tmp_path, "scan") == [0, 1, 2, 3]
    assert (cluster / "job-2").read_text().count("--array=0-1") == 1  # items 1 and 3 were of one element
    assert not (cluster / "job-3").exists()


def test_an_element_that_is_lost_each_time_is_one_line(cluster, tmp_path):
    with (
        pytest.raises(WorkerLost, match=r"step scan: runner 'slurm': 1 of 1 tasks gave no result in 3 jobs"),
        Runner("slurm") as runner,
    ):
        runner.each(tasks.always_lost, range(1), tmp_path, "scan")


def test_a_job_that_is_interrupted_is_cancelled(cluster, tmp_path, monkeypatch):
    def interrupted(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(slurm.time, "sleep", interrupted)
    with pytest.raises(KeyboardInterrupt), Runner("slurm") as runner:
        runner.each(functools.partial(tasks.late, tmp_path), range(2), tmp_path, "scan")
    assert (cluster / "cancelled-1").exists()


@pytest.mark.parametrize(
    ("name", "workers", "says"),
    [
        ("slurm", 4, "workers=4 counts processes of runner 'local'"),
        ("slurm --array=0-9", 1, "--array=0-9 is set by tigerjax; leave it out"),
        ("slurm -o x", 1, "-o is set by tigerjax"),
    ],
)
def test_what_cannot_be_given_is_refused(cluster, name, workers, says):
    with pytest.raises(ConfigError, match=says):
        Runner(name, workers)


def test_options_that_sbatch_refuses_are_told_in_its_words(cluster, tmp_path):
    (cluster / "refuses").touch()
    with pytest.raises(ConfigError, match="invalid partition specified: gpu; correct"), Runner("slurm") as runner:
        runner.each(tasks.squared, range(2), tmp_path, "scan")


def test_without_slurm_the_runner_is_refused(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match="needs sbatch and squeue and scancel"):
        Runner("slurm")
