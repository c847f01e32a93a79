"""One draw: exact frequencies, exact truncation, and a stream that knows nothing of the batch."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from tigerjax.sample import choose as room
from tigerjax.sample.choose import candidate_keys, choose, choose_each

DRAWS = 20_000
SMALLEST_P = 0.001  # with fixed seeds this is a fixed outcome; a wrong distribution gives p far below it
PROMPT_WORDS = [3950663461, 45788648]
KEY_WORDS = [567146721, 3275265324]


def exact(logits_V: np.ndarray, temperature: float, top_p: float, top_k: int) -> np.ndarray:
    """Probabilities by sorting in float64: the definition, not the implementation."""
    p = np.exp((logits_V.astype(np.float64) - logits_V.max()) / temperature)
    order = np.argsort(-p, kind="stable")
    if top_k:
        p[order[top_k:]] = 0
    p /= p.sum()
    if top_p < 1:
        mass = np.cumsum(p[order])
        p[order[np.searchsorted(mass, top_p) + 1 :]] = 0
    return p / p.sum()


def draw(logits_V: np.ndarray, **how: float) -> np.ndarray:
    """A draw of every candidate. This program has work, so the compiler optimises it, unlike those of other tests."""
    keys_B = candidate_keys(3, 1, ["p"] * DRAWS, range(DRAWS))
    lowered = jax.jit(lambda l_V, k: choose(jnp.tile(l_V, (DRAWS, 1)), k, **how)).lower(logits_V, keys_B)
    fast = {"xla_backend_optimization_level": 1}
    return np.asarray(lowered.compile(compiler_options=fast)(logits_V, keys_B))


@pytest.mark.parametrize(
    ("temperature", "top_p", "top_k"), [(0.9, 1.0, 0), (0.9, 0.8, 0), (1.3, 1.0, 5), (0.7, 0.9, 7), (2.0, 0.5, 0)]
)
def test_frequencies_of_20000_draws_are_the_exact_probabilities(temperature: float, top_p: float, top_k: int) -> None:
    logits_V = np.random.default_rng(7).normal(size=13).astype(np.float32) * 1.5
    want = exact(logits_V, temperature, top_p, top_k)
    seen = np.bincount(draw(logits_V, temperature=temperature, top_p=top_p, top_k=top_k), minlength=13)
    assert not seen[want == 0].any()
    assert stats.chisquare(seen[want > 0], want[want > 0] * DRAWS).pvalue > SMALLEST_P


def test_frequencies_are_exact_over_several_blocks_of_the_vocabulary() -> None:
    logits_V = np.random.default_rng(8).normal(size=2 * room.BLOCK_TOKENS + 77).astype(np.float32)
    want = exact(logits_V, 0.9, 0.95, 0)
    seen = np.bincount(draw(logits_V, temperature=0.9, top_p=0.95, top_k=0), minlength=len(logits_V))
    assert not seen[want == 0].any()
    assert stats.chisquare(seen[want > 0], want[want > 0] * DRAWS).pvalue > SMALLEST_P


@pytest.mark.parametrize(("V", "scale"), [(40, 1.0), (900, 0.3), (900, 4.0)])
@pytest.mark.parametrize("top_p", [0.01, 0.5, 0.95, 0.999])
def test_top_p_draws_from_the_smallest_sufficient_set_in_its_own_proportions(
    V: int, scale: float, top_p: float
) -> None:
    logits_V = (np.random.default_rng(V).normal(size=V) * scale).astype(np.float32)
    want = exact(logits_V, 1.0, top_p, 0)
    seen = np.bincount(draw(logits_V, temperature=1.0, top_p=top_p), minlength=V)
    assert not seen[want == 0].any()
    # Tokens too rare for the chi-square are one cell, so that each cell expects 5 at least.
    rare = want * DRAWS < 5
    cells = [(seen[i], want[i]) for i in np.flatnonzero(~rare)]
    if want[rare].sum() * DRAWS >= 5:
        cells.append((seen[rare].sum(), want[rare].sum()))
    counts, shares = np.array(cells).T
    expected = shares / shares.sum() * counts.sum()
    assert len(cells) == 1 or stats.chisquare(counts, expected).pvalue > SMALLEST_P


def test_a_row_draws_the_same_beside_flat_rows_and_alone() -> None:
    rng = np.random.default_rng(1)
    peaked_BV, flat_BV = rng.normal(size=(3, 900)) * 5, rng.normal(size=(61, 900)) * 0.01
    both_BV = jnp.asarray(np.concatenate([peaked_BV, flat_BV]), jnp.float32)
    keys_B = candidate_keys(0, 0, ["p"] * 64, range(64))
    drawn = jax.jit(functools.partial(choose, temperature=1.0, top_p=0.9))
    together = drawn(both_BV, keys_B)
    for rows in (slice(0, 3), slice(3, 8), slice(40, 41)):
        np.testing.assert_array_equal(together[rows], drawn(both_BV[rows], keys_B[rows]))


def test_rows_with_settings_of_their_own_draw_what_each_setting_alone_draws() -> None:
    settings = [(0.0, 1.0, 0), (0.9, 0.95, 0), (1.3, 1.0, 7), (0.6, 0.8, 40), (1.0, 1.0, 0), (2.0, 0.5, 3000)]
    logits_BV = jnp.asarray(np.random.default_rng(3).normal(size=(60, 900)) * 2, jnp.float32)
    keys_B = candidate_keys(1, 0, [f"p{b}" for b in range(60)], [0] * 60)
    temperature_B, top_p_B, top_k_B = (np.array(column) for column in zip(*settings * 10, strict=True))
    each = jax.jit(choose_each)(
        logits_BV, keys_B, temperature_B=np.float32(temperature_B), top_p_B=np.float32(top_p_B), top_k_B=top_k_B
    )
    for n, (temperature, top_p, top_k) in enumerate(settings):
        rows = slice(n, 60, len(settings))
        alone = choose(logits_BV[rows], keys_B[rows], temperature=temperature, top_p=top_p, top_k=top_k)
        np.testing.assert_array_equal(each[rows], alone)


def test_tokens_tied_with_the_last_kept_one_are_kept() -> None:
    logits_V = np.log(np.array([1.0, 0.5, 0.5, 0.5, 0.1], np.float32))
    assert set(draw(logits_V, temperature=1.0, top_p=0.5)) == {0, 1, 2, 3}
    assert set(draw(logits_V, temperature=1.0, top_k=2)) == {0, 1, 2, 3}


def test_a_row_that_is_not_a_number_ends() -> None:
    logits_BV = jnp.zeros((2, 40)).at[0].set(jnp.nan)
    assert choose(logits_BV, candidate_keys(0, 0, ["p", "q"], [0, 0]), temperature=1.0, top_p=0.9).shape == (2,)


def test_tokens_of_probability_zero_are_never_drawn() -> None:
    logits_V = np.full(1000, -np.inf, np.float32)
    logits_V[::3] = 0.0
    assert set(draw(logits_V, temperature=1.0) % 3) == {0}
    last_V = np.full(700, -np.inf, np.float32)
    last_V[5] = 1.0
    assert set(draw(last_V, temperature=1.0)) == {5}


def test_a_point_past_the_last_sum_falls_on_the_heaviest_entry() -> None:
    index_B, _ = room._first_above(jnp.array([[0.2, 0.7, 0.1, 0.0]]), jnp.array([1.5]))
    assert index_B.tolist() == [1]


def test_temperature_zero_is_the_argmax() -> None:
    logits_BV = np.random.default_rng(2).normal(size=(50, 31)).astype(np.float32)
    keys_B = candidate_keys(0, 0, ["p"] * 50, range(50))
    np.testing.assert_array_equal(choose(logits_BV, keys_B, temperature=0.0), logits_BV.argmax(-1))


def test_the_stream_depends_on_seed_round_prompt_and_candidate_and_on_nothing_else() -> None:
    def data(*args: Any) -> list[list[int]]:
        return jax.random.key_data(candidate_keys(*args)).tolist()

    base = data(0, 0, ["a"], [0])[0]
    others = [
        data(1, 0, ["a"], [0])[0],
        data(0, 1, ["a"], [0])[0],
        data(0, 0, ["b"], [0])[0],
        data(0, 0, ["a"], [1])[0],
    ]
    assert len({tuple(k) for k in [base, *others]}) == 5
    assert data(0, 0, ["z", "a", "y"], [4, 0, 2])[1] == base


def test_the_stream_is_frozen() -> None:
    """A change of these words changes every sample ever drawn: it must be meant."""
    assert room.prompt_words("zh-17").tolist() == PROMPT_WORDS
    assert jax.random.key_data(candidate_keys(5, 2, ["zh-17"], [3]))[0].tolist() == KEY_WORDS
