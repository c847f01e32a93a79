"""What is asked of the engine, what it gives back, and how much it takes at once."""

import dataclasses
import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, NamedTuple

from jax.sharding import Mesh

from tigerjax import mesh as mesh_axes
from tigerjax.checkpoint.loaded import Loaded
from tigerjax.config.ranges import Count, CountOrZero, PositiveShare, Range, Seed, check
from tigerjax.errors import ConfigError
from tigerjax.files import manifest
from tigerjax.sample.engine import Temperature

TOP = 20
"""The most probable tokens that can be reported: as many as OpenAI's API reports."""
LONGEST = 4096
"""The context where nothing else is asked for: that of Llama-2. Every slot has room for it."""
STOPS = 16
"""The most ids that an Ask may add to those that end every answer."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Ask:
    """One request: a prompt, and how its answers are drawn.

    An answer depends on the model and on what stands here, and on nothing else that is answered at the same time. It is
    that of `tigerjax sample` for the same settings, seed and prompt id, in round 0.
    """

    ids: tuple[CountOrZero, ...]
    """The prompt, as `tigerjax.tokenizer.chat.encode_prompt` gives it."""
    prompt_id: str
    """With the seed and the number of the answer it names the stream of random numbers (`tigerjax.sample.choose`)."""
    n: Count = 1
    """Answers."""
    max_new_tokens: Count
    temperature: Temperature
    """0 is greedy."""
    top_p: PositiveShare
    top_k: CountOrZero
    """0 is off."""
    seed: Seed
    stop_ids: tuple[CountOrZero, ...] = ()
    """Ids that end an answer beside those of the tokenizer; at most STOPS."""
    top_logprobs: Annotated[int, Range(0, TOP)] = 0
    """The most probable tokens that are reported beside each drawn one."""

    def __post_init__(self) -> None:
        check(self, "request ")
        if len(self.stop_ids) > STOPS:
            raise ConfigError(f"request has {len(self.stop_ids)} stop_ids; needs at most {STOPS}")


def name_of(messages: Sequence[Mapping[str, Any]]) -> str:
    """The prompt_id of a conversation that has no other: the sha256 of its messages."""
    return hashlib.sha256(manifest.canonical(list(messages))).hexdigest()


class AnswerPiece(NamedTuple):
    """What is new of one answer."""

    answer: int
    """Its number, from 0 to n - 1."""
    ids: list[int]
    """The tokens since the answer's last piece, without the one that ended it."""
    logprobs: list[float]
    """One for each id: in nats, at temperature 1, nothing truncated."""
    top: list[list[tuple[int, float]]]
    """For each id the most probable tokens, as many as were asked for, the first the most probable."""
    finish: str | None
    """None: more is to come. Else why nothing more comes: stop, length, marker, cancelled or failed."""


Deliver = Callable[[AnswerPiece], None]
"""Called in the engine's thread, so it must return at once. What it raises cancels the request."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ServeBatching:
    """How much the engine takes at once. Its memory and its shapes follow from these numbers."""

    slots: Count = 16
    """Answers that are decoded side by side."""
    context: Annotated[int, Range(2, 2**24)] | None = None
    """Tokens that a prompt and its answer may fill together. None: what the model reads, and 4096 at most."""
    queue: Count = 256
    """Requests that may wait for a slot; one more is refused."""
    kept_mb: Annotated[float, Range(0, 1e6)] = 512.0
    """Megabytes for keys and values of prompts and answers that were read before: what begins alike is read once."""
    chunk: Annotated[int, Range(8, 8192)] = 64
    """Tokens of a prompt that are read at a time. Answers that are being decoded wait for so many."""

    def __post_init__(self) -> None:
        check(self, "batching.")

    def context_of(self, model: Loaded) -> int:
        """The context for this model."""
        return self.context or min(model.reach or LONGEST, LONGEST)

    def slots_on(self, mesh: Mesh | None) -> int:
        """The slots, rounded up to a multiple of the devices of `mesh` that share rows."""
        ways = mesh_axes.row_ways(mesh)
        return -(-self.slots // ways) * ways
