"""What other rooms use of Llama 2, 3 and 3.x, through `tigerjax.model.families`.

It is not in the package's `__init__`, because that runs when a config imports its presets, and JAX takes seconds.
"""

from tigerjax.config import ModelConfig
from tigerjax.model.family import Decoders
from tigerjax.model.hf_fields import Fields


def _refusals(fields: Fields) -> list[str]:
    return [f"{name}=True" for name in ("attention_bias", "mlp_bias") if fields.flag(name)]


FAMILY = Decoders(
    CONFIG=ModelConfig,
    KIND="llama",
    REWARD_KIND="reward",
    HF_MODEL_TYPE="llama",
    HF_LANGUAGE="LlamaForCausalLM",
    HF_REWARD="LlamaForSequenceClassification",
    omitted={},
    own_sizes=lambda fields: {},
    own_fields=lambda config: {"attention_bias": False, "mlp_bias": False},
    own_refusals=_refusals,
)
