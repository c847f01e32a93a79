"""Commands that train, sample and score models, and the quick start that does all of it."""

import dataclasses
import itertools
import time
from pathlib import Path
from typing import Annotated, Any

from tigerjax.align.config import RewardConfig
from tigerjax.command.arguments import override
from tigerjax.command.figures import save, show
from tigerjax.command.groups import FILE_SAMPLING, FileSamplingOptions
from tigerjax.command.options import FLAT, ConfigFile, OnDisk
from tigerjax.command.progress import show_progress
from tigerjax.config import PreferenceConfig, RunConfig
from tigerjax.config.ranges import Seed
from tigerjax.errors import ConfigError
from tigerjax.processes.rendezvous import AUTO, HostsConfig
from tigerjax.terminal import one_line, tell
from tigerjax.terminal import show as to_terminal
from tigerjax.train import wandb_run

SHOWN_ANSWERS, SHOWN_CHARACTERS = 3, 300  # that `sample` prints
PROGRESS_EXAMPLES, LEAST_PROGRESS = 10_000, 0.9
"""TigerBot's report expects an SFT run to be through 0.95 of its loss's fall after 10,000 examples."""


def quickstart(out: OnDisk = Path("runs/quickstart"), seed: Seed = 0, json: Path | None = None) -> None:
    """Runs the whole recipe on small embedded data: on a CPU, in minutes; ends in a report.

    Example: tigerjax quickstart --out runs/quickstart --seed 0
    """
    from tigerjax.quickstart.run import quickstart as run

    save(run(out, seed=seed), json)


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
    from tigerjax.config import dump
    from tigerjax.train.objective import refuse_rewards

    began = time.time()
    run = override(config)
    traced = traced_steps(profile_steps, run.optim.total_steps)
    if wandb is not None:
        wandb_run.package()  # refused before any work when the package is missing
    refuse_rewards(run)
    on_preferences = isinstance(run.objective, PreferenceConfig)
    run_dir = out or config.run_dir(run)
    if dry_run:
        _rehearse(run, run_dir)
        to_terminal("\n".join(dump(run)))
        return
    from tigerjax.processes import hosts as processes

    processes.start(hosts)
    if processes.is_writer():
        to_terminal("\n".join(dump(run)))
    from tigerjax.evaluate.asked import asked
    from tigerjax.train.held_out import lines
    from tigerjax.train.loop import train_on_mixture
    from tigerjax.train.metrics import Reporting, last_record, last_validation

    with processes.together():
        reporting = Reporting(since=began, profile_steps=traced, wandb=wandb)
        more: dict[str, Any] = {}
        given: dict[str, Any] = {"run_dir": run_dir, "ask": asked(run), "progress": show_progress}
        if on_preferences:
            from tigerjax.align import preference

            more["preferences"] = preference.train(run, **given, reporting=reporting)
        else:
            loader = train_on_mixture(run, **given, reporting=reporting)
            if processes.is_writer():
                more |= _progress(run, run_dir, loader)
    if processes.is_writer():
        figures = {"run": str(run_dir)} | last_record(run_dir) | more
        if validated := last_validation(run_dir):
            to_terminal("\n".join(lines(validated, whole=True)))
            figures["validation"] = validated
        save(figures, json)


def _rehearse(run: RunConfig, run_dir: Path) -> None:
    """Refuses what a run would refuse of its mixture or preferences, of what it is validated on, of the weights that it
    trains, and of the checkpoint that it starts from."""
    from tigerjax.tokenizer.load import Tokenizer
    from tigerjax.train.rehearse import rehearse

    on_preferences = isinstance(run.objective, PreferenceConfig)
    if on_preferences:
        from tigerjax.align import preference

        preference.check(run)
    else:
        from tigerjax.data.mixture import get_mixture, import_modules

        import_modules(run.data.modules)
        get_mixture(run.data.mixture)
    rehearse_validation(run, of_mixture=not on_preferences)
    rehearse(run, run_dir, lambda: Tokenizer(run.data.tokenizer))


def rehearse_validation(run: RunConfig, *, of_mixture: bool) -> None:
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
    """`10:12` -> (10, 12), steps of a run that has `total`."""
    if text is None:
        return None
    first, _, last = text.partition(":")
    if not (first.isdigit() and last.isdigit() and 1 <= int(first) <= int(last)):
        raise ConfigError(f"--profile-steps {text!r} must be FIRST:LAST, such as 10:12")
    if int(last) > total:
        raise ConfigError(f"--profile-steps {text!r}, but the run has {total} steps; give steps of the run")
    return int(first), int(last)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RewardData:
    """What a reward model is trained on."""

    preferences: list[Path]  # Files of answers, ordered by preference
    calibration_set: list[Path]  # SFT files on whose answers scores get mean 0 and standard deviation 1


def reward_train(
    config: ConfigFile,
    data: Annotated[RewardData, FLAT],
    init: Path | None = None,
    out: Path | None = None,
    reward: RewardConfig = RewardConfig(),
    force: bool = False,
    hosts: HostsConfig = AUTO,
    json: Path | None = None,
) -> None:
    """Trains a reward model on preferences, from a chat checkpoint.

    A model that does not rank well enough is an error (exit 5) unless --force is given. On several hosts, run the same
    command on each.

    Example: tigerjax reward train configs/quickstart_reward.py --preferences pairs.jsonl --calibration-set sft.jsonl
    """
    from tigerjax.align import reward as room
    from tigerjax.align import reward_data
    from tigerjax.processes import hosts as processes
    from tigerjax.records import sft_examples
    from tigerjax.tokenizer.load import Tokenizer

    run = override(config)
    start = init or run.checkpoint.init_from
    if start is None:
        raise ConfigError("a reward model starts from a chat checkpoint; give --init or set checkpoint.init_from")
    processes.start(hosts)
    with processes.together():
        result = room.train(
            run,
            reward,
            data=reward_data.RewardData(data.preferences, list(sft_examples(data.calibration_set))),
            tokenizer=Tokenizer(run.data.tokenizer),
            init=start,
            run_dir=out or config.run_dir(run),
            force=force,
            progress=show_progress,
        )
    if processes.is_writer():
        show(result.figures | {"model": str(result.path)}, json)


def reward_score(
    config: ConfigFile,
    input: list[Path],
    out: Path,
    model: Path | None = None,
    reward: RewardConfig = RewardConfig(),
    hosts: HostsConfig = AUTO,
    json: Path | None = None,
) -> None:
    """Scores the answers that `tigerjax sample` wrote, with a reward model.

    On several hosts, run the same command on each.

    Example: tigerjax reward score configs/quickstart_reward.py --input runs/candidates/candidates.jsonl --out scored
    """
    from tigerjax.align.score import score_files
    from tigerjax.processes import hosts as processes

    run = override(config)
    place = model or config.run_dir(run) / "model"
    processes.start(hosts)
    with processes.together():
        figures = score_files(run, place, input, out, rows=reward.score_batch_size, progress=show_progress)
    if processes.is_writer():
        show(figures, json)


def reward_calibrate(
    config: ConfigFile,
    calibration_set: list[Path],
    model: Path | None = None,
    reward: RewardConfig = RewardConfig(),
    json: Path | None = None,
) -> None:
    """Calibrates a reward model again, on the answers of another SFT set.

    Its scores get mean 0 and standard deviation 1 on these answers. The weights stay, and so does every ranking.

    Example: tigerjax reward calibrate configs/quickstart_reward.py --calibration-set sft.jsonl
    """
    from tigerjax.align.score import calibrate_model

    run = override(config)
    place = model or config.run_dir(run) / "model"
    figures = calibrate_model(
        run,
        place,
        calibration_set,
        rows=reward.score_batch_size,
        truncation_penalty=reward.truncation_penalty,
        progress=show_progress,
    )
    show(figures, json)


def sample(
    config: ConfigFile,
    prompts: Path,
    out: Path,
    model: Path | None = None,
    sampling: Annotated[FileSamplingOptions, FLAT] = FILE_SAMPLING,
    hosts: HostsConfig = AUTO,
    json: Path | None = None,
) -> None:
    """Samples N answers to each prompt from a model.

    A prompt stands between the markers of a chat. --no-chat asks a base model instead: it continues the text in a new
    line, up to the next line break. Prompt and answer together have at most data.seq_len tokens. Answers are decoded on
    the config's mesh: one with --mesh.tensor is faster than one with --mesh.fsdp. The same command continues after an
    interruption. On several hosts, run it on each.

    Example: tigerjax sample configs/quickstart_sft.py --prompts prompts.jsonl --out runs/candidates --n 10
    """
    from tigerjax.checkpoint.loaded import load_for
    from tigerjax.processes import hosts as processes
    from tigerjax.sample.engine import Batching, SamplingConfig
    from tigerjax.sample.folder import CANDIDATES, sample_file

    run = override(config)
    processes.start(hosts)
    with processes.together():
        loaded = load_for(run, model or config.run_dir(run))
        loaded.say_past(run.data.seq_len, model or config.run_dir(run))
        given = dataclasses.asdict(sampling)
        batching = dataclasses.replace(Batching().for_mesh(loaded.mesh), rows=given.pop("batch_size"))
        drawn = SamplingConfig(**given, context=run.data.seq_len, seed=run.seed)
        figures = sample_file(
            loaded, prompts, out, drawn, batching=batching, progress=show_progress("sampled", "prompts")
        )
    if processes.is_writer():
        _show_answers(out / CANDIDATES)
        show(figures, json)


def _show_answers(path: Path) -> None:
    """Prints the first answer to the first prompts, so that who asks one question need not open the file."""
    from tigerjax.files.jsonl import read_jsonl

    for _, record in itertools.islice(read_jsonl(path), SHOWN_ANSWERS):
        asked = next(m["content"] for m in reversed(record["messages"]) if m["role"] == "user")
        to_terminal(f"asked                    {one_line(asked)[:SHOWN_CHARACTERS]}")
        to_terminal(
            f"answered                 {one_line(record['candidates'][0]['text'])[:SHOWN_CHARACTERS] or 'nothing'}"
        )
