"""Benchmarks on one model: asked, judged, counted, kept.

OUT/results.json          the figures: {tasks, mean_en, mean_zh, complete, missing, …}
OUT/items/NAME.jsonl      {id, group, right, said}, one question a line: what a comparison pairs
OUT/cache.jsonl           every request's result: a restart computes what is missing and nothing else
"""

import json
import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tigerjax.errors import DataError
from tigerjax.evaluate import execute, judge
from tigerjax.evaluate.benchmarks import BENCHMARKS, CODE, Benchmark
from tigerjax.evaluate.items import Item, Missing, Turn
from tigerjax.files import jsonl, manifest
from tigerjax.tokenizer.chat import encode_prompt

if TYPE_CHECKING:  # a report of results needs no JAX
    from tigerjax.evaluate.model import Answerer

RESULTS, ITEMS, CACHE = "results.json", "items", "cache.jsonl"
NOT_ALLOWED = "its answers are programs, which are run only with --allow-code-execution"

Asked = list[dict[str, Any]]
Progress = Callable[[int, int], None]


def evaluate(
    answerer: "Answerer",
    tasks: Sequence[str],
    data_dir: Path,
    out: Path,
    *,
    chat: bool,
    allow_code: bool = False,
    limit: int | None = None,
    facts: dict[str, Any] | None = None,
    progress: Callable[[str], Progress] | None = None,
) -> dict[str, Any]:
    """Figures of the benchmarks `tasks`, written to OUT as they come. Bad data is refused before any question is asked.

    `chat` asks by the chat template the benchmarks that TigerBot's chat models were asked by it. A benchmark whose
    files are not in `data_dir` is named under `missing`; then, and with `limit` (questions a group), nothing is
    complete. Several processes ask as one, and one writes: its figures count (no other runs the model's programs).
    """
    items: dict[str, list[Item]] = {}
    missing: dict[str, str] = {}
    for name in tasks:
        if name == CODE and not allow_code:
            missing[name] = NOT_ALLOWED
            continue
        try:
            items[name] = _limited(list(BENCHMARKS[name].read(data_dir / name)), limit)
        except Missing as absent:
            missing[name] = f"{absent} is not there"
            continue
        if not items[name]:
            raise DataError(f"{data_dir / name}: holds no questions of {name}")
    if answerer.writes:
        (out / ITEMS).mkdir(parents=True, exist_ok=True)
    figures: dict[str, Any] = {"tasks": {}}
    for name, questions in items.items():
        bar = progress(name) if progress and answerer.writes else None
        asked = ask(answerer, BENCHMARKS[name], questions, chat=chat, progress=bar)
        if answerer.writes:
            jsonl.write_jsonl(out / ITEMS / f"{name}.jsonl", asked)
        figures["tasks"][name] = {"metric": BENCHMARKS[name].metric, "lang": BENCHMARKS[name].lang} | count(asked)
        keep(out, figures, missing, limit, chat, facts, write=answerer.writes)
    return keep(out, figures, missing, limit, chat, facts, write=answerer.writes)


def keep(
    out: Path,
    figures: dict[str, Any],
    missing: dict[str, str],
    limit: int | None,
    chat: bool,
    facts: Any,
    *,
    write: bool,
) -> dict[str, Any]:
    """The results so far, with the means of what is whole; written, if this process is the one that writes."""
    scores = figures["tasks"]
    whole = figures | means(scores if limit is None else {})
    whole |= {"complete": not missing and limit is None, "missing": missing, "limit": limit, "chat": chat}
    if write:
        manifest.write_json(out / RESULTS, whole | {"facts": facts or {}})
    return whole


def means(scores: dict[str, Any]) -> dict[str, float | None]:
    """mean_en of the nine and mean_zh of the four, plain means of scores; None while one of them is missing."""
    found: dict[str, float | None] = {}
    for lang in ("en", "zh"):
        names = [n for n, b in BENCHMARKS.items() if b.lang == lang and b.counted]
        whole = all(n in scores for n in names)
        found[f"mean_{lang}"] = sum(scores[n]["score"] for n in names) / len(names) if whole else None
    return found


def ask(
    answerer: "Answerer", benchmark: Benchmark, items: Sequence[Item], *, chat: bool, progress: Progress | None = None
) -> Asked:
    """{id, group, right, said} of every item; `said` is the option's number or the generated text."""
    by_template = chat and benchmark.chat
    out: Asked = []
    if benchmark.mode == "options":
        texts = [option_ids(answerer.tokenizer, i, o, by_template) for i in items for o in i.options]
        scores = iter(mean_logprobs(answerer, texts, progress))
        for item in items:
            each = [next(scores) for _ in item.options]
            said = each.index(max(each))
            out.append({"id": item.id, "group": item.group, "right": said == item.gold, "said": said})
        return out
    wanted = [(prompt_ids(answerer.tokenizer, i, by_template), benchmark.max_new_tokens) for i in items]
    for item, text in zip(items, answerer.continuations(wanted, progress), strict=True):
        text, right = judged(benchmark, item, text, run_code=answerer.writes)
        out.append({"id": item.id, "group": item.group, "right": right, "said": text})
    return out


def mean_logprobs(
    answerer: "Answerer", texts: Sequence[Sequence[int]], progress: Progress | None = None
) -> list[float]:
    """The mean log-probability a token, in nats, of whole texts as ids. OpenCompass's get_ppl: nothing predicts the
    first token, and it is counted."""
    scores = answerer.loglikelihoods([(ids, 1) for ids in texts], progress)
    return [total / min(len(ids), answerer.context) for ids, (total, _) in zip(texts, scores, strict=True)]


def judged(benchmark: Benchmark, item: Item, text: str, *, run_code: bool = True) -> tuple[str, bool]:
    """What was said up to the benchmark's first end, and whether it is right; a program is run, or counts as wrong."""
    for end in benchmark.until:
        text = text.split(end)[0]
    if benchmark is not BENCHMARKS[CODE]:
        return text, benchmark.judge(text, item.gold)
    program = judge.code_of(item.gold["prompt"], text)
    return text, run_code and execute.passes(program + f"{item.gold['test']}\ncheck({item.gold['entry_point']})\n")


def option_ids(tokenizer: Any, item: Item, option: Turn, by_template: bool) -> list[int]:
    """Token ids of one whole alternative, its worked examples before it; no bos, as TigerBot's evaluation."""
    if not by_template:
        return tokenizer.encode(plain([*item.shots, option]))
    ids = encode_prompt(tokenizer, messages(item, option.user))
    return [*ids, *tokenizer.encode(option.assistant)] if option.assistant else ids


def prompt_ids(tokenizer: Any, item: Item, by_template: bool) -> list[int]:
    """Token ids of what is to be continued."""
    if by_template:
        return encode_prompt(tokenizer, messages(item, item.prompt))
    return tokenizer.encode(plain([*item.shots, Turn(item.prompt)]))


def plain(turns: Iterable[Turn]) -> str:
    """The text of a model without a template."""
    return "\n".join(text for turn in turns for text in turn if text)


def messages(item: Item, last: str) -> list[dict[str, str]]:
    """The item's worked examples as turns, and the last question."""
    turns: list[dict[str, str]] = []
    for shot in item.shots:
        turns += [{"role": "user", "content": shot.user}, {"role": "assistant", "content": shot.assistant}]
    return [*turns, {"role": "user", "content": last}]


def count(asked: Asked) -> dict[str, Any]:
    """{score, stderr, n, groups}: the plain mean of the groups' shares of right answers, and its standard error."""
    groups: dict[str, list[bool]] = {}
    for answer in asked:
        groups.setdefault(answer["group"], []).append(answer["right"])
    shares = {name: sum(rights) / len(rights) for name, rights in groups.items()}
    variance = sum(shares[g] * (1 - shares[g]) / max(1, len(r) - 1) for g, r in groups.items()) / len(groups) ** 2
    found = {"score": sum(shares.values()) / len(shares), "stderr": math.sqrt(variance), "n": len(asked)}
    return found | ({"groups": shares} if len(groups) > 1 else {})


def read_results(folder: Path) -> dict[str, Any]:
    """results.json of an evaluation folder."""
    path = folder / RESULTS
    if not path.is_file():
        raise DataError(f"{path}: not there; `tigerjax evaluate CONFIG --tasks … --out {folder}` writes it")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{path}: not JSON ({error}); evaluate again") from error


def _limited(items: list[Item], limit: int | None) -> list[Item]:
    seen: dict[str, int] = {}
    out = []
    for item in items:
        seen[item.group] = seen.get(item.group, 0) + 1
        if limit is None or seen[item.group] <= limit:
            out.append(item)
    return out
