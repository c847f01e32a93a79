"""Who of a team is asked what: k people for each prompt, and gold questions among them.

    key = {prompt_id, of: the prompt's own id, labels: {"A": [cid, …]}}       a prompt
          {prompt_id, right: [["B"], ["A", "C"]], labels: {}}                 a gold question

All questions of a team have ids that say nothing, so that a gold question looks like any other. The assignment depends
only on the settings and the ids. It gives everybody as many prompts as the others, to within one.
"""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from tigerjax.align.config import AlignConfig
from tigerjax.align.people.gold import LEAST, GoldQuestion
from tigerjax.align.people.queue import Queue, label, share
from tigerjax.align.prompts import draw
from tigerjax.files import manifest


class Team(NamedTuple):
    """The queue of a team, and who is asked what."""

    queue: Queue
    assignments: list[dict[str, Any]]
    """{prompt_id, people: [names], edit_by: the one who is asked to edit, or null} of each item."""


def build(asked: Queue, golds: Sequence[GoldQuestion], config: AlignConfig, round_index: int) -> Team:
    """The questions of `asked` (see queue.build) and gold questions, divided among `config.people`."""
    purpose = f"team {round_index}"
    shown = {item["prompt_id"]: _hidden([config.seed, purpose, item["prompt_id"]]) for item in asked.items}
    prompts = [item | {"prompt_id": shown[item["prompt_id"]]} for item in asked.items]
    bare = [{name: value for name, value in item.items() if name != "batch_sha256"} for item in prompts]
    batch = {"batch_sha256": hashlib.sha256(manifest.canonical(bare)).hexdigest()}
    chosen = _divided([item["prompt_id"] for item in prompts if item["rank"]], config, config.per_prompt, purpose)
    chosen |= _divided([item["prompt_id"] for item in prompts if not item["rank"]], config, 1, f"{purpose} edits")
    mixed = _mixed(golds, chosen, config, purpose)

    items = [item | batch for item in prompts]
    key = [{"prompt_id": shown[k["prompt_id"]], "of": k["prompt_id"], "labels": k["labels"]} for k in asked.key]
    for one in mixed:
        item, entry = _gold_item(one.question, config.seed, purpose)
        items.append(item | batch)
        key.append(entry)
        chosen[item["prompt_id"]] = one.people
    items.sort(key=lambda item: item["prompt_id"])
    key.sort(key=lambda entry: entry["prompt_id"])
    assignments = [
        {"prompt_id": i["prompt_id"], "people": chosen[i["prompt_id"]]}
        | {"edit_by": chosen[i["prompt_id"]][0] if i["edit"] else None}
        for i in items
    ]
    counts = asked.counts | {"gold_questions": len(mixed), "shown": len(items)}
    return Team(Queue(items, key, counts), assignments)


def own_items(items: Sequence[Mapping[str, Any]], assignments: Sequence[Mapping[str, Any]], person: str) -> list[Any]:
    """The items that a person is asked."""
    who = {a["prompt_id"]: a for a in assignments}
    return [
        {**item, "edit": who[item["prompt_id"]]["edit_by"] == person}
        for item in items
        if person in who[item["prompt_id"]]["people"]
    ]


def _divided(prompts: Sequence[str], config: AlignConfig, each: int, purpose: str) -> dict[str, list[str]]:
    """The `each` people who are asked about a prompt: those with the fewest prompts so far, of equals by hash."""
    load: Counter[str] = Counter()
    out: dict[str, list[str]] = {}

    def drawn(*words: str) -> float:
        return draw(config.seed, purpose, *words)

    for prompt_id in sorted(prompts, key=drawn):
        by_load = sorted((load[person], drawn(prompt_id, person), person) for person in config.people)
        by_draw = sorted((drawn("first", prompt_id, person), person) for _, _, person in by_load[:each])
        out[prompt_id] = [person for _, person in by_draw]
        load.update(out[prompt_id])
    return out


class _Mixed(NamedTuple):
    question: GoldQuestion
    people: list[str]


def _mixed(
    golds: Sequence[GoldQuestion], chosen: Mapping[str, Sequence[str]], config: AlignConfig, purpose: str
) -> list[_Mixed]:
    """The gold questions that anybody is asked. Each person gets their own draw of the file: at least LEAST questions,
    so that one can be judged, where the file has so many."""
    if not config.gold_share:
        return []
    load = Counter(person for people in chosen.values() for person in people)
    asked: dict[int, list[str]] = {}
    for person in config.people:
        wanted = max(LEAST, share(config.gold_share, load[person]))
        places = sorted((draw(config.seed, purpose, "gold", person, str(n)), n) for n in range(len(golds)))
        for _, place in places[:wanted]:
            asked.setdefault(place, []).append(person)
    return [_Mixed(golds[place], people) for place, people in sorted(asked.items())]


def _gold_item(gold: GoldQuestion, seed: int, purpose: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """A gold question as an item that looks like any other, and its entry of the key."""
    identity = _hidden([seed, purpose, gold.messages, gold.groups])
    texts = sorted((t for group in gold.groups for t in group), key=lambda t: draw(seed, purpose, identity, t))
    names = {text: label(place) for place, text in enumerate(texts)}
    candidates = [{"label": names[text], "text": text} for text in texts]
    item = {"prompt_id": identity, "rank": True, "edit": False, "messages": gold.messages, "candidates": candidates}
    right = [sorted(names[text] for text in group) for group in gold.groups]
    return item, {"prompt_id": identity, "right": right, "labels": {}}


def _hidden(what: list[Any]) -> str:
    """An id that says nothing about the question."""
    return f"q-{hashlib.sha256(manifest.canonical(what)).hexdigest()[:16]}"
