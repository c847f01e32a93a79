"""Commands that evaluate: the thirteen benchmarks, lm-evaluation-harness, and a comparison of evaluations."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tigerjax.command.arguments import override
from tigerjax.command.figures import save
from tigerjax.command.options import FLAT, ConfigFile, OnDisk, OutPage
from tigerjax.command.progress import show_elapsed, show_progress
from tigerjax.config import RunConfig
from tigerjax.config.ranges import Count
from tigerjax.config.rope import RopeFactor, RopeKind
from tigerjax.errors import ConfigError, DataError
from tigerjax.processes.rendezvous import AUTO, HostsConfig
from tigerjax.terminal import show as to_terminal

if TYPE_CHECKING:
    from tigerjax.checkpoint.loaded import Loaded
    from tigerjax.evaluate.length import LengthConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class Benchmarks:
    """Which questions are asked."""

    tasks: tuple[str, ...] = ()
    """Benchmarks, or all, en, zh; with --harness its tasks."""
    data_dir: Path | None = None  # Folder with the files of the benchmarks
    harness: bool = False  # Ask the tasks of lm-evaluation-harness
    include_path: OnDisk | None = None  # Folder of your own tasks for the harness, as YAML files
    limit: Count | None = None  # Ask only so many questions of each task


@dataclasses.dataclass(frozen=True, kw_only=True)
class Asking:
    """How questions are asked."""

    chat: bool = False  # By the chat template, where TigerBot's evaluation did so
    batch_size: Count = 8  # Questions that are asked at one time
    quantise: Literal["int8"] | None = None  # The model's matrices in 8 bits, a scale for each output
    rounding_text: Path | None = None  # File of text for which --quantise rounds, and not to nearest
    cache_dtype: Literal["int8"] | None = None  # Keys and values of drawn answers in 8 bits, not of scored options
    allow_code_execution: bool = False  # HumanEval runs programs that the model wrote, shut in
    allow_unconfined_code: bool = False  # Also where this machine cannot shut them in


@dataclasses.dataclass(frozen=True, kw_only=True)
class Lengths:
    """How long rows are measured."""

    length: bool = False  # Measure loss and retrieval in rows longer than data.seq_len, in place of --tasks
    text: tuple[Path, ...] = ()
    """Files of documents in the languages that are measured."""
    times: tuple[Count, ...] = (1, 2, 4, 8, 16)
    """Lengths of the rows, in multiples of data.seq_len."""
    rope_kinds: tuple[RopeKind, ...] = ()
    """Kinds of rope that are tried on the model, each without training."""
    rope_factor: RopeFactor | None = None
    """Factor of the tried kinds."""
    length_rows: Count = 8  # Rows of text for each language
    needles: Count = 4  # Numbers that are hidden for each language, length and depth of the row


def evaluate(
    config: ConfigFile,
    benchmarks: Annotated[Benchmarks, FLAT] = Benchmarks(),  # frozen
    lengths: Annotated[Lengths, FLAT] = Lengths(),  # frozen
    out: Path | None = None,
    model: Path | None = None,
    asking: Annotated[Asking, FLAT] = Asking(),  # frozen
    hosts: HostsConfig = AUTO,
    json: Path | None = None,
) -> None:
    """Evaluates a model on benchmarks, on tasks of lm-evaluation-harness, or on long rows.

    The same command continues an interrupted evaluation. The benchmarks are read from files in DATA_DIR. If one is
    missing there is no average, and the exit code is 3.

    With --harness, TASKS are those of lm-evaluation-harness: its own, tigerbot, tigerbot_NAME, cmrc2018, c3, ocnli, and
    those of YAML files in --include-path. Figures with their standard errors, every answer and a page are then written
    to the folder harness in OUT.

    With --length, no benchmark is asked. The loss by position and the share of hidden numbers that are found again are
    measured in rows of 1 to 16 times data.seq_len tokens (docs/LONG_CONTEXT.md), and written with charts to the folder
    length in OUT.

    HumanEval runs programs that the model has written, so it needs --allow-code-execution. They see no network and no
    files of yours. Where the machine cannot promise that, nothing is run, unless you give --allow-unconfined-code.
    The mesh is the config's; on several hosts, run the same command on each.

    Example: tigerjax evaluate configs/tiger_7b_sft.py --tasks mmlu ceval --data-dir benchmarks_data --chat
    """
    from tigerjax.checkpoint.loaded import load_for
    from tigerjax.evaluate import scores_page, suite
    from tigerjax.evaluate.answerer import load_answerer
    from tigerjax.evaluate.benchmarks import chosen
    from tigerjax.pages.tables import plain
    from tigerjax.processes import hosts as processes

    settings = override(config)
    if lengths.length == bool(benchmarks.tasks):
        raise ConfigError("give either --tasks, what is asked, or --length, which measures long rows")
    names = list(benchmarks.tasks) if benchmarks.harness else chosen(list(benchmarks.tasks))
    how_long = _checked(lengths, benchmarks, asking, settings) if lengths.length else None
    if benchmarks.data_dir is None and not benchmarks.harness and how_long is None:
        raise ConfigError("the benchmarks are read from files: give --data-dir (docs/EVALUATION.md lists them)")
    processes.start(hosts)
    run_dir = config.run_dir(settings)
    place = out or run_dir / "evaluation"
    with processes.together(), processes.alone_in(place):
        if how_long is not None:
            with show_elapsed("reading the model"):
                loaded = load_for(
                    settings, model or run_dir, quantise=asking.quantise, rounding_text=asking.rounding_text
                )
            title = f"{settings.name}, step {loaded.step}: long rows"
            _measure(loaded, lengths, how_long, place / "length", title, asking.batch_size, json)
            return
        with show_elapsed("reading the model"):
            answerer = load_answerer(
                settings,
                model or run_dir,
                rows=asking.batch_size,
                cache=place / suite.CACHE,
                quantise=asking.quantise,
                cache_dtype=asking.cache_dtype,
                rounding_text=asking.rounding_text,
            )
        loaded = answerer.model
        loaded.say_past(answerer.context, model or run_dir)
        how = suite.EvaluationConfig(
            data_dir=benchmarks.data_dir,
            chat=asking.chat,
            limit=benchmarks.limit,
            allow_code=asking.allow_code_execution or asking.allow_unconfined_code,
            allow_unconfined=asking.allow_unconfined_code,
        )
        if benchmarks.harness:
            from tigerjax.evaluate.harness import evaluate as by_harness

            figures = by_harness(
                answerer,
                names,
                how,
                out=place / "harness",
                include_path=benchmarks.include_path,
                progress=show_progress if answerer.writes else None,
            )
        else:
            figures = suite.evaluate(
                answerer,
                names,
                place,
                how,
                facts={"name": settings.name, "step": loaded.step, "model_sha256": loaded.sha256},
                progress=show_progress,
            )
    if answerer.writes and benchmarks.harness:
        table = scores_page.harness_table(figures)
        lacking = [f"{name} is missing: {what}" for name, what in figures["missing"].items()]
        to_terminal("\n".join([plain(table), *lacking]))
        title = f"{settings.name}, step {loaded.step}: lm-evaluation-harness"
        scores_page.write(place / "harness" / "report.html", title, [("Scores", table)], lacking)
        save(figures, json)
    elif answerer.writes:
        scores, ratios = scores_page.score_table(figures), scores_page.ratio_table(figures)
        to_terminal(plain(scores) + "\n\n" + plain(ratios))
        notes = scores_page.notes(figures)
        to_terminal("\n" + "\n".join(notes))
        title = f"Evaluation of {settings.name}, step {loaded.step}"
        tables = [("Scores", scores), ("Beside published figures, %", ratios)]
        scores_page.write(place / "report.html", title, tables, notes)
        save(figures, json)
    if figures["missing"]:
        raise DataError(f"incomplete: {', '.join(figures['missing'])} missing; the notes above say what of each")


def _checked(lengths: Lengths, benchmarks: Benchmarks, asking: Asking, settings: RunConfig) -> "LengthConfig":
    """What --length measures. Raises ConfigError for options that it does not read."""
    from tigerjax.evaluate.length import LengthConfig

    if needless := [
        name
        for name, given in (
            ("--harness", benchmarks.harness),
            ("--data-dir", benchmarks.data_dir),
            ("--limit", benchmarks.limit),
            ("--chat", asking.chat),
        )
        if given
    ]:
        raise ConfigError(f"--length does not read {', '.join(needless)}; leave out what it does not read")
    if not lengths.text:
        raise ConfigError("--length measures the loss on your own documents; give their files with --text")
    return LengthConfig(
        trained=settings.data.seq_len,
        times=lengths.times,
        ropes=lengths.rope_kinds,
        factor=lengths.rope_factor or float(max(lengths.times)),
        rows=lengths.length_rows,
        needles=lengths.needles,
    )


def _measure(
    model: "Loaded", lengths: Lengths, how: "LengthConfig", place: Path, title: str, batch_rows: int, json: Path | None
) -> None:
    """Measures long rows, and writes figures and page."""
    from tigerjax.evaluate import length, length_page, suite
    from tigerjax.files import manifest
    from tigerjax.pages.tables import plain
    from tigerjax.processes import hosts as processes
    from tigerjax.records import expand

    texts = length.read_texts(expand(lengths.text), model.tokenizer, how)
    figures = length.measure(
        model, texts, how, batch_rows=batch_rows, cache=place / suite.CACHE, progress=show_progress
    )
    if processes.is_writer():
        place.mkdir(parents=True, exist_ok=True)
        facts = {"step": model.step, "model_sha256": model.sha256}
        manifest.write_json(place / suite.RESULTS, figures | {"facts": facts})
        length_page.write(place / "report.html", title, figures)
        to_terminal("\n\n".join(f"{caption}\n{plain(table)}" for caption, table in length_page.tables(figures)))
        to_terminal("\n" + "\n".join(length_page.notes(figures)))
        save(figures, json)


def evaluate_compare(
    folders: Annotated[list[Path], "positional"], out: OutPage | None = None, json: Path | None = None
) -> None:
    """Compares evaluations with the first one, with 95% intervals of the differences.

    Example: tigerjax evaluate compare runs/base/evaluation runs/sft/evaluation --out compared.html
    """
    from tigerjax.evaluate import scores_page
    from tigerjax.evaluate.compare import compare
    from tigerjax.pages.tables import plain

    compared = compare(folders)
    table = scores_page.comparison_table(compared)
    to_terminal(plain(table))
    if out is not None:
        note = "Differences are over the same questions, with 95% intervals; where one holds 0, the two may be alike."
        scores_page.write(out, "Evaluations side by side", [("Scores, %, and differences in points", table)], [note])
    save(compared, json)
