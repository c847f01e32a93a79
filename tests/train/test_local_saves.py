"""Saves on the hosts' own disks: a restart takes the newest that all can put together, and ends the same to the bit."""

import dataclasses
import json
import os
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from tiny_run import SILENT, TinyLoader, tiny_config

from tigerjax.checkpoint import share
from tigerjax.checkpoint.files import steps
from tigerjax.config import CheckpointConfig
from tigerjax.errors import ConfigError
from tigerjax.train import local as locals_
from tigerjax.train.loop import train
from tigerjax.train.metrics import last_record


def config(tmp_path: Path, **given):
    """Twelve steps, a checkpoint at step 6, local saves at 2, 4, 8 and 10."""
    base = tiny_config(total_steps=12, every_steps=6)
    saving = dataclasses.replace(base.checkpoint, local_every_steps=2, local_dir=str(tmp_path / "local"), **given)
    return dataclasses.replace(base, checkpoint=saving)


def run(folder: Path, settings, crash_at: int | None = None):
    loader = TinyLoader(crash_at=crash_at)
    if crash_at is None:
        return train(settings, loader, run_dir=folder, reporting=SILENT)
    with pytest.raises(RuntimeError, match="the machine is gone"):
        train(settings, loader, run_dir=folder, reporting=SILENT)
    return None


def saves(tmp_path: Path) -> list[int]:
    return sorted(int(p.name.split("-")[0]) for p in (tmp_path / "local").glob("*/0/*"))


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The final state of the run that nothing disturbs and that saves nothing locally."""
    return jax.device_get(run(tmp_path_factory.mktemp("whole"), tiny_config(total_steps=12, every_steps=6)))


def assert_same(state, wanted):
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(state), wanted)


def test_a_restart_takes_the_newest_local_save_and_ends_bit_for_bit_the_same(whole, tmp_path, capfd):
    folder, settings = tmp_path / "run", config(tmp_path)
    run(folder, settings, crash_at=9)
    there = saves(tmp_path)
    assert there and steps(folder / "checkpoints") == [6] and there[-1] > 6
    capfd.readouterr()
    state = run(folder, settings)
    said = capfd.readouterr().err
    assert f"step {there[-1]} is taken from the local saves of the hosts; the newest checkpoint is of step 6" in said
    assert f"resuming tiny from step {there[-1]}" in said
    assert_same(state, whole)
    assert last_record(folder)["step"] == 12
    records = [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert records == list(range(1, 13))
    assert not list((tmp_path / "local").iterdir())  # the run has ended


def test_a_damaged_local_save_and_one_of_an_undone_start_are_passed_over(whole, tmp_path, capfd):
    folder, settings = tmp_path / "run", config(tmp_path)
    run(folder, settings, crash_at=9)
    newest = saves(tmp_path)[-1]
    kept = shutil.copytree(tmp_path / "local", tmp_path / "kept")
    (binary,) = (tmp_path / "local").glob(f"*/0/{newest}-*/*.bin")
    flip(binary)
    capfd.readouterr()
    run(folder, settings, crash_at=7)  # from the checkpoint of step 6, and not as far as the local save
    said = capfd.readouterr().err
    assert f"local save of step {newest} is not taken (host 0: {binary}: xxh3 is" in said
    assert "resuming tiny from step 6" in said
    shutil.rmtree(tmp_path / "local")
    kept.rename(tmp_path / "local")
    assert_same(run(folder, settings), whole)
    assert "resuming tiny from step 6" in capfd.readouterr().err  # the run went back to 6 before


def test_a_run_folder_made_anew_and_a_start_without_local_saves_use_none_of_before(whole, tmp_path, capfd):
    folder, settings = tmp_path / "run", config(tmp_path)
    run(folder, settings, crash_at=5)
    shutil.rmtree(folder)
    run(folder, settings, crash_at=5)
    assert "resuming" not in capfd.readouterr().err
    plain = dataclasses.replace(settings, checkpoint=CheckpointConfig(every_steps=6, keep=3))
    run(folder, plain, crash_at=1)
    assert_same(run(folder, settings), whole)
    assert "resuming" not in capfd.readouterr().err


def test_a_local_save_that_fails_is_said_and_the_run_goes_on(whole, tmp_path, monkeypatch, capfd):
    def full(*_):
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(share, "write", full)
    assert_same(run(tmp_path / "run", config(tmp_path)), whole)
    said = capfd.readouterr().err
    wanted = "local save of step 2 is not written on host 0 ([Errno 28] No space left on device); none is there, and"
    assert f"{wanted} the run continues" in said


def test_local_saves_of_another_model_are_refused_as_a_checkpoint_is(tmp_path):
    settings = config(tmp_path)
    run(tmp_path / "run", settings, crash_at=5)
    other = dataclasses.replace(settings, seed=3)
    with pytest.raises(ConfigError, match="data_seed is 0 there and 3 here"):
        run(tmp_path / "run", other)


def test_a_copy_is_kept_on_another_machine_where_there_is_one():
    assert [locals_._neighbour(["a", "a", "b", "b"], host) for host in range(4)] == [2, 3, 0, 1]
    assert [locals_._neighbour(["a", "b", "c"], host) for host in range(3)] == [1, 2, 0]
    assert [locals_._neighbour(["a", "a"], host) for host in range(2)] == [1, 0]
    assert locals_._neighbour(["a"], 0) == 0


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"local_every_steps": 2}, "local_every_steps=2 and checkpoint.local_dir=None need each other"),
        ({"local_dir": "x"}, "need each other; give both, or none"),
        ({"local_every_steps": 6, "local_dir": "x"}, r"=6 is not below checkpoint\.every_steps=6"),
        ({"local_every_steps": 2, "local_dir": "gs://b/x"}, "lies in a bucket; give a folder of each host's own"),
    ],
)
def test_settings_that_cannot_work_are_refused(given, message):
    with pytest.raises(ConfigError, match=message):
        CheckpointConfig(every_steps=6, keep=1, **given)
