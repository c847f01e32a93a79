"""Spikes: limits, refused updates, the way back, and the same bytes after a restart in the middle of it."""

import contextlib
import dataclasses
import io
import json
import shutil

import jax
import numpy as np
import pytest
from tiny_run import SILENT, TinyLoader, tiny_config

from tigerjax.checkpoint.files import steps
from tigerjax.checkpoint.model import load_model
from tigerjax.config import HealthConfig
from tigerjax.errors import ConfigError, DataError
from tigerjax.train.loop import train
from tigerjax.train.spikes import Spikes


class Spiky(TinyLoader):
    """Batches `noisy` say nothing but ids in reverse, which the model has learned never to expect."""

    def __init__(self, noisy, **options):
        super().__init__(**options)
        self.noisy = noisy

    def __next__(self):
        at, batch = self.index, super().__next__()
        if at not in self.noisy:
            return batch
        rng = np.random.default_rng(at)
        return batch._replace(targets_BT=rng.integers(0, 60, batch.targets_BT.shape).astype(np.int32))


def health_config(**changes):
    health = HealthConfig(**({"spike": 8.0, "window": 16} | changes))
    config = tiny_config(total_steps=60, every_steps=10, keep=10)
    return dataclasses.replace(config, health=health)


def run(folder, config, loader):
    return train(config, loader, run_dir=folder, reporting=SILENT)


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def assert_same(a, b):
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(a), jax.device_get(b))


def test_limits_are_of_steps_that_were_read_and_of_none_too_few():
    spikes = Spikes(HealthConfig(spike=2.0, window=4))
    assert spikes.limits(1).tolist() == [np.inf, np.inf]
    for step, loss in enumerate([3.0, 1.0, 2.0, 4.0, 100.0], 1):
        spikes.good(step, loss, 10 * loss)
    # Step 6 may know steps up to 4: median 2.5, deviations 0.5, 1.5, 0.5, 1.5 of median 1.
    np.testing.assert_allclose(spikes.limits(6), [2.5 + 2 * 1.4826, 25 + 20 * 1.4826], rtol=1e-6)
    again = Spikes(spikes.config)
    again.restore(json.loads(json.dumps(spikes.state())))
    assert again.limits(7).tolist() == spikes.limits(7).tolist() != spikes.limits(6).tolist()
    assert Spikes(HealthConfig()).limits(100) is None


def test_a_flat_curve_has_a_limit_above_itself():
    spikes = Spikes(HealthConfig(spike=8.0, window=4))
    for step in range(10):
        spikes.good(step, 2.0, 1.0)
    np.testing.assert_allclose(spikes.limits(11), [2.16, 1.08], rtol=1e-6)


@pytest.mark.parametrize("wrong", [{"spike": 0.0}, {"window": 3}, {"skip": -1}, {"rollbacks": -1}])
def test_settings_that_mean_nothing_are_refused(wrong):
    with pytest.raises(ConfigError, match=rf"health\.{next(iter(wrong))}"):
        HealthConfig(**wrong)


def test_a_spike_loses_its_update_and_a_calm_run_none(tmp_path, capfd):
    calm = run(tmp_path / "calm", health_config(), TinyLoader())
    plain = run(tmp_path / "plain", dataclasses.replace(health_config(), health=HealthConfig()), TinyLoader())
    assert_same(calm.weights, plain.weights)
    assert not (tmp_path / "calm" / "events.jsonl").exists()
    shutil.copytree(tmp_path / "calm", tmp_path / "one")  # the same run up to step 40
    for step in (50, 60):
        shutil.rmtree(tmp_path / "one" / "checkpoints" / str(step))
    config = dataclasses.replace(health_config(), checkpoint=tiny_config(every_steps=1, keep=100).checkpoint)
    run(tmp_path / "one", config, Spiky({40}))
    before, after = (load_model(tmp_path / "one" / "checkpoints" / str(s)).weights for s in (40, 41))
    assert_same(before, after)
    (event,) = lines(tmp_path / "one" / "events.jsonl")
    assert event["event"] == "skipped" and event["step"] == 41 and "above the limits" in event["why"]
    assert "update skipped" in capfd.readouterr().err
    assert [r["step"] for r in lines(tmp_path / "one" / "metrics.jsonl")] == list(range(1, 61))


NOISY = {39, 40, 41}


@pytest.fixture(scope="module")
def spiky(tmp_path_factory):
    """A run with three spikes, of which two may be skipped and one is the way back: (folder, state, standard error)."""
    folder, err = tmp_path_factory.mktemp("spiky"), io.StringIO()
    with contextlib.redirect_stderr(err):
        state = run(folder, health_config(skip=2, rollbacks=1), Spiky(NOISY))
    return folder, state, err.getvalue()


def test_a_run_of_spikes_rolls_back_and_leaves_the_data_out(spiky, tmp_path):
    folder, state, said = spiky
    events = lines(folder / "events.jsonl")
    assert [e["event"] for e in events] == ["skipped"] * 3 + ["rollback"]
    back = events[-1]
    assert (back["step"], back["to"], [b["step"] for b in back["refused"]]) == (42, 30, [40, 41, 42])
    # Step 43 had been fed when step 42 was read: batches 30 to 42 are left out, and 43 is the next.
    assert back["left_out"] == {"from": {"index": 30}, "to": {"index": 43}}
    assert "rolled back from step 42 to 30 (1 of 1)" in said
    assert [r["step"] for r in lines(folder / "metrics.jsonl")] == list(range(1, 61))
    assert steps(folder / "checkpoints") == [60, 50, 40, 30, 20, 10]

    # The same weights as a run that never had those batches.
    class Without(TinyLoader):
        def __next__(self):
            if self.index == 30:
                self.index = 43
            return super().__next__()

    assert_same(state.weights, run(tmp_path, health_config(skip=2, rollbacks=1), Without()).weights)


@pytest.mark.parametrize("crash", [41, 60])  # among the refused steps, and after the rollback
def test_a_restart_decides_as_the_run_that_went_through(spiky, tmp_path, crash):
    config, whole = health_config(skip=2, rollbacks=1), spiky[1]
    with pytest.raises(RuntimeError, match="the machine is gone"):
        run(tmp_path, config, Spiky(NOISY, crash_at=crash))
    state = run(tmp_path, config, Spiky(NOISY))
    assert_same((state.weights, state.opt_state), (whole.weights, whole.opt_state))


def test_no_rollback_left_stops_with_the_batches_named(tmp_path):
    with pytest.raises(DataError, match=r"3 updates in a row were refused \(above the limits.*raise health.rollbacks"):
        run(tmp_path, health_config(skip=2, rollbacks=1), Spiky({39, 40, 41, 53, 54, 55}))
    bad = json.loads((tmp_path / "bad_batches.json").read_text())
    assert [b["loader"]["index"] for b in bad] == [53, 54, 55]
