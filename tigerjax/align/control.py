"""A control for a round: the same prompts with winners drawn at random, so that what choosing brings can be told from
what more training brings (Lambert 2025, rlhfbook.com, on rejection sampling)."""

from collections.abc import Iterable, Sequence

from tigerjax.align import mix as mix_lib
from tigerjax.align.config import AlignConfig
from tigerjax.align.prompts import draw
from tigerjax.files.jsonl import Record


def training_set(
    config: AlignConfig,
    examples: Iterable[Record],
    ranked: Sequence[Record],
    pairs: Sequence[Record] | None,
    *,
    won: Sequence[Record],
    round_index: int,
) -> list[Record]:
    """What the control is trained on: the SFT set `examples` with a random answer to each prompt of the winners `won`,
    or with `pairs` the same pairs in a random order.

    The random answer is one of those that may win (`rank.rank`)."""
    purpose = f"control {round_index}"
    if pairs is not None:
        return [
            {**p, "ranking": p["ranking"][:: 1 if draw(config.seed, purpose, p["prompt_id"]) < 0.5 else -1]}
            for p in pairs
        ]
    prompts, given = {example["prompt_id"] for example in won}, list(examples)
    at_random = [
        {**record, "ranking": sorted(record["ranking"], key=lambda c: draw(config.seed, purpose, c["cid"]))}
        for record in ranked
        if record["prompt_id"] in prompts
    ]
    try:
        return mix_lib.mix(
            given,
            at_random,
            round_index=round_index,
            top_m=config.top_m,
            min_score=None,
            beat_reference=False,
            on_conflict=config.on_conflict,
            weights={"rm": config.rm_weight, "human": config.human_weight, "edit": config.edit_weight},
        ).examples
    except mix_lib.NoWinner:  # every answer that was drawn is in the set already
        return given
