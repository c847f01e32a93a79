"""The tasks of lm-evaluation-harness that tasks/*.yaml names, read from files. Needs the extra `eval`.

tigerbot_NAME               the thirteen benchmarks, with the code of `tigerjax evaluate`, so with the same score. They
                            compare alternatives by the mean log-probability per token of the whole text. The harness
                            has no such request; `TigerLM` answers it.
cmrc2018, c3, ocnli         benchmarks that the harness does not have, written as its own are: prompts and metrics in
                            YAML, for any of its models

Data are read from DATA_DIR/NAME, where DATA_DIR is the metadata `data_dir`. Missing is raised for absent files.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from datasets import Dataset
from lm_eval.api.instance import Instance
from lm_eval.api.task import Task

from tigerjax.errors import ConfigError
from tigerjax.evaluate import chinese, judge, suite
from tigerjax.evaluate.benchmarks import BENCHMARKS, CODE
from tigerjax.evaluate.items import Item, Turn
from tigerjax.files import paths

YAML = Path(__file__).with_name("tasks")
"""What --include_path takes."""
MEAN = "mean_logprob"
"""The request type for whole texts, a method of TigerLM."""


class TigerBotTask(Task):
    """One benchmark of tigerjax.evaluate.benchmarks, named by `benchmark` in its YAML file.

    It uses no worked examples of the harness (0 shots): they are part of the question already."""

    VERSION = 1
    OUTPUT_TYPE = MEAN

    def __init__(self, config: dict[str, Any]):
        self.name: str = config["benchmark"]
        self.benchmark = BENCHMARKS[self.name]
        self.UNSAFE_CODE = self.name == CODE
        self.allow_unconfined = bool(config.get("metadata", {}).get("allow_unconfined_code", False))
        folder = _folder(self.name, **config.get("metadata", {}))
        self.items = list(self.benchmark.read(folder))
        super().__init__()
        for key, value in {"task": config["task"], "num_fewshot": 0, "metadata": config.get("metadata")}.items():
            self.set_config(key, value)

    def download(self, data_dir: Any = None, cache_dir: Any = None, download_mode: Any = None) -> None:
        """Nothing is downloaded."""

    def has_training_docs(self) -> bool:
        return False

    def has_validation_docs(self) -> bool:
        return False

    def has_test_docs(self) -> bool:
        return True

    def test_docs(self) -> list[dict[str, Any]]:
        return [{"index": n, "id": item.id, "group": item.group} for n, item in enumerate(self.items)]

    def doc_to_text(self, doc: dict[str, Any]) -> str:
        item = self.items[doc["index"]]
        return item.prompt or item.options[0].user

    def doc_to_target(self, doc: dict[str, Any]) -> str:
        return str(self.items[doc["index"]].gold)

    def fewshot_context(self, doc: dict[str, Any], num_fewshot: int, **kwargs: Any) -> str:
        """An empty text, because `construct_requests` makes whole texts itself."""
        return ""

    def construct_requests(self, doc: dict[str, Any], ctx: str, **kwargs: Any) -> list[Instance]:
        """One request for each option, or one text to be continued; as a chat where TigerBot's evaluation used one."""
        item, metadata = self.items[doc["index"]], kwargs["metadata"]
        template = kwargs.get("chat_template") if kwargs.get("apply_chat_template") and self.benchmark.chat else None
        options: Any = {"until": list(self.benchmark.until), "max_gen_toks": self.benchmark.max_new_tokens}
        if not item.options:
            arguments = (whole_text(item, Turn(item.prompt), template), options | {"do_sample": False})
            return [Instance("generate_until", doc, arguments, 0, metadata)]
        texts = [whole_text(item, option, template) for option in item.options]
        kind: Any = MEAN
        return [Instance(kind, doc, (text,), n, metadata) for n, text in enumerate(texts)]

    def process_results(self, doc: dict[str, Any], results: list[Any]) -> dict[str, Any]:
        item = self.items[doc["index"]]
        right = (
            results.index(max(results)) == item.gold
            if item.options
            else suite.judged(self.benchmark, item, results[0], allow_unconfined=self.allow_unconfined)[1]
        )
        return {"score": {"group": item.group, "right": right}}

    def aggregation(self) -> dict[str, Callable[[list[Any]], float]]:
        """The plain mean of the groups' shares of right answers."""
        return {"score": lambda asked: suite.count(asked)["score"]}

    def higher_is_better(self) -> dict[str, bool]:
        return {"score": True}


def whole_text(item: Item, option: Turn, template: Callable[..., str] | None) -> str:
    """The worked examples and one alternative, or what is to be continued, as text."""
    if template is None:
        return suite.plain([*item.shots, option])
    return template(suite.messages(item, option.user), add_generation_prompt=True) + option.assistant


def cmrc2018(**metadata: Any) -> dict[str, Dataset]:
    return _rows(chinese.cmrc_records(_folder("cmrc", **metadata)))


def c3(**metadata: Any) -> dict[str, Dataset]:
    return _rows(chinese.c3_records(_folder("c3", **metadata)))


def ocnli(**metadata: Any) -> dict[str, Dataset]:
    return _rows(chinese.ocnli_records(_folder("ocnli", **metadata)))


def cmrc_match(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """exact_match of what follows 答案是, as tigerbot_cmrc judges it."""
    return {"exact_match": float(judge.cmrc(results[0], tuple(doc["answers"])))}


def _rows(records: Iterator[dict[str, Any]]) -> dict[str, Dataset]:
    return {"test": Dataset.from_list(list(records))}


def _folder(name: str, data_dir: str | None = None, **others: Any) -> Path:
    if data_dir is None:
        raise ConfigError(
            "the benchmarks are read from files: give --metadata data_dir=DIR (`tigerjax evaluate`: --data-dir)"
        )
    return paths.of(data_dir) / name
