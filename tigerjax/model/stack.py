"""Running a stack of identical blocks: by scan, here, or as a pipeline over 'stage', in pipeline.py.

All runners have one signature, and none knows what a block is:

    run(block, w_L, x, remat=...) -> x

`block(w, x) -> x` is a pure function; every leaf of `w_L` has a leading layer axis L. Layers are stacked
whether or not there is a pipeline, so checkpoints do not change with the mesh.
"""

from collections.abc import Callable
from typing import Any, Protocol

import jax

from tigerjax.config import Remat
from tigerjax.errors import ConfigError

Block = Callable[[Any, Any], Any]  # (one layer's weights, activations) -> activations

ATTENTION_OUT = "attention_out"
"""checkpoint_name of the attention output, before its output projection."""


class Runner(Protocol):
    def __call__(self, block: Block, w_L: Any, x: Any, *, remat: Remat) -> Any: ...


def rematerialise(block: Block, remat: Remat) -> Block:
    """`block` with what its backward pass keeps chosen by name.

    none: everything. full: the block's input only. save_attention: that and the attention output, so the
    quadratic part is not run again. save_dots: also every matmul with a weight.
    """
    names = jax.checkpoint_policies.save_only_these_names(ATTENTION_OUT)
    dots = jax.checkpoint_policies.dots_with_no_batch_dims_saveable
    policies: dict[str, Any] = {
        "full": jax.checkpoint_policies.nothing_saveable,
        "save_attention": names,
        "save_dots": jax.checkpoint_policies.save_from_both_policies(names, dots),
    }
    if remat == "none":
        return block
    if remat not in policies:
        raise ConfigError(f"remat={remat!r} is not one of {['none', *policies]}; change compute.remat")
    # prevent_cse guards against an optimisation that cannot cross a scan's border, and costs speed.
    return jax.checkpoint(block, policy=policies[remat], prevent_cse=False)


def scan_layers(block: Block, w_L: Any, x: Any, *, remat: Remat) -> Any:
    """Applies the L blocks in order."""
    block = rematerialise(block, remat)
    return jax.lax.scan(lambda x, w: (block(w, x), None), x, w_L)[0]
