"""The command that trains a model by rewards."""

import time
from pathlib import Path

from tigerjax.command.arguments import override
from tigerjax.command.figures import save
from tigerjax.command.models import rehearse_validation, traced_steps
from tigerjax.command.options import ConfigFile
from tigerjax.command.progress import show_progress
from tigerjax.processes.rendezvous import AUTO, HostsConfig
from tigerjax.terminal import show as to_terminal
from tigerjax.train import wandb_run


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
    from tigerjax.config import dump

    began = time.time()
    run = override(config)
    traced = traced_steps(profile_steps, run.optim.total_steps)
    if wandb is not None:
        wandb_run.package()  # refused before any work when the package is missing
    run_dir = out or config.run_dir(run)
    from tigerjax.align.rl import run as room

    room.of(run)
    if dry_run:
        from tigerjax.tokenizer.load import Tokenizer
        from tigerjax.train.rehearse import rehearse

        room.check(run)
        rehearse_validation(run, of_mixture=False)
        rehearse(run, run_dir, lambda: Tokenizer(run.data.tokenizer))
        to_terminal("\n".join(dump(run)))
        return
    from tigerjax.processes import hosts as processes

    processes.start(hosts)
    if processes.is_writer():
        to_terminal("\n".join(dump(run)))
    from tigerjax.evaluate.asked import asked
    from tigerjax.train.held_out import lines
    from tigerjax.train.metrics import Reporting, last_record, last_validation

    with processes.together():
        reporting = Reporting(since=began, profile_steps=traced, wandb=wandb)
        counts = room.train(run, run_dir=run_dir, ask=asked(run), progress=show_progress, reporting=reporting)
    if processes.is_writer():
        figures = {"run": str(run_dir)} | last_record(run_dir) | {"prompts": counts}
        if validated := last_validation(run_dir):
            to_terminal("\n".join(lines(validated, whole=True)))
            figures["validation"] = validated
        save(figures, json)
