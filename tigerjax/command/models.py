"""Commands that train, sample and score models, and the quick start that does all of it."""

import sys
import time
from pathlib import Path
from typing import Annotated, Any

from tigerjax.align.config import RewardConfig
from tigerjax.command.arguments import keep, override, show
from tigerjax.command.options import OnDisk
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

    keep(run(out, seed=seed), json)


def train(
    config: Path,
    overrides: list[str],
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
    run = override(config, overrides, "tigerjax train")
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
    from tigerjax.data.mixture import open_loader
    from tigerjax.mesh import host_rows, run_mesh
    from tigerjax.train.loop import train as loop
    from tigerjax.train.metrics import last_record

    run_dir = out or Path("runs") / run.name
    with others.together():
        mesh = run_mesh(run)  # first: a mesh that does not fit is found before the rows are made
        mine = host_rows(mesh, run.batch_rows)
        total_rows = run.batch_rows * run.optim.total_steps
        loader = open_loader(
            run.data, batch_rows=run.batch_rows, seed=run.seed, mine=mine, total_rows=total_rows, progress=show_progress
        )
        loop(run, loader, run_dir=run_dir, mesh=mesh, since=began, profile_steps=traced, wandb=wandb)
    if others.is_writer():
        figures = {"run": str(run_dir)} | last_record(run_dir)
        figures |= _progress(run, run_dir, loader)
        if held_out:
            figures["held_out"] = _held_out(run, run_dir, held_out)
        keep(figures, json)


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
    from tigerjax.checkpoint.model import load_model
    from tigerjax.evaluate.held_out import losses
    from tigerjax.records import sft_examples
    from tigerjax.tokenizer.load import Tokenizer

    found = losses(
        load_model(run_dir).weights,
        run.model,
        Tokenizer(run.data.tokenizer),
        sft_examples(files),
        compute=run.compute,
        seq_len=run.data.seq_len,
        batch_rows=run.batch_rows,
        say=show_progress("held out", "rows"),
    )
    for name, line in {"held out": found, **found["by_task"], **found["by_lang"]}.items():
        print(f"{name:24} loss {line['loss_nats']:.3f} nats  accuracy {line['accuracy']:.1%}  tokens {line['tokens']}")
    return found


def reward_train(
    config: Path,
    overrides: list[str],
    preferences: list[Path],
    reference: list[Path],
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

    run = override(config, overrides, "tigerjax reward train")
    start = init or run.checkpoint.init_from
    if start is None:
        raise ConfigError("a reward model starts from a chat checkpoint; give --init or set checkpoint.init_from")
    others.start(hosts)
    with others.together():
        result = room.train(
            run,
            reward,
            preferences=preferences,
            reference=list(sft_examples(reference)),
            tokenizer=Tokenizer(run.data.tokenizer),
            init=start,
            run_dir=out or Path("runs") / run.name,
            force=force,
        )
    if others.is_writer():
        show(result.figures | {"model": str(result.path)}, json)


def reward_score(
    config: Path,
    overrides: list[str],
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

    run = override(config, overrides, "tigerjax reward score")
    place = model or Path("runs") / run.name / "model"
    others.start(hosts)
    with others.together():
        figures = score_files(run, place, input, out, rows=reward.score_rows, progress=show_progress)
    if others.is_writer():
        show(figures, json)


def reward_calibrate(
    config: Path,
    overrides: list[str],
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

    run = override(config, overrides, "tigerjax reward calibrate")
    place = model or Path("runs") / run.name / "model"
    show(calibrate_model(run, place, reference, rows=reward.score_rows, progress=show_progress), json)


def sample(
    config: Path,
    overrides: list[str],
    prompts: Path,
    out: Path,
    model: Path | None = None,
    n: int = 10,
    temperature: float = 0.9,
    top_p: float = 0.95,
    top_k: int = 0,
    max_new_tokens: int = 128,
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
    from tigerjax.mesh import mesh_of_several, row_ways
    from tigerjax.processes import hosts as others
    from tigerjax.sample.engine import SamplingConfig
    from tigerjax.sample.run import sample_files

    run = override(config, overrides, "tigerjax sample")
    others.start(hosts)
    sampling = SamplingConfig(
        n=n, temperature=temperature, top_p=top_p, top_k=top_k, max_new_tokens=max_new_tokens, context=run.data.seq_len
    )
    with others.together():
        mesh = mesh_of_several(run)
        figures = sample_files(
            model or Path("runs") / run.name,
            run.data.tokenizer,
            prompts,
            out,
            sampling=sampling,
            seed=run.seed,
            compute=run.compute,
            mesh=mesh,
            batch_rows=rows,
            batch_prompts=max(8, row_ways(mesh)),
            progress=show_progress("sampled", "prompts"),
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
    keep(values, json)
