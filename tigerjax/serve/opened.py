"""Any model that can be talked to, by the path of its folder.

a run, its checkpoints/ or one of them      with the tokenizer that its config names
a folder of Hugging Face                    read into memory as `tigerjax convert from-hf` reads it
a quick start, or the folder of rounds      the model of its last round
"""

import dataclasses
import re
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from tigerjax.checkpoint.files import FOLDER, META
from tigerjax.checkpoint.loaded import (
    Loaded,
    Quantise,
    check_fits,
    check_kind,
    check_rounding,
    load,
    quantised,
    rounding_rows,
)
from tigerjax.checkpoint.model import content_sha256
from tigerjax.checkpoint.stored import StoredModel, open_model
from tigerjax.config import FLOAT32
from tigerjax.convert import adapters, read, sources
from tigerjax.errors import ConfigError
from tigerjax.files import paths
from tigerjax.model import families, hf_config
from tigerjax.processes import hosts

LINE = re.compile(r"([\w.]+) = '(.*)'")
"""A line of a config's dump whose value is a text."""
ROUND_MODEL = "rounds/*/train/run"
"""In a quick start and in an alignment: the run that each round trained."""


def open_to_talk(
    path: Path,
    *,
    tokenizer: Path | None = None,
    dtype: Literal["float32", "bfloat16"] | None = None,
    quantise: Quantise | None = None,
    cache_dtype: Quantise | None = None,
    rounding_text: Path | None = None,
    mesh: Mesh | None = None,
    reward: bool = False,
) -> Loaded:
    """The model of a folder, ready to be asked.

    `tokenizer` None takes the one that the model was trained with, which its run's config or its folder of Hugging Face
    holds. `dtype` is the type of its products; None takes that of the run, and float32 for an import. `quantise` holds
    the matrices of its layers in 8 bits, `cache_dtype` the keys and values of what it reads and draws.
    `rounding_text` is a file with text for which the matrices are rounded, in place of to nearest. With `reward` a
    reward model is opened, and no language model.

    Raises ConfigError where the tokenizer is not known or not the model's, and DataError where there is no model.
    """
    from tigerjax.tokenizer.load import Tokenizer

    def held(loaded: Loaded) -> Loaded:
        rows_BT = None if rounding_text is None else rounding_rows(rounding_text, loaded.tokenizer)
        return quantised(loaded, quantise, cache_dtype, rows_BT)

    check_rounding(quantise, rounding_text)
    path = _last_round(paths.of(path))
    if _is_hugging_face(path):
        return held(_of_hugging_face(path, tokenizer, dtype, mesh, reward))
    stored = open_model(path)
    check_kind(stored, where=path, reward=reward)  # before its tokenizer, which a reward model need not name
    config: dict[str, str] = {}
    for line in stored.run_config:
        if found := LINE.fullmatch(line):
            config[found[1]] = found[2]
    named_dtype: Any = dtype or config.get("compute.dtype", "float32")
    compute = dataclasses.replace(FLOAT32, dtype=named_dtype)
    named = tokenizer or _own_tokenizer(path, stored, config.get("data.tokenizer"))
    return held(load(path, Tokenizer(named), compute=compute, mesh=mesh, reward=reward))


def _last_round(path: Any) -> Any:
    """`path`, or the run of the last round where it is the folder of rounds and no model itself."""
    if paths.on_bucket(path) or (path / META).exists() or paths.names(path / FOLDER):
        return path
    runs = sorted(run for run in path.glob(ROUND_MODEL) if paths.names(run / FOLDER))
    if not runs:
        return path
    hosts.say(f"{path} is no model; this is the one of its last round, {runs[-1]}")
    return runs[-1]


def _is_hugging_face(path: Any) -> bool:
    names = set(paths.names(path))
    return hf_config.CONFIG in names and META not in names


def _own_tokenizer(path: Path, stored: StoredModel, named: str | None) -> Path:
    if named is None:
        raise ConfigError(f"{path} does not say which tokenizer it has, as an import does not; give it as --tokenizer")
    if not Path(named).exists():
        raise ConfigError(
            f"{path} was trained with the tokenizer {named}, which is not there from this folder; give its place as"
            " --tokenizer"
        )
    return Path(named)


def _of_hugging_face(
    path: Path, tokenizer: Path | None, dtype: Literal["float32", "bfloat16"] | None, mesh: Mesh | None, reward: bool
) -> Loaded:
    """A model of Hugging Face with its weights in memory. It is not written anywhere."""
    from tigerjax.tokenizer.load import Tokenizer

    if adapters.there(path):
        raise ConfigError(
            f"{path} holds a LoRA adapter and no model; merge it first: `tigerjax convert from-hf {path} DIR --base"
            " MODEL`"
        )
    source = sources.opened(path, None, None)
    own: Tokenizer | None = source.tokenizer if tokenizer is None else Tokenizer(tokenizer)
    if own is None:
        raise ConfigError(f"{path} has no tokenizer that fits its embedding; give one as --tokenizer")
    opened = source.opened
    hosts.say(f"{path}: read from its Hugging Face files; `tigerjax convert from-hf` makes a checkpoint of them")
    weights = read.in_memory(opened)
    sha256 = content_sha256(weights, opened.config)
    if mesh is not None:
        cut = families.weight_shardings(opened.config, opened.kind, mesh)
        weights = jax.tree.map(lambda w, s: jax.device_put(jnp.asarray(w, dtype or "float32"), s), weights, cut)
    model = StoredModel(opened.config, weights, opened.kind, None, 0, [], opened.extra, path)
    check_fits(model, own, where=path, reward=reward)
    return Loaded(
        config=opened.config,
        weights=weights,
        tokenizer=own,
        compute=dataclasses.replace(FLOAT32, dtype=dtype or "float32"),
        mesh=mesh,
        sha256=sha256,
        extra=opened.extra,
        reach=hf_config.reach(opened.config, opened.extra, []),
    )
