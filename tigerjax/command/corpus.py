"""Commands that look at all documents of a corpus together, and change or weigh each."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from tigerjax.command.figures import show
from tigerjax.command.groups import LOCAL, READ, Read, Where, given, runner
from tigerjax.command.options import FLAT
from tigerjax.config.ranges import Count, PositiveShare, Range, Share
from tigerjax.errors import ConfigError

OpenShare = Annotated[float, Range(0, 1, above=True, below=True)]


def data_dedup_soft(
    input: list[Path],
    out: Path,
    by: Literal["shares", "commonness"] = "shares",
    least_weight: PositiveShare = 0.01,
    shards: Count = 16,
    where: Where = LOCAL,
    json: Path | None = None,
) -> None:
    """Drops nothing, and gives each document a weight: less for text that other documents have too.

    A source of a mixture takes a document of weight 0.3 with a chance of 0.3. Of k copies each has weight 1/k. --by
    commonness weighs as SoftDedup does. No weight is below --least-weight. More --shards need less memory. They do not
    change the output.

    Example: tigerjax data dedup soft --input runs/clean/zh.jsonl runs/clean/en.jsonl --out runs/soft
    """
    from tigerjax.text.soft import soft_files

    inputs = given(input, where, where.ids)
    manifest = soft_files(inputs, out, by=by, least=least_weight, shards=shards, runner=runner(where))
    show(manifest["counts"] | manifest["figures"], json)


def data_dedup_substrings(
    input: list[Path],
    out: Path,
    characters: Annotated[int, Range(50, 100_000)] = 100,
    action: Literal["cut", "mask"] = "cut",
    shards: Count = 16,
    where: Where = LOCAL,
    json: Path | None = None,
) -> None:
    """Cuts out of documents what stands elsewhere too, to the letter.

    It finds every run of --characters or more that occurs twice, in two documents or in one, as a suffix array
    would. One occurrence stays. --action mask leaves a mark where a run was. More --shards need less memory. They do
    not change the output.

    Example: tigerjax data dedup substrings --input runs/clean/zh.jsonl runs/clean/en.jsonl --out runs/substrings
    """
    from tigerjax.text.substrings import substring_files

    inputs = given(input, where, where.ids)
    manifest = substring_files(inputs, out, length=characters, action=action, shards=shards, runner=runner(where))
    show(manifest["counts"] | manifest["figures"], json)


# One parameter for each option of the command.
def data_dedup_site_lines(
    input: list[Path],
    out: Path,
    pages: Annotated[int, Range(2, 10**9)] = 5,
    share: Share = 0.1,
    shards: Count = 16,
    where: Where = LOCAL,
    json: Path | None = None,
) -> None:
    """Removes from web pages the lines that many pages of their site have, such as menus.

    The site is the host of a document's url. A line goes that at least --pages pages of a site have, and the share
    --share of them. Documents without a url stay as they are. More --shards need less memory. They do not change the
    output.

    Example: tigerjax data dedup site-lines --input crawl.warc.wet.gz --out runs/site_lines
    """
    from tigerjax.text.site_lines import site_line_files

    inputs = given(input, where, where.ids)
    manifest = site_line_files(inputs, out, pages=pages, share=share, shards=shards, runner=runner(where))
    show(manifest["counts"] | manifest["figures"], json)


def data_language(
    input: list[Path],
    out: Path,
    least: Share = 0.5,
    replace: bool = False,
    where: Where = LOCAL,
    json: Path | None = None,
) -> None:
    """Writes the language of documents that declare none into lang.

    It is zh-Hans, zh-Hant, en, code or another one. A document of which the language is less sure than --least is und,
    and a short one needs 0.8. How sure it is stands in meta.lang_confidence. Languages that documents declare stay;
    those that look otherwise are counted, with samples in OUT/report.html. --replace writes all of them anew.

    Example: tigerjax data language --input zh.jsonl en.jsonl --out runs/language
    """
    from tigerjax.text.identification import language_files

    inputs = given(input, where, where.ids)
    manifest = language_files(inputs, out, least=least, replace=replace, runner=runner(where))
    show(manifest["counts"] | manifest["figures"], json)


def data_quality_train(
    good: list[Path],
    bad: list[Path],
    out: Path,
    held_out: OpenShare = 0.2,
    reading: Read = READ,
    verify: bool = False,
    json: Path | None = None,
) -> None:
    """Trains a small model that tells your good texts from your bad ones.

    It is a linear model over runs of characters, for any language. What is good is yours to say: dense in knowledge,
    well written, of your field. The figures are of the share --held-out of the texts, from which it has not learnt:
    area is the chance that a good text scores above a bad one.

    Example: tigerjax data quality train --good zh_books.jsonl --bad zh.jsonl --out runs/quality
    """
    from tigerjax.text.quality import train

    manifest = train(given(good, reading), given(bad, reading), out, held_out=held_out, verify=verify)
    show(manifest["figures"], json)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScoreOptions:
    """What is made of the scores of documents."""

    least: Share = 0.0  # Documents with a smaller score are dropped
    least_of: tuple[str, ...] = ()  # In place of --least for documents of a source: SOURCE=SCORE
    power: Annotated[float, Range(0, 10, above=True)] | None = None
    """Each document's weight is multiplied by its score to this power."""
    weight_of: tuple[str, ...] = ()  # The weight of documents of a source is multiplied: SOURCE=FACTOR


def _by_source(given: Sequence[str], option: str) -> dict[str, float]:
    """{source: number} of words SOURCE=NUMBER; ConfigError for another word, or a source that is given twice."""
    made: dict[str, float] = {}
    for word in given:
        source, sign, value = word.rpartition("=")
        try:
            number = float(value)
        except ValueError:
            sign = ""
        if not sign or not source or source in made:
            raise ConfigError(f"{option} {word}: give SOURCE=NUMBER, each source once, such as web=0.4")
        made[source] = number
    return made


def data_quality_score(
    input: list[Path],
    model: str,
    out: Path,
    scores: Annotated[ScoreOptions, FLAT] = ScoreOptions(),  # frozen
    where: Where = LOCAL,
    json: Path | None = None,
) -> None:
    """Writes a score from 0 to 1 into meta.quality of each document, and drops those below --least.

    by_source, also in OUT/report.html, counts the documents of each source by their scores; --least-of sets a threshold
    for one. --power and --weight-of give each document a weight, which a source of a mixture reads (Source(passes=1)).

    --model is a folder of `tigerjax data quality train`, or MODULE:FUNCTION: your own function of a list of texts,
    which returns a score for each. De-duplication keeps the document with the highest score.

    Example: tigerjax data quality score --input runs/clean/zh.jsonl --model runs/quality --out runs/scored
    """
    from tigerjax.text.quality_scores import Use, score_files

    least_of, factors = _by_source(scores.least_of, "--least-of"), _by_source(scores.weight_of, "--weight-of")
    use = Use(least=scores.least, least_of=least_of, power=scores.power, factors=factors)
    manifest = score_files(given(input, where, where.ids), model, out, use=use, runner=runner(where))
    show(manifest["counts"] | manifest["figures"], json)
