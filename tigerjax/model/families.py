"""The model families there are; no other file outside a family's folder names one."""

import functools
from typing import Any

import flax.linen as nn
import jax
from jax.sharding import Mesh

from tigerjax.config import ComputeConfig, ModelConfig
from tigerjax.mesh import logical_rules
from tigerjax.model.llama import model as llama
from tigerjax.model.llama.reward import Reward


def weight_shardings(config: ModelConfig, kind: str, mesh: Mesh) -> Any:
    """A NamedSharding for every weight of a model of this kind ("llama", "reward"), as training cuts it."""
    compute = ComputeConfig(attention="reference", remat="none", dtype="float32", loss_chunk_tokens=1)
    model = (llama.Llama if kind == "llama" else Reward)(config, compute)
    boxed = jax.eval_shape(functools.partial(llama.init, model), jax.random.key(0))
    return nn.logical_to_mesh_sharding(nn.get_partition_spec(boxed), mesh, logical_rules())
