"""Every kind of rope against Hugging Face's, below and above the original length, on the files of make_rope.py."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import make_rope
import numpy as np
import pytest
from test_parity import COMPUTE, LOGITS, RELATIVE

from tigerjax.checkpoint.loaded import Loaded
from tigerjax.config import RopeConfig
from tigerjax.convert import read
from tigerjax.convert.tensors import InMemory
from tigerjax.evaluate.branches import Tokens
from tigerjax.evaluate.loglikelihood import LogLikelihoods
from tigerjax.model import families, rope
from tigerjax.model.llama import decode
from tigerjax.model.llama import model as llama
from tigerjax.model.llama.hf_weights import hf_rows
from tigerjax.model.llama.probe import numpy_logits

KINDS = list(make_rope.KINDS)
ROWS = ("below", "above")


@functools.cache
def frozen(kind):
    with np.load(make_rope.ROPE / f"{kind}.npz") as file:
        return {name: file[name] for name in file.files}


def config_of(kind, tmp_path):
    (tmp_path / "config.json").write_text(str(frozen(kind)["config"]))
    return families.read_hf_config(tmp_path).config


def tree(config, tensors):
    spec = hf_rows(config, rows=config.vocab_size)
    weights = read.in_memory(read.Opened("npz", "llama", config, InMemory(tensors), spec, {}, True))
    return jax.tree.map(jnp.asarray, weights)


@functools.cache
def tensors():
    with np.load(make_rope.WEIGHTS) as file:
        return {name: file[name] for name in file.files}


def apply(config, weights, tokens_BT, positions_BT=None, segments_BT=None):
    if positions_BT is None:
        positions_BT = jnp.broadcast_to(jnp.arange(tokens_BT.shape[1]), tokens_BT.shape)
    segments_BT = jnp.ones_like(tokens_BT) if segments_BT is None else segments_BT
    return llama.Llama(config, COMPUTE).apply({"params": weights}, tokens_BT, positions_BT, segments_BT)


@pytest.mark.parametrize("kind", KINDS)
def test_logits_loss_gradients_and_greedy_ids_of_every_kind_equal_hugging_face(kind, tmp_path):
    config, want = config_of(kind, tmp_path), frozen(kind)
    weights = tree(config, tensors())
    for row in ROWS:
        tokens_BT = jnp.asarray(want[f"{row} tokens"])

        def loss(weights, tokens_BT=tokens_BT):
            logits_BTV = apply(config, weights, tokens_BT)
            log_probs = jax.nn.log_softmax(logits_BTV[:, :-1])
            return -jnp.take_along_axis(log_probs, tokens_BT[:, 1:, None], axis=-1).mean(), logits_BTV

        (value, logits_BTV), gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))(weights)
        assert np.abs(np.asarray(logits_BTV) - want[f"{row} logits"]).max() <= LOGITS
        np.testing.assert_allclose(value, want[f"{row} loss"], rtol=RELATIVE)
        of_row = {k.removeprefix(f"{row} gradient "): v for k, v in want.items() if k.startswith(f"{row} gradient ")}
        for got, theirs in zip(jax.tree.leaves(gradients), jax.tree.leaves(tree(config, of_row)), strict=True):
            assert np.linalg.norm(np.asarray(got) - theirs) <= RELATIVE * np.linalg.norm(theirs)
        assert greedy(config, weights, tokens_BT) == want[f"{row} greedy"][0].tolist()


def greedy(config, weights, tokens_BT, padding=5):
    """Ids from the cache, with padding behind the prompt as in a bucket."""
    T = tokens_BT.shape[1]
    padded_BT, segments_BT = (jnp.pad(a, ((0, 0), (0, padding))) for a in (tokens_BT, jnp.ones_like(tokens_BT)))
    logits_BV, cache = decode.prefill(
        weights, config, COMPUTE, padded_BT, segments_BT, max_len=T + padding + make_rope.NEW
    )
    step, ids = (
        jax.jit(lambda cache, token_B: decode.decode_step(weights, config, COMPUTE, cache, token_B, cache.lengths_B)),
        [],
    )
    for _ in range(make_rope.NEW):
        ids.append(int(logits_BV[0].argmax()))
        logits_BV, cache = step(cache, jnp.asarray(ids[-1:]))
    return ids


def test_the_frozen_rows_lie_on_both_sides_of_the_original_length_and_no_two_sizes_are_equal():
    m = make_rope
    sizes = [m.LAYERS, m.MODEL, m.MLP, m.HEADS, m.KV_HEADS, m.HEAD, m.VOCAB, m.SHORT, m.LONG, m.NEW, m.FIRST]
    assert len(set(sizes)) == len(sizes) and m.SHORT < m.FIRST < m.LONG
    assert m.SHORT + m.NEW > m.FIRST, "greedy ids must pass the original length on the way"
    assert {
        frozen(kind)["config"].item() and json.loads(str(frozen(kind)["config"]))["rms_norm_eps"] for kind in KINDS
    } == {3e-3}


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "default"])
def test_no_kind_passes_as_another(kind, tmp_path):
    """So that the test above can fail: without scaling the row above the original length has other logits."""
    config, want = config_of(kind, tmp_path), frozen(kind)
    plain = dataclasses.replace(config, rope=RopeConfig())
    got = apply(plain, tree(config, tensors()), jnp.asarray(want["above tokens"]))
    assert np.abs(np.asarray(got) - want["above logits"]).max() > 100 * LOGITS


@pytest.mark.parametrize("kind", KINDS)
def test_the_numpy_logits_of_verify_know_every_kind(kind, tmp_path):
    config, want = config_of(kind, tmp_path), frozen(kind)
    spec = hf_rows(config, rows=config.vocab_size)
    for row in ROWS:
        got = numpy_logits(
            lambda name, start, stop: tensors()[name][start:stop], config, spec, want[f"{row} tokens"][0], "float32"
        )
        assert np.abs(got - want[f"{row} logits"][0]).max() <= LOGITS


@pytest.mark.parametrize("kind", ["linear", "yarn", "llama3", "dynamic"])
def test_cached_decoding_gives_what_the_whole_row_gives(kind, tmp_path):
    """With dynamic up to the original length only: past it a cache keeps older angles, as in transformers."""
    config, want = config_of(kind, tmp_path), frozen(kind)
    weights, T = tree(config, tensors()), make_rope.FIRST if kind == "dynamic" else make_rope.LONG
    tokens_BT = jnp.asarray(want["above tokens"])[:, :T]
    logits_BV, cache = decode.prefill(
        weights, config, COMPUTE, tokens_BT[:, :4], jnp.ones((1, 4), jnp.int32), max_len=T
    )
    step = jax.jit(lambda cache, token_B: decode.decode_step(weights, config, COMPUTE, cache, token_B, cache.lengths_B))
    whole_BTV = apply(config, weights, tokens_BT)
    for t in range(4, T):
        np.testing.assert_allclose(logits_BV, whole_BTV[:, t - 1], atol=LOGITS)
        logits_BV, cache = step(cache, tokens_BT[:, t])


def test_a_dynamic_sequence_has_the_angles_of_its_own_length_whatever_it_is_packed_or_padded_with(tmp_path):
    config, want = config_of("dynamic", tmp_path), frozen("dynamic")
    weights, long, short = tree(config, tensors()), want["above tokens"][0], want["below tokens"][0]
    padding = np.zeros(7, int)
    tokens = np.concatenate([short, long, padding])
    sizes = (len(short), len(long), len(padding))
    positions = np.concatenate([np.arange(n) for n in sizes])
    segments = np.repeat([1, 2, 0], sizes)
    got = apply(config, weights, *(jnp.asarray(a)[None] for a in (tokens, positions, segments)))[0]
    np.testing.assert_allclose(got[: len(short)], want["below logits"][0], atol=LOGITS)
    np.testing.assert_allclose(got[len(short) : len(short) + len(long)], want["above logits"][0], atol=LOGITS)


def test_evaluation_scores_long_dynamic_sequences_that_begin_alike_as_whole_rows(tmp_path):
    config, want = config_of("dynamic", tmp_path), frozen("dynamic")
    weights, stem = tree(config, tensors()), want["above tokens"][0].tolist()
    sequences = [Tokens((*stem, *end), len(stem)) for end in ([3], [5, 8], [9, 2, 4])]
    model = Loaded(config=config, weights=weights, tokenizer=None, compute=COMPUTE, sha256="")
    got = dict(LogLikelihoods(model, context=64, rows=2).score(sequences))
    for n, sequence in enumerate(sequences):
        log_probs = jax.nn.log_softmax(apply(config, weights, jnp.asarray([sequence.ids])))[0]
        expected = sum(float(log_probs[t - 1, sequence.ids[t]]) for t in range(sequence.first, len(sequence.ids)))
        assert abs(got[n].logprob - expected) < 1e-3


def test_yarn_scales_sine_and_cosine_and_never_the_angle():
    """The published modeling_hack.py of TigerBot multiplies the angle by 0.1 ln(factor) + 1."""
    scaling = RopeConfig(kind="yarn", factor=8.0, original_max_position_embeddings=2048)
    x_BTNH = jnp.asarray(np.random.default_rng(0).normal(size=(1, 5, 2, 16)), jnp.float32)
    turned = rope.rope(x_BTNH, jnp.arange(5)[None] * 97, base=1e4, scaling=scaling)
    size = 0.1 * np.log(8.0) + 1
    np.testing.assert_allclose(turned[:, 0], size * x_BTNH[:, 0], rtol=1e-6)
    np.testing.assert_allclose(jnp.linalg.norm(turned, axis=-1), size * jnp.linalg.norm(x_BTNH, axis=-1), rtol=1e-5)
    first = np.asarray(turned)[0, 1, 0, [0, 8]] / size  # the fastest pair is not scaled: it turns by its position
    a, b = np.asarray(x_BTNH)[0, 1, 0, [0, 8]]
    np.testing.assert_allclose(first, [a * np.cos(97) - b * np.sin(97), a * np.sin(97) + b * np.cos(97)], rtol=1e-4)


@pytest.mark.peers
@pytest.mark.parametrize("kind", KINDS)
def test_the_frozen_files_are_what_transformers_gives_today(kind):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    want = frozen(kind)
    for row in ROWS:
        config = transformers.LlamaConfig(**json.loads(str(want["config"])), attn_implementation="eager")
        model = transformers.LlamaForCausalLM(config).float().eval()
        model.load_state_dict({name: torch.from_numpy(value) for name, value in tensors().items()})
        logits = model(torch.from_numpy(want[f"{row} tokens"]).long()).logits.detach().numpy()
        assert np.abs(logits - want[f"{row} logits"]).max() <= LOGITS / 10
