"""Commands that turn files into files: tokenizers, and documents on their way to rows."""

import dataclasses
from pathlib import Path
from typing import Annotated, Any, Literal

from tigerjax.command.arguments import override
from tigerjax.command.figures import save, show
from tigerjax.command.groups import LOCAL, RunnerOptions, Where
from tigerjax.command.options import FLAT, ConfigFile
from tigerjax.command.progress import show_elapsed, show_progress
from tigerjax.errors import GateFailed


def tokenizer_sample(
    input: list[Path],
    out: Path,
    fraction: float = 0.10,
    min_sample_bytes: int = 1_000_000,
    max_sentences: int = 10_000_000,
    seed: int = 0,
    json: Path | None = None,
) -> None:
    """Draws a share of the documents by the hash of their ids and cuts them into lines: OUT/sample.txt.

    Example: tigerjax tokenizer sample --input zh.jsonl --out runs/zh_sample --fraction 0.1
    """
    from tigerjax.records import expand
    from tigerjax.tokenizer.sample import sample

    manifest = sample(
        inputs=expand(input),
        out=out,
        fraction=fraction,
        seed=seed,
        min_sample_bytes=min_sample_bytes,
        max_sentences=max_sentences,
        progress=show_progress,
    )
    show(manifest["figures"] | {"out": str(out)}, json)


def tokenizer_train(input: list[Path], size: int, out: Path, seed: int = 0, json: Path | None = None) -> None:
    """Trains a SentencePiece BPE with Llama-2's settings on text or JSONL files.

    Example: tigerjax tokenizer train --input zh.jsonl --size 38000 --out runs/zh_bpe
    """
    from tigerjax.records import expand
    from tigerjax.tokenizer.train import train_model

    files = expand(input)
    manifest = train_model(inputs=files, size=size, out=out, seed=seed, progress=show_progress, elapsed=show_elapsed)
    show(manifest["figures"] | {"out": str(out)}, json)


def tokenizer_extend(base: Path, new: Path, size: int, out: Path, json: Path | None = None) -> None:
    """Merges the Chinese pieces of NEW into BASE, to exactly SIZE entries with the three specials.

    Example: tigerjax tokenizer extend --base llama2/tokenizer.model --new runs/zh_bpe --size 60515 --out tok
    """
    from tigerjax.tokenizer.extend import extend

    figures = extend(base=base, new=new, size=size, out=out)["figures"]
    show(figures | {"out": str(out)}, json)
    if left := figures["characters_left_out"]:
        print(
            f"note: {left} single characters of {new} were left out, the most common first:"
            f" {figures['most_common_left_out']}; they cost a token a byte. {figures['survivors']} pieces survived and"
            f" {figures['new_pieces']} are needed: train NEW on the same text with --size {figures['fitting_size']}"
            " to keep them"
        )


def tokenizer_verify(
    folder: Annotated[Path, "positional"], base: Path, text: list[Path], json: Path | None = None
) -> None:
    """Proves the seven properties of a merged tokenizer on your own files; exit 5 if one fails.

    Example: tigerjax tokenizer verify tok --base llama2/tokenizer.model --text en.txt zh.jsonl
    """
    from tigerjax.records import expand
    from tigerjax.tokenizer.verify import failures, property_table, verify

    figures = verify(folder, base=base, texts=expand(text), progress=show_progress)
    print("\n".join(property_table(figures)))
    save(figures, json)
    if failed := failures(figures):
        raise GateFailed(f"{folder}: {', '.join(failed)}; rebuild it with `tigerjax tokenizer extend`")


def tokenizer_stats(folder: Annotated[Path, "positional"], text: list[Path], json: Path | None = None) -> None:
    """Characters a token by language, characters that fall back to bytes, and pieces that no text used.

    Example: tigerjax tokenizer stats tok --text en.txt zh.jsonl
    """
    from tigerjax.records import expand
    from tigerjax.tokenizer.stats import stats

    show(stats(folder, expand(text), show_progress), json)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rules:
    """Which records are cleaned away, and how many broken ones are allowed."""

    on: tuple[str, ...] = ()  # Rules that are switched on; all: every one
    off: tuple[str, ...] = ()  # Rules that are switched off
    sensitive: Path | None = None  # A list of words, one a line
    drop_denied: bool = False  # Drop records of a denied source, which are an error otherwise
    max_bad_fraction: float = 0.001  # The share of records that may be broken


def data_clean(
    input: list[Path],
    out: Path,
    rules: Annotated[Rules, FLAT] = Rules(),  # frozen
    where: Where = LOCAL,
    json: Path | None = None,
) -> None:
    """Cleans documents and SFT examples by named rules, and drops what is empty; OUT/report.html shows samples.

    `--on RULE …` switches rules on that suit web text (`--on all`: every one), `--off RULE …` rules off; `--sensitive`
    is a list of words, one a line. Records of a denied source are an error unless --drop-denied.

    Example: tigerjax data clean --input zh.jsonl en.jsonl --out runs/clean --on language repetition
    """
    from tigerjax.text.clean import clean_files

    manifest = clean_files(
        input,
        out,
        on=rules.on,
        off=rules.off,
        sensitive=rules.sensitive,
        drop_denied=rules.drop_denied,
        max_bad_fraction=rules.max_bad_fraction,
        runner=_runner(where),
    )
    show(manifest["counts"] | manifest["figures"], json)


def data_dedup_exact(
    input: list[Path],
    out: Path,
    shards: int = 16,
    where: Where = LOCAL,
    json: Path | None = None,
) -> None:
    """Keeps one of the documents that differ in case, width and punctuation only.

    `--workers` are processes of this machine, `--shards` bound memory; neither changes a byte of the output, nor does
    `--runner`: "local", or an Apache Beam runner with its options, such as "DirectRunner".

    Example: tigerjax data dedup exact --input runs/clean/zh.jsonl --out runs/exact --workers 8
    """
    from tigerjax.text.dedup import dedup_files

    manifest = dedup_files("exact", input, out, shards=shards, runner=_runner(where))
    show(manifest["counts"] | manifest["figures"], json)


def data_dedup_near(
    input: list[Path],
    out: Path,
    threshold: float = 0.7,
    shards: int = 16,
    where: Where = LOCAL,
    json: Path | None = None,
) -> None:
    """Keeps one document of each cluster of near duplicates (MinHash, verified).

    `--threshold` is the estimated Jaccard similarity from which on two documents are one; the rest is as in
    `dedup exact`.

    Example: tigerjax data dedup near --input runs/clean/zh.jsonl runs/clean/en.jsonl --out runs/dedup
    """
    from tigerjax.text.dedup import dedup_files

    manifest = dedup_files("near", input, out, threshold=threshold, shards=shards, runner=_runner(where))
    show(manifest["counts"] | manifest["figures"], json)


def data_dedup_against_sft(
    docs: list[Path],
    sft: list[Path],
    out: Path,
    action: Literal["cut", "drop", "report"] = "cut",
    shards: int = 16,
    where: Where = LOCAL,
    json: Path | None = None,
) -> None:
    """Removes from pretraining documents what the instruction data already teaches (containment).

    `cut` takes the matched sentences out, `drop` the document, `report` only writes OUT/hits/hits.jsonl. `--shards`
    is the number of pieces of the instruction data's index, one of which a worker holds at a time.

    Example: tigerjax data dedup against-sft --docs runs/dedup/zh.jsonl --sft sft.jsonl --out runs/pretrain
    """
    from tigerjax.text.dedup import against_sft_files

    manifest = against_sft_files(docs, sft, out, action=action, shards=shards, runner=_runner(where))
    show(manifest["counts"] | manifest["figures"], json)


def data_decontaminate(
    docs: list[Path],
    evaluations: list[Path],
    out: Path,
    action: Literal["cut", "drop", "report"] = "drop",
    field: str | None = None,
    shards: int = 16,
    where: Where = LOCAL,
    json: Path | None = None,
) -> None:
    """Drops documents and SFT examples that hold a question of an evaluation set; counts hits by set.

    A set is a .jsonl or .csv file, its name the task's. `--field` names the field of the question where it is not one
    of the usual ones.

    Example: tigerjax data decontaminate --docs sft.jsonl --evaluations gsm8k.jsonl ceval.csv --out runs/sft_clean
    """
    from tigerjax.text.decontaminate import decontaminate_files

    manifest = decontaminate_files(
        docs, evaluations, out, action=action, field=field, shards=shards, runner=_runner(where)
    )
    show(manifest["counts"] | manifest["figures"], json)


def data_tfds(
    input: list[Path],
    name: str,
    data_dir: Path,
    kind: Literal["documents", "sft"] = "documents",
    version: str = "1.0.0",
    json: Path | None = None,
) -> None:
    """Writes a TFDS dataset of the records of JSONL, TFRecord or ArrayRecord files: DATA_DIR/NAME/VERSION.

    A mixture reads it as Source("tfds:NAME") with TFDS_DATA_DIR=DATA_DIR, or by its folder.

    Example: tigerjax data tfds --input zh_books.jsonl --name zh_books --data-dir tfds
    """
    from tigerjax.records.tfds_builder import build

    manifest = build(input, data_dir, name, kind=kind, version=version, progress=show_progress)
    show(manifest["figures"] | {"out": str(data_dir / name / version)}, json)


def data_cache(config: ConfigFile, runner: str = "local", json: Path | None = None) -> None:
    """Tokenises and cuts every source of the config's mixture into rows of exactly seq_len tokens.

    `--runner`: "local", or an Apache Beam runner with its options, such as "DirectRunner": the same rows.

    Example: tigerjax data cache configs/llama2_tiny.py
    """
    from tigerjax.data.mixture import open_loader
    from tigerjax.stages.runner import Runner

    run = override(config)
    name = Runner(runner).name  # refused here where it cannot work
    loader = open_loader(run.data, batch_rows=run.batch_rows, seed=run.seed, runner=name, progress=show_progress)
    tokens = {source.name: source.figures["tokens"] for source in loader.sources}
    show({"wanted": loader.rates, "rows": loader.rows(), "tokens": tokens}, json)


def data_stats(
    mixture: Annotated[str, "positional"],
    seq_len: int,
    mixtures: tuple[str, ...] = ("data_mixtures.quickstart",),
    cache_dir: Path = Path("runs/cache"),
    json: Path | None = None,
) -> None:
    """Token shares wanted and realised over one epoch of a mixture, fill, rows and tokens; makes missing caches.

    `--mixtures my.module …` are the Python modules that register mixtures.

    Example: tigerjax data stats my_holistic --mixtures my_mixture --seq-len 2048 --json stats.json
    """
    from tigerjax.data.mixture import mixture_config, stats

    show(
        stats(mixture_config(mixture, mixtures, cache_dir, seq_len), batch_rows=1, seed=0, progress=show_progress), json
    )


def data_inspect(
    mixture: Annotated[str, "positional"],
    out: Path,
    seq_len: int,
    mixtures: tuple[str, ...] = ("data_mixtures.quickstart",),
    cache_dir: Path = Path("runs/cache"),
    rows: int = 20,
    seed: int = 0,
    json: Path | None = None,
) -> None:
    """Writes an HTML page of decoded rows: one tab a source, segments coloured, tokens in the loss underlined.

    Example: tigerjax data inspect my_holistic --mixtures my_mixture --seq-len 2048 --out rows.html
    """
    from tigerjax.data.inspection import inspect_mixture
    from tigerjax.data.mixture import mixture_config

    data = mixture_config(mixture, mixtures, cache_dir, seq_len)
    figures = inspect_mixture(data, out, rows=rows, seed=seed, progress=show_progress)
    show(figures | {"out": str(out)}, json)


def _runner(where: RunnerOptions) -> Any:
    from tigerjax.stages.runner import Runner

    return Runner(where.runner, where.workers, show_progress)
