"""int8 matrices that are rounded for a text: nearer in what they make of it, and held as before."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_weights

from tigerjax import mesh as mesh_axes
from tigerjax.checkpoint import loaded
from tigerjax.checkpoint.loaded import check_rounding, quantised, rounding_rows
from tigerjax.config import FLOAT32, MeshConfig
from tigerjax.errors import ConfigError, DataError
from tigerjax.model import families
from tigerjax.model.quantised import Quantised, is_quantised, read_all, with_held
from tigerjax.model.rounding import OF_ONE_INPUT, _exact, _sums, fitted, rounded_for
from tigerjax.model.weights import leaves


def inputs_of(*shape: int) -> np.ndarray:
    """Inputs that go together: each row is a mixture of a few."""
    rng = np.random.default_rng(0)
    return rng.normal(size=(shape[0], 6)) @ rng.normal(size=(6, shape[1])) + 0.1 * rng.normal(size=shape)


@pytest.fixture(scope="module")
def tiny():
    return tiny_weights.make()


@pytest.fixture(scope="module")
def rows_BT():
    return np.random.default_rng(1).integers(3, 259, (12, 32)).astype(np.int32)


@pytest.fixture(scope="module")
def made(tiny, rows_BT):
    return rounded_for(tiny.weights, tiny.config, FLOAT32, rows_BT, None)


def test_inputs_that_have_nothing_to_do_with_each_other_are_rounded_to_nearest():
    w_IO = np.random.default_rng(2).normal(size=(150, 7))
    moment_II = np.diag(np.arange(1.0, 151))
    values_IO, scale_O = fitted(w_IO, moment_II, moment_II @ w_IO)
    assert values_IO.dtype == np.int8
    np.testing.assert_allclose(scale_O, np.abs(w_IO).max(0) / 127.5, rtol=1e-6)
    assert (np.abs(values_IO * scale_O - w_IO) <= 0.501 * scale_O).all()


@pytest.mark.parametrize("inputs", [40, 150])  # less than a block, and more than two
def test_inputs_that_go_together_make_up_for_each_others_errors(inputs):
    x_TI = inputs_of(400, inputs)
    w_IO = np.random.default_rng(2).normal(size=(inputs, 9))
    moment_II = x_TI.T @ x_TI
    values_IO, scale_O = fitted(w_IO, moment_II, moment_II @ w_IO)
    off, off_nearest = (
        np.square(x_TI @ (values * scale_O - w_IO)).mean() for values in (values_IO, np.rint(w_IO / scale_O))
    )
    assert off < off_nearest / 3
    assert (np.abs(values_IO - w_IO / scale_O) > 0.51).any()  # and not by rounding to nearest


def test_a_matrix_makes_up_for_inputs_that_are_not_what_they_were():
    x_TI = inputs_of(400, 40)
    w_IO = np.random.default_rng(2).normal(size=(40, 9))
    changed_TI = x_TI @ (np.eye(40) + 0.05 * np.random.default_rng(3).normal(size=(40, 40)))
    moment_II = changed_TI.T @ changed_TI
    off, off_before = (
        np.square(changed_TI @ (values * scale_O) - x_TI @ w_IO).mean()
        for values, scale_O in (
            fitted(w_IO, moment_II, changed_TI.T @ (x_TI @ w_IO)),
            fitted(w_IO, moment_II, moment_II @ w_IO),
        )
    )
    assert off < off_before / 20, (off, off_before)


def test_a_text_that_reaches_no_input_gives_the_nearest_values():
    w_IO = np.random.default_rng(2).normal(size=(5, 3))
    values_IO, scale_O = fitted(w_IO, np.zeros((5, 5)), np.zeros((5, 3)))
    assert (np.abs(values_IO * scale_O - w_IO) <= 0.501 * scale_O).all()


def test_the_model_is_held_as_before_and_nearer_to_itself(tiny, made, rows_BT):
    plain = with_held(tiny.weights, "int8")
    for (path, one), (other_path, other) in zip(leaves(made), leaves(plain), strict=True):
        assert path == other_path and is_quantised(one) == is_quantised(other)
        if is_quantised(one):
            assert jax.tree.map(lambda a: (a.shape, str(a.dtype)), one) == jax.tree.map(
                lambda a: (a.shape, str(a.dtype)), other
            )
            np.testing.assert_allclose(one.scales, other.scales, rtol=0.1)
            assert (one.values != other.values).any()
    off = []
    for weights in (made, plain):
        near = tiny._replace(weights=read_all(weights, "float32"))
        off.append(
            np.mean([np.square(near.logits(r)[:, :259] - tiny.logits(r)[:, :259]).mean() for r in rows_BT.tolist()])
        )
    assert off[0] < 0.8 * off[1], off


def test_what_is_read_of_a_layer_are_the_inputs_of_its_matrices(tiny, rows_BT):
    w = jax.tree.map(lambda w_L: w_L[0], tiny.weights["layers"])
    x_BTD = tiny.weights["embed"][rows_BT[:2]]
    c, how = tiny.config, {"config": tiny.config, "compute": FLOAT32}
    exact = _exact(w, x_BTD, **how)
    near = x_BTD * 1.01
    sums = [_sums(w, exact, near, place=place, **how) for place in range(len(OF_ONE_INPUT))]

    def normed(x_BTD):
        norm = x_BTD * jax.lax.rsqrt(jnp.square(x_BTD).mean(-1, keepdims=True) + c.norm_eps)
        return (norm * w["attn_norm"]["scale"]).reshape(-1, c.model_dim)

    np.testing.assert_allclose(sums[0][0], normed(near).T @ normed(near), rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(sums[0][1], normed(near).T @ normed(x_BTD), rtol=1e-4, atol=1e-3)
    heads = c.num_heads * c.head_dim
    sizes = [(c.model_dim, c.model_dim), (heads, c.model_dim), (c.model_dim, c.model_dim), (c.mlp_dim, c.model_dim)]
    assert [wanted.shape for _, wanted in sums] == sizes
    assert [moment.shape for moment, _ in sums] == [(inputs, inputs) for inputs, _ in sizes]


def test_matrices_that_write_to_the_stream_are_to_make_it_what_it_was(tiny, rows_BT):
    """With the stream as it was, o and down of the model itself fit; with another one, others do."""
    w = jax.tree.map(lambda w_L: w_L[0], tiny.weights["layers"])
    x_BTD = tiny.weights["embed"][rows_BT[:4]]
    how = {"config": tiny.config, "compute": FLOAT32}
    exact = _exact(w, x_BTD, **how)
    for place, path in ((1, ("attn", "o")), (3, ("mlp", "down"))):
        moment_II, wanted_ID = _sums(w, exact, x_BTD, place=place, **how)
        w_ID = np.asarray(w[path[0]][path[1]]).reshape(len(moment_II), -1)
        size = np.abs(wanted_ID).max()
        np.testing.assert_allclose(moment_II @ w_ID, wanted_ID, atol=1e-4 * size)
        moment_II, wanted_ID = _sums(w, exact, 1.01 * x_BTD, place=place, **how)
        assert np.abs(moment_II @ w_ID - wanted_ID).max() > 1e-3 * size


def test_a_mesh_gives_the_same_weights_cut_as_they_were(tiny, made, rows_BT):
    mesh = mesh_axes.make_mesh(MeshConfig(fsdp=2), jax.devices()[:2])
    cut = families.weight_shardings(tiny.config, families.of(tiny.config).KIND, mesh)
    split = rounded_for(jax.device_put(tiny.weights, cut), tiny.config, FLOAT32, rows_BT, mesh)
    for (_, one), (_, other) in zip(leaves(made), leaves(split), strict=True):
        if isinstance(one, Quantised):
            # Sums in another order move few values by a step, and later matrices make up for them.
            apart = np.abs(np.asarray(one.values, np.int32) - np.asarray(other.values, np.int32))
            assert (apart > 0).mean() < 0.2 and apart.max() <= 2
            assert len(other.values.sharding.device_set) == 2


def test_a_model_that_was_rounded_for_a_text_has_a_name_of_its_own(tiny, rows_BT, monkeypatch):
    monkeypatch.setattr(loaded, "rounded_for", lambda weights, *_: weights)
    names = {quantised(tiny.loaded(), "int8", None, rows).sha256 for rows in (None, rows_BT, rows_BT[1:])}
    assert len(names) == 3


def test_rows_of_a_text_are_the_beginning_of_its_text(tiny, tmp_path):
    path = tmp_path / "text.jsonl"
    path.write_text('{"text": "abc"}\n' + '{"text": "' + "de" * 4000 + '"}\n', encoding="utf-8")
    rows_BT = rounding_rows(path, tiny.tokenizer)
    assert rows_BT.shape == (31, 256) and rows_BT.dtype == np.int32
    first = [*tiny.tokenizer.encode("abc"), tiny.tokenizer.eos]
    assert rows_BT[0, : len(first)].tolist() == first
    path.write_text('{"text": "abc"}\n', encoding="utf-8")
    with pytest.raises(DataError, match=r"has \d+ tokens of text, too few to round weights for; give 4,096 or more"):
        rounding_rows(path, tiny.tokenizer)
    with pytest.raises(ConfigError, match="is a text that weights in 8 bits are rounded for; give --quantise int8 too"):
        check_rounding(None, path)
