"""A model that answers: log-likelihoods and greedy continuations of ids, each computed once and kept in a file."""

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from jax.sharding import Mesh

from tigerjax.checkpoint.model import Model
from tigerjax.checkpoint.stored import load_placed
from tigerjax.config import ComputeConfig, ModelConfig, RunConfig
from tigerjax.errors import ConfigError, DataError
from tigerjax.evaluate.loglikelihood import Scorer, Tokens
from tigerjax.files import paths
from tigerjax.files.log import Log
from tigerjax.files.manifest import canonical
from tigerjax.mesh import mesh_of_several
from tigerjax.model import families
from tigerjax.processes import hosts
from tigerjax.sample.engine import SamplingConfig, complete
from tigerjax.tokenizer.load import Tokenizer

Progress = Callable[[int, int], None]


class Cache:
    """Results by request, appended to a JSONL file as they come: what was computed is not computed again.

    A key holds the model's and tokenizer's sha256, so a file never answers for another model. Of several processes,
    which compute the same, one writes.
    """

    def __init__(self, path: Path | None):
        self.path = path
        self.found: dict[str, Any] = {}
        if path is None:
            return
        for number, line in enumerate(paths.whole_lines(path), 1):
            try:
                key, value = json.loads(line)
            except (ValueError, TypeError) as error:
                raise DataError(f"{path}:{number}: not a cached result ({error}); remove the file") from error
            self.found[key] = value
        hosts.barrier("cache of results is read")
        if hosts.is_writer():
            path.parent.mkdir(parents=True, exist_ok=True)

    @contextlib.contextmanager
    def adding(self) -> Iterator[Callable[[str, Any], None]]:
        """A function that adds the result of a key; all are in the file when the block ends, however it ends."""
        log = Log(self.path) if self.path is not None and hosts.is_writer() else None

        def add(key: str, value: Any) -> None:
            self.found[key] = value
            if log is not None:
                log.write(json.dumps([key, value], ensure_ascii=False))

        try:
            yield add
        finally:
            if log is not None:
                log.close()


class Answerer:
    """One model under evaluation. Sequences longer than the context lose their beginning, as TigerBot's did."""

    def __init__(
        self,
        config: ModelConfig,
        weights: Any,
        tokenizer: Any,
        compute: ComputeConfig,
        *,
        model_sha256: str,
        context: int,
        rows: int = 8,
        mesh: Mesh | None = None,
        cache: Path | None = None,
    ):
        if tokenizer.size > config.vocab_size:
            raise ConfigError(
                f"tokenizer {tokenizer.folder} has {tokenizer.size} entries, the model {config.vocab_size}; give its"
                " own"
            )
        self.scorer = Scorer(config, weights, compute, context=context, rows=rows, mesh=mesh)
        self.config, self.tokenizer, self.compute, self.mesh = config, tokenizer, compute, mesh
        self.context, self.rows = context, rows
        self.cache, self.writes = Cache(cache), hosts.is_writer()
        facts = {"model": model_sha256, "tokenizer": tokenizer.sha256, "dtype": compute.dtype}
        self._model = hashlib.sha256(canonical(facts)).hexdigest()

    def loglikelihoods(
        self, requests: Sequence[tuple[Sequence[int], int]], progress: Progress | None = None
    ) -> list[tuple[float, bool]]:
        """(sum of log-probabilities in nats, all greedy) of ids[first:], given ids before it, of each (ids, first).

        `first` counts from the beginning of ids; at least 1. Tokens before the context are cut off.
        """
        cut = [
            Tokens(tuple(ids[-self.context :]), max(1, first - max(0, len(ids) - self.context)))
            for ids, first in requests
        ]
        keys = [self._key("ll", sequence.ids, sequence.first) for sequence in cut]
        new = {key: sequence for key, sequence in zip(keys, cut, strict=True) if key not in self.cache.found}
        names = list(new)
        done = len(keys) - len(names)
        with self.cache.adding() as add:
            for n, score in self.scorer.score(list(new.values())):
                add(names[n], [score.logprob, score.greedy])
                done += 1
                if progress is not None:
                    progress(min(done, len(keys)), len(keys))
        return [(self.cache.found[key][0], self.cache.found[key][1]) for key in keys]

    def continuations(
        self, requests: Sequence[tuple[Sequence[int], int]], progress: Progress | None = None
    ) -> list[str]:
        """Greedy continuations of each (ids, most new tokens), without the eos or marker that ended them."""
        keys = [self._key("gen", ids, most) for ids, most in requests]
        by_length: dict[int, dict[str, list[int]]] = {}
        for key, (ids, most) in zip(keys, requests, strict=True):
            if most >= self.context:
                raise ConfigError(f"{most} new tokens do not fit a context of {self.context}; raise data.seq_len")
            if key not in self.cache.found:
                by_length.setdefault(most, {})[key] = list(ids[-(self.context - most) :])
        done = len(keys) - sum(map(len, by_length.values()))
        with self.cache.adding() as add:
            for most, prompts in by_length.items():
                for _, record in complete(
                    (self.config, self.scorer.weights),
                    self.tokenizer,
                    [{"prompt_id": key, "ids": ids} for key, ids in prompts.items()],
                    SamplingConfig(n=1, temperature=0.0, max_new_tokens=most, context=self.context),
                    seed=0,
                    round=0,
                    model_sha=self._model,
                    chat=True,
                    batch_prompts=self.rows,
                    batch_rows=self.rows,
                    compute=self.compute,
                    mesh=self.mesh,
                    stats=None,
                ):
                    candidate = record["candidates"][0]
                    add(record["prompt_id"], [candidate["text"], candidate["token_ids"]])
                    done += 1
                    if progress is not None:
                        progress(min(done, len(keys)), len(keys))
        return [self.cache.found[key][0] for key in keys]

    def _key(self, kind: str, ids: Sequence[int], number: int) -> str:
        return hashlib.sha256(canonical([self._model, kind, list(ids), number, self.context])).hexdigest()


def load_answerer(settings: RunConfig, model: Path | None, *, rows: int, cache: Path | None) -> tuple[Answerer, Model]:
    """The checkpoint `model`, else the one of the run NAME, on the config's mesh; and what was loaded."""
    mesh, tokenizer = mesh_of_several(settings), Tokenizer(settings.data.tokenizer)
    loaded = load_placed(model or Path("runs") / settings.name, mesh, settings.compute.dtype)
    if families.is_reward(loaded.kind) or loaded.tokenizer_sha256 not in (None, tokenizer.sha256):
        raise ConfigError(
            f"{model or settings.name} is a {loaded.kind} checkpoint, perhaps of another tokenizer than"
            f" {settings.data.tokenizer}; evaluate takes a language model with its own tokenizer (data.tokenizer)"
        )
    answerer = Answerer(
        loaded.config,
        loaded.weights,
        tokenizer,
        settings.compute,
        model_sha256=loaded.sha256,
        context=settings.data.seq_len,
        rows=rows,
        mesh=mesh,
        cache=cache,
    )
    return answerer, loaded
