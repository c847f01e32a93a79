"""A family of decoders: what one says of itself, and what all of them offer to other rooms.

A family's folder has an object of this class in its `face`. Its layers are those of `tigerjax.model.decoder`. Its own
are its names, its sizes, and the fields of config.json in which these stand.
"""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tigerjax.config import ModelConfig, ranges
from tigerjax.errors import ConfigError, DataError
from tigerjax.model import decode, hf_rope, hf_weights, numbers, probe, reward
from tigerjax.model.decoder import LanguageModel
from tigerjax.model.hf_config import (
    CONFIG,
    OURS,
    SEQ_LEN,
    SOURCE,
    HfConfig,
    TokenizerIds,
    as_came,
    positions,
    source_fields,
)
from tigerjax.model.hf_fields import Fields

# What transformers takes for a key that an old config.json leaves out, in every family.
OMITTED = {"rms_norm_eps": 1e-6, "hidden_act": "silu"}
MAX_PADDING = 65_536
"""The most rows of padding that our own key may ask for: an import makes them of nothing."""
LABELS = {"id2label": {"0": "reward"}, "label2id": {"reward": 0}}
"""What config.json of a reward model says of its one score."""


@dataclasses.dataclass(kw_only=True)
class Decoders:
    """One family. What its names mean is said in `tigerjax.model.families`, in `Family`."""

    CONFIG: type[ModelConfig]
    KIND: str
    REWARD_KIND: str
    HF_MODEL_TYPE: str
    HF_LANGUAGE: str
    HF_REWARD: str
    omitted: Mapping[str, Any]
    """What transformers takes for a key that config.json leaves out, where not every family does."""
    own_sizes: Callable[[Fields], dict[str, Any]]
    """The fields that CONFIG has beyond a ModelConfig, from a config.json."""
    own_fields: Callable[[Any], dict[str, Any]]
    """What a config.json says of them, and of what the family does not have."""
    own_refusals: Callable[[Fields], list[str]]
    """What a config.json asks for that the family does not compute, each with its value."""

    language_model = LanguageModel
    reward_model = reward.RewardModel
    reward_from_language = staticmethod(reward.from_language)
    prefill = staticmethod(decode.prefill)
    decode_step = staticmethod(decode.decode_step)
    extend = staticmethod(decode.extend)
    keep = staticmethod(decode.keep)
    branch = staticmethod(decode.branch)
    parameter_count = staticmethod(numbers.parameter_count)
    layer_weights = staticmethod(numbers.layer_weights)
    end_weights = staticmethod(numbers.end_weights)
    model_flops = staticmethod(numbers.model_flops)
    saved_features = staticmethod(numbers.saved_features)
    recomputed_weights = staticmethod(numbers.recomputed_weights)
    hf_rows = staticmethod(hf_weights.hf_rows)
    hf_buffer = staticmethod(hf_weights.hf_buffer)
    numpy_logits = staticmethod(probe.numpy_logits)
    layered_logits = staticmethod(probe.layered_logits)

    def to_hf_config(
        self,
        config: ModelConfig,
        *,
        reward: bool,
        rows: int,
        dtype: str,
        ids: TokenizerIds,
        extra: dict[str, Any],
        seq_len: int | None,
    ) -> dict[str, Any]:
        """The content of config.json of a language or a reward model whose tensors have `rows` rows of vocabulary. What
        the source of an import says beside it goes out as it came."""
        came = as_came(extra)
        if reward and not _one_label(came):
            came = {name: value for name, value in came.items() if name not in ("num_labels", "problem_type")} | LABELS
        out: dict[str, Any] = {
            "architectures": [self.HF_REWARD if reward else self.HF_LANGUAGE],
            "model_type": self.HF_MODEL_TYPE,
            "num_hidden_layers": config.num_layers,
            "hidden_size": config.model_dim,
            "intermediate_size": config.mlp_dim,
            "num_attention_heads": config.num_heads,
            "num_key_value_heads": config.num_kv_heads,
            "head_dim": config.head_dim,
            "vocab_size": rows,
            "rms_norm_eps": config.norm_eps,
            "hidden_act": "silu",
            "tie_word_embeddings": config.tied,
            "bos_token_id": ids.bos,
            "eos_token_id": ids.eos,
            "pad_token_id": ids.pad,
            "torch_dtype": dtype,
            OURS: {
                "vocab_size": config.vocab_size,
                "padded_vocab_size": config.padded_vocab_size,
                "extra": _ours_alone(extra),
            },
        } | hf_rope.written(config, extra, positions(extra, seq_len))
        return came | out | self._own_fields(config, came | out)

    def _own_fields(self, config: ModelConfig, content: dict[str, Any]) -> dict[str, Any]:
        """What config.json says of the family's own sizes: as `content` has it, where that says the same."""
        own = self.own_fields(config)
        said = own | {name: content[name] for name in own if name in content}
        fields = Fields(content | said, Path(CONFIG))
        same = not self.own_refusals(fields) and all(getattr(config, n) == v for n, v in self.own_sizes(fields).items())
        return said if same else own

    def from_hf_config(self, fields: Fields, *, reward: bool) -> HfConfig:
        """What a config.json says. DataError for a field that is missing or out of its range; ConfigError names what
        our model does not compute: biases, rope of an unknown kind, another activation, quantisation."""
        fields = fields._replace(content={**self.omitted, **fields.content})
        ours = fields.object(OURS)
        most = {name: int(allowed.range.most) for name, allowed in ranges.fields(ModelConfig).items() if allowed.range}
        heads = fields.whole("num_attention_heads", 1, most["num_heads"])
        width = fields.whole("hidden_size", 1, most["model_dim"])
        rows = fields.whole("vocab_size", 1, most["vocab_size"])
        padded = min(rows + MAX_PADDING, most["padded_vocab_size"])
        sizes: dict[str, Any] = {
            "num_layers": fields.whole("num_hidden_layers", 1, most["num_layers"]),
            "model_dim": width,
            "mlp_dim": fields.whole("intermediate_size", 1, most["mlp_dim"]),
            "num_heads": heads,
            "num_kv_heads": fields.whole("num_key_value_heads", 1, most["num_kv_heads"], default=None) or heads,
            "head_dim": fields.whole("head_dim", 1, most["head_dim"], default=None)
            or _even_share(fields, width, heads),
            "vocab_size": ours.whole("vocab_size", 1, most["vocab_size"], default=rows),
            "padded_vocab_size": ours.whole("padded_vocab_size", 1, padded, default=rows),
            "rope_base": hf_rope.theta(fields),
            "norm_eps": fields.real("rms_norm_eps", 0, 1, default=OMITTED["rms_norm_eps"]),
            "tied": fields.flag("tie_word_embeddings"),
            **self.own_sizes(fields),
        }
        refused = self.own_refusals(fields) + _refused(fields, reward=reward)
        if refused:
            raise ConfigError(
                f"{fields.path}: {'; '.join(refused)} is not computed by this model; convert another checkpoint"
            )
        try:
            config = self.CONFIG(**sizes, rope=hf_rope.scaling(fields))
        except ConfigError as error:  # of fields that contradict each other
            raise DataError(f"{fields.path}: {error}") from error
        return HfConfig(
            kind=self.REWARD_KIND if reward else self.KIND,
            config=config,
            rows=rows,
            extra=_ours_alone(ours.object("extra").content) | {SOURCE: source_fields(fields, rows)},
            sized="vocab_size" in ours.content,
        )


def _ours_alone(extra: dict[str, Any]) -> dict[str, Any]:
    """A checkpoint's `extra` without what stands in Hugging Face's own fields."""
    return {name: value for name, value in extra.items() if name not in (SOURCE, SEQ_LEN)}


def _one_label(content: dict[str, Any]) -> bool:
    labels = content.get("id2label")
    return isinstance(labels, dict) and len(labels) == 1


def _even_share(fields: Fields, width: int, heads: int) -> int:
    if width % heads:
        raise DataError(
            f"{fields.path}: hidden_size={width} is no multiple of num_attention_heads={heads}, and head_dim is not"
            " there; one of them is wrong"
        )
    return width // heads


def _refused(fields: Fields, *, reward: bool) -> list[str]:
    """What no family computes, each with its value."""
    refused = []
    if (activation := fields.text("hidden_act", OMITTED["hidden_act"])) != "silu":
        refused.append(f"hidden_act={activation!r}")
    refused += hf_rope.refused(fields)
    if (method := fields.object("quantization_config")).content:
        refused.append(
            f"quantization_config ({method.text('quant_method', None) or 'no quant_method'}; its scales are not read."
            " Where the tensors are plain and not quantised, remove that key)"
        )
    if reward and len(fields.object("id2label").content or {"0": "", "1": ""}) != 1:
        refused.append("more labels than one")
    return refused
