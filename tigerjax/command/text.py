"""Commands that clean documents and cut them into rows."""

import dataclasses
from pathlib import Path
from typing import Annotated, Any, Literal

from tigerjax.command.arguments import override
from tigerjax.command.figures import show
from tigerjax.command.groups import LOCAL, READ, Read, Where, given, runner
from tigerjax.command.options import FLAT, ConfigFile, OutPage
from tigerjax.command.progress import show_progress
from tigerjax.config import PreferenceConfig, RlConfig
from tigerjax.config.phases import refuse_late
from tigerjax.config.ranges import Count, PositiveShare, Range, Seed, Share
from tigerjax.errors import ConfigError
from tigerjax.records.ids import Ids


@dataclasses.dataclass(frozen=True, kw_only=True)
class CleaningOptions:
    """Which records are cleaned away, and how many broken ones are allowed."""

    on: tuple[str, ...] = ()  # Rules that are switched on; all: every one
    off: tuple[str, ...] = ()  # Rules that are switched off
    sensitive: Path | None = None  # A list of words, one per line
    drop_denied: bool = False  # Drop records of a denied source, which are an error otherwise
    allow_source: tuple[str, ...] = ()  # Sources that are kept although their names are denied
    max_bad_fraction: Share = 0.001  # The share of records that may be broken


def data_clean(
    input: list[Path],
    out: Path,
    rules: Annotated[CleaningOptions, FLAT] = CleaningOptions(),  # frozen
    where: Where = LOCAL,
    json: Path | None = None,
) -> None:
    """Cleans documents and SFT examples by named rules, and drops those that are empty then.

    OUT/report.html shows samples of what each rule changed. Some rules suit web text only, and are off until --on names
    them; --off switches others off. SFT examples keep their HTML unless --on names tags or entities. Records of a
    denied source are an error unless --drop-denied drops them or --allow-source names it.

    Example: tigerjax data clean --input zh.jsonl en.jsonl --out runs/clean --on language repetition
    """
    from tigerjax.records import quarantine
    from tigerjax.text.clean import clean_files

    manifest = clean_files(
        given(input, where, where.ids),
        out,
        on=rules.on,
        off=rules.off,
        sensitive=rules.sensitive,
        drop_denied=rules.drop_denied,
        allow_source=rules.allow_source,
        max_bad_fraction=rules.max_bad_fraction,
        runner=runner(where),
    )
    show(manifest["counts"] | manifest["figures"], json)
    quarantine.tell(out, manifest["counts"]["dropped"].get("bad", 0))


def data_dedup_exact(
    input: list[Path],
    out: Path,
    shards: Count = 16,
    where: Where = LOCAL,
    json: Path | None = None,
) -> None:
    """Keeps one of the documents that are the same but for case, width, blanks, punctuation.

    Only the punctuation of prose does not count: 1.5 and 15 differ, and so do texts of emoji or formulas. Documents
    with lang "code" must be equal to the letter. More --shards need less memory. They do not change the output.

    Example: tigerjax data dedup exact --input runs/clean/zh.jsonl --out runs/exact --workers 8
    """
    from tigerjax.text.dedup import dedup_files

    manifest = dedup_files("exact", given(input, where, where.ids), out, shards=shards, runner=runner(where))
    show(manifest["counts"] | manifest["figures"], json)


def data_dedup_near(
    input: list[Path],
    out: Path,
    threshold: PositiveShare = 0.7,
    shards: Count = 16,
    where: Where = LOCAL,
    json: Path | None = None,
) -> None:
    """Keeps one document of each cluster of near duplicates.

    MinHash finds them, and a second test confirms them. Two documents are near duplicates when their estimated Jaccard
    similarity is at least --threshold. More --shards need less memory. They do not change the output.

    Example: tigerjax data dedup near --input runs/clean/zh.jsonl runs/clean/en.jsonl --out runs/dedup
    """
    from tigerjax.text.dedup import dedup_files

    inputs = given(input, where, where.ids)
    manifest = dedup_files("near", inputs, out, threshold=threshold, shards=shards, runner=runner(where))
    show(manifest["counts"] | manifest["figures"], json)


def data_dedup_against_sft(
    docs: list[Path],
    sft: list[Path],
    out: Path,
    action: Literal["cut", "drop", "report"] = "cut",
    shards: Count = 16,
    where: Where = LOCAL,
    json: Path | None = None,
) -> None:
    """Removes from pretraining documents what the instruction data contains too.

    --action cut removes the matched sentences, drop removes the whole document, and report only writes
    OUT/hits/hits.jsonl. A worker holds one shard of the index of the instruction data at a time: more --shards need
    less memory.

    Example: tigerjax data dedup against-sft --docs runs/dedup/zh.jsonl --sft sft.jsonl --out runs/pretrain
    """
    from tigerjax.text.dedup import against_sft_files

    manifest = against_sft_files(
        given(docs, where, where.ids), sft, out, action=action, shards=shards, runner=runner(where)
    )
    show(manifest["counts"] | manifest["figures"], json)


def data_decontaminate(
    docs: list[Path],
    evaluation_sets: list[Path],
    out: Path,
    action: Literal["cut", "drop", "report"] = "drop",
    field: str | None = None,
    shards: Count = 16,
    where: Where = LOCAL,
    json: Path | None = None,
) -> None:
    """Drops documents and SFT examples that contain a question of an evaluation set.

    They are counted by set. A set is a file of records, named after its task. --field names the field that holds the
    question, where it has an unusual name.

    Example: tigerjax data decontaminate --docs sft.jsonl --evaluation-sets gsm8k.jsonl ceval.csv --out runs/sft_clean
    """
    from tigerjax.text.decontaminate import decontaminate_files

    manifest = decontaminate_files(
        given(docs, where, where.ids),
        evaluation_sets,
        out,
        action=action,
        field=field,
        shards=shards,
        runner=runner(where),
    )
    show(manifest["counts"] | manifest["figures"], json)


# One parameter for each option of the command.
def data_tfds(
    input: list[Path],
    name: str,
    out: Path,
    kind: Literal["documents", "sft"] = "documents",
    version: str = "1.0.0",
    ids: Ids = "auto",
    reading: Read = READ,
    verify: bool = False,
    json: Path | None = None,
) -> None:
    """Writes files of records, of any format that is read, as a TFDS dataset: OUT/NAME/VERSION.

    --ids makes the ids as in `tigerjax data clean`. Where the dataset is there already, --verify compares its bytes.
    A mixture reads it as Source("tfds:NAME") when TFDS_DATA_DIR is OUT, or as Source of its folder.

    Example: tigerjax data tfds --input zh_books.jsonl --name zh_books --out tfds
    """
    from tigerjax.records.tfds_builder import build

    how: Any = {"kind": kind, "version": version, "progress": show_progress, "verify": verify}
    manifest = build(given(input, reading, ids), out, name, **how)
    show(manifest["figures"] | {"out": str(out / name / version)}, json)


def data_cache(config: ConfigFile, runner: str = "local", verify: bool = False, json: Path | None = None) -> None:
    """Tokenises the sources of a config's mixture, and cuts them into rows of seq_len tokens.

    --runner is one of `tigerjax data clean`: its workers read and tokenise, and the rows are the same. --verify reads
    rows that are there already, and makes them again where a byte has changed.

    Example: tigerjax data cache configs/llama2_tiny.py
    """
    from tigerjax.data.mixture import open_loader

    run = override(config)
    if isinstance(run.objective, PreferenceConfig | RlConfig):
        raise ConfigError(
            f"objective is {type(run.objective).__name__}, whose files are read as they are, so there are no rows to"
            " cache; run the training itself"
        )
    loader = open_loader(
        run.data, batch_rows=run.global_batch_size, seed=run.seed, runner=runner, progress=show_progress, verify=verify
    )
    tokens = {source.name: source.figures["tokens"] for source in loader.sources}
    show({"wanted": loader.rates, "rows": loader.rows(), "tokens": tokens}, json)


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepsOptions:
    """The steps of a run over which the shares of a mixture are shown."""

    total_steps: Count | None = None  # Of the run, whose epochs and shares are shown; None shows one epoch only
    global_batch_size: Count = 1  # Rows in a step
    phases: tuple[str, ...] = ()  # Other mixtures from later steps on, as in data.phases: 8000=anneal
    page: OutPage | None = None  # An HTML page with the shares over the steps


# One parameter for each option of the command.
def data_stats(
    mixture: Annotated[str, "positional"],
    seq_len: Annotated[int, Range(2, 2**24)],
    modules: tuple[str, ...] = ("data_mixtures.quickstart",),
    cache_dir: Path = Path("runs/cache"),
    max_dropped: Share = 0.5,
    over: Annotated[StepsOptions, FLAT] = StepsOptions(),  # frozen
    json: Path | None = None,
) -> None:
    """Shows the token shares of a mixture, wanted and realised, and how full its rows are.

    The realised shares are those of one epoch. With --total-steps it also shows the shares and epochs of a run, whose
    mixture may change by --phases, and draws them to --page. Rows that are not cached yet are made first.

    Example: tigerjax data stats my_holistic --modules my_mixture --seq-len 2048 --json stats.json
    """
    from tigerjax.data import moving
    from tigerjax.data.mixture import figures, mixture_config, open_loader

    if over.total_steps is None and (over.phases or over.page):
        raise ConfigError("--phases and --page are about the steps of a run; give their number as --total-steps")
    if over.total_steps is not None:
        refuse_late(over.phases, over.total_steps, "--total-steps")
    data = mixture_config(mixture, modules, cache_dir, seq_len, max_dropped, over.phases)
    loader = open_loader(data, batch_rows=over.global_batch_size, seed=0, progress=show_progress)
    shown = figures(loader, seq_len)
    if over.total_steps is not None:
        shown |= {"run": moving.figures(loader, over.total_steps)}
    if over.total_steps is not None and over.page is not None:
        moving.write_page(loader, mixture, over.total_steps, over.page)
        shown |= {"page": str(over.page)}
    show(shown, json)


# One parameter for each option of the command.
def data_inspect(
    mixture: Annotated[str, "positional"],
    out: OutPage,
    seq_len: Annotated[int, Range(2, 2**24)],
    modules: tuple[str, ...] = ("data_mixtures.quickstart",),
    cache_dir: Path = Path("runs/cache"),
    rows: Count = 20,
    max_dropped: Share = 0.5,
    seed: Seed = 0,
    json: Path | None = None,
) -> None:
    """Writes an HTML page of decoded rows, with one tab for each source.

    Segments are coloured, and tokens that count in the loss are underlined.

    Example: tigerjax data inspect my_holistic --modules my_mixture --seq-len 2048 --out rows.html
    """
    from tigerjax.data.inspection import inspect_mixture
    from tigerjax.data.mixture import mixture_config

    data = mixture_config(mixture, modules, cache_dir, seq_len, max_dropped)
    figures = inspect_mixture(data, out, rows=rows, seed=seed, progress=show_progress)
    show(figures | {"out": str(out)}, json)
