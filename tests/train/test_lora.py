"""Adapters: their gradient, their meshes, their checkpoints, and that the base stays as it is."""

import dataclasses
import functools
import json
import shutil

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_run import SILENT, TinyLoader, tiny_batch, tiny_config

from tigerjax.checkpoint.arrays import open_arrays
from tigerjax.checkpoint.files import amend, read_meta
from tigerjax.checkpoint.meta import write as write_meta
from tigerjax.checkpoint.model import load_model, save_model
from tigerjax.checkpoint.stored import open_whole
from tigerjax.config import LoraConfig, MeshConfig, PipelineConfig, WeightsConfig
from tigerjax.errors import ConfigError, DataError
from tigerjax.mesh import run_mesh
from tigerjax.model import adapters
from tigerjax.model.layers import init
from tigerjax.model.llama.face import FAMILY
from tigerjax.model.weights import MATRIX_INPUTS, MATRIX_PATHS, get, paths, put
from tigerjax.train.loop import train
from tigerjax.train.objective import in_layer_order, token_objective
from tigerjax.train.optim import make_optimizer
from tigerjax.train.state import state_from_weights
from tigerjax.train.step import compile_step, loss_and_gradient

TOLERANCE = 1e-5  # float32: another order of the same sums
WEIGHT_TOLERANCE = 1e-4  # Adam divides by the root of the second moment: see test_step.py
LORA = LoraConfig(rank=3, alpha=7.0)
ALL, ONE = WeightsConfig(), MeshConfig()
ENTRIES = WeightsConfig(trained=("embed[40:]", "head[40:]", "final_norm/scale"))
MODEL = {"num_layers": 4}


def lora_config(base=None, *, lora=LORA, weights=ALL, mesh=ONE, rounds=1, **more):
    config = tiny_config(model=MODEL, **more)
    pipeline = PipelineConfig(microbatches=2 * mesh.stage if mesh.stage > 1 else 1, rounds=rounds)
    saving = dataclasses.replace(config.checkpoint, init_from=None if base is None else str(base))
    return dataclasses.replace(config, lora=lora, weights=weights, mesh=mesh, pipeline=pipeline, checkpoint=saving)


@functools.cache
def base_weights():
    """Weights far from the initial ones, on the host."""
    model = FAMILY.language_model(tiny_config(model=MODEL).model, tiny_config().compute)
    rng = np.random.default_rng(5)
    drawn = jax.device_get(nn.unbox(jax.jit(lambda key: init(model, key))(jax.random.key(0))))
    out = jax.tree.map(lambda w: w + rng.normal(0, 0.05, w.shape).astype(np.float32), drawn)
    return out | {"embed": out["embed"] * (np.arange(64) < 60)[:, None], "head": out["head"] * (np.arange(64) < 60)}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    path = tmp_path_factory.mktemp("base") / "model"
    save_model(path, base_weights(), tiny_config(model=MODEL).model, tokenizer_sha256="one")
    return path


@pytest.fixture(scope="module")
def trained(base, tmp_path_factory):
    """A run of four steps with adapters: (its folder, the loss of each step)."""
    folder = tmp_path_factory.mktemp("lora") / "run"
    train(lora_config(base, total_steps=4, every_steps=2), TinyLoader(), run_dir=folder, reporting=SILENT)
    return folder, losses(folder)


def losses(folder):
    return [json.loads(line)["loss_nats"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


def assert_same(a, b):
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(a), jax.device_get(b))


@functools.cache
def three_steps(**how):
    """(losses, trained weights and moments, frozen weights) after three updates, in layer order on the host."""
    config = lora_config(**how)
    mesh = run_mesh(config)
    objective, tx = token_objective(config, mesh), make_optimizer(config.optim)
    state = state_from_weights(objective, tx, mesh, base_weights(), seed=3)
    step, found = compile_step(objective, tx, config.optim, mesh), []
    for i in range(3):
        state, metrics = step(state, tiny_batch(i))
        found.append(float(metrics["loss_nats"]))
    trees = in_layer_order((state.weights, state.frozen, state.opt_state), objective.order)
    return found, *jax.device_get(trees)


def test_the_gradient_of_an_adapter_is_that_through_the_merged_matrix():
    config = lora_config()
    mesh = run_mesh(config)
    objective, plain = (token_objective(c, mesh) for c in (config, lora_config(lora=LoraConfig())))
    state = state_from_weights(objective, make_optimizer(config.optim), mesh, base_weights(), seed=3)
    rng = np.random.default_rng(1)
    own = jax.tree.map(lambda w: jnp.asarray(rng.normal(0, 0.1, w.shape), jnp.float32), state.weights)
    assert sorted(paths(own)) == sorted(adapters.paths(LORA))

    def merged(own):
        tree = adapters.merged(objective.whole(own, state.frozen), LORA)
        return plain.loss(tree, tiny_batch(0))[0]

    wanted = jax.jit(jax.value_and_grad(merged))(own)
    gradient = jax.jit(lambda w, f: loss_and_gradient(objective, w, tiny_batch(0), accumulate=1, frozen=f))
    total, weight, _, found = gradient(own, state.frozen)
    np.testing.assert_allclose(total / weight, wanted[0] / weight, atol=TOLERANCE)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a / weight, b / weight, atol=TOLERANCE), found, wanted[1])
    assert all(np.abs(g).max() > 1e-3 for g in jax.tree.leaves(found))


@pytest.mark.parametrize(
    "how",
    [
        dict(mesh=MeshConfig(fsdp=2, sequence=2, tensor=2)),
        dict(mesh=MeshConfig(stage=2, fsdp=2, tensor=2), rounds=2),
    ],
    ids=["rows cut along their length", "a pipeline in rounds"],
)
def test_every_mesh_trains_adapters_and_entries_as_one_device_does(how):
    one, other = (three_steps(weights=ENTRIES, **more) for more in ({}, how))
    np.testing.assert_allclose(other[0], one[0], atol=TOLERANCE)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=WEIGHT_TOLERANCE), other[1], one[1])
    for found in (one, other):
        frozen = found[2]
        for path in paths(frozen):
            np.testing.assert_array_equal(get(frozen, path), get(base_weights(), path))


def test_frozen_weights_have_no_moments_and_four_micro_batches_equal_one_batch():
    one, four = three_steps(weights=ENTRIES), three_steps(weights=ENTRIES, accumulate=4)
    np.testing.assert_allclose(four[0], one[0], atol=TOLERANCE)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=WEIGHT_TOLERANCE), four[1], one[1])
    held = {jax.tree_util.keystr(p, simple=True, separator="/") for p, _ in jax.tree_util.tree_leaves_with_path(one[3])}
    moments = {name.partition("mu/")[2] for name in held if "mu/" in name}
    assert moments == {*adapters.paths(LORA), "embed", "head", "final_norm/scale"}
    assert one[1]["embed"].shape == (24, 32) and one[1]["head"].shape == (32, 24)


def test_the_step_leaves_out_the_products_that_only_frozen_weights_need():
    """By the compiler's own count, which takes a scan's body once: LoRA on q and v, beside all weights."""
    counts = {}
    for name, lora in (("all", LoraConfig()), ("some", LoraConfig(rank=1, targets=("q", "v")))):
        objective = token_objective(lora_config(lora=lora), run_mesh(lora_config()))
        shapes = jax.eval_shape(lambda o=objective: nn.unbox(o.init(jax.random.key(0))))
        trained, frozen = shapes, None
        if objective.trained is not None:
            trained, frozen = jax.eval_shape(objective.trained.split, shapes)
        step = jax.jit(lambda w, f, batch, o=objective: loss_and_gradient(o, w, batch, accumulate=1, frozen=f))
        counts[name] = step.lower(trained, frozen, tiny_batch(0)).compile().cost_analysis()["flops"]
    c, rows = tiny_config(model=MODEL).model, 8 * 16
    assert counts["all"] - counts["some"] > 2 * 0.9 * rows * FAMILY.layer_weights(c)


def test_a_crash_then_a_resume_gives_the_same_bits(base, trained, tmp_path):
    config = lora_config(base, total_steps=4, every_steps=2)
    with pytest.raises(RuntimeError, match="the machine is gone"):
        train(config, TinyLoader(crash_at=3), run_dir=tmp_path / "run", reporting=SILENT)
    train(config, TinyLoader(), run_dir=tmp_path / "run", reporting=SILENT)
    assert losses(tmp_path / "run") == trained[1]
    newest = [open_arrays(folder / "checkpoints/4") for folder in (tmp_path / "run", trained[0])]
    for path in adapters.paths(LORA):
        np.testing.assert_array_equal(*(get(tree, path)[:] for tree in newest))


def test_a_checkpoint_holds_the_adapters_alone_and_is_read_merged(base, trained):
    folder = trained[0]
    assert set(paths(open_arrays(folder / "checkpoints/4"))) == set(adapters.paths(LORA))
    model, stored = load_model(folder), open_whole(folder)
    assert model.tokenizer_sha256 == "one" and set(paths(model.weights)) == set(paths(base_weights()))
    for name, path in MATRIX_PATHS.items():
        w, own = get(base_weights(), path).astype(np.float64), open_arrays(folder / "checkpoints/4")
        a, b = (get(own, path + end)[:].astype(np.float64) for end in (adapters.A, adapters.B))
        n = MATRIX_INPUTS[name]
        added = np.stack([np.tensordot(a[layer], b[layer], 1) for layer in range(4)]) * 7 / 3
        assert added.shape == w.shape and np.abs(added).max() > 1e-3 and n == a.ndim - 2
        np.testing.assert_allclose(get(model.weights, path), w + added, atol=1e-6)
        part = get(stored.weights, path)[2, 1:3]
        np.testing.assert_allclose(part, get(model.weights, path)[2, 1:3], atol=1e-7)
    np.testing.assert_array_equal(model.weights["embed"], base_weights()["embed"])


def test_merged_weights_give_the_logits_of_the_adapters_beside_them(base, trained):
    config = lora_config(base)
    own = open_arrays(trained[0] / "checkpoints/4")
    tree = {**base_weights(), "layers": {}}
    for path in [*paths({"layers": base_weights()["layers"]}), *adapters.paths(LORA)]:
        put(tree, path, get(own, path)[:] if path in adapters.paths(LORA) else get(base_weights(), path))
    rows = tiny_batch(9)
    args = rows.tokens_BT, rows.positions_BT, rows.segment_ids_BT
    beside, merged = (
        FAMILY.language_model(config.model, config.compute, lora=lora).apply({"params": weights}, *args)
        for lora, weights in ((LORA, tree), (LoraConfig(), load_model(trained[0]).weights))
    )
    plain = FAMILY.language_model(config.model, config.compute).apply({"params": base_weights()}, *args)
    assert np.abs(np.asarray(beside - merged)[..., :60]).max() <= 1e-5
    assert np.abs(np.asarray(beside - plain)[..., :60]).max() > 1e-2


def test_a_run_with_adapters_is_where_another_run_starts(base, trained, tmp_path):
    """The base of the second run is the merged model of the first."""
    train(lora_config(trained[0], total_steps=4, every_steps=4), TinyLoader(), run_dir=tmp_path / "b", reporting=SILENT)
    whole = load_model(tmp_path / "b")
    assert read_meta(tmp_path / "b/checkpoints/4")["base"]["path"] == str(trained[0] / "checkpoints/4")
    assert abs(losses(tmp_path / "b")[0] - trained[1][0]) > 0.01
    assert not np.array_equal(
        whole.weights["layers"]["mlp"]["up"], load_model(trained[0]).weights["layers"]["mlp"]["up"]
    )


def test_a_base_that_is_gone_or_another_one_is_named_and_one_that_moved_along_is_found(trained, base, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(trained[0], run)
    step = run / "checkpoints/4"
    meta = read_meta(step)

    def said(change):
        write_meta(step / "meta.json", meta | {"base": meta["base"] | change})

    said({"path": str(tmp_path / "nowhere"), "relative": None})
    with pytest.raises(DataError, match=r"holds only what was trained, and the other weights are not at .*nowhere"):
        load_model(step)
    other = tmp_path / "moved/model"
    shutil.copytree(base, other)
    said({"path": str(tmp_path / "nowhere"), "relative": "../../../moved/model"})
    assert_same(load_model(step).weights, load_model(trained[0]).weights)
    said({"path": str(other), "relative": None, "sha256": "0" * 64})
    with pytest.raises(DataError, match=r"was trained beside the weights of .*moved/model, which are others now"):
        load_model(step)
    amend(other, {"note": "changes no weight"})
    said({"path": str(other), "relative": None})
    load_model(step)


SLOW = pytest.mark.slow


@pytest.mark.parametrize("dtype", [pytest.param("bfloat16", marks=SLOW), "int8", pytest.param("int4", marks=SLOW)])
def test_frozen_weights_in_a_narrow_type_train_nearly_alike_and_are_not_saved(base, trained, dtype, tmp_path):
    config = lora_config(base, weights=WeightsConfig(frozen_dtype=dtype), total_steps=4, every_steps=2)
    with pytest.raises(RuntimeError, match="the machine is gone"):
        train(config, TinyLoader(crash_at=3), run_dir=tmp_path / "run", reporting=SILENT)
    train(config, TinyLoader(), run_dir=tmp_path / "run", reporting=SILENT)
    off = np.abs(np.array(losses(tmp_path / "run")) - trained[1]).max()
    assert 0 < off < {"bfloat16": 0.01, "int8": 0.01, "int4": 0.2}[dtype]
    assert set(paths(open_arrays(tmp_path / "run/checkpoints/4"))) == set(adapters.paths(LORA))
    np.testing.assert_array_equal(load_model(tmp_path / "run").weights["embed"], base_weights()["embed"])


@pytest.mark.parametrize(
    ("lora", "weights", "message"),
    [
        (LORA, WeightsConfig(), "lora.rank and weights.frozen_dtype are for training beside the weights of a check"),
        (LORA, WeightsConfig(trained=("layers/attn/q",)), "names layers/attn/q, which lora.targets gives an adapter"),
        (LoraConfig(), WeightsConfig(trained=("layers/atn/q",)), "'layers/atn/q' names no weight .*; did you mean"),
        (LoraConfig(), WeightsConfig(trained=("embed[60:]",)), r"must begin at an entry from 1 to 59, below"),
        (LoraConfig(), WeightsConfig(trained=("*scale[4:]",)), "asks for entries of the vocabulary, which"),
        (
            LoraConfig(),
            WeightsConfig(trained=("emb*", "embed[5:]")),
            "names embed twice, from entry 0 and from entry 5",
        ),
        (LoraConfig(), WeightsConfig(frozen=("*",)), "weights.frozen leaves nothing to train"),
        (LORA, WeightsConfig(frozen=("embed",)), "'embed' names only weights that are not trained anyway"),
        (LoraConfig(), WeightsConfig(frozen_dtype="int8"), "but all weights are trained; set lora.rank"),
    ],
)
def test_settings_that_cannot_be_met_are_refused(lora, weights, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        train(lora_config(lora=lora, weights=weights), TinyLoader(), run_dir=tmp_path, reporting=SILENT)


def test_adapters_larger_than_their_matrices_and_settings_of_no_adapters_are_refused():
    with pytest.raises(ConfigError, match=r"lora\.rank=33 is more than model\.model_dim=32, so the adapters"):
        lora_config(lora=LoraConfig(rank=33))
    for given in ({"alpha": 8.0}, {"rank_stabilised": True}, {"targets": ("q",)}):
        with pytest.raises(ConfigError, match=f"lora.{next(iter(given))}=.* but lora.rank=0 makes no adapters; set"):
            LoraConfig(**given)


def test_another_rank_does_not_resume(base, trained):
    config = lora_config(base, lora=dataclasses.replace(LORA, rank=4), total_steps=6, every_steps=2)
    with pytest.raises(ConfigError, match=r"does not belong to this run: lora.rank = 3 is there alone; lora.rank = 4"):
        train(config, TinyLoader(), run_dir=trained[0], reporting=SILENT)
