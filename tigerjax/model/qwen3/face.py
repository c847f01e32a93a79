"""What other rooms use of Qwen3, through `tigerjax.model.families`.

It is not in the package's `__init__`, because that runs when a config imports its presets, and JAX takes seconds.
"""

from typing import Any

from tigerjax.model import hf_layers
from tigerjax.model.family import Decoders
from tigerjax.model.hf_fields import Fields
from tigerjax.model.qwen3.sizes import Qwen3Config


def _sizes(fields: Fields) -> dict[str, Any]:
    return {"attention_bias": fields.flag("attention_bias"), "sliding_window": hf_layers.window(fields)}


def _fields(config: Qwen3Config) -> dict[str, Any]:
    return {"attention_bias": config.attention_bias} | hf_layers.written(config.sliding_window, config.num_layers)


FAMILY = Decoders(
    CONFIG=Qwen3Config,
    KIND="qwen3",
    REWARD_KIND="qwen3-reward",
    HF_MODEL_TYPE="qwen3",
    HF_LANGUAGE="Qwen3ForCausalLM",
    HF_REWARD="Qwen3ForSequenceClassification",
    omitted=hf_layers.OMITTED | {"head_dim": 128},
    own_sizes=_sizes,
    own_fields=_fields,
    own_refusals=hf_layers.refused,
)
