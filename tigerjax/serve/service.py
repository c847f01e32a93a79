"""From a checked request to what the engine is asked, and to the writer of the answers."""

import asyncio
import dataclasses
import hashlib
import math
import secrets
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from tigerjax.config.ranges import MOST_ANSWERS
from tigerjax.errors import ConfigError, DataError, Full, Stopped
from tigerjax.files.manifest import canonical
from tigerjax.serve.asked import Ask, name_of
from tigerjax.serve.drawing import Drawing
from tigerjax.serve.engine import Engine
from tigerjax.serve.labels import Labels
from tigerjax.serve.metrics import ServerMetrics
from tigerjax.serve.refused import Refused
from tigerjax.serve.requests import ChatRequest, CompletionRequest, Sampled, ScoreRequest
from tigerjax.serve.responses import Head, Writer
from tigerjax.tokenizer.chat import encode_prompt

PROMPT_ID = "prompt_id"
"""The field of a request's `metadata` that names the prompt."""
ScoreTexts = Callable[[Sequence[Mapping[str, str]], Sequence[str]], Sequence[float]]
"""(conversation, answers to it) -> their calibrated scores; NaN for an answer that is too long."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Defaults:
    """What holds where a request says nothing, and the longest answer that it may ask for."""

    temperature: float
    top_p: float
    top_k: int
    max_new_tokens: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Served:
    """What is served, under which name."""

    name: str
    """The model's id in requests and answers."""
    sha256: str
    tokenizer: Any
    engine: Engine
    defaults: Defaults
    score: ScoreTexts | None = None
    labels: Labels | None = None
    log_prompts: bool = False


class Work(NamedTuple):
    """The answers to a request, which are being drawn."""

    drawing: Drawing
    writer: Writer
    prompt_tokens: int
    choices: int


class Service:
    """Answers checked requests."""

    def __init__(self, served: Served, metrics: ServerMetrics):
        self.served, self.metrics = served, metrics
        self._scoring = asyncio.Lock()

    def about(self) -> dict[str, Any]:
        """The model as /v1/models lists it; `tigerjax` has what the page asks for."""
        served = self.served
        more = {"context": served.engine.context, **dataclasses.asdict(served.defaults)}
        more |= {"score": served.score is not None, "labels": served.labels is not None}
        return {"id": served.name, "object": "model", "created": 0, "owned_by": "tigerjax", "tigerjax": more}

    async def chat(self, asked: ChatRequest) -> Work:
        """Starts the answers to a conversation."""
        self._check(asked)
        messages, left_out = without_empty([{"role": m.role, "content": m.content} for m in asked.messages])
        try:
            ids = await asyncio.to_thread(encode_prompt, self.served.tokenizer, messages)
        except (ConfigError, DataError) as error:
            raise Refused(400, str(error), param="messages") from None
        return self._start(asked, [(name_of(messages), ids)], chat=True, left_out=left_out)

    async def complete(self, asked: CompletionRequest) -> Work:
        """Starts the continuations of texts."""
        self._check(asked)
        prompts = asked.prompts
        # Requests begin in the order in which they came, so one that asks for too much would hold up all others.
        if len(prompts) * asked.n > MOST_ANSWERS:
            raise Refused(
                400,
                f"{len(prompts):,} prompts with n={asked.n} are {len(prompts) * asked.n:,} answers; ask for at most"
                f" {MOST_ANSWERS} in one request",
                param="prompt",
            )
        if len(prompts) > (places := self.served.engine.batching.queue):
            raise Refused(
                400,
                f"{len(prompts)} prompts, and the queue of this server has {places} places; send at most {places} in"
                " one request",
                param="prompt",
            )
        try:
            encoded = await asyncio.to_thread(lambda: [self._encode(prompt) for prompt in prompts])
        except DataError as error:
            raise Refused(400, str(error), param="prompt") from None
        identities = [hashlib.sha256(canonical(prompt)).hexdigest() for prompt in prompts]
        return self._start(asked, list(zip(identities, encoded, strict=True)), chat=False)

    async def score(self, asked: ScoreRequest) -> dict[str, Any]:
        """The reward model's scores of answers, in standard deviations of its reference set."""
        if self.served.score is None:
            raise Refused(
                404, "no reward model is served; start the server with --reward-model", code="no_reward_model"
            )
        messages = [{"role": m.role, "content": m.content} for m in asked.messages]
        try:
            async with self._scoring:  # one batch at a time: each fills the device
                scores = await asyncio.to_thread(self.served.score, messages, asked.answers)
        except (ConfigError, DataError) as error:
            raise Refused(400, str(error)) from None
        if long := [index for index, score in enumerate(scores) if not math.isfinite(score)]:
            raise Refused(400, f"answer {long[0]} and its conversation are too long for the reward model; shorten them")
        data = [{"index": index, "object": "score", "score": score} for index, score in enumerate(scores)]
        ranking = sorted(range(len(scores)), key=lambda index: -scores[index])
        return {"object": "list", "model": self.served.name, "data": data, "ranking": ranking}

    def _check(self, asked: Sampled) -> None:
        """Refused for another model, and for longer answers than the server gives."""
        if asked.model not in (None, self.served.name):
            raise Refused(
                404,
                f"model {asked.model[:100]!r} is not served; ask for {self.served.name!r}",
                param="model",
                code="model_not_found",
            )
        most = self.served.defaults.max_new_tokens
        if (asked.most_tokens or 0) > most:
            raise Refused(
                400,
                f"max_tokens={asked.most_tokens}, and this server gives at most {most} tokens; ask for fewer, or start"
                f" it with --max-new-tokens {asked.most_tokens}",
                param="max_tokens",
            )
        if asked.stream_options is not None and not asked.stream:
            raise Refused(400, "stream_options needs stream to be true", param="stream_options")

    def _encode(self, prompt: Any) -> list[int]:
        tokenizer = self.served.tokenizer
        if isinstance(prompt, str):
            return [*tokenizer.opening, *tokenizer.encode(prompt)]
        if any(i >= tokenizer.size for i in prompt):
            raise DataError(f"prompt holds id {max(prompt)}; the tokenizer has {tokenizer.size} entries, from 0")
        return list(prompt)

    def _start(
        self, asked: Sampled, prompts: Sequence[tuple[str, list[int]]], *, chat: bool, left_out: int = 0
    ) -> Work:
        """Hands the prompts to the engine; each is (its id, its tokens). The answer says how many turns were left
        out."""
        served, defaults = self.served, self.served.defaults
        context = served.engine.context
        for _, ids in prompts:
            if not ids:
                raise Refused(400, "prompt has no tokens; give some text", param="prompt")
            if len(ids) >= context:
                raise Refused(
                    400,
                    f"the prompt has {len(ids)} tokens, and prompt and answer together may have {context};"
                    " shorten the conversation",
                    param="messages" if chat else "prompt",
                    code="context_length_exceeded",
                )
        if (own := asked.metadata.get(PROMPT_ID)) is not None:
            if not own:
                raise Refused(400, f"metadata.{PROMPT_ID} is empty; give a text, or leave it out", param="metadata")
            prompts = [(own if len(prompts) == 1 else f"{own}/{k}", ids) for k, (_, ids) in enumerate(prompts)]
        seed = secrets.randbits(32) if asked.seed is None else asked.seed
        top = asked.top_tokens
        asks = [
            Ask(
                ids=tuple(ids),
                prompt_id=identity,
                n=asked.n,
                max_new_tokens=asked.most_tokens or defaults.max_new_tokens,
                temperature=_or(asked.temperature, defaults.temperature),
                top_p=_or(asked.top_p, defaults.top_p),
                top_k=_or(asked.top_k, defaults.top_k),
                seed=seed,
                top_logprobs=top or 0,
            )
            for identity, ids in prompts
        ]
        try:
            drawing = Drawing(served.engine, served.tokenizer, asks, asked.stop, first=self.metrics.first_token)
        except Full as full:
            wait = max(1, math.ceil(full.retry_after_s))
            raise Refused(429, str(full), code="queue_full", headers={"retry-after": str(wait)}) from None
        except Stopped as stopped:
            raise Refused(503, str(stopped)) from None
        counted = sum(len(ids) for _, ids in prompts)
        self.metrics.prompt(counted)
        sampling = {"seed": seed, "prompt_ids": [identity for identity, _ in prompts]}
        sampling |= {"empty_answers_left_out": left_out} if left_out else {}
        head = Head.new(served.name, f"tigerjax-{served.sha256[:12]}", chat=chat, sampling=sampling)
        return Work(drawing, Writer(head, served.tokenizer, top), counted, len(asks) * asked.n)


def without_empty(messages: list[dict[str, str]]) -> tuple[list[dict[str, str]], int]:
    """The messages without empty answers and the questions before them, and how many answers these were. Neither can
    stand in a prompt: `tigerjax chat` and the page leave both out too."""
    kept: list[dict[str, str]] = []
    for message in messages:
        if message["role"] != "assistant" or message["content"]:
            kept.append(message)
        elif kept and kept[-1]["role"] == "user":
            kept.pop()
    return kept, sum(m["role"] == "assistant" and not m["content"] for m in messages)


def _or(value: Any, default: Any) -> Any:
    return default if value is None else value
