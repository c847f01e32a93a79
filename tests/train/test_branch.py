"""A run that branches from another one, and the running mean of the weights as an export."""

import dataclasses

import jax
import numpy as np
import pytest
from test_loop import assert_same, records, run
from tiny_run import TinyLoader, tiny_config

from tigerjax.checkpoint.files import steps
from tigerjax.checkpoint.model import load_model, save_model
from tigerjax.command.convert import to_hf
from tigerjax.config import ScheduleConfig
from tigerjax.convert.hf import from_hf
from tigerjax.errors import Absent, ConfigError

EVERY = 2


def config(total_steps, branch_from=None, *, decay_steps=2, ema_decay=0.8, **schedule):
    made = tiny_config(total_steps=total_steps, every_steps=EVERY, keep=10)
    schedule = {"kind": "wsd", "decay_steps": decay_steps} | schedule
    optim = dataclasses.replace(made.optim, ema_decay=ema_decay, schedule=ScheduleConfig(**schedule))
    checkpoint = dataclasses.replace(made.checkpoint, branch_from=None if branch_from is None else str(branch_from))
    return dataclasses.replace(made, optim=optim, checkpoint=checkpoint)


@pytest.fixture(scope="module")
def stable(tmp_path_factory):
    """The folder of a run whose stable phase ends after step 18, broken off at step 7."""
    folder = tmp_path_factory.mktemp("stable")
    with pytest.raises(RuntimeError, match="the machine is gone"):
        run(folder, config(20), TinyLoader(crash_at=7))
    return folder


def test_a_decay_from_a_stable_checkpoint_is_the_run_that_had_it_from_the_beginning(stable, tmp_path, capfd):
    wanted = run(tmp_path / "whole", config(6))
    capfd.readouterr()
    found = run(tmp_path / "branch", config(6, stable / "checkpoints/4"))
    said = capfd.readouterr().err
    assert "branches from" in said and "learning rate 0.01 there, 0.0055 in the next step" in said
    assert_same(found, wanted)
    curves = [[(r["step"], r["loss_nats"], r["lr"]) for r in records(tmp_path / f)] for f in ("whole", "branch")]
    assert curves[0][4:] == curves[1]
    assert steps(stable / "checkpoints") == [6, 4, 2] and steps(tmp_path / "branch/checkpoints") == [6]
    resumed = run(tmp_path / "branch", config(6, stable / "checkpoints/4"))  # it is done: nothing is trained
    assert_same(resumed, wanted)


@pytest.mark.parametrize(
    ("made", "match"),
    [
        (lambda stable: config(7, stable), "step 6 of .* is in the decay of this run, which begins after step 5"),
        (lambda stable: config(6, stable), "has done 6 steps, which this run's optim.total_steps=6 includes"),
        (lambda stable: config(20, stable, first_step=5), "first_step=5, but .* of step 6; make them equal"),
        (lambda stable: config(20, stable, ema_decay=None), "optim.ema_decay is a number there and None here"),
    ],
)
def test_a_branch_that_cannot_go_on_is_refused(stable, tmp_path, made, match):
    with pytest.raises(ConfigError, match=match):
        run(tmp_path, made(stable))


def test_a_checkpoint_without_an_optimisers_state_is_no_place_to_branch_from(stable, tmp_path):
    model = load_model(stable)
    save_model(tmp_path / "weights", model.weights, model.config, tokenizer_sha256="one")
    with pytest.raises(ConfigError, match="has weights only, without the state of an optimiser"):
        run(tmp_path / "run", config(20, tmp_path / "weights"))


def test_a_run_does_not_resume_with_another_optimiser(stable):
    other = config(20)
    with pytest.raises(ConfigError, match=r"optim\.kind is 'adamw' there and 'muon' here"):
        run(stable, dataclasses.replace(other, optim=dataclasses.replace(other.optim, kind="muon")))
    assert steps(stable / "checkpoints") == [6, 4, 2], "none is set aside as damaged"


def test_the_export_of_the_mean_is_the_mean(stable, tmp_path):
    to_hf(stable / "checkpoints/2", tmp_path / "mean", weights="ema")
    to_hf(stable / "checkpoints/2", tmp_path / "trained")
    mean, trained = from_hf(tmp_path / "mean")[1], from_hf(tmp_path / "trained")[1]
    first = load_model(stable / "checkpoints/2").weights
    vocab = mean["embed"].shape[0]
    np.testing.assert_array_equal(trained["embed"][:vocab], first["embed"][:vocab])
    apart = jax.tree.map(lambda a, b: float(np.abs(a - b).max()), mean, trained)
    assert 0 < min(jax.tree.leaves(apart)) and max(jax.tree.leaves(apart)) < 0.02  # two steps at a rate up to 0.01
    assert "running mean" in (tmp_path / "mean/README.md").read_text()


def test_a_checkpoint_without_a_mean_has_none_to_export(stable, tmp_path, capfd):
    model = load_model(stable)
    run = tmp_path / "run"
    save_model(run / "checkpoints/1", model.weights, model.config)
    for place in (run, run / "checkpoints/1"):
        with pytest.raises(Absent, match="no running mean of the weights is saved here"):
            to_hf(place, tmp_path / "out", weights="ema")
    assert "damaged" not in capfd.readouterr().err
