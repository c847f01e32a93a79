"""A model as decoding reads it."""

import dataclasses

import jax
import jax.numpy as jnp

from tigerjax.checkpoint.loaded import Loaded
from tigerjax.errors import ConfigError
from tigerjax.model import cache as kv
from tigerjax.model.quantised import is_quantised


def ready(model: Loaded) -> tuple[Loaded, kv.Form]:
    """The model with its weights as decoding reads them: in the dtype of the products and on the device, once and not
    once a token. The form is that of its cache, with the stacks that its layers are in
    (`tigerjax.model.cache.unstack`). ConfigError for kernels that the devices do not have."""
    if isinstance(model.weights["layers"], tuple):  # this was done already
        return model, kv.Form(len(model.weights["layers"]), model.cache_dtype)
    platform = jax.default_backend() if model.mesh is None else model.mesh.devices.flat[0].platform
    if model.compute.decode_kernels == "on" and platform != "tpu":
        raise ConfigError(f"compute.decode_kernels=on is for TPUs, and this is a {platform}; set it off")
    weights = jax.tree.map(
        lambda w: w if is_quantised(w) else jnp.asarray(w, model.compute.dtype), model.weights, is_leaf=is_quantised
    )
    apart = model.mesh is None and platform == "cpu"
    weights, stacks = (kv.unstack(weights), model.config.num_layers) if apart else (weights, 1)
    return dataclasses.replace(model, weights=weights), kv.Form(stacks, model.cache_dtype)
