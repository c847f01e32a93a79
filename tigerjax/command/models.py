"""Commands that train, sample and score models, and the quick start that does all of it."""

import dataclasses
import sys
import time
from pathlib import Path
from typing import Annotated, Any

from tigerjax.align.config import RewardConfig
from tigerjax.command.arguments import override
from tigerjax.command.figures import save, show
from tigerjax.command.groups import SAMPLING, Sampling
from tigerjax.command.options import FLAT, ConfigFile, OnDisk
from tigerjax.command.progress import show_progress
from tigerjax.config import RunConfig
from tigerjax.errors import ConfigError, DataError
from tigerjax.processes.rendezvous import AUTO, HostsConfig
from tigerjax.train import wandb_run

PROGRESS_EXAMPLES, LEAST_PROGRESS = 10_000, 0.9
"""TigerBot's report expects an SFT run to be through 0.95 of its loss's fall after 10,000 examples."""


def quickstart(out: OnDisk = Path("runs/quickstart"), seed: int = 0, json: Path | None = None) -> None:
    """The whole recipe on the embedded data, on a CPU, in minutes; ends in OUT/report.html.

    Example: tigerjax quickstart --out runs/quickstart --seed 0
    """
    from tigerjax.quickstart.run import quickstart as run

    save(run(out, seed=seed), json)


def train(
    config: ConfigFile,
    out: Path | None = None,
    held_out: list[Path] = [],  # noqa: B006  # read only
    dry_run: bool = False,
    hosts: HostsConfig = AUTO,
    profile_steps: str | None = None,
    wandb: str | None = None,
    json: Path | None = None,
) -> None:
    """Trains a config: pretraining and SFT differ by mixture and initial weights. Resumes by itself.

    The run is written to OUT, else to runs/NAME; --dry-run prints the resolved config and stops. HELD_OUT are SFT
    examples: loss and next-token accuracy on their answers, by task and language, are shown at the end. On several
    hosts the same command runs on each (launch/run.sh). --profile-steps 10:12 traces these steps to OUT/profile.
    --wandb PROJECT tells Weights & Biases of the logged steps too (docs/OPERATIONS.md).

    Example: tigerjax train configs/llama2_tiny.py --optim.peak-lr 3e-4 --out runs/tiny
    """
    from tigerjax.config import dump

    began = time.time()
    run = override(config)
    traced = _steps(profile_steps)
    if wandb is not None:
        wandb_run.package()  # one that is missing is said before any work
    if dry_run:
        print("\n".join(dump(run)), flush=True)
        return
    from tigerjax.processes import hosts as others

    others.start(hosts)
    if others.is_writer():
        print("\n".join(dump(run)), flush=True)
    from tigerjax.train.loop import train_on_mixture
    from tigerjax.train.metrics import Reporting, last_record

    run_dir = out or Path("runs") / run.name
    with others.together():
        reporting = Reporting(since=began, profile_steps=traced, wandb=wandb)
        loader = train_on_mixture(run, run_dir=run_dir, progress=show_progress, reporting=reporting)
    if others.is_writer():
        figures = {"run": str(run_dir)} | last_record(run_dir)
        figures |= _progress(run, run_dir, loader)
        if held_out:
            figures["held_out"] = _held_out(run, run_dir, held_out)
        save(figures, json)


def _progress(run: Any, run_dir: Path, loader: Any) -> dict[str, float]:
    """Of an SFT run: which share of its fall the loss had behind it after 10,000 examples; warns when that is low."""
    from tigerjax.files import manifest
    from tigerjax.train.metrics import progress_at

    kinds = [(manifest.read(source.folder) or {}).get("config", {}).get("kind") for source in loader.sources]
    if set(kinds) != {"sft"}:
        return {}
    examples_per_row = sum(
        rate * source.figures["records"] / source.rows
        for rate, source in zip(loader.rates.values(), loader.sources, strict=True)
    )
    progress = progress_at(run_dir, PROGRESS_EXAMPLES / (examples_per_row * run.batch_rows))
    if progress is None:
        return {}
    if progress < LEAST_PROGRESS:
        print(
            f"warning: after {PROGRESS_EXAMPLES:,} examples the loss had {progress:.0%} of its fall behind it, below"
            f" {LEAST_PROGRESS:.0%}: the data may be noisy or the learning rate too low",
            file=sys.stderr,
        )
    return {"progress_at_10k_examples": progress}


def _steps(text: str | None) -> tuple[int, int] | None:
    """`10:12` -> (10, 12)."""
    if text is None:
        return None
    first, _, last = text.partition(":")
    if not (first.isdigit() and last.isdigit() and 1 <= int(first) <= int(last)):
        raise ConfigError(f"--profile-steps {text!r} must be FIRST:LAST, such as 10:12")
    return int(first), int(last)


def _held_out(run: RunConfig, run_dir: Path, files: list[Path]) -> dict[str, Any]:
    """Shows one line for all of the examples, each task and each language; returns the figures."""
    from tigerjax.checkpoint.loaded import load
    from tigerjax.evaluate.held_out import losses
    from tigerjax.records import sft_examples
    from tigerjax.tokenizer.load import Tokenizer

    found = losses(
        # Without the mesh: this host does it alone.
        load(run_dir, Tokenizer(run.data.tokenizer), compute=run.compute),
        sft_examples(files),
        seq_len=run.data.seq_len,
        batch_rows=run.batch_rows,
        progress=show_progress("held out", "rows"),
    )
    for name, line in {"held out": found, **found["by_task"], **found["by_lang"]}.items():
        print(f"{name:24} loss {line['loss_nats']:.3f} nats  accuracy {line['accuracy']:.1%}  tokens {line['tokens']}")
    return found


@dataclasses.dataclass(frozen=True, kw_only=True)
class RewardData:
    """What a reward model is trained on."""

    preferences: list[Path]  # Files of answers in order of preference
    reference: list[Path]  # The SFT set on whose answers scores get mean 0 and deviation 1


def reward_train(
    config: ConfigFile,
    data: Annotated[RewardData, FLAT],
    init: Path | None = None,
    out: Path | None = None,
    reward: RewardConfig = RewardConfig(),  # noqa: B008  # frozen
    force: bool = False,
    hosts: HostsConfig = AUTO,
    json: Path | None = None,
) -> None:
    """Trains a reward model from a chat checkpoint (--init, else checkpoint.init_from) on preference files.

    REFERENCE is the SFT set on which scores get mean 0 and deviation 1. Writes OUT/model (else runs/NAME/model);
    exit 5 when it is not usable for ranking, unless --force. On several hosts the same command runs on each.

    Example: tigerjax reward train configs/quickstart_reward.py --preferences pairs.jsonl --reference sft.jsonl
    """
    from tigerjax.align import reward as room
    from tigerjax.processes import hosts as others
    from tigerjax.records import sft_examples
    from tigerjax.tokenizer.load import Tokenizer

    run = override(config)
    start = init or run.checkpoint.init_from
    if start is None:
        raise ConfigError("a reward model starts from a chat checkpoint; give --init or set checkpoint.init_from")
    others.start(hosts)
    with others.together():
        result = room.train(
            run,
            reward,
            preferences=data.preferences,
            reference=list(sft_examples(data.reference)),
            tokenizer=Tokenizer(run.data.tokenizer),
            init=start,
            run_dir=out or Path("runs") / run.name,
            force=force,
        )
    if others.is_writer():
        show(result.figures | {"model": str(result.path)}, json)


def reward_score(
    config: ConfigFile,
    input: list[Path],
    out: Path,
    model: Path | None = None,
    reward: RewardConfig = RewardConfig(),  # noqa: B008  # frozen
    hosts: HostsConfig = AUTO,
    json: Path | None = None,
) -> None:
    """Scores the candidates of sampler files with a calibrated reward model (--model, else runs/NAME/model).

    On several hosts the same command runs on each.

    Example: tigerjax reward score configs/quickstart_reward.py --input runs/candidates/candidates.jsonl --out scored
    """
    from tigerjax.align.score import score_files
    from tigerjax.processes import hosts as others

    run = override(config)
    place = model or Path("runs") / run.name / "model"
    others.start(hosts)
    with others.together():
        figures = score_files(run, place, input, out, rows=reward.score_rows, progress=show_progress)
    if others.is_writer():
        show(figures, json)


def reward_calibrate(
    config: ConfigFile,
    reference: list[Path],
    model: Path | None = None,
    reward: RewardConfig = RewardConfig(),  # noqa: B008  # frozen
    json: Path | None = None,
) -> None:
    """Calibrates a reward model (--model, else runs/NAME/model) on the answers of another SFT set.

    Scores get mean 0 and deviation 1 there; the weights and every ranking stay.

    Example: tigerjax reward calibrate configs/quickstart_reward.py --reference sft.jsonl
    """
    from tigerjax.align.score import calibrate_model

    run = override(config)
    place = model or Path("runs") / run.name / "model"
    show(calibrate_model(run, place, reference, rows=reward.score_rows, progress=show_progress), json)


def sample(
    config: ConfigFile,
    prompts: Path,
    out: Path,
    model: Path | None = None,
    sampling: Sampling = SAMPLING,
    rows: int = 80,
    hosts: HostsConfig = AUTO,
    json: Path | None = None,
) -> None:
    """Samples N answers a prompt from a run (--model, else runs/NAME): OUT/candidates.jsonl; a restart continues.

    A prompt is {prompt_id, messages} or {prompt_id, text}; prompt and answer share data.seq_len tokens. ROWS answers
    are decoded at once, on the config's mesh (a mesh with --mesh.tensor decodes faster than one with --mesh.fsdp); on
    several hosts the same command runs on each.

    Example: tigerjax sample configs/quickstart_sft.py --prompts prompts.jsonl --out runs/candidates --n 10
    """
    from tigerjax.checkpoint.loaded import load_for
    from tigerjax.processes import hosts as others
    from tigerjax.sample.engine import Batching, SamplingConfig
    from tigerjax.sample.folder import sample_file

    run = override(config)
    others.start(hosts)
    with others.together():
        loaded = load_for(run, model)
        drawn = SamplingConfig(**dataclasses.asdict(sampling), context=run.data.seq_len, seed=run.seed)
        batching = dataclasses.replace(Batching().for_mesh(loaded.mesh), rows=rows)
        figures = sample_file(
            loaded, prompts, out, drawn, batching=batching, progress=show_progress("sampled", "prompts")
        )
    if others.is_writer():
        show(figures, json)


def report(run_dir: Annotated[Path, "positional"], json: Path | None = None) -> None:
    """Draws RUN_DIR/report.html: one page with curves, shares, speed, rounds, samples and lineage; prints its table.

    RUN_DIR is a quick start (whose report.json is read), a run of `tigerjax train`, or an alignment (`align init
    --out`), of whose ended rounds or logged steps report.json is written.

    Example: tigerjax report runs/quickstart
    """
    import json as json_lib

    from tigerjax.align import project, summary
    from tigerjax.files import manifest
    from tigerjax.report import lineage, print_table, render, runs

    source = run_dir / "report.json"
    if (run_dir / project.FILE).is_file():
        manifest.write_json(source, summary.collect(run_dir))
    elif (run_dir / runs.METRICS).is_file():
        manifest.write_json(source, runs.of_run(run_dir))
    if not source.is_file():
        raise DataError(f"{source} does not exist; give a folder of `tigerjax quickstart`, `train` or `align init`")
    try:
        values = json_lib.loads(source.read_text(encoding="utf-8"))
        values |= {"runs": runs.collect(run_dir), "lineage": lineage.collect(run_dir)}
        render(values, run_dir / "report.html")
        print_table(values)
        print(f"wrote {run_dir / 'report.html'}")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        kind = type(error).__name__
        raise DataError(f"{source} is not the report of a run ({kind}: {error}); write it again") from error
    save(values, json)
