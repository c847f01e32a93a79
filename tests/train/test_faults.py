"""Faults while a run trains: two runs in one folder, weights that are not finite, a disk that is full."""

import dataclasses
import json
import shutil
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from saving import META, save, small_state
from tiny_run import SILENT, TinyLoader, tiny_config

from tigerjax.checkpoint.files import steps
from tigerjax.checkpoint.model import publish_together
from tigerjax.config import HealthConfig
from tigerjax.errors import ConfigError, DataError
from tigerjax.files.lock import NAME, locked
from tigerjax.mesh import run_mesh
from tigerjax.train.checkpoint import Checkpointer
from tigerjax.train.loop import train
from tigerjax.train.metrics import MetricsWriter
from tigerjax.train.objective import Objective
from tigerjax.train.optim import make_optimizer
from tigerjax.train.state import init_state


class Overflowing:
    """The loss and its gradient are always 0; weight decay alone moves the weights, and makes them overflow."""

    @staticmethod
    def init(key):
        return {"w": jnp.full((2, 2), 1e35)}

    @staticmethod
    def loss(weights, batch):
        seen = jnp.where(jnp.isfinite(weights["w"]), 0 * weights["w"], 0)
        return jnp.sum(seen), jnp.float32(8), {}


class EightLoader(TinyLoader):
    def __next__(self):
        self.index += 1
        return {"x": np.zeros((8, 2), np.float32)}


def overflowing(folder, *, rollbacks=0, every_steps=1, peak_lr=1.0):
    """Weights times 1 - 100 a step: finite after step 1, not after step 2."""
    config = tiny_config(total_steps=12, every_steps=every_steps)
    optim = dataclasses.replace(config.optim, peak_lr=peak_lr, weight_decay=100.0, warmup_steps=0)
    config = dataclasses.replace(config, optim=optim, health=HealthConfig(rollbacks=rollbacks))
    objective = Objective(init=Overflowing.init, loss=Overflowing.loss, kind="reward")
    return train(config, EightLoader(), run_dir=folder, objective=objective, reporting=SILENT)


def test_weights_that_are_not_finite_are_never_saved_and_the_last_good_checkpoint_is_one(tmp_path, capfd):
    with pytest.raises(DataError, match=r"not finite \(weights/w.*nothing was saved.*last good checkpoint: .*/1;"):
        overflowing(tmp_path)
    assert steps(tmp_path / "checkpoints") == [1]
    assert "step 2: 1 arrays of the state are not finite (weights/w): not saved" in capfd.readouterr().err
    (event,) = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert event["event"] == "not finite" and event["step"] == 2
    assert not (tmp_path / NAME).exists()  # the lock is given back after an error too


def test_a_run_whose_last_step_is_not_finite_does_not_end_well(tmp_path):
    with pytest.raises(DataError, match="last good checkpoint: none was saved"):
        overflowing(tmp_path, every_steps=12)
    assert steps(tmp_path / "checkpoints") == []


def test_a_run_goes_back_from_weights_that_are_not_finite_as_from_spikes(tmp_path, capfd, monkeypatch):
    def slowly(*words):
        time.sleep(0.5)  # step 2 ends before the checkpoint of step 1 is there
        publish_together(*words)

    monkeypatch.setattr("tigerjax.train.checkpoint.publish_together", slowly)
    with pytest.raises(DataError, match="nothing was saved"):
        overflowing(tmp_path, rollbacks=1)
    assert "rolled back from step 2 to 1 (1 of 1)" in capfd.readouterr().err
    assert steps(tmp_path / "checkpoints") == [1]


def test_what_orbax_writes_after_a_save_has_failed_is_gone_when_the_run_ends(tmp_path):
    saver = Checkpointer(tmp_path, keep=2)
    late = tmp_path / "checkpoints" / "6.partial.orbax-checkpoint-tmp"
    (late / "weights").mkdir(parents=True)
    saver.close()
    assert not late.exists()


def test_a_checkpoint_that_an_older_version_saved_with_nan_is_not_resumed_from(tmp_path):
    saver = Checkpointer(tmp_path, keep=9)
    objective = Objective(init=Overflowing.init, loss=Overflowing.loss, kind="reward")
    with pytest.raises(DataError):
        overflowing(tmp_path)
    path = tmp_path / "checkpoints" / "1"
    meta = json.loads((path / "meta.json").read_text())
    shutil.rmtree(path)
    config = tiny_config()
    state = init_state(objective, make_optimizer(config.optim), run_mesh(config), seed=0)
    saver.save(1, state._replace(weights=jax.tree.map(lambda w: w * jnp.nan, state.weights)), meta)
    saver.close()
    with pytest.raises(
        DataError, match=r"checkpoints/1 \(remove it by `tigerjax checkpoint rm .*not finite: weights/w"
    ):
        overflowing(tmp_path)


def test_two_runs_in_one_folder_are_refused_and_the_first_loses_nothing(tmp_path):
    save(tmp_path, 1)
    with locked(tmp_path), pytest.raises(ConfigError, match="is in use by process"):
        train(tiny_config(), TinyLoader(), run_dir=tmp_path, reporting=SILENT)
    assert steps(tmp_path / "checkpoints") == [1] and not (tmp_path / "config.txt").exists()


def test_a_lower_keep_makes_room_before_the_next_save_and_not_after_it(tmp_path, monkeypatch):
    """As the line of a full disk advises. The newest whole checkpoint stays in any case."""
    save(tmp_path, 1, 2, 3)
    saver, there = Checkpointer(tmp_path, keep=1), []
    orbax = saver._orbax.save
    monkeypatch.setattr(saver._orbax, "save", lambda *a, **o: (there.extend(steps(saver.folder)), orbax(*a, **o)))
    saver.save(4, small_state(4), META)
    saver.close()
    assert there == [3] and steps(saver.folder) == [4]


def test_labels_of_metrics_prom_are_escaped(tmp_path):
    run = tmp_path / 'a"b\\c\nd'
    writer = MetricsWriter(run, name="t", start_step=0, total_steps=9, reporting=SILENT)
    record = {"step": 1, "loss_nats": 1.0, "grad_norm": 1.0, "lr": 0.1, "tokens_per_s": 1.0, "data_wait_share": 0.0}
    writer.write(record | {"odd name": 2.0, "shares": {'web"\nzh': 0.5}})
    writer.close()
    lines = (run / "metrics.prom").read_text().splitlines()
    assert r'tigerjax_step{run="a\"b\\c\nd"} 1' in lines and r'tigerjax_odd_name{run="a\"b\\c\nd"} 2' in lines
    assert r'tigerjax_share{run="a\"b\\c\nd",source="web\"\nzh"} 0.5' in lines
