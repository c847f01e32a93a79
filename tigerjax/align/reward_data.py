"""Reads preferences, makes pairs of them, and batches of the pairs. A batch row is a prompt with all its answers.

A line of a preference file has one of two forms:

    {prompt_id, messages, responses: [{id, text, finish?}], ranking: [[id], [id, id], …], task?, lang?}   K-wise
    {prompt_id?, messages, chosen: text, rejected: text, margin?, strength?, task?, lang?}                one pair

A ranking gives a pair for every two answers of different groups. Answers that are not listed are a last group. The
weights of a prompt's pairs sum to 1, so that a prompt counts once however many answers it has: a ranking of 10 answers
is 45 pairs of weight 1/45 (Ouyang et al. 2022, section 3.5). `strength` weighs a pair against the others of its prompt.
"""

import dataclasses
import hashlib
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tigerjax import records
from tigerjax.align.prompts import draw, prompt_key
from tigerjax.errors import ConfigError, DataError
from tigerjax.tokenizer.load import Tokenizer

FINISHES = ("stop", "length", "marker")
LENGTH_MULTIPLE = 16


class Pair(NamedTuple):
    """Two answers of a comparison, by their index in `Comparison.answers`."""

    winner: int
    loser: int
    weight: float
    """The weights of a prompt's pairs sum to 1."""
    margin: float
    """By how much the winner's raw score should be higher."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """One prompt, its different answers, and every strict pair of them."""

    prompt_id: str
    messages: list[dict[str, str]]
    task: str
    lang: str
    answers: tuple[tuple[str, str], ...]
    """(text, finish); an eos is added to an answer whose finish is "stop"."""
    pairs: tuple[Pair, ...]


class RewardBatch(NamedTuple):
    """B prompts with up to C answers each; a prompt without pairs is padding."""

    tokens_BCT: np.ndarray
    """int32; positions after `last_BC` are padding."""
    last_BC: np.ndarray
    """int32 place of the last token, whose score counts; -1 where there is no answer."""
    pairs_BCC: np.ndarray
    """float32 weight of the pair (winner, loser); sums to 1 over a prompt."""
    margins_BCC: np.ndarray
    """float32, in units of the raw score."""


def read(paths: Iterable[str | Path]) -> tuple[list[Comparison], dict[str, Any]]:
    """(comparisons, counts) of preference files: one comparison for each distinct prompt that has a pair.

    Records with the same messages are joined. `in`, `out` and `dropped` {tie, identical} count pairs. Raises DataError
    with file:line for a broken record, and when there is no pair at all.
    """
    prompts: dict[str, tuple[dict[str, Any], list[tuple[Any, Any, float, float]]]] = {}
    ids: dict[str, str] = {}
    dropped: Counter[str] = Counter()
    for path in paths:
        for number, record in records.read(path):
            where = f"{path}:{number}"
            messages = _messages(record, where)
            key = prompt_key(messages)
            identity = str(record.get("prompt_id", key))
            if ids.setdefault(identity, key) != key:
                raise DataError(f"{where}: prompt_id {identity!r} was given before with other messages")
            pairs = prompts.setdefault(key, (record | {"prompt_id": identity, "messages": messages}, []))[1]
            pairs += _k_wise(record, where, dropped) if "ranking" in record else _one_pair(record, where, dropped)
    comparisons = [_comparison(head, pairs) for head, pairs in prompts.values() if pairs]
    out = sum(len(pairs) for _, pairs in prompts.values())
    if not comparisons:
        raise DataError(f"no pair of different answers in the preferences ({len(prompts)} prompts, {dict(dropped)})")
    counts = {"in": out + sum(dropped.values()), "out": out, "dropped": dict(dropped)}
    return comparisons, counts | {"prompts": len(comparisons), "prompts_without_pairs": len(prompts) - len(comparisons)}


def split(
    comparisons: Sequence[Comparison], *, eval_fraction: float, seed: int
) -> tuple[list[Comparison], list[Comparison]]:
    """(train, eval). The side depends on the hash of the prompt alone, so it stays when other prompts come or go."""
    is_eval = [draw(seed, "reward eval", prompt_key(c.messages)) < eval_fraction for c in comparisons]
    train = [c for c, held_out in zip(comparisons, is_eval, strict=True) if not held_out]
    test = [c for c, held_out in zip(comparisons, is_eval, strict=True) if held_out]
    if not train or not test:
        raise ConfigError(
            f"eval_fraction={eval_fraction} of {len(comparisons)} prompts leaves {len(train)} to train on and"
            f" {len(test)} to evaluate on; change it or the seed, or give more prompts"
        )
    return train, test


def encode_answer(
    tok: Tokenizer, messages: Sequence[Mapping[str, str]], text: str, finish: str, *, seq_len: int, where: str
) -> list[int]:
    """Token ids of a chat that ends with the answer, and with an eos when `finish` is "stop".

    A chat longer than `seq_len` loses its oldest turns. The answer and the last question are never cut: DataError when
    they alone do not fit.
    """
    from tigerjax.tokenizer.chat import encode_prompt

    if finish not in FINISHES:
        raise DataError(f"{where}: finish is {finish!r}, must be one of {', '.join(FINISHES)}")
    answer = tok.encode(text) + ([tok.eos] if finish == "stop" else [])
    turns = [{"role": m["role"], "content": m["content"]} for m in records.with_system(messages)]
    while True:
        ids = encode_prompt(tok, turns) + answer
        if len(ids) <= seq_len:
            return ids
        if len(turns) < 3:
            raise DataError(f"{where}: question and answer have {len(ids)} tokens, seq_len is {seq_len}; raise it")
        turns = turns[2:]


def encode_sampled(
    tok: Tokenizer, messages: Sequence[Mapping[str, str]], text: str, finish: str, *, seq_len: int, where: str
) -> tuple[list[int], str]:
    """(token ids, finish) of a sampled answer, as `encode_answer`; one that does not fit is cut, with finish "length".

    The tokens that the sampler drew did fit. But encoding their text again can give more tokens than were drawn.
    """
    from tigerjax.tokenizer.chat import encode_prompt

    last = [{"role": m["role"], "content": m["content"]} for m in records.with_system(messages)[-1:]]
    room = seq_len - len(encode_prompt(tok, last)) - (finish == "stop")
    if len(tok.encode(text)) <= room or room < 1:  # without room for any answer, `encode_answer` raises DataError
        return encode_answer(tok, messages, text, finish, seq_len=seq_len, where=where), finish
    return (encode_prompt(tok, last) + tok.encode(text))[:seq_len], "length"


def check_end(tok: Tokenizer, ids: Sequence[int], finish: str, where: str) -> None:
    """DataError for an answer of finish "stop" without eos at its end, where its score would be read."""
    if finish == "stop" and (not ids or ids[-1] != tok.eos):
        raise DataError(f"{where}: the answer has no eos (id {tok.eos}) at its end; add it, or state finish=length")


def to_batch(comparisons: Sequence[Comparison], tok: Tokenizer, *, seq_len: int) -> RewardBatch:
    """All comparisons as one big batch, from which `PairLoader` takes its batches.

    C is the largest number of answers. T is the longest chat, rounded up to a multiple of LENGTH_MULTIPLE, and not
    simply `seq_len`: preferences are often far shorter than the model's context, and padding costs as much as tokens.
    """
    B, C = len(comparisons), max(len(c.answers) for c in comparisons)
    batch = _empty(B, C, seq_len)
    for b, comparison in enumerate(comparisons):
        for c, (text, finish) in enumerate(comparison.answers):
            where = f"prompt {comparison.prompt_id}"
            ids = encode_answer(tok, comparison.messages, text, finish, seq_len=seq_len, where=where)
            check_end(tok, ids, finish, where)
            batch.tokens_BCT[b, c, : len(ids)] = ids
            batch.last_BC[b, c] = len(ids) - 1
        for pair in comparison.pairs:
            batch.pairs_BCC[b, pair.winner, pair.loser] = pair.weight
            batch.margins_BCC[b, pair.winner, pair.loser] = pair.margin
    T = min(seq_len, -(-(int(batch.last_BC.max()) + 1) // LENGTH_MULTIPLE) * LENGTH_MULTIPLE)
    return batch._replace(tokens_BCT=np.ascontiguousarray(batch.tokens_BCT[:, :, :T]))


class PairLoader:
    """The loader of reward training for tigerjax.train.loop: endless batches of `batch_rows` prompts.

    An epoch is `steps_per_epoch` batches with every prompt once, in its own seeded order. Its last batch is padded.
    """

    def __init__(
        self,
        prompts: RewardBatch,
        *,
        batch_rows: int,
        seed: int,
        tokenizer_sha256: str,
        mine: Sequence[int] | None = None,
    ):
        """`prompts` holds all prompts (see `to_batch`). `mine` are the rows of each batch that this process loads (see
        mesh.host_rows); None is all."""
        self.prompts, self.batch_rows, self.seed = prompts, batch_rows, seed
        self.mine = list(range(batch_rows) if mine is None else mine)
        self.tokenizer_sha256 = tokenizer_sha256
        self.steps_per_epoch = math.ceil(len(prompts.last_BC) / batch_rows)
        digest = hashlib.sha256()
        for array in prompts:
            digest.update(np.ascontiguousarray(array).data)
        self._sha256, self._taken = digest.hexdigest(), 0

    def __iter__(self) -> Iterator[RewardBatch]:
        return self

    def __next__(self) -> RewardBatch:
        epoch, at = divmod(self._taken, self.steps_per_epoch)
        order = np.random.Generator(np.random.Philox([self.seed, epoch])).permutation(len(self.prompts.last_BC))
        places = at * self.batch_rows + np.array(self.mine, int)
        picks = order[places[places < len(order)]]
        batch = _empty(len(places), *self.prompts.tokens_BCT.shape[1:])
        for whole, part in zip(batch, self.prompts, strict=True):
            whole[: len(picks)] = part[picks]
        self._taken += 1
        return batch

    def state(self) -> dict[str, Any]:
        """The position, with what it depends on: `restore` compares these."""
        return {"taken": self._taken, "seed": self.seed, "batch_rows": self.batch_rows, "rows_sha256": self._sha256}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Goes to the position of `state`; ConfigError when its prompts, seed or batch size are others."""
        for name, value in (self.state() | {"taken": state["taken"]}).items():
            if state[name] != value:
                raise ConfigError(f"cannot resume exactly: preference {name} was {state[name]} and is {value} now")
        self._taken = state["taken"]


def _empty(B: int, C: int, T: int) -> RewardBatch:
    floats = np.zeros((2, B, C, C), np.float32)
    return RewardBatch(np.zeros((B, C, T), np.int32), np.full((B, C), -1, np.int32), floats[0], floats[1])


def _messages(record: Mapping[str, Any], where: str) -> list[dict[str, str]]:
    messages = record.get("messages")
    if isinstance(messages, list) and all(isinstance(message, dict) for message in messages):
        messages = records.with_system(messages)
    if not isinstance(messages, list) or len(messages) % 2 != 1:
        raise DataError(f"{where}: messages must be a list that starts and ends with the user")
    for turn, message in enumerate(messages):
        role = ("user", "assistant")[turn % 2]
        if not isinstance(message, dict) or message.get("role") != role or not isinstance(message.get("content"), str):
            raise DataError(f"{where}: message {turn + 1} must be {{role: {role!r}, content: text}}")
    return [{"role": m["role"], "content": m["content"]} for m in messages]


def _k_wise(
    record: Mapping[str, Any], where: str, dropped: Counter[str]
) -> list[tuple[tuple[str, str], tuple[str, str], float, float]]:
    responses, ranking = record.get("responses"), record["ranking"]
    answers: dict[str, tuple[str, str]] = {}
    if not isinstance(responses, list) or not isinstance(ranking, list):
        raise DataError(f"{where}: a ranking needs responses: [{{id, text}}] and ranking: [[id], …]")
    for response in responses:
        if not isinstance(response, dict) or not isinstance(response.get("text"), str) or "id" not in response:
            raise DataError(f"{where}: response {response!r} must be {{id, text, finish?}}")
        if response["id"] in answers:
            raise DataError(f"{where}: response id {response['id']!r} occurs twice")
        answers[response["id"]] = (response["text"], _finish(response.get("finish", "stop"), where))
    if not all(isinstance(group, list) and group for group in ranking):
        raise DataError(f"{where}: ranking must be a list of non-empty groups of response ids")
    listed = [name for group in ranking for name in group]
    if wrong := [name for name in listed if name not in answers]:
        raise DataError(f"{where}: ranking names response {wrong[0]!r}, which is not among the responses")
    if len(set(listed)) != len(listed):
        raise DataError(f"{where}: ranking names a response twice")
    place = {name: i for i, group in enumerate(ranking) for name in group}
    names = sorted(answers, key=lambda name: place.get(name, len(ranking)))
    out = []
    for i, winner in enumerate(names):
        for loser in names[i + 1 :]:
            if place.get(winner, len(ranking)) == place.get(loser, len(ranking)):
                dropped["tie"] += 1
            elif answers[winner][0] == answers[loser][0]:
                dropped["identical"] += 1
            else:
                out.append((answers[winner], answers[loser], 1.0, 0.0))
    return out


def _one_pair(
    record: Mapping[str, Any], where: str, dropped: Counter[str]
) -> list[tuple[tuple[str, str], tuple[str, str], float, float]]:
    chosen, rejected = record.get("chosen"), record.get("rejected")
    if not isinstance(chosen, str) or not isinstance(rejected, str):
        raise DataError(f"{where}: needs `responses` and `ranking`, or `chosen` and `rejected` as text")
    strength, margin = record.get("strength", 1.0), record.get("margin", 0.0)
    for name, value in (("strength", strength), ("margin", margin)):
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
            raise DataError(f"{where}: {name} {value!r} must be a number that is not negative")
    if chosen == rejected or not strength:
        dropped["identical" if chosen == rejected else "tie"] += 1
        return []
    return [((chosen, "stop"), (rejected, "stop"), float(strength), float(margin))]


def _finish(finish: Any, where: str) -> str:
    if finish not in FINISHES:
        raise DataError(f"{where}: finish is {finish!r}, must be one of {', '.join(FINISHES)}")
    return finish


def _comparison(head: Mapping[str, Any], pairs: Sequence[tuple[Any, Any, float, float]]) -> Comparison:
    """The comparison of one prompt. Of a pair that was given several times the weights add up and the margins are
    averaged."""
    indices: dict[tuple[str, str], int] = {}
    weight: dict[tuple[int, int], float] = defaultdict(float)
    margin: dict[tuple[int, int], float] = defaultdict(float)
    for winner, loser, strength, gap in pairs:
        pair = indices.setdefault(winner, len(indices)), indices.setdefault(loser, len(indices))
        weight[pair] += strength
        margin[pair] += strength * gap
    total = sum(weight.values())
    return Comparison(
        prompt_id=head["prompt_id"],
        messages=head["messages"],
        task=str(head.get("task", "")),
        lang=str(head.get("lang", "")),
        answers=tuple(indices),
        pairs=tuple(Pair(w, lo, n / total, margin[w, lo] / n) for (w, lo), n in sorted(weight.items())),
    )
