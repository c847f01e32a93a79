"""What other rooms use of Mistral, through `tigerjax.model.families`.

It is not in the package's `__init__`, because that runs when a config imports its presets, and JAX takes seconds.
"""

from tigerjax.model.family import Decoders
from tigerjax.model.hf_fields import Fields
from tigerjax.model.mistral.sizes import MistralConfig


def _refusals(fields: Fields) -> list[str]:
    """transformers gives layers of several kinds to another model than this."""
    return [f"layer_types={types}"] if (types := fields.texts("layer_types")) else []


FAMILY = Decoders(
    CONFIG=MistralConfig,
    KIND="mistral",
    REWARD_KIND="mistral-reward",
    HF_MODEL_TYPE="mistral",
    HF_LANGUAGE="MistralForCausalLM",
    HF_REWARD="MistralForSequenceClassification",
    omitted={"num_key_value_heads": 8, "sliding_window": 4096, "max_position_embeddings": 131_072},
    own_sizes=lambda fields: {"sliding_window": fields.whole("sliding_window", 1, default=None)},
    own_fields=lambda config: {"sliding_window": config.sliding_window},
    own_refusals=_refusals,
)
