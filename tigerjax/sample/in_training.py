"""The weights of a run that trains, as the sampler reads them: on the run's own devices, and not copied."""

import math
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding

from tigerjax.checkpoint.loaded import Loaded
from tigerjax.config import RunConfig
from tigerjax.mesh import rows_whole
from tigerjax.model import families
from tigerjax.model.reward import VALUE


def in_training(config: RunConfig, weights: Any, mesh: Mesh, tokenizer: Any) -> Loaded:
    """The run's model with the weights of this moment, which lie on its `mesh`. The next step donates them, so the
    sampler must be through by then."""
    weights = {name: weight for name, weight in weights.items() if name != VALUE}
    several = None
    if mesh.size > 1:
        several = rows_whole(mesh)
        shardings = families.weight_shardings(config.model, families.of(config.model).KIND, several)
        weights = jax.tree.map(_seen_as, weights, shardings)
    return Loaded(
        config=config.model, weights=weights, tokenizer=tokenizer, compute=config.compute, mesh=several, sha256=""
    )


def handed_over(config: RunConfig, mesh: Mesh, weights: Any) -> str:
    """How the sampler gets these weights (arrays or their shapes), as a part of a sentence."""
    size = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(weights))
    narrow = config.weights.frozen_dtype != "float32"
    if config.lora.rank or narrow:
        what = "a copy with the adapters in it" if config.lora.rank else "a bfloat16 copy"
        return f"the sampler reads {what}, {_amount((2 if narrow else 4) * size)}, made for each roll-out"
    if config.compute.dtype != "float32":
        return f"the sampler reads a {config.compute.dtype} copy, {_amount(2 * size)}, made for each roll-out"
    if mesh.size == 1 and jax.default_backend() == "cpu":
        return f"on one CPU the sampler reads a copy cut by layers, {_amount(4 * size)}, made for each roll-out"
    return "the sampler reads the run's own weights, without a copy"


def _amount(size: int) -> str:
    return f"{size / 1e9:,.1f} GB" if size >= 1e9 else f"{size / 1e6:,.1f} MB"


def _seen_as(weight: jax.Array, sharding: NamedSharding) -> jax.Array:
    """The same array in another sharding that cuts it alike: nothing is copied."""
    assert weight.sharding.is_equivalent_to(sharding, weight.ndim), (weight.sharding, sharding)
    return jax.make_array_from_single_device_arrays(
        weight.shape, sharding, [shard.data for shard in weight.addressable_shards]
    )
