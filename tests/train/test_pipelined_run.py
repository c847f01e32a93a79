"""Training under a pipeline: the same losses, checkpoints that do not know it, configs that do not divide."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from tiny_run import SILENT, TinyLoader, tiny_config

from tigerjax.checkpoint.model import load_model, save_model
from tigerjax.checkpoint.stored import open_whole, placed_weights
from tigerjax.config import MeshConfig, PipelineConfig
from tigerjax.errors import ConfigError
from tigerjax.mesh import run_mesh
from tigerjax.train.loop import train
from tigerjax.train.objective import token_objective
from tigerjax.train.optim import make_optimizer
from tigerjax.train.state import from_disk, init_state, state_from_weights, to_disk

# float32: another order of the same sums, over six updates of Adam
TOLERANCE = 1e-5
WEIGHT_TOLERANCE = 1e-4
MODEL = {"num_layers": 4}
CIRCULAR = dict(mesh=MeshConfig(stage=2, sequence=2, tensor=2), pipeline=PipelineConfig(microbatches=4, rounds=2))
GPIPE = dict(mesh=MeshConfig(stage=4, fsdp=2), pipeline=PipelineConfig(microbatches=4, rounds=1))


def config(*, mesh=None, pipeline=None, remat="save_attention"):
    base = tiny_config(model=MODEL, total_steps=6, every_steps=2)
    compute = dataclasses.replace(base.compute, remat=remat)
    pipeline, mesh = pipeline or PipelineConfig(), mesh or MeshConfig()
    return dataclasses.replace(base, pipeline=pipeline, compute=compute, mesh=mesh)


def losses(run_dir):
    lines = (run_dir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return {r["step"]: r["loss_nats"] for r in map(json.loads, lines)}


def test_one_run_moves_between_meshes_and_rounds_and_has_the_losses_of_one_device(tmp_path):
    """Two updates on one device, two in two rounds of two stages of half rows, two in one round of four stages."""
    train(config(), TinyLoader(), run_dir=tmp_path / "one", reporting=SILENT)
    parts = [config(), config(**CIRCULAR), config(**GPIPE)]
    for part, crash_at in zip(parts, (2, 4, None), strict=True):
        try:
            train(part, TinyLoader(crash_at=crash_at), run_dir=tmp_path / "moved", reporting=SILENT)
        except RuntimeError as error:
            assert "the machine is gone" in str(error)
    one, moved = losses(tmp_path / "one"), losses(tmp_path / "moved")
    assert sorted(moved) == sorted(one) == [1, 2, 3, 4, 5, 6]
    np.testing.assert_allclose([moved[i] for i in range(1, 7)], [one[i] for i in range(1, 7)], atol=TOLERANCE)
    ends = [load_model(tmp_path / name).weights for name in ("one", "moved")]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=WEIGHT_TOLERANCE), *ends)


def test_initial_weights_on_disk_are_those_of_one_device_and_come_back_in_stage_order():
    run = config(**CIRCULAR)
    mesh, alone = run_mesh(run), run_mesh(config())
    objective, tx = token_objective(run, mesh), make_optimizer(run.optim)
    state = init_state(objective, tx, mesh, seed=3)
    want = jax.device_get(init_state(token_objective(config(), alone), tx, alone, seed=3))
    layers = [jax.device_get(s.weights)["layers"]["mlp"]["up"] for s in (state, to_disk(state, objective))]
    up = want.weights["layers"]["mlp"]["up"]
    np.testing.assert_allclose(layers[0], up[[0, 2, 1, 3]], atol=1e-7)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-7), jax.device_get(to_disk(state, objective)), want
    )
    again = from_disk(to_disk(state, objective), objective, None)
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(again), jax.device_get(state))
    assert jax.tree.map(lambda a: a.sharding, again) == jax.tree.map(lambda a: a.sharding, state)


def test_start_weights_from_the_disk_are_placed_in_stage_order_and_not_copied(tmp_path):
    run = config(**CIRCULAR)
    mesh = run_mesh(run)
    objective, tx = token_objective(run, mesh), make_optimizer(run.optim)
    born = init_state(objective, tx, mesh, seed=3)
    on_disk = jax.device_get(to_disk(born, objective).weights)
    save_model(tmp_path / "model", on_disk, run.model)
    given = placed_weights(open_whole(tmp_path / "model"), mesh, "float32")
    state = state_from_weights(objective, tx, mesh, given, seed=0)
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(state), jax.device_get(born))
    assert jax.tree.map(lambda a: a.sharding, state.weights) == jax.tree.map(lambda a: a.sharding, born.weights)
    assert state.weights["embed"] is given["embed"]  # the layers are moved, and this one stays where it was read to
    whole = state_from_weights(objective, tx, mesh, on_disk, seed=0)  # a host's own arrays are copied
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(whole), jax.device_get(born))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(pipeline=PipelineConfig(microbatches=2)), "mean nothing with mesh.stage=1; leave both at 1"),
        (CIRCULAR | dict(remat="offload_qkv"), "does not read, with mesh.stage=2; choose a policy"),
        (dict(mesh=MeshConfig(stage=2)), "microbatches=1 is not a multiple of mesh.stage=2; set it to 2"),
        (
            dict(mesh=MeshConfig(stage=2, fsdp=2), pipeline=PipelineConfig(microbatches=6)),
            r"8 rows .* do not split into pipeline.micro.*=6 .* = 2 groups; make global_batch_size a multiple of 12",
        ),
        (
            dict(mesh=MeshConfig(stage=2), pipeline=PipelineConfig(microbatches=2, rounds=4)),
            r"num_layers=4 does not divide by mesh.stage=2 x pipeline.rounds=4; change one",
        ),
        (
            dict(mesh=MeshConfig(stage=4, fsdp=4), pipeline=PipelineConfig(microbatches=4)),
            r"8 rows does not divide over mesh.data x mesh.stage x mesh.fsdp = 16 devices",
        ),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_a_pipeline_that_does_not_divide_is_refused_from_the_config(change, message):
    with pytest.raises(ConfigError, match=message):
        config(**change)


@pytest.mark.parametrize(
    ("degrees", "change", "message"),
    [
        (dict(sequence=3), {}, "seq_len=16 does not divide by mesh.sequence x mesh.tensor = 3, which split rows"),
        (dict(tensor=3), {}, "does not divide by mesh.tensor=3; change one"),
        (dict(sequence=16), {}, "seq_len=16 does not divide into 2 x mesh.sequence = 32 chunks; change one"),
        (dict(sequence=2), dict(attention="cudnn"), "'cudnn' reads whole rows only, and mesh.sequence=2 cuts them"),
        (
            dict(sequence=16),
            dict(attention="splash"),
            "seq_len=1024 / mesh.sequence=16 is no multiple of .*block_q=512",
        ),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_rows_that_cannot_be_cut_are_refused_from_the_config(degrees, change, message):
    run = config()
    length = 1024 if change.get("attention") == "splash" else run.data.seq_len
    with pytest.raises(ConfigError, match=message):
        dataclasses.replace(
            run,
            model=dataclasses.replace(run.model, model_dim=48),
            mesh=MeshConfig(**degrees),
            compute=dataclasses.replace(run.compute, **change),
            data=dataclasses.replace(run.data, seq_len=length),
        )


@pytest.mark.parametrize("field", ["microbatches", "rounds"])
def test_less_than_one_microbatch_or_round_is_refused(field):
    with pytest.raises(ConfigError, match=rf"pipeline\.{field}=0 must be a whole number at least 1 "):
        PipelineConfig(**{field: 0})
