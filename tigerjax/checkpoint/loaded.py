"""A model ready for use: weights, tokenizer, compute settings and mesh together, checked once when they are loaded.

Whatever uses a trained model (the sampler, the evaluation, a reward model that scores) takes one `Loaded`.
"""

import dataclasses
import hashlib
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jax.sharding import Mesh

from tigerjax.checkpoint.model import Model
from tigerjax.checkpoint.stored import StoredModel, load_placed
from tigerjax.config import ComputeConfig, ModelConfig, RunConfig, other_sizes, stored_fields
from tigerjax.errors import ConfigError, DataError
from tigerjax.mesh import mesh_of_several
from tigerjax.model import families, hf_config
from tigerjax.model.quantised import with_held
from tigerjax.model.rounding import rounded_for

Quantise = Literal["int8"]
"""How the matrices of a model that only answers may be held, and its keys and values."""
ROUNDING_ROWS, ROUNDING_TOKENS, LEAST_ROWS = 96, 256, 16
"""The most rows of a text that weights are rounded for, the tokens of each, and the fewest rows [our choice]."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Loaded:
    """A model and everything that is needed to run it."""

    config: ModelConfig
    weights: Any
    """Nested dict of arrays: on the mesh as training cuts them, or numpy arrays where there is no mesh."""
    tokenizer: Any
    compute: ComputeConfig
    mesh: Mesh | None = None
    """None: one device."""
    sha256: str
    """Of the config and the weights; it names the model in whatever is computed with it."""
    step: int = 0
    extra: dict[str, Any] = dataclasses.field(default_factory=dict)
    """What else the checkpoint says; a reward model has its calibration here."""
    reach: int = 0
    """How many positions the checkpoint says that it reads; 0 where it does not say so."""
    cache_dtype: Quantise | None = None
    """The type of its keys and values while it answers; None: that of the products."""

    def say_past(self, length: int, where: str | Path) -> None:
        """Says it in one line where rows of `length` tokens are longer than the model, read from `where`, reads."""
        hf_config.say_past(self.reach, self.config, length, where)


def load(
    path: str | Path, tokenizer: Any, *, compute: ComputeConfig, mesh: Mesh | None = None, reward: bool = False
) -> Loaded:
    """The newest whole checkpoint at `path` (a run, its checkpoints/, or one step), placed on `mesh`.

    ConfigError when it is a reward model and `reward` is not set, or the other way round, and when it was trained with
    another tokenizer.
    """
    model = load_placed(path, mesh, compute.dtype)
    check_fits(model, tokenizer, where=path, reward=reward)
    return Loaded(
        config=model.config,
        weights=model.weights,
        tokenizer=tokenizer,
        compute=compute,
        mesh=mesh,
        sha256=model.sha256,
        step=model.step,
        extra=model.extra,
        reach=hf_config.reach(model.config, model.extra, model.run_config),
    )


def quantised(
    model: Loaded,
    dtype: Quantise | None,
    cache_dtype: Quantise | None = None,
    rows_BT: np.ndarray | None = None,
) -> Loaded:
    """The model with the matrices of its layers in int8, a scale for each output, and with keys and values of
    `cache_dtype` while it answers; the model itself for None. Weights are rounded to nearest, or for the text of
    `rows_BT`. The model has a sha256 of its own, since it gives other results."""
    if cache_dtype is not None:
        sha256 = hashlib.sha256(f"{model.sha256} cache {cache_dtype}".encode()).hexdigest()
        model = dataclasses.replace(model, cache_dtype=cache_dtype, sha256=sha256)
    if dtype is None:
        return model
    name = dtype if rows_BT is None else f"{dtype} {hashlib.sha256(rows_BT.tobytes()).hexdigest()}"
    sha256 = hashlib.sha256(f"{model.sha256} {name}".encode()).hexdigest()
    if rows_BT is None:
        weights = with_held(model.weights, dtype)
    else:
        weights = rounded_for(model.weights, model.config, model.compute, rows_BT, model.mesh)
    return dataclasses.replace(model, weights=weights, sha256=sha256)


def rounding_rows(path: Path, tokenizer: Any) -> np.ndarray:
    """The first rows_BT of the documents in a file, each followed by eos. DataError where there is less than LEAST."""
    from tigerjax.tokenizer.sample import read_all

    stream: list[int] = []
    for _, text, _ in read_all([path]):
        stream += [*tokenizer.encode(text), tokenizer.eos]
        if len(stream) >= ROUNDING_ROWS * ROUNDING_TOKENS:
            break
    rows = min(ROUNDING_ROWS, len(stream) // ROUNDING_TOKENS)
    if rows < LEAST_ROWS:
        raise DataError(
            f"{path} has {len(stream):,} tokens of text, too few to round weights for; give"
            f" {LEAST_ROWS * ROUNDING_TOKENS:,} or more"
        )
    return np.array(stream[: rows * ROUNDING_TOKENS], np.int32).reshape(rows, ROUNDING_TOKENS)


def check_rounding(quantise: Quantise | None, rounding_text: Path | None) -> None:
    """ConfigError for a text where nothing is rounded."""
    if rounding_text is not None and quantise is None:
        raise ConfigError(f"{rounding_text} is a text that weights in 8 bits are rounded for; give --quantise int8 too")


def load_for(
    settings: RunConfig,
    path: str | Path | None = None,
    *,
    reward: bool = False,
    quantise: Quantise | None = None,
    cache_dtype: Quantise | None = None,
    rounding_text: Path | None = None,
) -> Loaded:
    """`load` with the tokenizer, the compute settings and the mesh of a run's config, `quantised`.

    `path` None takes the run's own folder, runs/NAME.
    """
    from tigerjax.tokenizer.load import Tokenizer  # the numeric core imports without SentencePiece

    check_rounding(quantise, rounding_text)
    place = Path("runs") / settings.name if path is None else path
    mesh = mesh_of_several(settings.mesh)  # first: a mesh that does not fit is found before anything is read
    tokenizer = Tokenizer(settings.data.tokenizer)
    loaded = load(place, tokenizer, compute=settings.compute, mesh=mesh, reward=reward)
    rows_BT = None if rounding_text is None else rounding_rows(rounding_text, tokenizer)
    return quantised(loaded, quantise, cache_dtype, rows_BT)


def check_kind(model: Model | StoredModel, *, where: str | Path, reward: bool) -> None:
    """ConfigError unless the checkpoint `model`, read from `where`, is a language model, or with `reward` a reward
    model."""
    kinds = ("language model", "reward model")
    if families.is_reward(model.kind) != reward:
        raise ConfigError(f"{where} holds a {kinds[not reward]}; give a {kinds[reward]}")


def check_fits(model: Model | StoredModel, tokenizer: Any, *, where: str | Path, reward: bool = False) -> None:
    """ConfigError unless the checkpoint `model`, read from `where`, is of the wanted kind and fits `tokenizer`."""
    check_kind(model, where=where, reward=reward)
    if model.tokenizer_sha256 not in (None, tokenizer.sha256):
        raise ConfigError(
            f"{where} was trained with tokenizer {model.tokenizer_sha256[:12]}, but {tokenizer.folder} is"
            f" {tokenizer.sha256[:12]}; give the tokenizer of the checkpoint"
        )
    if tokenizer.size != model.config.vocab_size:
        raise ConfigError(
            f"{where} has {model.config.vocab_size} vocabulary entries, but tokenizer {tokenizer.folder} has"
            f" {tokenizer.size}; give the tokenizer of the checkpoint. Where the checkpoint is an import and its other"
            f" rows are padding, import it again with --vocab-size {tokenizer.size}"
        )


def check_sizes(model: Model | StoredModel, config: ModelConfig, *, where: str | Path) -> None:
    """ConfigError, with each size that differs, unless the checkpoint `model`, read from `where`, has those of the
    config."""
    if model.config == config:
        return
    differs = other_sizes(stored_fields(model.config), stored_fields(config))
    theirs, ours = families.of(model.config).KIND, families.of(config).KIND
    if theirs != ours:
        differs = [f"it is a {theirs} there and a {ours} in the config", *differs]
    raise ConfigError(
        f"{where}: its model is not that of the config: {'; '.join(differs)}; give a checkpoint of the config's model,"
        " or the config of this one"
    )
