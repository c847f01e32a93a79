"""The requests that the server takes, and which fields of OpenAI's are refused by name.

A field that would change the answer and is not done here is an error. It is never passed over: the client would take
the answer for something that it is not.
"""

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from tigerjax.config.ranges import INT32, MOST_ANSWERS
from tigerjax.errors import near_miss
from tigerjax.files import foreign
from tigerjax.files.jsonl import fault
from tigerjax.files.manifest import canonical
from tigerjax.records.dialogue import SYSTEM, joined_parts
from tigerjax.serve.refused import Refused

MOST_STOPS, MOST_TOP = 16, 20
"""Of one request: stop strings, and most probable tokens beside each drawn one."""
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
"""The names of the answers that a label is about; so it has no more of them."""
MOST_CANDIDATES = len(LETTERS)
NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "audio": (),
    "best_of": (1,),
    "echo": (False,),
    "frequency_penalty": (0,),
    "function_call": ("none", "auto"),
    "functions": ([],),
    "logit_bias": ({},),
    "modalities": (["text"],),
    "parallel_tool_calls": (True, False),
    "prediction": (),
    "presence_penalty": (0,),
    "reasoning_effort": ("none",),
    "response_format": ({"type": "text"},),
    "service_tier": ("auto", "default"),
    "store": (False,),
    "suffix": ("",),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
    "verbosity": (),
    "web_search_options": (),
}
"""Fields of OpenAI's that are not done here, each with the values that ask for nothing."""

Body = TypeVar("Body", bound=BaseModel)


def _text(content: Any) -> Any:
    """The text of a content, which may be a list of parts, or nothing; ValueError for a part that is no text."""
    if content is None or (isinstance(content, list) and not content):
        return ""
    joined = joined_parts(content)
    if isinstance(joined, list):
        kinds = [part.get("type") if isinstance(part, dict) else None for part in joined]
        other = next((kind for kind in kinds if kind != "text"), "text")
        raise ValueError(f"a content holds a part of type {foreign.shown(other)}, and only text is read")
    return joined


def _listed(stop: Any) -> Any:
    return [stop] if isinstance(stop, str) else stop


class _Strict(BaseModel):
    """Numbers in quotes, 1.0 for 1 and unknown fields are errors."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Message(_Strict):
    """A message of a chat."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[str, BeforeValidator(_text)]

    @model_validator(mode="after")
    def _says_something(self) -> "Message":
        if not self.content and self.role != "assistant":  # an answer may be empty, and clients send it back
            raise ValueError(f"a message of the {self.role} is empty; give a text")
        return self


class StreamOptions(_Strict):
    """What a stream has beside the answers."""

    include_usage: bool = False
    include_obfuscation: bool = False


class Sampled(_Strict):
    """What requests for answers have in common. A field that is None has the server's default."""

    model: str | None = None
    n: Annotated[int, Field(ge=1, le=MOST_ANSWERS)] = 1
    temperature: Annotated[float, Field(ge=0, le=100)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0, le=INT32)] | None = None
    max_tokens: Annotated[int, Field(ge=1, le=INT32)] | None = None
    seed: Annotated[int, Field(ge=0, lt=2**32)] | None = None
    stop: Annotated[
        list[Annotated[str, Field(min_length=1, max_length=1000)]],
        Field(max_length=MOST_STOPS),
        BeforeValidator(_listed),
    ] = []
    stream: bool = False
    stream_options: StreamOptions | None = None
    metadata: Annotated[dict[str, str], Field(max_length=16)] = {}
    # Who asks; it changes no answer.
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None

    @property
    def most_tokens(self) -> int | None:
        """The longest answer that the request asks for, in tokens."""
        return self.max_tokens

    @property
    def top_tokens(self) -> int | None:
        """How many of the most probable tokens are reported; None where no log-probabilities are asked for."""
        return None


class ChatRequest(Sampled):
    """POST /v1/chat/completions"""

    messages: Annotated[list[Message], Field(min_length=1)]
    max_completion_tokens: Annotated[int, Field(ge=1, le=INT32)] | None = None
    logprobs: bool = False
    top_logprobs: Annotated[int, Field(ge=0, le=MOST_TOP)] | None = None

    @model_validator(mode="after")
    def _together(self) -> "ChatRequest":
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs needs logprobs to be true")
        if None not in (self.max_tokens, self.max_completion_tokens) and self.max_tokens != self.max_completion_tokens:
            raise ValueError("max_tokens and max_completion_tokens differ; give one of them")
        return self

    @property
    def most_tokens(self) -> int | None:
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens

    @property
    def top_tokens(self) -> int | None:
        return (self.top_logprobs or 0) if self.logprobs else None


def _are_ids(given: Any) -> bool:
    """Whether this is a list of whole numbers that can be ids of tokens."""
    return isinstance(given, list) and all(type(i) is int and 0 <= i <= INT32 for i in given)


def _prompt(given: Any) -> Any:
    """A prompt as OpenAI's API takes it; ValueError for anything else."""
    several = isinstance(given, list) and (all(isinstance(one, str) for one in given) or all(map(_are_ids, given)))
    if not (isinstance(given, str) or _are_ids(given) or several):
        raise ValueError("a prompt is a text, a list of texts, a list of token ids, or a list of such lists")
    return given


class CompletionRequest(Sampled):
    """POST /v1/completions"""

    prompt: Annotated[Any, BeforeValidator(_prompt)]
    logprobs: Annotated[int, Field(ge=0, le=MOST_TOP)] | None = None

    @property
    def prompts(self) -> list[Any]:
        """The prompts: texts, or lists of ids of tokens."""
        return [self.prompt] if isinstance(self.prompt, str) or _are_ids(self.prompt) else self.prompt

    @property
    def top_tokens(self) -> int | None:
        return self.logprobs


class ScoreRequest(_Strict):
    """POST /v1/score: answers to one conversation, which the reward model compares. A pair is two answers."""

    model: str | None = None
    messages: Annotated[list[Message], Field(min_length=1)]
    answers: Annotated[list[str], Field(min_length=1, max_length=MOST_ANSWERS)]


class Candidate(_Strict):
    """An answer as the page shows it."""

    text: str
    finish: Literal["stop", "length", "marker"] = "stop"


AnswerIndex = Annotated[int, Field(ge=0, lt=MOST_CANDIDATES)]


class LabelRequest(_Strict):
    """POST /v1/labels: a person's judgement of the answers to one conversation, by their places from 0.

    A ranking lists groups of equals, the best first; answers that it leaves out come last. An edit has the place of the
    answer that it began with, and its text.
    """

    annotator: Annotated[str, Field(min_length=1, max_length=200)]
    messages: Annotated[list[Message], Field(min_length=1)]
    candidates: Annotated[list[Candidate], Field(min_length=1, max_length=MOST_CANDIDATES)]
    ranking: list[Annotated[list[AnswerIndex], Field(min_length=1)]] = []
    reject: list[AnswerIndex] = []
    base: AnswerIndex | None = None
    text: Annotated[str, Field(min_length=1)] | None = None

    @model_validator(mode="after")
    def _one_kind(self) -> "LabelRequest":
        if (self.base is None) != (self.text is None):
            raise ValueError("an edit needs both base and text")
        if bool(self.ranking or self.reject) == (self.base is not None):
            raise ValueError("a label is either a ranking (ranking, reject) or an edit (base, text)")
        if not self.annotator.strip() or not self.annotator.isprintable():
            raise ValueError("annotator is blank or has control characters; give the name of the person who labels")
        if self.text is not None and not self.text.strip():
            raise ValueError("text is blank; write an answer, or send a ranking")
        # What `tigerjax align import` demands too: a line that it refuses would hold up all others of the file.
        turns = [message.role for message in self.messages if message.role not in SYSTEM]
        if len(turns) % 2 == 0 or turns != [("user", "assistant")[place % 2] for place in range(len(turns))]:
            raise ValueError("messages must alternate between user and assistant, and end with the user")
        if self.messages[-1].role != "user" or not all(message.content for message in self.messages):
            raise ValueError("messages must end with the user, and none may be empty")
        places = [place for group in self.ranking for place in group], self.reject
        if any(len(set(own)) < len(own) for own in places):
            raise ValueError("a place is named twice")
        if max([*places[0], *places[1], self.base or 0]) >= len(self.candidates):
            raise ValueError(f"a place is not among the {len(self.candidates)} candidates, which are counted from 0")
        return self


def read(kind: type[Body], body: bytes) -> Body:
    """The request in the body of an HTTP message. Refused for anything else, with the field's name in one line."""
    value = _json(body)
    given = {name: field for name, field in value.items() if field is not None}  # null is a field that is left out
    for name, neutral in NEUTRAL.items():
        if name in given and name not in kind.model_fields:
            asked = given.pop(name)
            if asked not in neutral:
                raise Refused(
                    400,
                    f"{name}={foreign.shown(asked)} is not done by this server; leave {name} out",
                    param=name,
                    code="unsupported_parameter",
                )
    try:
        return kind.model_validate(given)
    except ValidationError as error:
        raise _refused(error, kind) from None


def _json(body: bytes) -> dict[str, Any]:
    try:
        value = foreign.loads(body)
        foreign.refuse_deep(value)
        if b"\\ud" in body.lower():  # an escape may have named half of a surrogate pair
            canonical(value)
    except UnicodeDecodeError as error:
        raise Refused(400, f"the body is no UTF-8 at byte {error.start}; send JSON in UTF-8") from None
    except UnicodeEncodeError:
        raise Refused(400, "the body holds half of a surrogate pair (\\ud800-\\udfff); remove it") from None
    except RecursionError as error:
        raise Refused(400, f"the body is no JSON that can be read: {error}; send fewer levels") from None
    except ValueError as error:
        reason = fault(error) if isinstance(error, json.JSONDecodeError) else str(error)
        raise Refused(400, f"the body is no JSON: {reason}; send a JSON object") from None
    if not isinstance(value, dict):
        raise Refused(400, f"the body is a JSON {type(value).__name__}; send an object")
    return value


def _refused(error: ValidationError, kind: type[BaseModel]) -> Refused:
    """The first fault in one line, and how many more there are."""
    faults = error.errors(include_url=False)
    unknown = [fault for fault in faults if fault["type"] == "extra_forbidden"]
    first = (unknown or faults)[0]  # a field that is misspelt may be why another one is missing
    place = ".".join(str(part) for part in first["loc"])
    more = f" ({len(faults) - 1} more)" if len(faults) > 1 else ""
    if first["type"] == "extra_forbidden":
        name = str(first["loc"][-1])
        near = near_miss(name, kind.model_fields) if len(first["loc"]) == 1 else ""
        text = f"no field {foreign.shown(place)} is known here{near or '; leave it out'}{more}"
        return Refused(400, text, param=place[:100], code="unknown_parameter")
    said = first["msg"].removeprefix("Value error, ")
    what = said[:1].lower() + said[1:]
    given = f"{place}={foreign.shown(first['input'])}: " if place and first["type"] != "missing" else ""
    missing = f"{place} is missing; give it" if first["type"] == "missing" else ""
    return Refused(400, f"{given}{missing or what}{more}", param=place[:100] or None, code="invalid_value")
