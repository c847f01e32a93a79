"""config.json and generation_config.json of a Hugging Face Llama, both ways."""

import json
from pathlib import Path
from typing import Any, NamedTuple

from tigerjax.config import ModelConfig
from tigerjax.errors import ConfigError, DataError

LLAMA, REWARD = "LlamaForCausalLM", "LlamaForSequenceClassification"
BOS, EOS = 1, 2  # of every Llama-2 tokenizer
# What transformers takes for a key that an old config.json leaves out (Llama-2-7b-hf has no rope_theta).
OMITTED = {"rope_theta": 10_000.0, "rms_norm_eps": 1e-6, "hidden_act": "silu"}
SIZES = ("num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads", "vocab_size")
OURS = "tigerjax"
"""Our own key: the sizes of the vocabulary before trimming and a checkpoint's `extra`, so that an import gives back
what was exported."""


class Read(NamedTuple):
    """What config.json says."""

    kind: str  # LLAMA or REWARD
    config: ModelConfig
    rows: int
    """Of embedding and head in the folder's tensors."""
    tied: bool
    """Whether the head is the embedding; ours is a copy of its own then."""
    extra: dict[str, Any]
    """Of a checkpoint of ours that was exported: a reward model's calibration."""


class TokenizerIds(NamedTuple):
    """What config.json says about the tokenizer; pad is None without one, which is never the same as 0."""

    size: int | None
    pad: int | None
    stops: list[int]


def tokenizer_ids(folder: Path | None) -> TokenizerIds:
    """Size, pad and stop ids, from the tokenizer.json of `folder`; a base tokenizer stops at eos only."""
    if folder is None:
        return TokenizerIds(None, None, [EOS])
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise DataError(f"{path}: not there; give the folder that `tigerjax tokenizer extend` wrote")
    try:
        read = json.loads(path.read_text(encoding="utf-8"))
        added = {token["content"]: token["id"] for token in read["added_tokens"]}
        size = 1 + max([*read["model"]["vocab"].values(), *added.values()])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: not a tokenizer.json ({type(error).__name__}: {error}); write it again") from error
    markers = [i for text, i in added.items() if text not in ("<unk>", "<s>", "</s>")]
    return TokenizerIds(size, added.get("<pad>"), sorted({EOS, *markers}))


def to_config(
    config: ModelConfig, *, kind: str, rows: int, dtype: str, ids: TokenizerIds, extra: dict[str, Any]
) -> dict[str, Any]:
    """The content of config.json for embedding tables of `rows` rows; `kind` is LLAMA or REWARD."""
    out: dict[str, Any] = {
        "architectures": [kind],
        "model_type": "llama",
        "num_hidden_layers": config.num_layers,
        "hidden_size": config.model_dim,
        "intermediate_size": config.mlp_dim,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "vocab_size": rows,
        "rope_theta": config.rope_base,
        "rope_scaling": None,
        "rms_norm_eps": config.norm_eps,
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": False,
        "bos_token_id": BOS,
        "eos_token_id": EOS,
        "pad_token_id": ids.pad,
        "torch_dtype": dtype,
        OURS: {"vocab_size": config.vocab_size, "padded_vocab_size": config.padded_vocab_size, "extra": extra},
    }
    if kind == REWARD:
        out |= {"id2label": {"0": "reward"}, "label2id": {"reward": 0}}
    return out


def to_generation_config(ids: TokenizerIds) -> dict[str, Any]:
    """Greedy by default, stopping where our sampler stops: eos, the markers, pad."""
    return {"bos_token_id": BOS, "eos_token_id": ids.stops, "pad_token_id": ids.pad, "do_sample": False}


def read_config(folder: Path) -> Read:
    """config.json of a folder; refuses by name what our model does not compute: biases, scaled rope, other models."""
    path = folder / "config.json"
    if not path.is_file():
        raise DataError(f"{path}: not there; give a Hugging Face model folder")
    try:
        read = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise DataError(f"{path}:{error.lineno}: not JSON: {error.msg}") from error
    kinds = read.get("architectures") or [LLAMA]
    if read.get("model_type") != "llama" or kinds[0] not in (LLAMA, REWARD):
        raise ConfigError(
            f"{path}: {read.get('model_type')} {kinds[0]} is not a model that can be read; needs {LLAMA} or {REWARD}"
        )
    missing = [key for key in SIZES if key not in read]
    if missing:
        raise DataError(f"{path}: lacks {', '.join(missing)}; the file is not a whole Llama config")
    rope = _rope(read)
    refused = [
        f"{key}={read[key]!r}"
        for key, plain in {"attention_bias": False, "mlp_bias": False}.items()
        if read.get(key, plain) != plain
    ]
    if read.get("hidden_act", OMITTED["hidden_act"]) != "silu":
        refused.append(f"hidden_act={read['hidden_act']!r}")
    if rope.get("rope_type", rope.get("type", "default")) != "default":
        refused.append(
            f"rope_scaling {rope} (without that key the model is itself up to the length that it was trained at)"
        )
    if kinds[0] == REWARD and len(read.get("id2label", {0: "", 1: ""})) != 1:
        refused.append("more labels than one")
    if refused:
        raise ConfigError(f"{path}: {'; '.join(refused)} is not computed by this model; convert another checkpoint")
    heads, vocab = read["num_attention_heads"], read.get(OURS, {})
    config = ModelConfig(
        num_layers=read["num_hidden_layers"],
        model_dim=read["hidden_size"],
        mlp_dim=read["intermediate_size"],
        num_heads=heads,
        num_kv_heads=read.get("num_key_value_heads") or heads,
        head_dim=read.get("head_dim") or read["hidden_size"] // heads,
        vocab_size=vocab.get("vocab_size", read["vocab_size"]),
        padded_vocab_size=vocab.get("padded_vocab_size", read["vocab_size"]),
        rope_base=float(rope["rope_theta"]),
        norm_eps=read.get("rms_norm_eps", OMITTED["rms_norm_eps"]),
    )
    return Read(
        kinds[0], config, read["vocab_size"], bool(read.get("tie_word_embeddings", False)), vocab.get("extra", {})
    )


def _rope(read: dict[str, Any]) -> dict[str, Any]:
    """transformers 5 writes rope_parameters; 4 writes rope_theta and rope_scaling beside each other."""
    theta = {"rope_theta": read.get("rope_theta", OMITTED["rope_theta"])}
    return theta | (read.get("rope_scaling") or {}) | (read.get("rope_parameters") or {})
