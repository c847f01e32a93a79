"""Checkable questions put to a model while it trains: with the run's own weights, on its own devices.

The sampler computes with the weights in `compute.dtype`, so while it answers, the devices hold them in that type beside
the state of training; in float32 they are the same arrays. Answers are greedy, so the same weights always give the same
figures.
"""

import dataclasses
import hashlib
from collections.abc import Callable, Sequence
from typing import Any

from jax.sharding import Mesh

from tigerjax.config import RunConfig
from tigerjax.errors import ConfigError
from tigerjax.evaluate import questions
from tigerjax.evaluate.questions import Question
from tigerjax.files import manifest
from tigerjax.processes import hosts
from tigerjax.sample import encoding
from tigerjax.sample.engine import Batching, SamplingConfig, complete
from tigerjax.sample.in_training import in_training
from tigerjax.tokenizer.load import Tokenizer

ROWS = 64
"""Questions that are answered at one time, over all devices [our choice]."""


class Asked:
    """The questions of `eval.questions`. Calling it answers them and gives their figures."""

    def __init__(self, config: RunConfig):
        """ConfigError for a pipeline in rounds; DataError for a file of questions that cannot be read."""
        if config.pipeline.rounds > 1:
            raise ConfigError(
                f"pipeline.rounds={config.pipeline.rounds}: the layers lie in another order than the sampler reads; set"
                " pipeline.rounds=1, or leave eval.questions out"
            )
        self._config = config
        self._tokenizer = Tokenizer(config.data.tokenizer)
        given = config.eval.named("questions")
        self._sets = {name: [q for path in files for q in questions.load(path)] for name, files in given.items()}
        self.names = [name for set_name, asked in self._sets.items() for name in _names(set_name, asked)]
        """Of the figures, such as `capitals/accuracy` and `capitals/lang/zh/accuracy`."""
        self.sha256 = {name: _sha256(asked) for name, asked in self._sets.items()}
        self._sampling = SamplingConfig(
            n=1,
            temperature=0.0,
            max_new_tokens=config.eval.max_new_tokens,
            context=config.data.seq_len,
            seed=config.seed,
            chat=config.eval.chat,
        )
        for name, asked in self._sets.items():
            self._say_overlong(name, asked)

    def _say_overlong(self, name: str, asked: Sequence[Question]) -> None:
        c = self._sampling
        encoded = encoding.encode(self._tokenizer, questions.prompts(asked), c.chat)
        if long := sum(len(one.ids) + c.min_new_tokens > c.context for one in encoded):
            hosts.say(
                f"tigerjax: note: eval.questions {name}: {long} of {len(asked)} questions leave no room for an answer"
                f" in data.seq_len={c.context} tokens and count as not right; raise data.seq_len, or leave them out"
            )

    def __call__(self, weights: Any, mesh: Mesh, stop: Callable[[], bool]) -> dict[str, Any] | None:
        """{name: {accuracy, right, n, by_lang, by_task}}; None where `stop` said so.

        Alone, `stop` is asked before each answer; several hosts would not all stop at the same one, so they ask it
        before the first question only."""
        if stop():
            return None
        found = {}
        model = in_training(self._config, weights, mesh, self._tokenizer)
        batching = Batching(rows=ROWS).for_mesh(model.mesh)
        for name, asked in self._sets.items():
            texts: dict[str, str] = {}
            for _, record in complete(model, questions.prompts(asked), self._sampling, batching=batching):
                hosts.at(f"answering {name}, question {len(texts) + 1} of {len(asked)}")
                if not hosts.several() and stop():
                    return None
                answers = record["candidates"]  # none where the question is longer than a row: that is not right
                texts[record["prompt_id"]] = answers[0]["text"] if answers else ""
            scored = questions.accuracy(asked, texts)
            found[name] = {"accuracy": scored["overall"]} | {k: scored[k] for k in ("right", "n", "by_lang", "by_task")}
        return found


def asked(config: RunConfig) -> Asked | None:
    """The questions of a config; None where it has none."""
    return Asked(config) if config.eval.questions else None


def _names(name: str, given: Sequence[Question]) -> list[str]:
    tables = {"lang": {q.lang for q in given}, "task": {q.task for q in given}}
    inner = [f"{name}/{word}/{value}/accuracy" for word, values in tables.items() for value in sorted(values)]
    return [f"{name}/accuracy", *inner]


def _sha256(given: Sequence[Question]) -> str:
    return hashlib.sha256(manifest.canonical([dataclasses.asdict(q) for q in given])).hexdigest()
