"""Text to tokens and back: checks and encodes prompts, and decodes answers into the sampler's records."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from tigerjax.errors import ConfigError, DataError
from tigerjax.files.foreign import shown


class Prompt(NamedTuple):
    """A checked prompt: its place in the input, the prompt as it was given, and the ids that the model continues."""

    place: int
    prompt: Mapping[str, Any]
    messages: list[dict[str, str]]
    ids: list[int]


class Drawn(NamedTuple):
    """A candidate as the devices give it."""

    ids: list[int]
    """Without the token that ended it."""
    stop: int
    """That token, or -1."""
    logprob: float
    """Sum of `logprobs`."""
    logprobs: np.ndarray
    """float32 log-probability of each draw in nats, the ending one too: at temperature 1, nothing truncated."""


def stops(tokenizer: Any, chat: bool) -> dict[int, str]:
    """The ids that end an answer, each with its reason: 'stop' for eos and what else ends a turn (and for the newline
    of a base model), 'marker' for the others.

    Raises ConfigError for a base model whose tokenizer has no newline.
    """
    from tigerjax.tokenizer.chat import stop_ids

    reasons = {i: "stop" if i in tokenizer.ends else "marker" for i in stop_ids(tokenizer)}
    if not chat:
        newline = tokenizer.encode("\n")[-1:]
        if tokenizer.decode(newline) != "\n":
            raise ConfigError("the tokenizer has no newline token, which ends the answer of a base model; use chat")
        reasons[newline[0]] = "stop"
    return reasons


def refuse(placed: Iterable[tuple[str, Mapping[str, Any]]], size: int, chat: bool) -> None:
    """DataError names the place of the first prompt that is wrong: a prompt needs a prompt_id that no other has, and
    messages or a text; or `ids`, of a tokenizer of `size` entries."""
    seen: dict[str, str] = {}
    for place, prompt in placed:
        prompt_id = prompt.get("prompt_id")
        if not isinstance(prompt_id, str) or not prompt_id:
            raise DataError(f"{place} has prompt_id {shown(prompt_id)}; give every prompt a non-empty string")
        if (before := seen.setdefault(prompt_id, place)) != place:
            raise DataError(f"{place} repeats prompt_id {shown(prompt_id)} of {before}; ids must be unique")
        if "ids" in prompt:
            ids = prompt["ids"]
            whole = isinstance(ids, list | tuple) and all(isinstance(i, int | np.integer) for i in ids)
            if not whole or not all(0 <= i < size for i in ids):
                raise DataError(f"{place} has ids {shown(ids)}; they are a list of ids of the tokenizer")
            continue
        messages = _messages(prompt)
        whole = isinstance(messages, list) and all(
            isinstance(m, Mapping) and isinstance(m.get("content"), str) and isinstance(m.get("role"), str)
            for m in messages
        )
        if not whole or messages[-1]["role"] != "user":
            raise DataError(f"{place} ({shown(prompt_id)}) needs messages that end with the user, or a text")
        if not chat and len(messages) != 1:
            raise DataError(
                f"{place} ({shown(prompt_id)}) has {len(messages)} messages; without chat there is one user message"
            )


def _messages(prompt: Mapping[str, Any]) -> Any:
    return prompt.get("messages") or [{"role": "user", "content": prompt.get("text")}]


def encode(tokenizer: Any, prompts: Sequence[Mapping[str, Any]], chat: bool) -> list[Prompt]:
    """Every prompt, encoded. A prompt that has `ids` is continued from these as they are.

    Raises DataError for a prompt that is wrong, as `refuse` does.
    """
    from tigerjax.tokenizer.chat import encode_prompt

    refuse(((f"prompt {index}", prompt) for index, prompt in enumerate(prompts)), tokenizer.size, chat)
    out: list[Prompt] = []
    for index, prompt in enumerate(prompts):
        if "ids" in prompt:
            out.append(Prompt(index, prompt, [], list(prompt["ids"])))
            continue
        messages = _messages(prompt)
        if chat:
            ids = encode_prompt(tokenizer, messages)
        else:
            ids = [*tokenizer.opening, *tokenizer.encode(messages[0]["content"] + "\n")]
        out.append(Prompt(index, prompt, messages, ids))
    return out


def record(
    p: Prompt,
    base: Mapping[str, Any],
    drawn: Sequence[Drawn],
    tokenizer: Any,
    reasons: Mapping[int, str],
    chat: bool,
) -> dict[str, Any]:
    """The record of prompt `p` with its candidates.

    Raises DataError for a probability that is not finite.
    """
    import xxhash

    prompt_id = p.prompt["prompt_id"]
    first: dict[str, str] = {}
    candidates = []
    for k, (ids, stop, logprob, _) in enumerate(drawn):
        if not np.isfinite(logprob):
            raise DataError(
                f"prompt {prompt_id!r}, candidate {k}: log-probability {logprob}; the model gives NaN or inf"
            )
        text = tokenizer.decode(ids)
        if not chat:  # a token may have a newline in its middle
            text = text.split("\n", 1)[0]
        cid = xxhash.xxh3_128_hexdigest(f"{prompt_id}\0{base['model_sha']}\0{k}".encode())
        candidates.append(
            {
                "cid": cid,
                "text": text,
                "token_ids": ids,
                "finish": reasons.get(stop, "length"),
                "logprob": logprob,
                "ntok": len(ids),
                "empty": not text.strip(),
                "dup_of": first.get(text),
            }
        )
        first.setdefault(text, cid)
    degenerate = len(drawn) > 1 and len(first) == 1
    return {**p.prompt, "messages": p.messages, **base, "degenerate": degenerate, "candidates": candidates}


def padded(prompts: Sequence[Sequence[int]], rows: int, length: int) -> tuple[np.ndarray, np.ndarray]:
    """tokens_BT, padded with 0 on the right, and segment_ids_BT, which are 1 on tokens. Rows after the last prompt
    repeat the first one."""
    tokens_BT = np.zeros((rows, length), np.int32)
    segment_ids_BT = np.zeros((rows, length), np.int32)
    for b in range(rows):
        ids = prompts[b] if b < len(prompts) else prompts[0]
        tokens_BT[b, : len(ids)] = ids
        segment_ids_BT[b, : len(ids)] = 1
    return tokens_BT, segment_ids_BT
