"""A model under evaluation: log-likelihoods and greedy continuations of token ids, each computed once and then read
from a file."""

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tigerjax.checkpoint.loaded import Loaded, Quantise, load_for
from tigerjax.config import RunConfig
from tigerjax.errors import ConfigError, DataError
from tigerjax.evaluate.loglikelihood import LogLikelihoods, Tokens
from tigerjax.files import paths
from tigerjax.files.log import Log
from tigerjax.files.manifest import canonical
from tigerjax.files.progress import Advance
from tigerjax.processes import hosts
from tigerjax.sample.engine import Batching, SamplingConfig, complete


class ResultCache:
    """Results by request, appended to a JSONL file as they come, so that a restart does not compute them again.

    Keys are hashes of the request and of the model and tokenizer, so a file never answers for another model. Several
    processes compute the same results; one of them writes.
    """

    def __init__(self, path: Path | None):
        self.path = path
        self.results: dict[str, Any] = {}
        if path is None:
            return
        for number, line in enumerate(paths.whole_lines(path), 1):
            try:
                key, value = json.loads(line)
            except (ValueError, TypeError) as error:
                raise DataError(f"{path}:{number}: not a cached result ({error}); remove the file") from error
            self.results[key] = value
        hosts.barrier("cache of results is read")
        if hosts.is_writer():
            path.parent.mkdir(parents=True, exist_ok=True)

    @contextlib.contextmanager
    def adding(self) -> Iterator[Callable[[str, Any], None]]:
        """Gives the block a function (key, result) that adds a result. All are in the file when the block has ended."""
        log = Log(self.path) if self.path is not None and hosts.is_writer() else None

        def add(key: str, value: Any) -> None:
            self.results[key] = value
            if log is not None:
                log.write(json.dumps([key, value], ensure_ascii=False))

        try:
            yield add
        finally:
            if log is not None:
                log.close()


class Answerer:
    """One model under evaluation. Sequences longer than the context lose their beginning, as in TigerBot's."""

    def __init__(self, model: Loaded, *, context: int, rows: int = 8, cache: Path | None = None):
        """`context` is the longest sequence in tokens, `rows` how many are computed at once, `cache` the file of
        results."""
        self.scorer = LogLikelihoods(model, context=context, rows=rows)
        self.model = dataclasses.replace(model, weights=self.scorer.weights)
        self.tokenizer = model.tokenizer
        self.context, self.rows = context, rows
        self.cache, self.writes = ResultCache(cache), hosts.is_writer()
        facts = {"model": model.sha256, "tokenizer": model.tokenizer.sha256, "dtype": model.compute.dtype}
        self._sha256 = hashlib.sha256(canonical(facts)).hexdigest()

    def loglikelihoods(
        self, requests: Sequence[tuple[Sequence[int], int]], progress: Advance | None = None
    ) -> list[tuple[float, bool]]:
        """(sum of log-probabilities in nats, all greedy) of ids[first:], given ids before it, of each (ids, first).

        `first` counts from the beginning of ids; at least 1. Tokens before the context are cut off.
        """
        cut = [
            Tokens(tuple(ids[-self.context :]), max(1, first - max(0, len(ids) - self.context)))
            for ids, first in requests
        ]
        keys = [self._key("ll", sequence.ids, sequence.first) for sequence in cut]
        new = {key: sequence for key, sequence in zip(keys, cut, strict=True) if key not in self.cache.results}
        names = list(new)
        done = len(keys) - len(names)
        with self.cache.adding() as add:
            for n, score in self.scorer.score(list(new.values())):
                add(names[n], [score.logprob, score.greedy])
                done += 1
                if progress is not None:
                    progress(min(done, len(keys)), len(keys))
        return [(self.cache.results[key][0], self.cache.results[key][1]) for key in keys]

    def by_position(
        self, rows: Sequence[Sequence[int]], width: int, progress: Advance | None = None
    ) -> list[list[float]]:
        """For each row, the losses in nats summed over positions 1 to width - 1, width to 2 * width - 1, and so on.

        The rows have one length, which is at most the context. Position 0 has no loss, as nothing predicts it.
        """
        keys = [self._key("nats", row, width) for row in rows]
        new = {key: row for key, row in zip(keys, rows, strict=True) if key not in self.cache.results}
        done = len(keys) - len(new)
        with self.cache.adding() as add:
            for key, logprob_T in zip(new, self.scorer.each(list(new.values())), strict=True):
                cuts = range(width - 1, len(logprob_T), width)
                add(key, [-float(part.sum(dtype=np.float64)) for part in np.split(logprob_T, cuts)])
                done += 1
                if progress is not None:
                    progress(min(done, len(keys)), len(keys))
        return [self.cache.results[key] for key in keys]

    def continuations(
        self, requests: Sequence[tuple[Sequence[int], int]], progress: Advance | None = None
    ) -> list[str]:
        """Greedy continuations of each (ids, most new tokens), without the eos or marker that ended them.

        Raises ConfigError where so many new tokens do not fit the context.
        """
        keys = [self._key("gen", ids, most) for ids, most in requests]
        by_length: dict[int, dict[str, list[int]]] = {}
        for key, (ids, most) in zip(keys, requests, strict=True):
            if most >= self.context:
                raise ConfigError(f"{most} new tokens do not fit a context of {self.context}; raise data.seq_len")
            if key not in self.cache.results:
                by_length.setdefault(most, {})[key] = list(ids[-(self.context - most) :])
        done = len(keys) - sum(map(len, by_length.values()))
        with self.cache.adding() as add:
            for most, prompts in by_length.items():
                sampling = SamplingConfig(n=1, temperature=0.0, max_new_tokens=most, context=self.context, seed=0)
                asked = [{"prompt_id": key, "ids": ids} for key, ids in prompts.items()]
                batching = Batching(prompts=self.rows, rows=self.rows)
                for _, record in complete(self.model, asked, sampling, batching=batching):
                    candidate = record["candidates"][0]
                    add(record["prompt_id"], [candidate["text"], candidate["token_ids"]])
                    done += 1
                    if progress is not None:
                        progress(min(done, len(keys)), len(keys))
        return [self.cache.results[key][0] for key in keys]

    def _key(self, kind: str, ids: Sequence[int], number: int) -> str:
        return hashlib.sha256(canonical([self._sha256, kind, list(ids), number, self.context])).hexdigest()


def load_answerer(
    settings: RunConfig,
    model: Path | None,
    *,
    rows: int,
    cache: Path | None,
    quantise: Quantise | None = None,
    cache_dtype: Quantise | None = None,
    rounding_text: Path | None = None,
) -> Answerer:
    """The checkpoint `model` (None: of the run NAME) on the config's mesh, ready to answer."""
    loaded = load_for(settings, model, quantise=quantise, cache_dtype=cache_dtype, rounding_text=rounding_text)
    return Answerer(loaded, context=settings.data.seq_len, rows=rows, cache=cache)
