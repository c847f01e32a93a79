"""Every kind of rope against Hugging Face's, below and above the original length, on the files of make_rope.py."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import make_rope
import numpy as np
import pytest

from tigerjax.checkpoint.loaded import Loaded
from tigerjax.config import ComputeConfig, RopeConfig
from tigerjax.convert import read
from tigerjax.convert.tensors import InMemory
from tigerjax.evaluate.branches import Tokens
from tigerjax.evaluate.loglikelihood import LogLikelihoods
from tigerjax.model import decode, families, rope
from tigerjax.model.hf_config import source_ids

KINDS = list(make_rope.KINDS)
ROWS = ("below", "above")
LOGITS = 1e-4  # absolute, in float32: the bound
RELATIVE = 1e-4  # of loss and gradients: the bound
COMPUTE = ComputeConfig(attention="reference", remat="none", dtype="float32", loss_chunk_tokens=8)
CASES = pytest.mark.parametrize(("model", "kind"), make_rope.CASES, ids=lambda name: name)
PADDED = make_rope.LONG + make_rope.NEW + 5


@functools.cache
def frozen(model, kind):
    with np.load(make_rope.ROPE / model / f"{kind}.npz") as file:
        return {name: file[name] for name in file.files}


def config_of(model, kind, tmp_path):
    (tmp_path / "config.json").write_text(str(frozen(model, kind)["config"]))
    return families.read_hf_config(tmp_path).config


def tree(config, tensors):
    family = families.of(config)
    spec = family.hf_rows(config, rows=config.vocab_size)
    weights = read.in_memory(read.Opened("npz", family.KIND, config, InMemory(tensors), spec, {}, True))
    return jax.tree.map(jnp.asarray, weights)


@functools.cache
def tensors(model):
    with np.load(make_rope.ROPE / model / make_rope.WEIGHTS) as file:
        return {name: file[name] for name in file.files}


def apply(config, weights, tokens_BT, positions_BT=None, segments_BT=None):
    if positions_BT is None:
        positions_BT = jnp.broadcast_to(jnp.arange(tokens_BT.shape[1]), tokens_BT.shape)
    segments_BT = jnp.ones_like(tokens_BT) if segments_BT is None else segments_BT
    model = families.of(config).language_model(config, COMPUTE)
    return model.apply({"params": weights}, tokens_BT, positions_BT, segments_BT)


def padded(tokens_BT, length):
    """The same row with padding behind it, so that rows of all lengths share a compiled program."""
    more = ((0, 0), (0, length - tokens_BT.shape[1]))
    return jnp.pad(tokens_BT, more), jnp.pad(jnp.ones_like(tokens_BT), more)


@CASES
def test_logits_loss_gradients_and_greedy_ids_of_every_family_and_kind_equal_hugging_face(model, kind, tmp_path):
    """And the cache, from which the ids are drawn, gives the logits of whole rows."""
    config, want = config_of(model, kind, tmp_path), frozen(model, kind)
    weights = tree(config, tensors(model))

    @functools.partial(jax.value_and_grad, has_aux=True)
    def graded(weights, tokens_BT, segments_BT):
        logits_BTV = apply(config, weights, tokens_BT, segments_BT=segments_BT)
        log_probs = jax.nn.log_softmax(logits_BTV[:, :-1])
        of_targets = jnp.take_along_axis(log_probs, tokens_BT[:, 1:, None], axis=-1)[..., 0]
        return -(of_targets * segments_BT[:, 1:]).sum() / segments_BT[:, 1:].sum(), logits_BTV

    rows = {row: padded(jnp.asarray(want[f"{row} tokens"]), PADDED) for row in ROWS}
    graded, read_greedily = (quickly(f, weights, *rows["below"]) for f in (graded, functools.partial(greedy, config)))
    for row in ROWS:
        T = want[f"{row} tokens"].shape[1]
        (value, logits_BTV), gradients = graded(weights, *rows[row])
        assert np.abs(np.asarray(logits_BTV)[:, :T] - want[f"{row} logits"]).max() <= LOGITS
        np.testing.assert_allclose(value, want[f"{row} loss"], rtol=RELATIVE)
        of_row = {k.removeprefix(f"{row} gradient "): v for k, v in want.items() if k.startswith(f"{row} gradient ")}

        def close(path, got, theirs):
            distance = np.linalg.norm(np.asarray(got) - theirs) / np.linalg.norm(theirs)
            assert distance <= RELATIVE, f"{jax.tree_util.keystr(path)}: {distance:.2e}"

        jax.tree_util.tree_map_with_path(close, gradients, tree(config, of_row))
        drawn_T, read_TV = read_greedily(weights, *rows[row])
        np.testing.assert_array_equal(drawn_T, want[f"{row} greedy"][0])
        whole_BT = jnp.concatenate([want[f"{row} tokens"], drawn_T[None]], axis=1)
        if config.rope.kind == "dynamic":  # past the original length a cache keeps older angles, as in transformers
            whole_BT = whole_BT[:, : max(T, make_rope.FIRST)]
        at_once_TV = graded(weights, *padded(whole_BT, PADDED))[0][1][0, T - 1 : whole_BT.shape[1] - 1]
        assert np.abs(at_once_TV - read_TV[: len(at_once_TV)]).max(initial=0.0) <= LOGITS


def greedy(config, weights, tokens_BT, segments_BT):
    """(ids, the logits_TV that each was taken from) from the cache, with padding behind the prompt as in a bucket."""
    max_len = tokens_BT.shape[1] + make_rope.NEW
    logits_BV, cache = decode.prefill(weights, config, COMPUTE, tokens_BT, segments_BT, max_len=max_len)

    def step(carried, _):
        logits_BV, cache = carried
        token_B = logits_BV.argmax(-1)
        after = decode.decode_step(weights, config, COMPUTE, cache, token_B, cache.lengths_B)
        return after, (token_B[0], logits_BV[0])

    return jax.lax.scan(step, (logits_BV, cache), None, make_rope.NEW)[1]


def quickly(function, *arguments):
    """`function`, compiled in a fraction of the time: it runs twice, on a few tokens."""
    lowered = jax.jit(function).lower(*arguments)
    return lowered.compile(compiler_options={"xla_backend_optimization_level": 0})


def test_the_frozen_rows_lie_on_both_sides_of_the_original_length_and_no_two_sizes_are_equal():
    m = make_rope
    sizes = [m.LAYERS, m.MODEL, m.MLP, m.HEADS, m.KV_HEADS, m.HEAD, m.VOCAB, m.SHORT, m.LONG, m.NEW, m.FIRST, m.WINDOW]
    assert len(set(sizes)) == len(sizes) and m.WINDOW < m.SHORT < m.FIRST < m.LONG
    assert m.SHORT + m.NEW > m.FIRST, "greedy ids must pass the original length on the way"
    assert {json.loads(str(frozen(*case)["config"]))["rms_norm_eps"] for case in m.CASES} == {3e-3}
    assert {model.partition("_")[0] for model in m.MODELS} == {family.KIND for family in families.FAMILIES}


def of_verify(model, config, ids_T):
    """The numpy logits, which need no compiled program."""
    family = families.of(config)
    spec = family.hf_rows(config, rows=config.vocab_size)
    return family.numpy_logits(lambda name, *rows: tensors(model)[name][slice(*rows)], config, spec, ids_T, "float32")


@CASES
def test_the_numpy_logits_of_verify_know_every_family_and_kind(model, kind, tmp_path):
    config, want = config_of(model, kind, tmp_path), frozen(model, kind)
    for row in ROWS:
        got = of_verify(model, config, want[f"{row} tokens"][0])
        assert np.abs(got - want[f"{row} logits"][0]).max() <= LOGITS


@CASES
def test_the_config_of_every_family_and_kind_goes_out_as_it_came_and_gives_itself_back(model, kind, tmp_path):
    came = json.loads(str(frozen(model, kind)["config"]))
    (tmp_path / "config.json").write_text(json.dumps(came))
    opened = families.read_hf_config(tmp_path)
    given = {"reward": False, "rows": opened.config.vocab_size, "dtype": "float32", "seq_len": None}
    for extra in (opened.extra, {}):  # of an import, and of a run that began here
        family = families.of(opened.config)
        went = family.to_hf_config(opened.config, ids=source_ids(extra), extra=extra, **given)
        (tmp_path / "config.json").write_text(json.dumps(went))
        assert families.read_hf_config(tmp_path).config == opened.config
        if extra:
            assert came.items() <= json.loads(json.dumps(went)).items()


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "default"])
def test_no_kind_passes_as_another(kind, tmp_path):
    """So that the tests above can fail: without scaling the row above the original length has other logits."""
    config, want = config_of("llama", kind, tmp_path), frozen("llama", kind)
    got = of_verify("llama", dataclasses.replace(config, rope=RopeConfig()), want["above tokens"][0])
    assert np.abs(got - want["above logits"][0]).max() > 100 * LOGITS


@pytest.mark.parametrize("model", ["mistral", "qwen2_window"])
@pytest.mark.parametrize("window", [None, make_rope.WINDOW - 1, make_rope.WINDOW + 1])
def test_no_window_passes_as_another(model, window, tmp_path):
    config, want = config_of(model, "default", tmp_path), frozen(model, "default")
    assert config.extras.window == make_rope.WINDOW
    got = of_verify(model, dataclasses.replace(config, sliding_window=window), want["below tokens"][0])
    assert np.abs(got - want["below logits"][0]).max() > 100 * LOGITS


@pytest.mark.parametrize(("model", "kind"), [("llama", "dynamic"), ("mistral", "yarn"), ("qwen2_window", "default")])
def test_reading_in_chunks_gives_what_the_whole_row_gives(model, kind, tmp_path):
    """With padding in the last chunk, which for dynamic would reach past the original length."""
    config, want = config_of(model, kind, tmp_path), frozen(model, kind)
    weights, T = tree(config, tensors(model)), make_rope.FIRST if kind == "dynamic" else make_rope.LONG
    tokens_BT = jnp.asarray(want["above tokens"])[:, :T]
    _, cache = decode.prefill(weights, config, COMPUTE, tokens_BT[:, :4], jnp.ones((1, 4), jnp.int32), max_len=T + 8)
    read = jax.jit(lambda *given: decode.extend(weights, config, COMPUTE, *given, reach=T))
    whole_BTV = apply(config, weights, tokens_BT)
    for at in range(4, T, 5):
        count = min(5, T - at)
        part_BT = jnp.pad(tokens_BT[:, at : at + count], ((0, 0), (0, 5 - count)))
        logits_BV, cache = read(cache, part_BT, jnp.array([count]))
        np.testing.assert_allclose(logits_BV, whole_BTV[:, at + count - 1], atol=LOGITS)


def test_a_dynamic_sequence_has_the_angles_of_its_own_length_whatever_it_is_packed_or_padded_with(tmp_path):
    config, want = config_of("llama", "dynamic", tmp_path), frozen("llama", "dynamic")
    weights, long, short = tree(config, tensors("llama")), want["above tokens"][0], want["below tokens"][0]
    padding = np.zeros(7, int)
    tokens = np.concatenate([short, long, padding])
    sizes = (len(short), len(long), len(padding))
    positions = np.concatenate([np.arange(n) for n in sizes])
    segments = np.repeat([1, 2, 0], sizes)
    got = apply(config, weights, *(jnp.asarray(a)[None] for a in (tokens, positions, segments)))[0]
    np.testing.assert_allclose(got[: len(short)], want["below logits"][0], atol=LOGITS)
    np.testing.assert_allclose(got[len(short) : len(short) + len(long)], want["above logits"][0], atol=LOGITS)


@pytest.mark.parametrize(("model", "kind"), [("llama", "dynamic"), ("mistral", "default"), ("qwen3_bias", "yarn")])
def test_evaluation_scores_long_sequences_that_begin_alike_as_whole_rows(model, kind, tmp_path):
    config, want = config_of(model, kind, tmp_path), frozen(model, kind)
    weights, stem = tree(config, tensors(model)), want["above tokens"][0].tolist()
    sequences = [Tokens((*stem, *end), len(stem)) for end in ([3], [5, 8], [9, 2, 4])]
    loaded = Loaded(config=config, weights=weights, tokenizer=None, compute=COMPUTE, sha256="")
    got = dict(LogLikelihoods(loaded, context=64, rows=2).score(sequences))
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
@CASES
def test_the_frozen_files_are_what_transformers_gives_today(model, kind):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    want = frozen(model, kind)
    for row in ROWS:
        given = json.loads(str(want["config"]))
        config = transformers.AutoConfig.for_model(**given, attn_implementation="eager")
        theirs = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").float().eval()
        report = theirs.load_state_dict({n: torch.from_numpy(a) for n, a in tensors(model).items()}, strict=False)
        assert not report.unexpected_keys and set(report.missing_keys) <= {"lm_head.weight"}, "but for a tied head"
        logits = theirs(torch.from_numpy(want[f"{row} tokens"]).long()).logits.detach().numpy()
        assert np.abs(logits - want[f"{row} logits"]).max() <= LOGITS / 10
