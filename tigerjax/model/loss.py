"""Token cross-entropy in chunks of tokens, so that B x T x V logits never exist at one time.

The gradient is computed *with* the loss, chunk by chunk. The logits of a chunk give its loss, then its share of the
gradients of the hidden states and of the head, and are dropped. That takes three matrix products per chunk. A scan over
`jax.checkpoint` would take four, because it computes every logit twice.
"""

import functools
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from tigerjax.mesh import manual_row_ways, spec


class TokenLoss(NamedTuple):
    """Sums over tokens that are minimised; callers divide once, after accumulation and over all hosts."""

    loss_sum: jax.Array  # float32 (): -log p of the targets in nats, and the z-loss, times their weights
    weight: jax.Array  # float32 (): sum of the weights
    correct: jax.Array  # float32 (): weights of the tokens whose target has the largest logit (a tie counts)
    z_sum: jax.Array  # float32 (): the part of loss_sum that is z-loss


class RowLoss(NamedTuple):
    """Sums over the tokens of each row, as validation takes them."""

    nll_sum: jax.Array  # float32 (B): -log p of the targets times their weights, in nats
    weight: jax.Array  # float32 (B): sum of the weights
    correct: jax.Array  # float32 (B): weights of the tokens whose target has the largest logit (a tie counts)


# Nine parameters: four of them say how the loss is cut, and are given together (`objective.Decoder.cut`).
def token_loss(
    hidden_BTD: jax.Array,
    head_DV: jax.Array,
    targets_BT: jax.Array,
    weights_BT: jax.Array,
    *,
    vocab_size: int,
    chunk_tokens: int,
    batch_shards: int,
    length_shards: int,
    z_loss: float,
) -> TokenLoss:
    """Cross-entropy of `softmax(hidden @ head)`, columns from `vocab_size` on masked to -inf.

    Each token adds `z_loss` * log(Z)^2, where Z is the sum of the exponentials of its logits: Chowdhery et al. 2022
    (PaLM, arXiv 2204.02311), section 5. It keeps logits from drifting away from 0.

    Matrix products run in the dtype of `hidden_BTD` and add up in float32; softmax and sums are float32. At most
    `chunk_tokens` tokens (at least one position of every row) have logits at one time. Chunks are cut along T, so that
    the sharded batch axis stays where it is. `batch_shards` and `length_shards` are the numbers of devices over which
    the rows are split, and each row along T (`mesh.shape` of the axes of "batch" and "length"). Each device sums its
    own gradient of the head, and these are added once, after the last chunk. Not differentiable twice, nor in
    `weights_BT`.
    """
    cut = _Cut.of(targets_BT.shape, chunk_tokens, batch_shards, length_shards)
    weights_BT = weights_BT.astype(jnp.float32)
    arrays = cut.split(hidden_BTD), head_DV, cut.split(targets_BT), cut.split(weights_BT)
    loss_sum, correct, z_sum = _summed((vocab_size, cut.length, z_loss), *arrays)
    return TokenLoss(loss_sum, jnp.sum(weights_BT), correct, z_sum)


def token_nll(
    hidden_BTD: jax.Array,
    head_DV: jax.Array,
    targets_BT: jax.Array,
    *,
    vocab_size: int,
    chunk_tokens: int,
    batch_shards: int,
    length_shards: int,
) -> jax.Array:
    """nll_BT: -log p of each target in nats, float32, for losses that are no weighted sum of them.

    The arguments are those of `token_loss`. The backward pass computes the logits of each chunk a second time, since
    the gradient of a token depends on all other tokens of its answer: four matrix products per chunk instead of three.
    """
    cut = _Cut.of(targets_BT.shape, chunk_tokens, batch_shards, length_shards)
    nll = _each((vocab_size, cut.length, 0.0), cut.split(hidden_BTD), head_DV, cut.split(targets_BT))
    return cut.joined(nll)


def loss_by_row(
    hidden_BTD: jax.Array,
    head_DV: jax.Array,
    targets_BT: jax.Array,
    weights_BT: jax.Array,
    *,
    vocab_size: int,
    chunk_tokens: int,
    batch_shards: int,
    length_shards: int,
) -> RowLoss:
    """The sums of `token_loss` row by row, without z-loss. For validation: it has no gradient."""
    cut = _Cut.of(targets_BT.shape, chunk_tokens, batch_shards, length_shards)
    weights_BT = weights_BT.astype(jnp.float32)
    arrays = cut.split(hidden_BTD), head_DV, cut.split(targets_BT), cut.split(weights_BT)
    nll, correct = _scan(_Sizes(vocab_size, cut.length, 0.0), *arrays, "each")[1]
    nll_sum, correct = (jnp.sum(cut.joined(each) * weights_BT, axis=1) for each in (nll, correct))
    return RowLoss(nll_sum, jnp.sum(weights_BT, axis=1), correct)


class _Cut(NamedTuple):
    """How arrays [B, T, …] are cut for the scan: the devices' shares side by side, so that vmap runs over devices."""

    batch_shards: int
    length_shards: int
    length: int
    """Positions of a chunk."""
    pad: int
    """Positions that are added to a share, so that chunks fill it; they have weight 0."""

    @staticmethod
    def of(shape: tuple[int, ...], chunk_tokens: int, batch_shards: int, length_shards: int) -> "_Cut":
        B, T = shape
        # Where each copy of the model computes alone, `shape` is its share, and the two are those of all copies.
        copies = manual_row_ways()
        chunk_tokens, batch_shards = max(1, chunk_tokens // copies), batch_shards // copies
        chunks = -(-B * T // chunk_tokens)
        length = -(-T // (length_shards * chunks))
        return _Cut(batch_shards, length_shards, length, -(T // length_shards) % length)

    def split(self, array: jax.Array) -> jax.Array:
        (B, T), rest, batch, length = array.shape[:2], array.shape[2:], self.batch_shards, self.length_shards
        array = array.reshape(batch, B // batch, length, T // length, *rest).swapaxes(1, 2)
        array = array.reshape(-1, B // batch, T // length, *rest)
        return jnp.pad(array, [(0, 0), (0, 0), (0, self.pad), *((0, 0) for _ in rest)]) if self.pad else array

    def joined(self, array: jax.Array) -> jax.Array:
        """The inverse of `split`, for an array without further dimensions."""
        _, rows, positions = array.shape
        positions -= self.pad
        array = array[..., :positions].reshape(self.batch_shards, self.length_shards, rows, positions)
        return array.swapaxes(1, 2).reshape(self.batch_shards * rows, self.length_shards * positions)


class _Sizes(NamedTuple):
    vocab_size: int
    length: int
    z_loss: float


def _softmax(
    hidden_BTD: jax.Array, head_DV: jax.Array, targets_BT: jax.Array, vocab_size: int
) -> tuple[jax.Array, ...]:
    """(nll_BT, correct_BT, log_z_BT, probs_BTV, is_target_BTV), all float32 or bool. The gradient needs the last two.
    log_z is the logarithm of the sum of the exponentials of the logits."""
    logits_BTV = jnp.einsum("BTD,DV->BTV", hidden_BTD, head_DV, preferred_element_type=jnp.float32)
    logits_BTV = nn.with_logical_constraint(logits_BTV, (None, None, "act_vocab"))
    column_V = jnp.arange(head_DV.shape[1])
    logits_BTV = jnp.where(column_V < vocab_size, logits_BTV, -jnp.inf)
    max_BT1 = jnp.max(logits_BTV, axis=-1, keepdims=True)
    exp_BTV = jnp.exp(logits_BTV - max_BT1)
    norm_BT1 = jnp.sum(exp_BTV, axis=-1, keepdims=True)
    # A comparison, not a gather: it fuses, and V may be split over devices.
    is_target_BTV = column_V == targets_BT[..., None]
    target_BT1 = jnp.sum(jnp.where(is_target_BTV, logits_BTV, 0.0), axis=-1, keepdims=True)
    log_z_BT1 = max_BT1 + jnp.log(norm_BT1)
    nll_BT, log_z_BT = (log_z_BT1 - target_BT1)[..., 0], log_z_BT1[..., 0]
    return nll_BT, (target_BT1 >= max_BT1)[..., 0], log_z_BT, exp_BTV / norm_BT1, is_target_BTV


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _summed(sizes: Any, hidden: Any, head_DV: Any, targets: Any, weights: Any) -> Any:
    return _scan(_Sizes(*sizes), hidden, head_DV, targets, weights, "sums")[0]


def _summed_fwd(sizes: Any, hidden: Any, head_DV: Any, targets: Any, weights: Any) -> Any:
    sums, d_hidden, d_head_DV = _scan(_Sizes(*sizes), hidden, head_DV, targets, weights, "gradients")
    return sums, (d_hidden, d_head_DV)


def _summed_bwd(sizes: Any, gradients: Any, cotangents: Any) -> Any:
    d_hidden, d_head_DV = gradients
    scale = cotangents[0]  # `correct` is a count and has no gradient, and that of the z-loss is in the first
    return (d_hidden * scale).astype(d_hidden.dtype), d_head_DV * scale, None, None


_summed.defvjp(_summed_fwd, _summed_bwd)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _each(sizes: Any, hidden: Any, head_DV: Any, targets: Any) -> Any:
    return _scan(_Sizes(*sizes), hidden, head_DV, targets, jnp.zeros(targets.shape), "each")[1][0]


def _each_fwd(sizes: Any, hidden: Any, head_DV: Any, targets: Any) -> Any:
    return _each(sizes, hidden, head_DV, targets), (hidden, head_DV, targets)


def _each_bwd(sizes: Any, saved: Any, d_nll: Any) -> Any:
    # What flows back into each token is its weight in a sum, whose gradient this is.
    hidden, head_DV, targets = saved
    _, d_hidden, d_head_DV = _scan(_Sizes(*sizes), hidden, head_DV, targets, d_nll, "gradients")
    return d_hidden, d_head_DV, None


_each.defvjp(_each_fwd, _each_bwd)


def _scan(
    sizes: _Sizes,
    hidden: Any,
    head_DV: Any,
    targets: Any,
    weights: Any,
    wanted: Literal["sums", "each", "gradients"],
) -> Any:
    """((loss sum, correct, z-loss), gradient of hidden, gradient of head). The arrays lead with an axis of devices.

    Without "gradients" there is no gradient of the head, and with "each" the second is (nll, correct) of every token,
    without their weights."""
    shards, _, T, _ = hidden.shape
    # The devices that split D gather the head here, once before the loop and in the dtype of the products.
    cast_head_DV = nn.with_logical_constraint(head_DV.astype(hidden.dtype), ("act_embed", "act_vocab"))

    def chunk(hidden_BTD: jax.Array, targets_BT: jax.Array, weights_BT: jax.Array) -> Any:
        nll_BT, correct_BT, log_z_BT, probs_BTV, is_target_BTV = _softmax(
            hidden_BTD, cast_head_DV, targets_BT, sizes.vocab_size
        )
        loss, correct, z = jnp.sum(nll_BT * weights_BT), jnp.sum(correct_BT * weights_BT), jnp.float32(0)
        if sizes.z_loss:
            z = sizes.z_loss * jnp.sum(log_z_BT**2 * weights_BT)
            loss += z
            probs_BTV *= (1 + 2 * sizes.z_loss * log_z_BT)[..., None]  # the slope of log_z is p
        sums = loss, correct, z
        if wanted != "gradients":
            each = nll_BT, correct_BT.astype(jnp.float32)
            return sums, each if wanted == "each" else None, None
        d_logits_BTV = ((probs_BTV - is_target_BTV) * weights_BT[..., None]).astype(hidden_BTD.dtype)
        d_hidden_BTD = jnp.einsum("BTV,DV->BTD", d_logits_BTV, cast_head_DV)
        d_head_DV = jnp.einsum("BTD,BTV->DV", hidden_BTD, d_logits_BTV, preferred_element_type=jnp.float32)
        return sums, d_hidden_BTD, nn.with_logical_constraint(d_head_DV, ("act_embed", "act_vocab"))

    by_device = jax.vmap(chunk, spmd_axis_name=spec("shares")[0] if shards > 1 else None)

    def step(carry: Any, start: jax.Array) -> Any:
        parts = [jax.lax.dynamic_slice_in_dim(a, start, sizes.length, axis=2) for a in (hidden, targets, weights)]
        sums, of_tokens, d_head = by_device(*parts)
        return jax.tree.map(jnp.add, carry, (sums, d_head)), of_tokens

    zero = jnp.zeros((shards,), jnp.float32)
    d_head: Any = jnp.zeros((shards, *head_DV.shape), jnp.float32) if wanted == "gradients" else None
    if d_head is not None:
        d_head = nn.with_logical_constraint(d_head, ("shares", "act_embed", "act_vocab"))
    carry, of_tokens = jax.lax.scan(step, ((zero, zero, zero), d_head), jnp.arange(0, T, sizes.length))
    sums, d_head = carry
    # chunks, shards, B, T, … -> shards, B, all of T, …
    of_tokens = jax.tree.map(lambda a: jnp.moveaxis(a, 0, 2).reshape(*hidden.shape[:3], *a.shape[4:]), of_tokens)
    if d_head is not None:
        d_head = jnp.sum(d_head, axis=0).astype(head_DV.dtype)
    return jax.tree.map(jnp.sum, sums), of_tokens, d_head
