"""The commands that train a language model: by pretraining, SFT or preferences, and by rewards."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tigerjax.command.arguments import override
from tigerjax.command.figures import save
from tigerjax.command.options import ConfigFile
from tigerjax.command.progress import show_progress
from tigerjax.config import PreferenceConfig, RunConfig
from tigerjax.errors import ConfigError
from tigerjax.processes.rendezvous import AUTO, HostsConfig
from tigerjax.terminal import show as to_terminal
from tigerjax.terminal import tell
from tigerjax.train import wandb_run

PROGRESS_EXAMPLES, LEAST_PROGRESS = 10_000, 0.9
"""TigerBot's report expects an SFT run to be through 0.95 of its loss's fall after 10,000 examples."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Options:
    """What both commands take beside the config."""

    out: Path | None
    dry_run: bool
    hosts: HostsConfig
    profile_steps: str | None
    wandb: str | None
    json: Path | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Training:
    """What a command does with its run."""

    refuse: Callable[[RunConfig], object]
    """Raises where the command is not for such a config."""
    check: Callable[[RunConfig], object]
    """Raises where the run's data, or what it is validated on, cannot be used; a dry run calls it."""
    train: Callable[..., dict[str, Any]]
    """Trains, and returns figures for --json; takes the run, and run_dir, ask, progress and reporting by name."""


def train(
    config: ConfigFile,
    out: Path | None = None,
    dry_run: bool = False,
    hosts: HostsConfig = AUTO,
    profile_steps: str | None = None,
    wandb: str | None = None,
    json: Path | None = None,
) -> None:
    """Trains a model, by pretraining, SFT or on preferences as the config says.

    The same command resumes an interrupted run. --dry-run checks the config, its mixture or its preferences, its
    held-out files, and the checkpoint that the run starts from, prints the config with its overrides, and stops. With
    --eval.sets, loss and next-token accuracy on held-out files are measured every --eval.every-steps steps and at the
    end, by language, source and task. docs/OPERATIONS.md says more of that, and how to use --wandb. On several hosts,
    run the same command on each (launch/run.sh).

    Example: tigerjax train configs/llama2_tiny.py --optim.peak-lr 3e-4 --eval.sets sft.jsonl --out runs/tiny
    """
    from tigerjax.train.objective import refuse_rewards

    options = _Options(out=out, dry_run=dry_run, hosts=hosts, profile_steps=profile_steps, wandb=wandb, json=json)
    _carry_out(config, options, _Training(refuse=refuse_rewards, check=_check_data, train=_train))


def rl(
    config: ConfigFile,
    out: Path | None = None,
    dry_run: bool = False,
    hosts: HostsConfig = AUTO,
    profile_steps: str | None = None,
    wandb: str | None = None,
    json: Path | None = None,
) -> None:
    """Trains a chat model by rewards, with GRPO or PPO as the config says.

    This is reinforcement learning: the model answers prompts, reward models or Python functions score the answers, and
    the model learns from the scores. The same command resumes an interrupted run, with the same answers. --dry-run
    checks the config, its prompts, its rewards and the checkpoint that the run starts from, prints the config with its
    overrides, and stops. docs/REINFORCEMENT.md has the formulas and the metrics. On several hosts, run the same command
    on each.

    Example: tigerjax rl configs/quickstart_grpo.py --objective.rewards runs/reward/model --objective.kl 0.02
    """
    from tigerjax.align.rl import run as room

    def by_rewards(run: RunConfig, **given: Any) -> dict[str, Any]:
        return {"prompts": room.train(run, **given)}

    def check(run: RunConfig) -> None:
        room.check(run)
        _check_validation(run, of_mixture=False)

    options = _Options(out=out, dry_run=dry_run, hosts=hosts, profile_steps=profile_steps, wandb=wandb, json=json)
    _carry_out(config, options, _Training(refuse=room.of, check=check, train=by_rewards))


def _carry_out(config: ConfigFile, options: _Options, training: _Training) -> None:
    """Checks everything, trains on all hosts, and shows and saves the figures."""
    from tigerjax.config import dump
    from tigerjax.tokenizer.load import Tokenizer
    from tigerjax.train.rehearse import rehearse
    from tigerjax.train.starting import Starting

    starting = Starting()
    run = override(config)
    traced = traced_steps(options.profile_steps, run.optim.total_steps)
    if options.wandb is not None:
        wandb_run.package()  # refused before any work when the package is missing
    training.refuse(run)
    run_dir = options.out or config.run_dir(run)
    if options.dry_run:
        training.check(run)
        rehearse(run, run_dir, lambda: Tokenizer(run.data.tokenizer))
        to_terminal("\n".join(dump(run)))
        return
    from tigerjax.processes import hosts as processes

    starting.at("hosts")
    processes.start(options.hosts)
    starting.at("rows")
    if processes.is_writer():
        to_terminal("\n".join(dump(run)))
    from tigerjax.evaluate.asked import asked
    from tigerjax.train import elastic
    from tigerjax.train.held_out import lines
    from tigerjax.train.metrics import Reporting, last_record, last_validation

    with processes.together():
        whole, run = run, elastic.present(run)
        reporting = Reporting(
            starting=starting, profile_steps=traced, wandb=options.wandb, event=elastic.event(whole, run)
        )
        more = training.train(run, run_dir=run_dir, ask=asked(run), progress=show_progress, reporting=reporting)
    if processes.is_writer():
        figures = {"run": str(run_dir)} | last_record(run_dir) | more
        if validated := last_validation(run_dir):
            to_terminal("\n".join(lines(validated, whole=True)))
            figures["validation"] = validated
        save(figures, options.json)


def _train(run: RunConfig, **given: Any) -> dict[str, Any]:
    """Trains on preferences or on a mixture, as the config says."""
    if isinstance(run.objective, PreferenceConfig):
        from tigerjax.align import preference

        return {"preferences": preference.train(run, **given)}
    from tigerjax.processes import hosts as processes
    from tigerjax.train.loop import train_on_mixture

    loader = train_on_mixture(run, **given)
    return _progress(run, given["run_dir"], loader) if processes.is_writer() else {}


def _check_data(run: RunConfig) -> None:
    """Refuses what a run would refuse of its mixture or preferences, and of what it is validated on."""
    on_preferences = isinstance(run.objective, PreferenceConfig)
    if on_preferences:
        from tigerjax.align import preference

        preference.check(run)
    else:
        from tigerjax.data.mixture import MODULES, tasks_of
        from tigerjax.records.seqio_tasks import import_modules

        import_modules(run.data.modules, MODULES)
        tasks_of(run.data)
    _check_validation(run, of_mixture=not on_preferences)


def _check_validation(run: RunConfig, *, of_mixture: bool) -> None:
    """Refuses what a run would refuse of its held-out sets, its questions and its metric, and makes no rows."""
    from tigerjax.data.held_out import names_of_sets
    from tigerjax.evaluate.asked import asked
    from tigerjax.train.validation import refuse_unfit_names

    sets = names_of_sets(run.data, run.eval, of_mixture=of_mixture)
    refuse_unfit_names(run, sets, asked(run))


def _progress(run: Any, run_dir: Path, loader: Any) -> dict[str, float]:
    """For an SFT run, how much of the loss's whole fall had happened after 10,000 examples. Warns when it is little."""
    from tigerjax.files import manifest
    from tigerjax.train.metrics import progress_at

    configs = [(manifest.read(source.folder) or {}).get("config") for source in loader.sources]
    if any(not isinstance(config, dict) or config.get("kind") != "sft" for config in configs):
        return {}
    examples_per_row = sum(
        rate * source.figures["records"] / source.rows
        for rate, source in zip(loader.rates.values(), loader.sources, strict=True)
    )
    progress = progress_at(run_dir, PROGRESS_EXAMPLES / (examples_per_row * run.global_batch_size))
    if progress is None:
        return {}
    if progress < LEAST_PROGRESS:
        tell(
            f"warning: after {PROGRESS_EXAMPLES:,} examples the loss had {progress:.0%} of its fall behind it, below"
            f" {LEAST_PROGRESS:.0%}: the data may be noisy or the learning rate too low"
        )
    return {"progress_at_10k_examples": progress}


def traced_steps(text: str | None, total: int) -> tuple[int, int] | None:
    """`10:12` -> (10, 12), steps of a run that has `total`. ConfigError for others."""
    if text is None:
        return None
    first, _, last = text.partition(":")
    if not (first.isdigit() and last.isdigit() and 1 <= int(first) <= int(last)):
        raise ConfigError(f"--profile-steps {text!r} must be FIRST:LAST, such as 10:12")
    if int(last) > total:
        raise ConfigError(f"--profile-steps {text!r}, but the run has {total} steps; give steps of the run")
    return int(first), int(last)
