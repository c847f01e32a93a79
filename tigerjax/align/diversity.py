"""How different the answers of a round are: a model trained on its own answers may come to give always the same."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any


def of_candidates(records: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """{distinct_share, entropy_nats} of the candidates of sampler records.

    distinct_share is the mean over prompts of the share of candidates whose text differs from those before.
    entropy_nats is the mean of -log p over all tokens that were drawn: an estimate of the entropy of a token. It is
    left out where the records have no log-probabilities.
    """
    shares = [_distinct([c["text"] for c in record["candidates"]]) for record in records if record["candidates"]]
    found = {"distinct_share": sum(shares) / len(shares)} if shares else {}
    return found | _surprise("entropy_nats", [c for record in records for c in record["candidates"]])


def of_winners(winners: Sequence[Mapping[str, Any]], scored: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """{distinct_winners, distinct_pairs, winner_nats} of the winners of a round, as SFT examples.

    distinct_winners is the share of different texts. distinct_pairs is that of different pairs of neighbouring
    characters (distinct-2 of Li et al. 2016, arXiv 1510.03055, over characters). winner_nats is the mean of -log p over
    the tokens of the winners that the model drew, which stand in the records `scored`. Where it is far below the
    entropy of all candidates, the winners are what the model would mostly say anyway.
    """
    texts = [winner["messages"][-1]["content"] for winner in winners]
    drawn = {(r["prompt_id"], c["text"]): c for r in scored for c in reversed(r["candidates"])}
    found_drawn = [drawn[key] for w in winners if (key := (w["prompt_id"], w["messages"][-1]["content"])) in drawn]
    if not texts:
        return {}
    pairs = [text[at : at + 2] for text in texts for at in range(len(text) - 1)]
    found = {"distinct_winners": _distinct(texts)} | ({"distinct_pairs": _distinct(pairs)} if pairs else {})
    return found | _surprise("winner_nats", found_drawn)


def alike(candidates: Iterable[Mapping[str, Any]], spread: float) -> bool:
    """Whether the finite scores of candidates lie no further apart than `spread`; never those of a single one.

    Such a prompt says nothing about which answers are better (Xiong et al. 2025, arXiv 2504.11343).
    """
    scores = [c["score"] for c in candidates if c.get("score") is not None]
    return len(scores) > 1 and max(scores) - min(scores) <= spread


def _distinct(texts: Sequence[str]) -> float:
    return len(set(texts)) / len(texts)


def _surprise(name: str, candidates: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """{name: the mean of -log p over the tokens that candidates drew, their ends included}."""
    known = [c for c in candidates if "logprob" in c and "ntok" in c]
    drawn = sum(c["ntok"] + (c["finish"] != "length") for c in known)
    return {name: -sum(c["logprob"] for c in known) / drawn} if drawn else {}
