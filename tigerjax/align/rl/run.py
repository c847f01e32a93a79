"""Reinforcement learning: from prompts and rewards to the loop that all training runs."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jax.sharding import Mesh

from tigerjax.align import reference
from tigerjax.align.answers import Answer
from tigerjax.align.inputs import check_reward
from tigerjax.align.preference import start_model
from tigerjax.align.rewards.reward import refuse_floors
from tigerjax.align.rl import prompts
from tigerjax.align.rl.drawing import RolloutBatches
from tigerjax.align.rl.prompts import PromptLoader
from tigerjax.align.rl.rewards import Rewards
from tigerjax.checkpoint.files import FOLDER, steps
from tigerjax.checkpoint.stored import StoredModel
from tigerjax.config import PpoConfig, RlConfig, RunConfig
from tigerjax.data.held_out import open_sets
from tigerjax.errors import ConfigError
from tigerjax.files import paths
from tigerjax.files.progress import Progress
from tigerjax.mesh import mesh_of_several, run_mesh
from tigerjax.model.reward import VALUE, new_value_head
from tigerjax.processes import hosts
from tigerjax.sample.in_training import handed_over
from tigerjax.tokenizer.load import Tokenizer
from tigerjax.train import objective as objectives
from tigerjax.train.held_out import HeldOut, QuestionSet
from tigerjax.train.loop import train as train_loop
from tigerjax.train.metrics import Reporting
from tigerjax.train.start import start_weights
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
    """Trains the chat model `checkpoint.init_from` by the rewards of `config.objective`; returns counts of its prompts.

    A row of `config.data.seq_len` tokens holds a prompt and an answer. In a run of several processes all call this.
    `tokenizer` None is that of the config; `ask` puts `eval.questions`; `progress` counts rows that are made for
    `eval.sets`. Raises what `train.loop.train` does.
    """
    settings, mesh, run_dir = of(config), run_mesh(config), paths.of(run_dir)
    objective = objectives.of(config, mesh)  # first: a mesh on which it does not run is found before files are read
    held_out = HeldOut(open_sets(config.data, config.eval, of_mixture=False, progress=progress), ask)
    refuse_unfit(config, held_out)
    tokenizer = Tokenizer(config.data.tokenizer) if tokenizer is None else tokenizer
    asked, counts = prompts.read(config, settings, tokenizer)
    loader = PromptLoader(asked, config, settings, tokenizer.sha256)
    chat = start_model(config, tokenizer)
    rewards = Rewards(config, settings, tokenizer, mesh_of_several(dataclasses.replace(config.mesh, least_data=None)))
    _say(config, settings, mesh, counts, chat)
    own_reference = objectives.holds_reference(config)
    drawing = RolloutBatches(
        config,
        loader,
        run_dir=run_dir,
        mesh=mesh,
        tokenizer=tokenizer,
        rewards=rewards,
        reference=reference.placed(config, mesh, chat) if settings.kl and not own_reference else None,
    )
    init = None
    if isinstance(settings, PpoConfig) and not steps(run_dir / FOLDER):
        new = {VALUE: new_value_head(config.model).unbox()}
        chat_weights = start_weights(chat, objective, mesh)
        init = chat_weights._replace(weights=chat_weights.weights | new)
    train_loop(
        config,
        loader,
        run_dir=run_dir,
        mesh=mesh,
        objective=dataclasses.replace(objective, prepare=drawing),
        init=init,
        held_out=held_out,
        reporting=reporting,
    )
    return counts


def check(config: RunConfig) -> None:
    """What `train` needs is there: prompts that make up a roll-out, every reward, and a model of the config's sizes.

    A function is called once for the existing answer of a prompt, where one has it."""
    settings, tokenizer = of(config), Tokenizer(config.data.tokenizer)
    asked = prompts.read(config, settings, tokenizer)[0]
    PromptLoader(asked, config, settings, tokenizer.sha256)
    start_model(config, tokenizer)
    for given in settings.rewards:
        refuse_floors(check_reward(given, tokenizer, _existing(asked), ask_judge=False), "reinforcement learning")


def _existing(asked: Sequence[prompts.Prompt]) -> Answer | None:
    """The existing answer of the first prompt that has one."""
    known = ((p, p.prompt["reference"]) for p in asked if isinstance(p.prompt.get("reference"), str))
    return next((Answer(p.messages, text, "stop", p.prompt) for p, text in known), None)


def of(config: RunConfig) -> RlConfig:
    """The settings of a run by rewards; ConfigError where it lacks prompts, rewards or a model to start from."""
    settings = config.objective
    if not isinstance(settings, RlConfig):
        raise ConfigError(
            f"objective is {type(settings).__name__}: `tigerjax rl` trains with GrpoConfig or PpoConfig; change the"
            " config, or run `tigerjax train`"
        )
    for name in ("prompts", "rewards"):
        if not getattr(settings, name):
            raise ConfigError(f"objective.{name} is empty; name at least one")
    if config.checkpoint.init_from is None:
        raise ConfigError("reinforcement learning starts from a chat checkpoint; set checkpoint.init_from")
    return settings


def _say(config: RunConfig, c: RlConfig, mesh: Mesh, counts: dict[str, Any], chat: StoredModel) -> None:
    """The first lines of a run: how large a roll-out is, what rewards it, and how the sampler gets the weights."""
    size = config.global_batch_size
    batches = c.rows // size
    hosts.say(
        f"roll-outs: {c.prompts_per_rollout:,} of {counts['out']:,} prompts x {c.answers} answers = {c.rows:,} rows,"
        f" {c.epochs * batches} steps each ({batches} batches x {c.epochs} epochs);"
        f" {handed_over(config, mesh, chat.weights)}"
    )
    rewards = ", ".join(f"{weight:g} x {name}" for weight, name in zip(c.weights, c.rewards, strict=True))
    against = f"{c.kl:g} x divergence from {config.checkpoint.init_from}" if c.kl else "no reference (objective.kl=0)"
    hosts.say(f"reward: {rewards}; {against}")
