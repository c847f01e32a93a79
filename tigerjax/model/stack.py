"""Running a stack of identical blocks: one after the other by a scan (here), or as a pipeline (pipeline.py).

All runners have one signature, and none of them knows what a block is:

    run(block, w_L, x, remat=...) -> x

`block(w, x) -> x` is a pure function, and every leaf of `w_L` has a leading layer axis L. Layers are stacked whether or
not there is a pipeline, so checkpoints do not change with the mesh.
"""

from collections.abc import Callable
from typing import Any, Protocol

import jax

from tigerjax.config import Remat

Block = Callable[[Any, Any], Any]  # (one layer's weights, activations) -> activations

# The checkpoint_names of what a block computes, in order.
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
    "save_kv_up": (KEY, VALUE, ATTENTION_OUT, UP),
    "save_up": (*_KERNEL, RESIDUAL, UP),
    "save_dots": (*_KERNEL, RESIDUAL, GATE, UP),
    "offload_qkv": (),
    "offload_residual": (),
}
"""What each policy saves on the device for the backward pass, beside the block's input."""
OFFLOADED: dict[Remat, tuple[str, ...]] = {
    "offload_qkv": _KERNEL,
    "offload_residual": (BLOCK_IN, *_KERNEL, RESIDUAL),
}
"""What a policy saves in the host's memory instead, and brings back for the backward pass."""


class StackRunner(Protocol):
    def __call__(self, block: Block, w_L: Any, x: Any, *, remat: Remat) -> Any: ...


def rematerialise(block: Block, remat: Remat) -> Block:
    """`block` with the remat policy: its backward pass keeps everything ('none'), or what SAVED and OFFLOADED name."""
    if remat == "none":
        return block
    policy = jax.checkpoint_policies.save_and_offload_only_these_names(
        names_which_can_be_saved=SAVED[remat],
        names_which_can_be_offloaded=OFFLOADED.get(remat, ()),
        offload_src="device",
        offload_dst="pinned_host",
    )
    # prevent_cse guards against an optimisation that never crosses the border of a scan. It would only cost speed.
    return jax.checkpoint(block, policy=policy, prevent_cse=False)


def scan_layers(block: Block, w_L: Any, x: Any, *, remat: Remat) -> Any:
    """Applies the L blocks in order."""
    block = rematerialise(block, remat)
    return jax.lax.scan(lambda x, w: (block(w, x), None), x, w_L)[0]
