"""Reads preferences, makes pairs of them, and batches of the pairs. A batch row is a prompt with all its answers.

A record is a pair or a ranking of K answers, in any of the forms of tigerjax.records.preferences.

A ranking gives a pair for every two answers of different groups. Answers that are not listed are a last group. The
weights of a prompt's pairs sum to 1, so that a prompt counts once however many answers it has: a ranking of 10 answers
is 45 pairs of weight 1/45 (Ouyang et al. 2022, section 3.5). `strength` weighs a pair against the others of its prompt.
"""

import dataclasses
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tigerjax import records
from tigerjax.align.encoding import FINISHES, check_end, encode_answer
from tigerjax.align.prompts import draw, prompt_key
from tigerjax.errors import ConfigError, DataError
from tigerjax.files.jsonl import named
from tigerjax.tokenizer.load import Tokenizer

LENGTH_MULTIPLE = 16
EMPTY, MOST_NAMED = "empty", 3


class RewardData(NamedTuple):
    """What a reward model is trained and calibrated on."""

    preferences: Iterable[str | Path]
    """Files of answers, ordered by preference."""
    reference: Sequence[Mapping[str, Any]]
    """SFT examples, whose answers get calibrated scores of mean 0 and deviation 1."""


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


def both_ways(comparison: Comparison) -> int:
    """How many pairs of its answers are preferred in both directions, by different records."""
    ordered = {(pair.winner, pair.loser) for pair in comparison.pairs}
    return sum(winner < loser and (loser, winner) in ordered for winner, loser in ordered)


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

    @property
    def size(self) -> int:
        return len(self.last_BC)

    def taken(self, picks: np.ndarray, rows: int) -> "RewardBatch":
        """The prompts `picks`, and padding up to `rows`."""
        batch = _empty(rows, *self.tokens_BCT.shape[1:])
        for whole, part in zip(batch, self, strict=True):
            whole[: len(picks)] = part[picks]
        return batch

    def content(self) -> Iterator[np.ndarray]:
        """What the loader's state names these prompts by."""
        return iter(self)


class Dropped:
    """Pairs that are not trained on: how many for which reason, and the first records of each reason by name."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.named: dict[str, list[str]] = {}

    def add(self, reason: str, name: str, count: int = 1) -> None:
        self.counts[reason] += count
        names = self.named.setdefault(reason, [])
        if len(names) < MOST_NAMED and name not in names:
            names.append(name)


def read(paths: Iterable[str | Path]) -> tuple[list[Comparison], dict[str, Any]]:
    """(comparisons, counts) of preference files: one comparison for each distinct prompt that has a pair.

    Records with the same messages are joined. `in`, `out` and `dropped` {tie, identical, empty, other_prompt} count
    pairs, `named` has the first records of each reason, and `where` says file:line of each prompt. `against` says it of
    the first record of a prompt that prefers an answer which an earlier one put below the other. Raises DataError with
    file:line for a broken record, and when there is no pair at all.
    """
    prompts: dict[str, tuple[dict[str, Any], list[tuple[Any, Any, float, float]]]] = {}
    earlier: dict[str, set[tuple[Any, Any]]] = defaultdict(set)
    against: dict[str, str] = {}
    ids: dict[str, str] = {}
    places: dict[str, str] = {}
    lost, paths = Dropped(), list(paths)
    for path in paths:
        for number, given in records.read(path):
            where = f"{path}:{number}"
            try:
                record = records.as_preference(given, where)
            except records.Unusable as error:
                lost.add(error.reason, named(where, given))
                continue
            key = prompt_key(record["messages"])
            identity = str(record.get("prompt_id", key))
            if ids.setdefault(identity, key) != key:
                raise DataError(f"{where}: prompt_id {identity!r} was given before with other messages")
            places.setdefault(identity, named(where, {"id": record.get("prompt_id")}))
            head, pairs = prompts.setdefault(key, (record | {"prompt_id": identity}, []))
            new = _k_wise(record, where, lost) if "ranking" in record else _one_pair(record, where, lost)
            pairs += new
            if any((loser, winner) in earlier[key] for winner, loser, *_ in new):
                against.setdefault(head["prompt_id"], named(where, {"id": record.get("prompt_id")}))
            earlier[key].update((winner, loser) for winner, loser, *_ in new)
    comparisons = [_comparison(head, pairs) for head, pairs in prompts.values() if pairs]
    out, dropped = sum(len(pairs) for _, pairs in prompts.values()), dict(lost.counts)
    if not comparisons:
        left_out = "".join(f", {n} {reason}" for reason, n in dropped.items())
        files = ", ".join(map(str, paths))
        raise DataError(
            f"no pair of different answers in the preferences {files} ({len(prompts)} prompts{left_out}); give more of"
            " them"
        )
    counts = {"in": out + sum(dropped.values()), "out": out, "dropped": dropped, "named": lost.named, "where": places}
    counts["against"] = against
    return comparisons, counts | {"prompts": len(comparisons), "prompts_without_pairs": len(prompts) - len(comparisons)}


def split(
    comparisons: Sequence[Comparison], *, eval_fraction: float, seed: int
) -> tuple[list[Comparison], list[Comparison]]:
    """(train, eval). The side depends on the hash of the prompt alone, so it stays when other prompts come or go.

    Raises ConfigError where one side would be empty.
    """
    is_eval = [draw(seed, "reward eval", prompt_key(c.messages)) < eval_fraction for c in comparisons]
    train = [c for c, held_out in zip(comparisons, is_eval, strict=True) if not held_out]
    test = [c for c, held_out in zip(comparisons, is_eval, strict=True) if held_out]
    if not train or not test:
        raise ConfigError(
            f"eval_fraction={eval_fraction} of {len(comparisons)} prompts leaves {len(train)} to train on and"
            f" {len(test)} to evaluate on; change it or the seed, or give more prompts"
        )
    return train, test


def to_batch(
    comparisons: Sequence[Comparison], tok: Tokenizer, *, seq_len: int, multiple: int = LENGTH_MULTIPLE
) -> RewardBatch:
    """Comparisons as one big batch, from which `pair_loader.PairLoader` takes its batches. Their answers fit
    (see `overlong.fit`).

    C is the largest number of answers. T is the longest chat, rounded up to a multiple of `multiple`, and not simply
    `seq_len`: preferences are often far shorter than the model's context, and padding costs as much as tokens.
    """
    ids: list[list[np.ndarray]] = []
    for comparison in comparisons:
        where = f"prompt {comparison.prompt_id!r}"
        ids.append([])
        for text, finish in comparison.answers:
            one = encode_answer(tok, comparison.messages, text, finish, seq_len=seq_len, where=where).ids
            check_end(tok, one, finish, where)
            ids[-1].append(np.array(one, np.int32))
    longest = max(len(one) for own in ids for one in own)
    T = min(seq_len, -(-longest // multiple) * multiple)
    batch = _empty(len(ids), max(map(len, ids)), T)
    for b, comparison in enumerate(comparisons):
        for c, tokens in enumerate(ids[b]):
            batch.tokens_BCT[b, c, : len(tokens)] = tokens
            batch.last_BC[b, c] = len(tokens) - 1
        for pair in comparison.pairs:
            batch.pairs_BCC[b, pair.winner, pair.loser] = pair.weight
            batch.margins_BCC[b, pair.winner, pair.loser] = pair.margin
    return batch


def _empty(B: int, C: int, T: int) -> RewardBatch:
    floats = np.zeros((2, B, C, C), np.float32)
    return RewardBatch(np.zeros((B, C, T), np.int32), np.full((B, C), -1, np.int32), floats[0], floats[1])


def _k_wise(
    record: Mapping[str, Any], where: str, lost: Dropped
) -> list[tuple[tuple[str, str], tuple[str, str], float, float]]:
    responses, ranking = record.get("responses"), record.get("ranking")
    answers: dict[str, tuple[str, str]] = {}
    if not isinstance(responses, list) or not isinstance(ranking, list):
        raise DataError(f"{where}: a ranking needs responses: [{{id, text}}] and ranking: [[id], …]")
    for response in responses:
        whole = isinstance(response, dict) and isinstance(response.get("id"), str | int)
        if not whole or not isinstance(response.get("text"), str):
            raise DataError(f"{where}: response {response!r} must be {{id, text, finish?}}")
        if response["id"] in answers:
            raise DataError(f"{where}: response id {response['id']!r} occurs twice; give each response its own")
        answers[response["id"]] = (response["text"], _finish(response.get("finish", "stop"), where))
    if not all(isinstance(group, list) and group for group in ranking):
        raise DataError(f"{where}: ranking must be a list of non-empty groups of response ids")
    listed = [name for group in ranking for name in group]
    if wrong := [name for name in listed if not isinstance(name, str | int) or name not in answers]:
        raise DataError(
            f"{where}: ranking names response {wrong[0]!r}, which is not among the responses; correct one of the two"
        )
    if len(set(listed)) != len(listed):
        raise DataError(f"{where}: ranking names a response twice; remove one")
    place = {name: i for i, group in enumerate(ranking) for name in group}
    names = sorted(answers, key=lambda name: place.get(name, len(ranking)))
    out = []
    for i, winner in enumerate(names):
        for loser in names[i + 1 :]:
            if place.get(winner, len(ranking)) == place.get(loser, len(ranking)):
                lost.add("tie", where)
            elif answers[winner][0] == answers[loser][0]:
                lost.add("identical", where)
            elif records.blank(answers[winner][0]) or records.blank(answers[loser][0]):
                lost.add(EMPTY, where)
            else:
                out.append((answers[winner], answers[loser], 1.0, 0.0))
    return out


def _one_pair(
    record: Mapping[str, Any], where: str, lost: Dropped
) -> list[tuple[tuple[str, str], tuple[str, str], float, float]]:
    chosen, rejected = record["chosen"], record["rejected"]
    strength = records.checked_weight(record.get("strength", 1.0), where, "strength")
    margin = records.checked_weight(record.get("margin", 0.0), where, "margin")
    if chosen == rejected or not strength:
        lost.add("identical" if chosen == rejected else "tie", where)
        return []
    return [((chosen, "stop"), (rejected, "stop"), strength, margin)]


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
