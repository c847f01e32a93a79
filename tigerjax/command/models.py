"""Commands that sample models and train and use reward models, and the quick start that does all of it."""

import dataclasses
import itertools
from pathlib import Path
from typing import Annotated

from tigerjax.align.config import RewardConfig
from tigerjax.command.arguments import override
from tigerjax.command.figures import save, show
from tigerjax.command.groups import FILE_SAMPLING, FileSamplingOptions
from tigerjax.command.options import FLAT, ConfigFile, OnDisk
from tigerjax.command.progress import show_progress
from tigerjax.config.ranges import Count, Seed
from tigerjax.errors import ConfigError
from tigerjax.processes.rendezvous import AUTO, HostsConfig
from tigerjax.terminal import one_line
from tigerjax.terminal import show as to_terminal

SHOWN_ANSWERS, SHOWN_CHARACTERS = 3, 300  # that `sample` prints


def quickstart(out: OnDisk = Path("runs/quickstart"), seed: Seed = 0, json: Path | None = None) -> None:
    """Runs the whole recipe on small embedded data: on a CPU, in minutes; ends in a report.

    Example: tigerjax quickstart --out runs/quickstart --seed 0
    """
    from tigerjax.quickstart.run import quickstart as run

    save(run(out, seed=seed), json)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RewardDataOptions:
    """What a reward model is trained on."""

    preferences: list[Path]  # Files of answers, ordered by preference
    calibration_set: list[Path]  # SFT files on whose answers scores get mean 0 and standard deviation 1


def reward_train(
    config: ConfigFile,
    data: Annotated[RewardDataOptions, FLAT],
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
    from tigerjax.train import elastic

    run = override(config)
    start = init or run.checkpoint.init_from
    if start is None:
        raise ConfigError("a reward model starts from a chat checkpoint; give --init or set checkpoint.init_from")
    processes.start(hosts)
    with processes.together():
        result = room.train(
            elastic.present(run),
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
    reward: str | None = None,
    score_batch_size: Count = 64,
    hosts: HostsConfig = AUTO,
    json: Path | None = None,
) -> None:
    """Scores the answers that `tigerjax sample` wrote.

    On several hosts, run the same command on each.

    Example: tigerjax reward score configs/quickstart_reward.py --input runs/candidates/candidates.jsonl --out scored
    """
    from tigerjax.align.score import score_files
    from tigerjax.processes import hosts as processes

    run = override(config)
    text = reward or str(config.run_dir(run) / "model")
    processes.start(hosts)
    with processes.together():
        figures = score_files(run, text, input, out, rows=score_batch_size, progress=show_progress)
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
