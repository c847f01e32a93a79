"""Running a stack of identical blocks: by scan, or as a pipeline over 'stage'.

Both runners have one signature, and neither knows what a block is:

    run(block, w_L, x, remat=...) -> x

`block(w, x) -> x` is a pure function; every leaf of `w_L` has a leading layer axis L. Layers are stacked
whether or not there is a pipeline, so checkpoints do not change with the mesh.
"""

import functools
from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec

from tigerjax.config import Remat
from tigerjax.errors import ConfigError

Block = Callable[[Any, Any], Any]  # (one layer's weights, activations) -> activations

# checkpoint_names of what a block computes on the way, in order.
BLOCK_IN = "block_in"  # x_BTD that enters the block
QUERY, KEY, VALUE = "query", "key", "value"  # as the attention kernel reads them
ATTENTION_OUT = "attention_out"  # of the kernel (with its logsumexp, which its backward pass reads), before `o`
RESIDUAL = "residual"  # x_BTD between attention and MLP
GATE, UP = "gate", "up"  # the two products that enter the MLP

_KERNEL = (QUERY, KEY, VALUE, ATTENTION_OUT)  # all that the backward kernels read
SAVED: dict[Remat, tuple[str, ...]] = {
    "full": (),
    "save_attention": (ATTENTION_OUT,),
    "save_qkv": _KERNEL,
    "save_residual": (*_KERNEL, RESIDUAL),
    "save_up": (*_KERNEL, RESIDUAL, UP),
    "save_dots": (*_KERNEL, RESIDUAL, GATE, UP),
    "offload_qkv": (),
    "offload_residual": (),
}
"""What each policy keeps on the device, beside the block's input."""
OFFLOADED: dict[Remat, tuple[str, ...]] = {
    "offload_qkv": _KERNEL,
    "offload_residual": (BLOCK_IN, *_KERNEL, RESIDUAL),
}
"""What it keeps in the host's memory, and brings back for the backward pass."""


class Runner(Protocol):
    def __call__(self, block: Block, w_L: Any, x: Any, *, remat: Remat) -> Any: ...


def rematerialise(block: Block, remat: Remat) -> Block:
    """`block` with what its backward pass keeps chosen by name: everything ('none'), or what SAVED and OFFLOADED say."""
    if remat == "none":
        return block
    policy = jax.checkpoint_policies.save_and_offload_only_these_names(
        names_which_can_be_saved=SAVED[remat],
        names_which_can_be_offloaded=OFFLOADED.get(remat, ()),
        offload_src="device",
        offload_dst="pinned_host",
    )
    # prevent_cse guards against an optimisation that cannot cross a scan's border, and costs speed.
    return jax.checkpoint(block, policy=policy, prevent_cse=False)


def scan_layers(block: Block, w_L: Any, x: Any, *, remat: Remat) -> Any:
    """Applies the L blocks in order."""
    block = rematerialise(block, remat)
    return jax.lax.scan(lambda x, w: (block(w, x), None), x, w_L)[0]


def pipeline_layers(mesh: Mesh, num_microbatches: int) -> Runner:
    """A GPipe runner over the mesh's 'stage' axis; the other axes stay automatic.

    With S stages and M microbatches a step takes M + S - 1 ticks, so the idle share is (S - 1) / (M + S - 1).
    At tick t stage s works on microbatch t - s. The batch axis (leading axis of every leaf of `x`) must divide
    by M, and L by S.
    """
    S, M = mesh.shape["stage"], num_microbatches

    def run(block: Block, w_L: Any, x: Any, *, remat: Remat) -> Any:
        B, L = jax.tree.leaves(x)[0].shape[0], jax.tree.leaves(w_L)[0].shape[0]
        if B % M:
            raise ConfigError(f"batch of {B} rows does not split into {M} microbatches; change batch_rows")
        if L % S:
            raise ConfigError(f"{L} layers do not split over mesh.stage={S}; change num_layers or the mesh")
        x_M = jax.tree.map(lambda a: a.reshape(M, B // M, *a.shape[1:]), x)

        # check_vma is off because the custom gradient of attention kernels does not carry the
        # 'varies over stage' type (jax 0.10.2); the tests compare gradients with the scan's instead.
        @functools.partial(
            jax.shard_map,
            mesh=mesh,
            axis_names={"stage"},
            check_vma=False,
            in_specs=(PartitionSpec("stage"), PartitionSpec()),
            out_specs=PartitionSpec("stage"),
        )
        def stages(w_L: Any, x_M: Any) -> Any:  # here L is this stage's share, L // S
            s = jax.lax.axis_index("stage")

            def tick(carry: Any, t: jax.Array) -> Any:
                x_in, out_M = carry
                # Stage 0 reads a fresh microbatch; the others read their neighbour's output.
                fresh = jax.tree.map(lambda a: a[jnp.minimum(t, M - 1)], x_M)
                x = jax.tree.map(lambda a, b: jnp.where(s == 0, a, b), fresh, x_in)
                x = scan_layers(block, w_L, x, remat=remat)
                # Only the last stage's `out_M` is read, and its microbatch is t - (S - 1).
                out_M = jax.tree.map(
                    lambda o, a: jnp.where(t >= S - 1, o.at[jnp.maximum(t - S + 1, 0)].set(a), o), out_M, x
                )
                shift = [(i, (i + 1) % S) for i in range(S)]
                return (jax.lax.ppermute(x, "stage", shift), out_M), None

            zeros = (jax.tree.map(lambda a: jnp.zeros_like(a[0]), x_M), jax.tree.map(jnp.zeros_like, x_M))
            (_, out_M), _ = jax.lax.scan(tick, zeros, jnp.arange(M + S - 1))
            return jax.tree.map(lambda a: a[None], out_M)

        last = jax.tree.map(lambda a: a[-1], stages(w_L, x_M))
        return jax.tree.map(lambda a: a.reshape(B, *a.shape[2:]), last)

    return run
