"""Training on preferences: from files of answers to rows, their reference, and the loop that all training runs."""

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

from jax.sharding import Mesh

from tigerjax import records
from tigerjax.align import overlong, reference, reward_data
from tigerjax.align.pair_loader import PairLoader
from tigerjax.align.preference_rows import PreferenceRows, to_rows
from tigerjax.align.reward_data import Comparison
from tigerjax.checkpoint.loaded import check_fits, check_sizes
from tigerjax.checkpoint.stored import StoredModel, open_whole
from tigerjax.config import KtoConfig, PreferenceConfig, ReferencedConfig, RunConfig
from tigerjax.data.held_out import open_sets
from tigerjax.errors import ConfigError
from tigerjax.files import manifest
from tigerjax.files.progress import Progress
from tigerjax.mesh import host_rows, run_mesh
from tigerjax.processes import hosts
from tigerjax.tokenizer.load import Tokenizer
from tigerjax.train import objective as objectives
from tigerjax.train.held_out import HeldOut, QuestionSet
from tigerjax.train.loop import train as train_loop
from tigerjax.train.metrics import Reporting
from tigerjax.train.objective import Objective
from tigerjax.train.validation import refuse_unfit


def train(
    config: RunConfig,
    *,
    run_dir: str | Path,
    tokenizer: Tokenizer | None = None,
    ask: QuestionSet | None = None,
    progress: Progress | None = None,
    reporting: Reporting = Reporting(),
) -> dict[str, Any]:
    """Trains the chat model `checkpoint.init_from` on the preferences of `config.objective`; returns their figures.

    `config.data.seq_len` bounds a chat. What is longer is left out and counted, at most the share
    `config.data.max_dropped`. `config.global_batch_size` counts rows of `objective.CHATS` times as many tokens. In a
    run of several processes all call this. `tokenizer` None is that of the config; `ask` puts `eval.questions`;
    `progress` counts rows that are made for `eval.sets`, and rows whose reference is computed. Raises what
    `train.loop.train` does.
    """
    settings, mesh = of(config), run_mesh(config)
    held_out = HeldOut(open_sets(config.data, config.eval, of_mixture=False, progress=progress), ask)
    refuse_unfit(config, held_out)
    tokenizer = Tokenizer(config.data.tokenizer) if tokenizer is None else tokenizer
    comparisons, counts = read(config, settings, tokenizer)
    chat = start_model(config, tokenizer)
    digest = hashlib.sha256(manifest.canonical([dataclasses.asdict(one) for one in comparisons])).hexdigest()
    hosts.same("the preferences", digest)
    rows = to_rows(
        comparisons,
        tokenizer,
        seq_len=config.data.seq_len,
        chats=settings.CHATS,
        unrelated=isinstance(settings, KtoConfig),
    )
    figures = counts | rows.figures()
    _say(figures, config)
    objective = objectives.of(config, mesh)
    if isinstance(settings, ReferencedConfig):
        rows, objective = _with_reference(config, settings, mesh, chat, rows, objective, progress)
    loader = PairLoader(
        [rows],
        batch_rows=config.global_batch_size,
        seed=config.seed,
        tokenizer_sha256=tokenizer.sha256,
        mine=host_rows(mesh, config.global_batch_size),
    )
    train_loop(config, loader, run_dir=run_dir, mesh=mesh, objective=objective, held_out=held_out, reporting=reporting)
    return figures


def check(config: RunConfig) -> None:
    """What `train` needs is there: the settings, preferences that fit, and a model of the config's sizes."""
    settings, tokenizer = of(config), Tokenizer(config.data.tokenizer)
    read(config, settings, tokenizer)
    start_model(config, tokenizer)


def of(config: RunConfig) -> PreferenceConfig:
    """The settings of a run on preferences; ConfigError where it has no preferences or no model to start from."""
    settings = config.objective
    assert isinstance(settings, PreferenceConfig)
    if not settings.preferences:
        raise ConfigError("objective.preferences names no file; name the files of preferences to train on")
    if config.checkpoint.init_from is None:
        raise ConfigError("training on preferences starts from a chat checkpoint; set checkpoint.init_from")
    return settings


def read(
    config: RunConfig, settings: PreferenceConfig, tokenizer: Tokenizer
) -> tuple[list[Comparison], dict[str, Any]]:
    """(comparisons whose answers fit, counts of pairs), with a line on what is left out."""
    comparisons, counts = reward_data.read(records.expand(settings.preferences))
    if margins := sum(pair.margin != 0 for one in comparisons for pair in one.pairs):
        hosts.say(
            f"tigerjax: note: preferences: {margins} pairs have a margin, which only `tigerjax reward train` uses"
        )
    data = config.data
    return overlong.fit(comparisons, counts, tokenizer, seq_len=data.seq_len, max_dropped=data.max_dropped)


def start_model(config: RunConfig, tokenizer: Tokenizer) -> StoredModel:
    """The model that the run starts from, checked to be one of the config's sizes."""
    place = config.checkpoint.init_from
    assert place is not None
    chat = open_whole(place)
    check_fits(chat, tokenizer, where=place)
    check_sizes(chat, config.model, where=place)
    return chat


def _with_reference(
    config: RunConfig,
    settings: ReferencedConfig,
    mesh: Mesh,
    chat: StoredModel,
    rows: PreferenceRows,
    objective: Objective,
    progress: Progress | None,
) -> tuple[PreferenceRows, Objective]:
    if settings.reference == "cached":
        return reference.cached(config, mesh, chat, rows, progress=progress), objective
    if objectives.holds_reference(config):
        return rows, objective
    return rows, dataclasses.replace(objective, prepare=reference.before_each_step(config, mesh, chat))


def _say(figures: dict[str, Any], config: RunConfig) -> None:
    """The mean number of pairs in a step, which follows from their lengths; and whether a batch is never full."""
    rows, size = figures["rows"], config.global_batch_size
    per_step = figures["pairs_in_rows"] * min(1.0, size / rows)
    hosts.say(
        f"preferences: {figures['pairs_in_rows']:,} pairs of {figures['prompts']:,} prompts in {rows:,} rows,"
        f" {figures['fill']:.1%} filled; about {per_step:.1f} pairs in a step"
    )
    if rows < size:
        hosts.say(
            f"tigerjax: note: a batch has {size} rows and all pairs fill only {rows}; lower global_batch_size or"
            " data.seq_len, else the rest is computed for nothing"
        )
