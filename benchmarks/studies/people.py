"""A team of five annotators, of whom two are careless and one is adversarial: are they named, and who wins the round?

    python benchmarks/studies/people.py --seeds 10           prints one line per seed, and means with deviations

The world is drawn by a seed. Each answer has a true quality, drawn from a normal distribution. The reward model sees it
with noise of the same size, a sound annotator with a third of that; a careless one ranks at random, an adversarial one
ranks the other way round. What is measured runs through the code of a real round: queue, assignments and gold
questions, import of label lines, ranking. A winner is right when it is the best of its prompt's answers.
"""

import argparse
import datetime
import json
import random
import statistics
import tempfile
from pathlib import Path
from typing import Any

from tigerjax.align import rank
from tigerjax.align.config import AlignConfig
from tigerjax.align.people import assign, quality
from tigerjax.align.people import labels as labels_lib
from tigerjax.align.people import queue as queue_lib
from tigerjax.align.people.gold import GoldQuestion
from tigerjax.align.people.panel import Panel

PROMPTS, ANSWERS, RANKED, GOLDS, GOLD_SHARE = 200, 6, 0.3, 40, 0.25
REWARD_NOISE, SOUND_NOISE = 1.0, 0.33  # beside a standard deviation of quality of 1
TEAM = {"ann": "sound", "bob": "sound", "cat": "careless", "dan": "careless", "eve": "adversarial"}
ADJUDICATOR = "jo"
DAYS = 7

Qualities = dict[str, float]


def simulate(seed: int, *, prompts: int = PROMPTS) -> dict[str, Any]:
    """{named: {person: reasons}, set_aside: [people], right: {arm: share of right winners on the prompts that people
    ranked}, round: {arm: the same over all prompts}} of one world."""
    rng = random.Random(f"team {seed}")
    truth: Qualities = {}
    records = [_record(rng, f"p{i:04d}", truth) for i in range(prompts)]
    golds = [_gold(rng, f"g{i:04d}", truth) for i in range(GOLDS)]
    config = AlignConfig(prompt_fraction=0.1, seed=seed, people=list(TEAM), gold_share=GOLD_SHARE)
    asked = queue_lib.build(
        records, rank_fraction=RANKED, edit_fraction=0, edit_within_ranked=True, seed=seed, round_index=1
    )
    team = assign.build(asked, golds, config, 1)
    judged = {entry["of"] for entry in team.queue.key if "of" in entry}
    lines = _labels(rng, team, truth)
    figures = _figures(team, lines, config)
    arms = {
        "reward model alone": {},
        "team, nobody set aside": _verdicts(team, lines, config, set_aside=False),
        "team": _verdicts(team, lines, config),
        "team and adjudicator": _adjudicated(rng, team, lines, config, truth),
    }
    out: dict[str, Any] = {
        "named": {one["person"]: one["named"] for one in figures["people"] if one["named"]},
        "set_aside": [one["person"] for one in figures["people"] if one["set_aside"]],
        "right": {},
        "round": {},
    }
    for arm, verdicts in arms.items():
        won = {r["prompt_id"]: r["ranking"][0]["text"] for r in rank.rank(records, verdicts).records}
        best = {r["prompt_id"]: max((c["text"] for c in r["candidates"]), key=truth.__getitem__) for r in records}
        out["right"][arm] = statistics.fmean(won.get(p) == best[p] for p in sorted(judged))
        out["round"][arm] = statistics.fmean(won.get(p) == text for p, text in best.items())
    return out


def _texts(rng: random.Random, name: str, count: int, truth: dict[str, float]) -> list[str]:
    """Answers to a prompt; `truth` gets their qualities."""
    texts = [f"answer {k} to {name}" for k in range(count)]
    truth.update({text: rng.gauss(0, 1) for text in texts})
    return texts


def _record(rng: random.Random, name: str, truth: Qualities) -> dict[str, Any]:
    texts = _texts(rng, name, ANSWERS, truth)
    candidates = [
        {"cid": f"{name}-{k}", "text": text, "finish": "stop", "score": truth[text] + rng.gauss(0, REWARD_NOISE)}
        for k, text in enumerate(texts)
    ]
    return {"prompt_id": name, "messages": [{"role": "user", "content": name}], "candidates": candidates}


def _gold(rng: random.Random, name: str, truth: Qualities) -> GoldQuestion:
    texts = sorted(_texts(rng, name, ANSWERS, truth), key=truth.__getitem__, reverse=True)
    return GoldQuestion([{"role": "user", "content": name}], [[text] for text in texts])


def _line(rng: random.Random, item: dict[str, Any], person: str, kind: str, truth: Qualities) -> dict[str, Any]:
    """What a person of a kind says of a question."""
    noise = {"sound": SOUND_NOISE, "careless": 1e9, "adversarial": SOUND_NOISE}[kind]
    seen = {c["label"]: truth[c["text"]] + rng.gauss(0, noise) for c in item["candidates"]}
    order = sorted(seen, key=seen.__getitem__, reverse=kind != "adversarial")
    signed = {name: item[name] for name in ("prompt_id", "batch_sha256")} | {"annotator": person}
    return signed | {"ranking": [[name] for name in order]}


def _labels(rng: random.Random, team: assign.Team, truth: Qualities) -> list[dict[str, Any]]:
    """The lines of all five, spread over a week."""
    monday = datetime.datetime(2026, 5, 4, 9, tzinfo=datetime.UTC)
    lines = []
    for person, kind in TEAM.items():
        items = assign.own_items(team.queue.items, team.assignments, person)
        for n, item in enumerate(items):
            at = monday + datetime.timedelta(days=n * DAYS // len(items), minutes=n)
            lines.append(_line(rng, item, person, kind, truth) | {"at": at.isoformat()})
    return lines


def _panel(team: assign.Team, config: AlignConfig, *, set_aside: bool = True, adjudicator: str | None = None) -> Panel:
    return Panel(
        people=config.people,
        assignments=team.assignments,
        min_gold=config.min_gold,
        set_aside=set_aside,
        min_agreement=config.min_agreement,
        adjudicator=adjudicator,
        due=datetime.datetime(2026, 5, 11, tzinfo=datetime.UTC),
    )


def _imported(team: assign.Team, lines: list[dict[str, Any]], panel: Panel) -> labels_lib.Imported:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "labels.jsonl"
        file.write_text("".join(json.dumps(line) + "\n" for line in lines))
        return labels_lib.import_labels(
            team.queue.items,
            team.queue.key,
            [file],
            max_tokens=1,
            count_tokens=lambda messages: 1,
            allow_partial=True,
            panel=panel,
        )


def _verdicts(
    team: assign.Team, lines: list[dict[str, Any]], config: AlignConfig, *, set_aside: bool = True
) -> dict[str, labels_lib.Verdict]:
    return _imported(team, lines, _panel(team, config, set_aside=set_aside)).verdicts


def _adjudicated(
    rng: random.Random, team: assign.Team, lines: list[dict[str, Any]], config: AlignConfig, truth: Qualities
) -> dict[str, labels_lib.Verdict]:
    """The verdicts when a sound adjudicator has ranked what people disagree on, and what nobody sound ranked."""
    panel = _panel(team, config, adjudicator=ADJUDICATOR)
    found = {(line["prompt_id"], "rank", line["annotator"]): line for line in lines}
    wanted = panel.for_adjudicator(panel.counted(found, team.queue.key), found, team.queue.key)
    items = [item for item in team.queue.items if item["prompt_id"] in wanted]
    more = [_line(rng, item, ADJUDICATOR, "sound", truth) for item in items]
    return _imported(team, [*lines, *more], panel).verdicts


def _figures(team: assign.Team, lines: list[dict[str, Any]], config: AlignConfig) -> dict[str, Any]:
    """What `tigerjax align people status` shows."""
    panel = _panel(team, config)
    found = {(line["prompt_id"], "rank", line["annotator"]): line for line in lines}
    return quality.figures(panel, found, team.queue.key, panel.counted(found, team.queue.key).aside)


def main() -> None:
    """Prints each seed, then means and sample standard deviations over the seeds."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--seeds", type=int, default=10)
    seeds = range(parser.parse_args().seeds)
    found = [simulate(seed) for seed in seeds]
    for seed, one in zip(seeds, found, strict=True):
        in_words = ", ".join(f"{arm} {share:.1%}" for arm, share in one["right"].items())
        named, aside = (", ".join(one[field]) or "nobody" for field in ("named", "set_aside"))
        print(f"seed {seed}: named {named}; set aside {aside}; {in_words}")
    for person, kind in TEAM.items():
        times = [sum(person in one[field] for one in found) for field in ("named", "set_aside")]
        print(f"{person} ({kind}): named at {times[0]} of {len(found)} seeds, set aside at {times[1]}")
    for what, said in (("right", "on the prompts that people ranked"), ("round", "on all prompts")):
        for arm in found[0][what]:
            shares = [one[what][arm] for one in found]
            spread = f" ± {100 * statistics.stdev(shares):.1f}" if len(shares) > 1 else ""
            print(f"right winners {said}, {arm}: {statistics.fmean(shares):.1%}{spread}")
    better = sum(one["right"]["team"] >= one["right"]["reward model alone"] for one in found)
    print(f"the team's winners are right at least as often as the reward model's at {better} of {len(found)} seeds")


if __name__ == "__main__":
    main()
