"""The model families that there are, and how each is found: by a model's config, by a checkpoint's kind, by a Hugging
Face folder. No other file outside a family's own folder names a family.

A new family is a folder beside `llama/` whose `face` has an object that offers what `Family` lists, and its entry in
FAMILIES. Where its layers are like a Llama's, that object is a `tigerjax.model.family.Decoders`.
"""

import functools
from collections.abc import Collection
from pathlib import Path
from typing import Any, Protocol

import flax.linen as nn
import jax
import numpy as np
from jax.sharding import Mesh

from tigerjax.config import FLOAT32, ComputeConfig, LoraConfig, ModelConfig, RopeConfig
from tigerjax.errors import ConfigError
from tigerjax.files.foreign import shown
from tigerjax.mesh import logical_rules
from tigerjax.model import hf_config, layers, stack
from tigerjax.model.cache import Cache
from tigerjax.model.hf_config import HfConfig, TokenizerIds
from tigerjax.model.hf_fields import Fields
from tigerjax.model.layers import Weights
from tigerjax.model.llama import face as llama
from tigerjax.model.mistral import face as mistral
from tigerjax.model.qwen2 import face as qwen2
from tigerjax.model.qwen3 import face as qwen3
from tigerjax.model.trees import Branches, Kept
from tigerjax.model.weights import ReadRows, TensorRow


class Family(Protocol):
    """What a family offers to other rooms, in the `face.py` of its folder."""

    CONFIG: type[ModelConfig]
    """The class of its sizes: no two families share one."""
    KIND: str
    """What meta.json calls a checkpoint of its language model."""
    REWARD_KIND: str
    HF_MODEL_TYPE: str
    """`model_type` in a Hugging Face config.json; the next two are its `architectures`."""
    HF_LANGUAGE: str
    HF_REWARD: str

    def language_model(
        self, config: ModelConfig, compute: ComputeConfig, run: stack.StackRunner = ..., lora: LoraConfig = ...
    ) -> nn.Module:
        """A module from (tokens_BT, positions_BT, segment_ids_BT) to logits_BTV. Its method `hidden` gives x_BTD, which
        times `layers.head` is the logits. With `lora` it has adapters, as `tigerjax.model.adapters` declares them."""

    def reward_model(
        self, config: ModelConfig, compute: ComputeConfig, run: stack.StackRunner = ..., lora: LoraConfig = ...
    ) -> nn.Module:
        """A module from the same to scores_BT."""

    def reward_from_language(self, weights: Weights, key: jax.Array) -> Weights:
        """Weights of a reward model that starts from a language model's."""

    def prefill(
        self,
        weights: Weights,
        config: ModelConfig,
        compute: ComputeConfig,
        tokens_BT: jax.Array,
        segment_ids_BT: jax.Array,
        *,
        max_len: int,
    ) -> tuple[jax.Array, Cache]:
        """(logits_BV after each prompt, its cache of `max_len` slots)."""

    def decode_step(
        self,
        weights: Weights,
        config: ModelConfig,
        compute: ComputeConfig,
        cache: Cache,
        token_B: jax.Array,
        position_B: jax.Array,
    ) -> tuple[jax.Array, Cache]:
        """(logits_BV after one more token per row, the cache with it)."""

    def extend(
        self,
        weights: Weights,
        config: ModelConfig,
        compute: ComputeConfig,
        cache: Cache,
        tokens_BT: jax.Array,
        count_B: jax.Array,
        *,
        reach: int,
    ) -> tuple[jax.Array, Cache]:
        """(logits_BV after the first count_B of T more tokens per row, the cache with them)."""

    def keep(
        self,
        weights: Weights,
        config: ModelConfig,
        compute: ComputeConfig,
        tokens_BT: jax.Array,
        segment_ids_BT: jax.Array,
    ) -> tuple[jax.Array, Kept]:
        """(x_BTD after the final norm, keys and values of rows whose tokens come first)."""

    def branch(
        self, weights: Weights, config: ModelConfig, compute: ComputeConfig, rows: Branches, kept: Kept | None
    ) -> jax.Array:
        """x_BTD after the final norm, of rows of trees of tokens, read behind what was kept."""

    def parameter_count(self, config: ModelConfig) -> int:
        """All weights of the language model."""

    def layer_weights(self, config: ModelConfig) -> int:
        """Weights of the matrices of one layer."""

    def end_weights(self, config: ModelConfig) -> int:
        """Weights of embedding and head, which are one where the config ties them."""

    def model_flops(
        self,
        config: ModelConfig,
        *,
        tokens: float,
        seq_len: int,
        trained: Collection[str] | None = ...,
        rank: int = ...,
    ) -> float:
        """Floating-point operations of a forward and backward pass where the weights of the paths `trained` are
        trained, adapters of `rank` among them; None: all."""

    def saved_features(self, config: ModelConfig) -> dict[str, int]:
        """How many numbers a layer saves for each token, by the checkpoint_name under which it saves them."""

    def recomputed_weights(self, config: ModelConfig, *, seq_len: int) -> dict[str, int]:
        """By checkpoint_name: the weights whose products the backward pass repeats where it is not saved."""

    def from_hf_config(self, fields: Fields, *, reward: bool) -> HfConfig:
        """What a config.json says; refuses what is out of range and what the family does not compute."""

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
        """The content of a config.json. `seq_len` is the length that the model was trained at, where it is known."""

    def hf_rows(self, config: ModelConfig, *, rows: int, reward: bool = False) -> list[TensorRow]:
        """Every weight beside its Hugging Face tensors. The embedding comes first, the head or the score last. A tied
        head is no weight, and has no row."""

    def hf_buffer(self, name: str, config: ModelConfig) -> np.ndarray | None:
        """What a tensor must hold that follows from the config and is no weight; None for other names."""

    def numpy_logits(
        self, tensors: ReadRows, config: ModelConfig, spec: list[TensorRow], ids_T: np.ndarray, dtype: str
    ) -> np.ndarray:
        """logits_TV of a Hugging Face folder's tensors, computed in numpy."""

    def layered_logits(self, arrays: dict[str, Any], config: ModelConfig, ids_T: np.ndarray, dtype: str) -> np.ndarray:
        """logits_TV of a checkpoint, computed by the family's layers and read a layer at a time."""


FAMILIES: tuple[Family, ...] = (llama.FAMILY, mistral.FAMILY, qwen2.FAMILY, qwen3.FAMILY)


def of(config: ModelConfig) -> Family:
    """The family that a model of these sizes belongs to.

    Raises ConfigError for sizes of a type that no family has.
    """
    for family in FAMILIES:
        if type(config) is family.CONFIG:
            return family
    raise ConfigError(f"no model family has sizes of type {type(config).__name__}; add it to FAMILIES")


def of_kind(kind: str) -> Family:
    """The family of a checkpoint whose meta.json says `kind`.

    Raises ConfigError for a kind that no family has.
    """
    for family in FAMILIES:
        if kind in (family.KIND, family.REWARD_KIND):
            return family
    kinds = [kind for family in FAMILIES for kind in (family.KIND, family.REWARD_KIND)]
    raise ConfigError(f"a checkpoint of kind {kind!r} cannot be used here; needs one of {', '.join(kinds)}")


def is_reward(kind: str) -> bool:
    """Whether a checkpoint of this kind is a reward model, and not a language model."""
    return kind == of_kind(kind).REWARD_KIND


def architecture(kind: str) -> str:
    """What Hugging Face calls a model whose checkpoint is of this kind."""
    return of_kind(kind).HF_REWARD if is_reward(kind) else of_kind(kind).HF_LANGUAGE


def model_config(kind: str, fields: dict[str, Any]) -> ModelConfig:
    """The sizes in a checkpoint's meta.json: `fields` is what `tigerjax.config.stored_fields` made.

    Raises ConfigError for fields that do not fit the kind.
    """
    try:
        if "rope" in fields:
            fields = fields | {"rope": RopeConfig(**fields["rope"])}
        return of_kind(kind).CONFIG(**fields)
    except TypeError as error:
        raise ConfigError(f"model config {sorted(fields)} does not fit a {kind} model: {error}") from error


def weight_shardings(config: ModelConfig, kind: str, mesh: Mesh) -> Any:
    """A NamedSharding for every weight of a model whose checkpoint is of this kind, as training cuts it."""
    family = of_kind(kind)
    model = (family.reward_model if is_reward(kind) else family.language_model)(config, FLOAT32)
    boxed = jax.eval_shape(functools.partial(layers.init, model), jax.random.key(0))
    return nn.logical_to_mesh_sharding(nn.get_partition_spec(boxed), mesh, logical_rules())


def read_hf_config(folder: Path) -> HfConfig:
    """config.json and generation_config.json of a Hugging Face folder, read by the family that the first names.

    Raises ConfigError for a model that no family reads.
    """
    read = of_fields(hf_config.read_fields(folder))
    if (generation := hf_config.read_generation(folder, read.rows)) is not None:
        read.extra[hf_config.SOURCE][hf_config.GENERATION] = generation
    return read


def of_fields(fields: Fields) -> HfConfig:
    """The fields of a config.json, read by the family that they name.

    Raises ConfigError for a model that no family reads.
    """
    model_type, named = fields.text("model_type", None), [*fields.texts("architectures"), None][0]
    for family in FAMILIES:
        if model_type == family.HF_MODEL_TYPE and named in (None, family.HF_LANGUAGE, family.HF_REWARD):
            return family.from_hf_config(fields, reward=named == family.HF_REWARD)
    readable = [name for family in FAMILIES for name in (family.HF_LANGUAGE, family.HF_REWARD)]
    raise ConfigError(
        f"{fields.path}: {shown(f'{model_type} {named}')[1:-1]} is not a model that can be read; needs"
        f" one of {', '.join(readable)}"
    )
