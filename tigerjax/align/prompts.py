"""Draws the SFT prompts that a round samples again: a share of each task and language."""

from collections import Counter, defaultdict
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import xxhash

from tigerjax.errors import ConfigError, DataError
from tigerjax.files import manifest

Key = TypeVar("Key", bound=Hashable)


class PromptSelection(NamedTuple):
    """The prompts that were drawn, in the order of their ids, and counts of the examples that were not."""

    prompts: list[dict[str, Any]]
    """{prompt_id, messages (ends with the user), task, lang, reference (the existing answer)}"""
    counts: dict[str, Any]


def draw(seed: int, *parts: str) -> float:
    """A number in [0, 1) that depends only on the arguments: their hash xxh3_64, divided by 2^64."""
    return xxhash.xxh3_64_intdigest("\0".join((str(seed), *parts)).encode()) / 2**64


def apportion(total: int, sizes: Mapping[Key, int]) -> dict[Key, int]:
    """Splits `total` over strata in proportion to their sizes, by the largest remainder.

    No share is larger than its stratum. Of equal remainders the stratum whose name sorts first gets the one left over,
    so that the order of `sizes` does not matter. Raises ConfigError where more is wanted than there is.
    """
    whole = sum(sizes.values())
    if total > whole:
        raise ConfigError(f"{total} wanted of strata that hold {whole}; lower the share")
    shares = {key: total * size // whole for key, size in sizes.items()}
    left = total - sum(shares.values())
    for key in sorted(sizes, key=lambda k: (-(total * sizes[k] % whole), str(k)))[:left]:
        shares[key] += 1
    return shares


def stratum(record: Mapping[str, Any]) -> tuple[str, str]:
    """(task, language) of an example or prompt, "" where it has none."""
    return str(record.get("task", "")), str(record.get("lang", ""))


def prompt_key(messages: Sequence[Mapping[str, Any]]) -> str:
    """A hash of the conversation alone, to find prompts that are the same under different ids.

    The loss weights of earlier answers are no part of it.
    """
    spoken = [{name: value for name, value in message.items() if name != "weight"} for message in messages]
    return xxhash.xxh3_128_hexdigest(manifest.canonical(spoken))


def select(
    examples: Iterable[dict[str, Any]],
    *,
    fraction: float,
    seed: int,
    round_index: int,
    exclude: Collection[str] = frozenset(),
    allow_fraction: bool = False,
) -> PromptSelection:
    """Draws max(1, round(fraction * N)) of the N distinct prompts of an SFT set, in proportion to task and language.

    `exclude` holds ids that may not be drawn, such as those of an evaluation set or of earlier rounds; N counts them.
    Raises ConfigError for a fraction outside [0.05, 0.10] without `allow_fraction`, and when too few prompts are left.
    """
    if not 0 < fraction <= 1 or not (allow_fraction or 0.05 <= fraction <= 0.10):
        raise ConfigError(f"prompt fraction {fraction} is outside [0.05, 0.10]; change it or allow it explicitly")
    distinct: dict[str, dict[str, Any]] = {}
    total = 0
    seen_ids: set[str] = set()
    for example in sorted(examples, key=lambda e: str(e.get("id"))):
        total += 1
        prompt = as_prompt(example)
        if prompt["prompt_id"] in seen_ids:
            raise DataError(f"SFT example id {prompt['prompt_id']!r} occurs twice; ids must be unique")
        seen_ids.add(prompt["prompt_id"])
        distinct.setdefault(prompt_key(prompt["messages"]), prompt)
    if not distinct:
        raise DataError("the SFT set holds no example to draw prompts from")
    pool = [p for p in distinct.values() if p["prompt_id"] not in exclude]
    wanted = max(1, round(fraction * len(distinct)))
    if wanted > len(pool):
        raise ConfigError(
            f"{wanted} prompts wanted, but {len(pool)} of {len(distinct)} are left after exclusion;"
            " lower prompt_fraction or exclude_rounds"
        )
    chosen = stratified(pool, wanted, seed, f"prompts {round_index}")
    dropped = {
        "duplicate_prompt": total - len(distinct),
        "excluded": len(distinct) - len(pool),
        "not_drawn": len(pool) - len(chosen),
    }
    return PromptSelection(chosen, {"in": total, "out": len(chosen), "dropped": dropped})


def stratified(pool: list[dict[str, Any]], wanted: int, seed: int, purpose: str) -> list[dict[str, Any]]:
    """`wanted` records of `pool`, in proportion to its strata, sorted by prompt_id.

    Each stratum gives its records with the lowest `draw`; `purpose` makes the draws differ from those of other callers.
    """
    strata: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for record in pool:
        strata[stratum(record)].append(record)
    shares = apportion(wanted, Counter({key: len(records) for key, records in strata.items()})) if wanted else {}
    chosen = []
    for key, share in shares.items():
        by_draw = sorted(strata[key], key=lambda r: (draw(seed, purpose, r["prompt_id"]), r["prompt_id"]))
        chosen += by_draw[:share]
    return sorted(chosen, key=lambda r: r["prompt_id"])


def as_prompt(example: dict[str, Any]) -> dict[str, Any]:
    """The prompt of an SFT example, with its answer as `reference`.

    DataError for an example without an id or an answer.
    """
    identity, messages = example.get("id"), example.get("messages")
    if not isinstance(identity, str) or not identity:
        raise DataError(f"SFT example without id: {str(example)[:80]}; give every example an id")
    if not isinstance(messages, list) or len(messages) < 2 or messages[-1].get("role") != "assistant":
        raise DataError(f"SFT example {identity}: messages must end with an answer of the assistant")
    prompt = {"prompt_id": identity, "messages": messages[:-1], "reference": messages[-1]["content"]}
    return prompt | {key: example[key] for key in ("task", "lang") if key in example}
