"""What other rooms use of Llama 2, through `tigerjax.model.families`, which describes each name in `Family`.

It is not in the package's `__init__`, because that runs when a config imports its presets, and JAX takes seconds.
"""

from tigerjax.config import ModelConfig
from tigerjax.model.llama.decode import branch, decode_step, keep, prefill
from tigerjax.model.llama.hf_config import (
    HF_LANGUAGE,
    HF_MODEL_TYPE,
    HF_REWARD,
    KIND,
    REWARD_KIND,
    from_hf_config,
    to_hf_config,
)
from tigerjax.model.llama.hf_weights import hf_buffer, hf_rows
from tigerjax.model.llama.model import Llama
from tigerjax.model.llama.numbers import (
    end_weights,
    layer_weights,
    model_flops,
    parameter_count,
    recomputed_weights,
    saved_features,
)
from tigerjax.model.llama.probe import layered_logits, numpy_logits
from tigerjax.model.llama.reward import Reward, from_llama

CONFIG = ModelConfig
language_model, reward_model, reward_from_language = Llama, Reward, from_llama

__all__ = [
    "CONFIG",
    "HF_LANGUAGE",
    "HF_MODEL_TYPE",
    "HF_REWARD",
    "KIND",
    "REWARD_KIND",
    "branch",
    "decode_step",
    "end_weights",
    "from_hf_config",
    "hf_buffer",
    "hf_rows",
    "keep",
    "language_model",
    "layer_weights",
    "layered_logits",
    "model_flops",
    "numpy_logits",
    "parameter_count",
    "prefill",
    "recomputed_weights",
    "reward_from_language",
    "reward_model",
    "saved_features",
    "to_hf_config",
]
