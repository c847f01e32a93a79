"""TigerBot's thirteen benchmarks (9 English, 4 Chinese): how each is read, asked and judged; and CMMLU."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tigerjax.errors import ConfigError, near_miss
from tigerjax.evaluate import chinese, english, judge
from tigerjax.evaluate.items import Item


@dataclass(frozen=True, kw_only=True, slots=True)
class Benchmark:
    """One benchmark. Mode `options` chooses the alternative whose whole text has the highest mean log-probability, as
    OpenCompass's PPLInferencer does; mode `generate` continues the prompt greedily."""

    lang: Literal["en", "zh"]
    mode: Literal["options", "generate"]
    metric: str
    read: Callable[[Path], Iterator[Item]]
    chat: bool
    """Whether a chat model is asked by its template; TigerBot asks four of them without."""
    judge: Callable[[str, Any], bool] = judge.never
    max_new_tokens: int = 0
    until: tuple[str, ...] = ()
    """Texts that end an answer."""
    counted: bool = True
    """Whether it is one of the thirteen, and so in a mean."""


BENCHMARKS: dict[str, Benchmark] = {
    "humaneval": Benchmark(
        lang="en", mode="generate", metric="pass@1", read=english.humaneval, chat=False, max_new_tokens=512
    ),
    "piqa": Benchmark(lang="en", mode="options", metric="acc", read=english.piqa, chat=True),
    "siqa": Benchmark(lang="en", mode="options", metric="acc", read=english.siqa, chat=True),
    "hellaswag": Benchmark(lang="en", mode="options", metric="acc", read=english.hellaswag, chat=False),
    "winogrande": Benchmark(lang="en", mode="options", metric="acc", read=english.winogrande, chat=False),
    "openbookqa": Benchmark(
        lang="en",
        mode="generate",
        metric="acc",
        read=english.openbookqa,
        chat=False,
        judge=judge.first_capital,
        max_new_tokens=16,
    ),
    "boolq": Benchmark(lang="en", mode="options", metric="acc", read=english.boolq, chat=True),
    "gsm8k": Benchmark(
        lang="en",
        mode="generate",
        metric="EM",
        read=english.gsm8k,
        chat=True,
        judge=judge.gsm8k,
        max_new_tokens=512,
        until=("Question:",),
    ),
    "mmlu": Benchmark(lang="en", mode="options", metric="acc", read=english.mmlu, chat=True),
    "cmrc": Benchmark(
        lang="zh", mode="generate", metric="EM", read=chinese.cmrc, chat=True, judge=judge.cmrc, max_new_tokens=50
    ),
    "c3": Benchmark(lang="zh", mode="options", metric="acc", read=chinese.c3, chat=True),
    "ocnli": Benchmark(lang="zh", mode="options", metric="acc", read=chinese.ocnli, chat=True),
    "ceval": Benchmark(lang="zh", mode="options", metric="acc", read=chinese.ceval, chat=True),
    "cmmlu": Benchmark(lang="zh", mode="options", metric="acc", read=chinese.cmmlu, chat=True, counted=False),
}
CODE = "humaneval"
"""The benchmark whose answers are programs, which are run."""
GROUPS = {
    "all": [n for n, b in BENCHMARKS.items() if b.counted],
    "en": [n for n, b in BENCHMARKS.items() if b.counted and b.lang == "en"],
    "zh": [n for n, b in BENCHMARKS.items() if b.counted and b.lang == "zh"],
}


def chosen(tasks: list[str]) -> list[str]:
    """Names of benchmarks in the table's order; "all" is the thirteen, "en" and "zh" their halves.

    Raises ConfigError for a name that is no benchmark, with the near one.
    """
    names: set[str] = set()
    for task in tasks:
        if task not in BENCHMARKS and task not in GROUPS:
            known = ", ".join([*GROUPS, *BENCHMARKS])
            raise ConfigError(
                f"no benchmark {task!r}{near_miss(task, [*GROUPS, *BENCHMARKS])}; there are {known}, and --harness for"
                " lm-evaluation-harness's own"
            )
        names |= set(GROUPS.get(task, [task]))
    return [name for name in BENCHMARKS if name in names]
