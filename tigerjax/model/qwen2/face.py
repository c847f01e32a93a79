"""What other rooms use of Qwen2 and 2.5, through `tigerjax.model.families`.

It is not in the package's `__init__`, because that runs when a config imports its presets, and JAX takes seconds.
"""

from tigerjax.model import hf_layers
from tigerjax.model.family import Decoders
from tigerjax.model.qwen2.sizes import Qwen2Config

FAMILY = Decoders(
    CONFIG=Qwen2Config,
    KIND="qwen2",
    REWARD_KIND="qwen2-reward",
    HF_MODEL_TYPE="qwen2",
    HF_LANGUAGE="Qwen2ForCausalLM",
    HF_REWARD="Qwen2ForSequenceClassification",
    omitted=hf_layers.OMITTED,
    own_sizes=lambda fields: {"sliding_window": hf_layers.window(fields)},
    own_fields=lambda config: hf_layers.written(config.sliding_window, config.num_layers),
    own_refusals=hf_layers.refused,
)
