"""The benchmarks, asked of one model: its answers judged, counted and written down.

OUT/results.json          the figures: {tasks, mean_en, mean_zh, complete, missing, …}
OUT/items/NAME.jsonl      {id, group, right, answer}, one question per line: a comparison of two models reads these
OUT/cache.jsonl           the result of every request: a restart computes what is missing and nothing else
"""

import dataclasses
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tigerjax.config.ranges import Count, check
from tigerjax.errors import DataError
from tigerjax.evaluate import execute, judge
from tigerjax.evaluate.benchmarks import BENCHMARKS, CODE, Benchmark
from tigerjax.evaluate.items import Item, Missing, Turn
from tigerjax.files import jsonl, manifest, own
from tigerjax.files.progress import Advance, Progress
from tigerjax.terminal import tell
from tigerjax.tokenizer.chat import encode_prompt

if TYPE_CHECKING:  # a report of results needs no JAX
    from tigerjax.evaluate.answerer import Answerer

RESULTS, ITEMS, CACHE = "results.json", "items", "cache.jsonl"
MEANS = ("mean_en", "mean_zh")
NOT_ALLOWED = "its answers are programs, which are run only with --allow-code-execution"

TEST, OBJECT = "test_not_run", "object_returned"
"""Fields of a question whose program was not judged: its test cannot be run on any program; not on this one."""

GivenAnswers = list[dict[str, Any]]
"""{id, group, right, answer}, one for each question."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """How questions are asked."""

    data_dir: Path | None = None
    """The folder with the benchmarks' files."""
    chat: bool = False
    """Ask by the chat template; ours do so only where TigerBot's chat models were asked by it."""
    limit: Count | None = None
    """The first so many questions of each group only; nothing is complete then."""
    allow_code: bool = False
    """Run the programs that the model writes."""
    allow_unconfined: bool = False
    """Run them also where this machine cannot shut them in."""

    def __post_init__(self) -> None:
        check(self, "evaluation.")


def evaluate(
    answerer: "Answerer",
    tasks: Sequence[str],
    out: Path,
    config: EvaluationConfig,
    *,
    facts: dict[str, Any] | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Figures of the benchmarks `tasks`, written to OUT as they come; `facts` about the model are written beside them.

    Bad data is refused before any question is asked. A benchmark without its files is named under `missing`, and
    `complete` is then false. The processes of a run compute the answers together. One of them runs the programs that
    the model wrote, and writes the results; its figures are returned.
    """
    assert config.data_dir is not None, "the benchmarks are read from files"
    items: dict[str, list[Item]] = {}
    missing: dict[str, str] = {}
    if CODE in tasks and config.allow_code:
        execute.confined(config.allow_unconfined)
    for name in tasks:
        if name == CODE and not config.allow_code:
            missing[name] = NOT_ALLOWED
            continue
        try:
            items[name] = _limited(list(BENCHMARKS[name].read(config.data_dir / name)), config.limit)
        except Missing as absent:
            missing[name] = f"{absent} is not there"
            continue
        if not items[name]:
            raise DataError(f"{config.data_dir / name}: holds no questions of {name}; download its files again")
    if answerer.writes:
        (out / ITEMS).mkdir(parents=True, exist_ok=True)
    figures: dict[str, Any] = {"tasks": {}}
    for name, questions in items.items():
        bar = progress(name, "") if progress and answerer.writes else None
        asked = ask(answerer, BENCHMARKS[name], questions, config, bar)
        if answerer.writes:
            jsonl.write_jsonl(out / ITEMS / f"{name}.jsonl", asked)
        figures["tasks"][name] = {"metric": BENCHMARKS[name].metric, "lang": BENCHMARKS[name].lang} | count(asked)
        if not_run := figures["tasks"][name].get(TEST):
            missing[name] = f"{len(not_run)} of its tests cannot be run, and count as wrong: {', '.join(not_run)}"
        if answerer.writes:
            manifest.write_json(out / RESULTS, summary(figures, missing, config) | {"facts": facts or {}})
    whole = summary(figures, missing, config)
    if answerer.writes:
        manifest.write_json(out / RESULTS, whole | {"facts": facts or {}})
    return whole


def summary(figures: dict[str, Any], missing: dict[str, str], config: EvaluationConfig) -> dict[str, Any]:
    """The figures so far, with the means of what is complete and what is missing."""
    limit = config.limit
    return (
        figures
        | means({name: task for name, task in figures["tasks"].items() if name not in missing} if limit is None else {})
        | {"complete": not missing and limit is None, "missing": missing, "limit": limit, "chat": config.chat}
    )


def means(scores: dict[str, Any]) -> dict[str, float | None]:
    """{mean_en, mean_zh}: the mean score of the nine English and of the four Chinese benchmarks; None when one of them
    is missing."""
    out: dict[str, float | None] = {}
    for lang in ("en", "zh"):
        names = [n for n, b in BENCHMARKS.items() if b.lang == lang and b.counted]
        whole = all(n in scores for n in names)
        out[f"mean_{lang}"] = sum(scores[n]["score"] for n in names) / len(names) if whole else None
    return out


def ask(
    answerer: "Answerer",
    benchmark: Benchmark,
    items: Sequence[Item],
    config: EvaluationConfig,
    progress: Advance | None = None,
) -> GivenAnswers:
    """{id, group, right, answer} of every item; `answer` is the number of the chosen option, or the generated text."""
    by_template = config.chat and benchmark.chat
    out: GivenAnswers = []
    if benchmark.mode == "options":
        texts = [option_ids(answerer.tokenizer, i, o, by_template) for i in items for o in i.options]
        scores = iter(mean_logprobs(answerer, texts, progress))
        for item in items:
            each = [next(scores) for _ in item.options]
            chosen = each.index(max(each))
            out.append({"id": item.id, "group": item.group, "right": chosen == item.gold, "answer": chosen})
        return out
    wanted = [(prompt_ids(answerer.tokenizer, i, by_template), benchmark.max_new_tokens) for i in items]
    for item, text in zip(items, answerer.continuations(wanted, progress), strict=True):
        text, right, why = judged(
            benchmark, item, text, run_code=answerer.writes, allow_unconfined=config.allow_unconfined
        )
        out.append({"id": item.id, "group": item.group, "right": right, "answer": text} | why)
    return out


def mean_logprobs(answerer: "Answerer", texts: Sequence[Sequence[int]], progress: Advance | None = None) -> list[float]:
    """The mean log-probability per token, in nats, of whole texts, given as ids.

    As in OpenCompass's get_ppl, the mean is over all tokens, although nothing predicts the first one."""
    scores = answerer.loglikelihoods([(ids, 1) for ids in texts], progress)
    return [total / min(len(ids), answerer.context) for ids, (total, _) in zip(texts, scores, strict=True)]


def judged(
    benchmark: Benchmark, item: Item, text: str, *, run_code: bool = True, allow_unconfined: bool = False
) -> tuple[str, bool, dict[str, str]]:
    """(the text up to the first string that ends an answer of this benchmark, whether it is right, why not judged).

    A program is right when its test passes; without `run_code` it is not run and counts as wrong. So does one whose
    test cannot be run: the third value then has the reason, under TEST or OBJECT, and a line on standard error says it.
    """
    for end in benchmark.until:
        text = text.split(end)[0]
    if benchmark is not BENCHMARKS[CODE]:
        return text, benchmark.judge(text, item.gold), {}
    program = execute.GeneratedCode(text=judge.code_of(item.gold["prompt"], text), **item.gold)
    try:
        return text, run_code and execute.passes(program, allow_unconfined=allow_unconfined), {}
    except execute.NotJudged as error:
        tell(f"{CODE} {item.id}: counted as wrong without being judged: {error}")
        return text, False, {TEST if error.test else OBJECT: str(error)}


def option_ids(tokenizer: Any, item: Item, option: Turn, by_template: bool) -> list[int]:
    """Token ids of one whole alternative, after its worked examples. Without bos, as in TigerBot's evaluation; a
    tokenizer of Hugging Face may put it before every text."""
    if not by_template:
        return [*tokenizer.opening, *tokenizer.encode(plain([*item.shots, option]))]
    ids = encode_prompt(tokenizer, messages(item, option.user))
    return [*ids, *tokenizer.encode(option.assistant)] if option.assistant else ids


def prompt_ids(tokenizer: Any, item: Item, by_template: bool) -> list[int]:
    """Token ids of the prompt that the model continues."""
    if by_template:
        return encode_prompt(tokenizer, messages(item, item.prompt))
    return [*tokenizer.opening, *tokenizer.encode(plain([*item.shots, Turn(item.prompt)]))]


def plain(turns: Iterable[Turn]) -> str:
    """The turns as text for a model without a chat template."""
    return "\n".join(text for turn in turns for text in turn if text)


def messages(item: Item, last: str) -> list[dict[str, str]]:
    """The item's worked examples as turns, and the last question."""
    turns: list[dict[str, str]] = []
    for shot in item.shots:
        turns += [{"role": "user", "content": shot.user}, {"role": "assistant", "content": shot.assistant}]
    return [*turns, {"role": "user", "content": last}]


def count(asked: GivenAnswers) -> dict[str, Any]:
    """{score, stderr, n, groups}: the plain mean of the groups' shares of right answers, and its standard error."""
    groups: dict[str, list[bool]] = {}
    for answer in asked:
        groups.setdefault(answer["group"], []).append(answer["right"])
    shares = {name: sum(rights) / len(rights) for name, rights in groups.items()}
    variance = sum(shares[g] * (1 - shares[g]) / max(1, len(r) - 1) for g, r in groups.items()) / len(groups) ** 2
    figures: dict[str, Any] = {
        "score": sum(shares.values()) / len(shares),
        "stderr": math.sqrt(variance),
        "n": len(asked),
    }
    unknown = {why: [a["id"] for a in asked if why in a] for why in (TEST, OBJECT)}
    return figures | {why: ids for why, ids in unknown.items() if ids} | ({"groups": shares} if len(groups) > 1 else {})


def read_results(folder: Path) -> dict[str, Any]:
    """results.json of an evaluation folder.

    Raises DataError where there are none, or where they are damaged.
    """
    path = folder / RESULTS
    if not path.is_file():
        raise DataError(f"{path}: not there; `tigerjax evaluate CONFIG --tasks … --out {folder}` writes it")
    results = own.read_object(path, "evaluate again")
    with own.fields(path, "evaluate again"):
        for name, figures in results["tasks"].items():
            if Path(name).name != name or not isinstance(figures["score"], int | float):
                raise ValueError(f"the score of {name!r} is {figures['score']!r}")
        if wrong := [results[mean] for mean in MEANS if not isinstance(results[mean], int | float | None)]:
            raise ValueError(f"a mean is {wrong[0]!r}")
    return results


def read_items(folder: Path, name: str) -> GivenAnswers:
    """items/NAME.jsonl of an evaluation folder. DataError where it is not there or damaged."""
    path = folder / ITEMS / f"{name}.jsonl"
    if not path.is_file():
        raise DataError(f"{path}: not there; evaluate again")
    items = []
    for number, item in jsonl.read_jsonl(path):
        if not all(isinstance(item.get(part), kind) for part, kind in (("id", str), ("group", str), ("right", bool))):
            raise DataError(f"{path}:{number}: needs id, group and right as an evaluation writes them; evaluate again")
        items.append(item)
    return items


def _limited(items: list[Item], limit: int | None) -> list[Item]:
    seen: dict[str, int] = {}
    out = []
    for item in items:
        seen[item.group] = seen.get(item.group, 0) + 1
        if limit is None or seen[item.group] <= limit:
            out.append(item)
    return out
