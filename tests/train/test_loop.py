"""The loop: exact resume, kills, signals, refusals, one trace, the golden curve."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from held_rows import held_out
from tiny_run import SILENT, TinyLoader, tiny_config

from tigerjax.checkpoint.files import read_meta, steps
from tigerjax.checkpoint.model import load_model
from tigerjax.errors import ConfigError, DataError
from tigerjax.files import manifest
from tigerjax.mesh import run_mesh
from tigerjax.train.held_out import HeldOut
from tigerjax.train.loop import train
from tigerjax.train.objective import token_objective
from tigerjax.train.start import Init, check_same

GOLDEN = Path(__file__).parents[1] / "golden" / "loss_curve.json"
# Another CPU adds float32 sums in another order, and 40 updates carry that on; a real change is far larger.
GOLDEN_TOLERANCE = 2e-3


def run(folder, config, loader=None, **options):
    return train(config, loader or TinyLoader(), run_dir=folder, reporting=SILENT, **options)


def assert_same(a, b):
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(a), jax.device_get(b))


def records(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run of 40 steps that nothing disturbs: (folder, final state, times the loss was traced)."""
    folder, config, traces = tmp_path_factory.mktemp("whole"), tiny_config(total_steps=40, every_steps=20), []
    objective = token_objective(config, run_mesh(config))

    def counted(weights, batch):
        traces.append(1)
        return objective.loss(weights, batch)

    state = run(folder, config, objective=dataclasses.replace(objective, loss=counted))
    return folder, state, len(traces)


def test_forty_steps_take_one_trace(whole):
    assert whole[2] == 1


def test_the_loss_curve_is_the_golden_one(whole):
    """A change of results on purpose: run with TIGERJAX_WRITE_GOLDEN=1 and show old and new in the commit."""
    curve = [round(r["loss_nats"], 6) for r in records(whole[0])]
    if os.environ.get("TIGERJAX_WRITE_GOLDEN"):
        GOLDEN.write_text(json.dumps(curve) + "\n")
    np.testing.assert_allclose(curve, json.loads(GOLDEN.read_text()), atol=GOLDEN_TOLERANCE)
    assert curve[-1] < curve[0] - 1


def test_the_run_folder_holds_config_metrics_and_checkpoints(whole):
    folder, state, _ = whole
    assert "optim.peak_lr = 0.01" in (folder / "config.txt").read_text().splitlines()
    keys = {"step", "loss_nats", "grad_norm", "lr", "tokens_per_s", "mfu", "data_wait_share", "shares", "accuracy"}
    assert keys <= records(folder)[0].keys() and records(folder)[-1]["shares"] == {"tiny": 1.0}
    first, starts = records(folder)[:5], [r.get("start_loss_nats") for r in records(folder)]
    assert starts[4] == sorted(r["loss_nats"] for r in first)[2] and {*starts[:4], *starts[5:]} == {None}
    assert steps(folder / "checkpoints") == [40, 20]
    model = load_model(folder)
    assert_same(model.weights, state.weights)
    assert model.tokenizer_sha256 == "one" and model.step == 40


def test_crash_then_resume_gives_bit_identical_weights(whole, tmp_path):
    config = tiny_config(total_steps=40, every_steps=20)
    with pytest.raises(RuntimeError, match="the machine is gone"):
        run(tmp_path, config, TinyLoader(crash_at=25))
    assert steps(tmp_path / "checkpoints") == [20]
    waited = [r | {"spent_s": r["spent_s"] | {"data": 1e6}} for r in records(tmp_path)]  # by the run that crashed
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in waited))
    state = run(tmp_path, config)
    assert all(r["data_wait_share"] <= 1 for r in records(tmp_path)) and records(tmp_path)[-1]["spent_s"]["data"] > 1e5
    assert_same((state.weights, state.opt_state), (whole[1].weights, whole[1].opt_state))
    drop = ("tokens_per_s", "data_wait_share", "step_s", "time", "spent_s", "start_s", "goodput", "host_busy_s")
    curves = [[{k: v for k, v in r.items() if k not in drop} for r in records(f)] for f in (tmp_path, whole[0])]
    assert curves[0] == curves[1]


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"model": {"rope_base": 777.0}}, "model.rope_base is 5000.0 there and 777.0"),
        ({"seed": 1}, "data_seed is 0 there and 1 here"),
        ({"tokenizer_sha256": "two"}, "tokenizer_sha256 is 'one' there and 'two' here"),
    ],
)
def test_a_checkpoint_of_another_model_tokenizer_or_seed_is_refused(whole, change, match):
    loader = TinyLoader()
    loader.tokenizer_sha256 = change.pop("tokenizer_sha256", "one")
    with pytest.raises(ConfigError, match=match):
        run(whole[0], tiny_config(total_steps=40, every_steps=20, **change), loader)


def test_a_resumed_run_names_only_settings_that_may_change_its_weights(whole, capfd):
    there = read_meta(whole[0] / "checkpoints/40")
    for changed, told in (
        ({"log_every_steps": 7, "checkpoint.every_steps": 3, "checkpoint.keep": 9}, None),
        ({"log_every_steps": 7, "optim.peak_lr": 0.5}, "optim.peak_lr = 0.5"),
        ({"checkpoint.every_steps": 3, "health.rollbacks": 1}, "checkpoint.every_steps = 3; health.rollbacks = 1"),
    ):
        lines = [line for line in there["config"] if line.split(" = ")[0] not in changed]
        lines += [f"{name} = {value}" for name, value in changed.items()]
        check_same(there, there | {"config": lines}, whole[0])
        line = f"resuming with other settings than the checkpoint's, so not bit-exactly: {told}\n"
        assert capfd.readouterr().err == (line if told else "")
    before = there | {"config": [*there["config"], "compute.quantise = 'int8'"]}  # has no line at its default
    check_same(before, there, whole[0])
    assert capfd.readouterr().err.endswith("not bit-exactly: compute.quantise = its default\n")


def test_a_run_starts_from_the_weights_of_another(whole, tmp_path):
    config = tiny_config(total_steps=3)
    config = dataclasses.replace(config, checkpoint=dataclasses.replace(config.checkpoint, init_from=str(whole[0])))
    run(tmp_path, config)
    assert records(tmp_path)[0]["loss_nats"] < records(whole[0])[0]["loss_nats"] - 1
    with pytest.raises(DataError, match="head is missing"):
        weights = {k: v for k, v in load_model(whole[0]).weights.items() if k != "head"}
        run(tmp_path / "other", tiny_config(), init=Init(weights, {}))


def test_a_fourth_batch_in_a_row_that_is_not_finite_stops_the_run(tmp_path, capfd):
    config = tiny_config(total_steps=20)
    with pytest.raises(DataError) as caught:
        run(tmp_path, config, TinyLoader(nan_from=4))
    line = str(caught.value)
    assert line.startswith("step 8: loss nan") and "4 updates in a row" in line
    assert "last good checkpoint" in line and "checkpoints/6" in line and '{"index": 4}' in line
    bad = json.loads((tmp_path / "bad_batches.json").read_text())
    assert [b["loader"]["index"] for b in bad] == [4, 5, 6, 7]
    assert all(np.isfinite(w).all() for w in jax.tree.leaves(load_model(tmp_path).weights))
    assert capfd.readouterr().err.count("update skipped") == 4


class Quadratic:
    """(w - mean of the batch)^2 as an objective: the loop knows nothing of tokens."""

    @staticmethod
    def init(key):
        return {"w": jax.random.normal(key, (2,))}

    @staticmethod
    def loss(weights, batch):
        error = jnp.sum((weights["w"] - batch["x"]) ** 2, axis=-1)
        return jnp.sum(error), jnp.float32(error.size), {"far": jnp.sum(error > 1.0).astype(jnp.float32)}


class PairLoader(TinyLoader):
    def __next__(self):
        self.index += 1
        return {"x": np.full((8, 2), 0.25, np.float32)}


def test_another_objective_trains_in_the_same_loop(tmp_path):
    from tigerjax.train.objective import Objective

    objective = Objective(init=Quadratic.init, loss=Quadratic.loss, kind="reward")
    config = tiny_config(total_steps=60, every_steps=60)
    config = dataclasses.replace(config, optim=dataclasses.replace(config.optim, peak_lr=0.2))
    state = run(tmp_path, config, PairLoader(), objective=objective)
    np.testing.assert_allclose(state.weights["w"], [0.25, 0.25], atol=0.1)  # it has converged
    assert load_model(tmp_path).kind == "reward" and "far" in records(tmp_path)[0]


class Interrupting(PairLoader):
    """Sends this process a signal while batch 10 is read."""

    number = signal.SIGINT

    def __next__(self):
        if self.index == 10:
            os.kill(os.getpid(), self.number)
        return super().__next__()


def interrupted(folder, number, handler, *, total_steps):
    """Trains with a loader that sends this process signal `number`, which `handler` handles outside of the run.

    The handler is set here, because pytest may have been started in the background of a shell, where SIGINT is
    ignored."""
    from tigerjax.train.objective import Objective

    objective = Objective(init=Quadratic.init, loss=Quadratic.loss, kind="reward")
    config = tiny_config(total_steps=total_steps, every_steps=total_steps)
    loader = Interrupting()
    loader.number = number
    before = signal.signal(number, handler)
    try:
        run(folder, config, loader, objective=objective)
    finally:
        assert signal.signal(number, before) is handler  # the run has put it back


@pytest.mark.parametrize(
    ("number", "handler", "error"),
    [
        (signal.SIGINT, signal.default_int_handler, KeyboardInterrupt),
        (signal.SIGTERM, signal.SIG_DFL, SystemExit),
    ],
)
def test_a_signal_saves_a_checkpoint_and_then_exits(tmp_path, number, handler, error):
    with pytest.raises(error) as caught:
        interrupted(tmp_path, number, handler, total_steps=1000)
    if error is SystemExit:
        assert caught.value.code == 143
    (at,) = steps(tmp_path / "checkpoints")
    assert 0 < at < 1000
    meta = json.loads((tmp_path / "checkpoints" / str(at) / "meta.json").read_text())
    assert meta["loader"] == {"index": at}  # batches read ahead do not count


def test_a_run_is_not_written_into_the_folder_of_a_data_stage(tmp_path):
    with manifest.stage(tmp_path / "text", name="dedup", config={}, inputs=[], seed=0) as stage:
        (stage.tmp / "zh.jsonl").write_text("")
    with pytest.raises(ConfigError, match="text holds the output of stage 'dedup'; give the run another folder"):
        run(tmp_path / "text", tiny_config(total_steps=12, every_steps=12), PairLoader())
    assert not (tmp_path / "text" / "checkpoints").exists()


class InterruptingTwice(PairLoader):
    """Sends this process SIGINT twice while batch `at` is read, once the folder `saved` has a whole checkpoint."""

    def __init__(self, at, saved):
        super().__init__()
        self.at, self.saved = at, saved

    def __next__(self):
        if self.index == self.at:
            while self.saved is not None and not steps(self.saved):
                time.sleep(0.01)  # it is written in the background
            os.kill(os.getpid(), signal.SIGINT)
            while signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
                time.sleep(0.01)  # the first one is not handled yet, and two at once would count as one
            os.kill(os.getpid(), signal.SIGINT)
        return super().__next__()


@pytest.mark.parametrize(
    ("at", "message"),
    [
        (10, "interrupted before any checkpoint was saved; the same command starts this run from the beginning"),
        (30, "interrupted without saving; the same command resumes from the checkpoint of step 20"),
    ],
)
def test_a_second_ctrl_c_ends_without_saving_and_says_what_is_left(tmp_path, capfd, at, message):
    from tigerjax.train.objective import Objective

    objective = Objective(init=Quadratic.init, loss=Quadratic.loss, kind="reward")
    loader = InterruptingTwice(at, tmp_path / "checkpoints" if at == 30 else None)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt) as caught:
            run(tmp_path, tiny_config(total_steps=1000, every_steps=20), loader, objective=objective)
    finally:
        signal.signal(signal.SIGINT, before)
    assert str(caught.value) == message
    assert steps(tmp_path / "checkpoints") == ([20] if at == 30 else [])
    assert capfd.readouterr().err.count("once more to end without saving") == 1


def test_a_signal_that_is_ignored_from_the_start_stays_ignored(tmp_path):
    """As for a run in the background of a script: Ctrl-C is for what is in the foreground."""
    interrupted(tmp_path, signal.SIGINT, signal.SIG_IGN, total_steps=12)
    assert steps(tmp_path / "checkpoints") == [12]


def test_a_killed_process_resumes_bit_identically(whole, tmp_path):
    """SIGKILL at whatever moment the first checkpoint appears, half written or not."""
    script = Path(__file__).with_name("tiny_run.py")
    environment = os.environ | {"JAX_DEFAULT_MATMUL_PRECISION": "highest"}
    log = open(tmp_path / "log", "w")
    process = subprocess.Popen(
        [sys.executable, str(script), str(tmp_path), "40", "1"], env=environment, stdout=log, stderr=log
    )
    folder, until = tmp_path / "checkpoints", time.monotonic() + 300
    while not steps(folder) and process.poll() is None and time.monotonic() < until:
        time.sleep(0.01)
    process.kill()
    process.wait()
    log.close()
    assert 0 < steps(folder)[0] < 40, (tmp_path / "log").read_text()
    state = run(tmp_path, tiny_config(total_steps=40, every_steps=20))
    assert_same(state.weights, whole[1].weights)


def test_training_imports_without_tensorflow_and_seqio():
    code = (
        "import sys\n"
        "for name in ('tensorflow', 'seqio', 'torch', 'transformers', 'matplotlib', 'tensorboardX'):\n"
        "    sys.modules[name] = None\n"
        "import tigerjax.train.loop, tigerjax.checkpoint.model, tigerjax.model.decoder\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_hosts_compare_config_tokenizer_data_and_held_out_rows_before_they_begin(tmp_path, monkeypatch):
    compared = {}

    def note(what, value):
        compared[what] = value
        raise ConfigError("enough")

    monkeypatch.setattr("tigerjax.train.loop.hosts.same", note)
    loader, held = TinyLoader(), HeldOut(held_out())
    loader.tokenizer_sha256 = "of the tokenizer"
    with pytest.raises(ConfigError, match="enough"):
        run(tmp_path, tiny_config(), loader, held_out=held)
    (settings,) = compared.values()
    assert settings["tokenizer"] == "of the tokenizer"
    assert settings["data"] == loader.state()
    assert settings["held out"] == held.hashes() and held.hashes()
    assert {"seed", "optim.peak_lr", "data.seq_len"} <= settings.keys()
    assert not (tmp_path / "checkpoints").exists() or not steps(tmp_path / "checkpoints")
