"""How good the labels of each of a team are: gold questions, agreement with others, and their change over days.

Agreement of a person is the mean of Kendall's tau-b over their prompts and the others who ranked these. In a team of
which most are careless, a careful person agrees with few; so `tau_sound` counts only others who do not fail the gold
questions. Krippendorff's alpha of rankings compares which of two answers is better, that of an axis its marks from 1
to 5.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any

from tigerjax.align.people import gold
from tigerjax.align.people.agreement import Ranking, alpha, kendall, signs
from tigerjax.align.people.label_lines import AXES, when
from tigerjax.align.people.panel import Panel, Slot, doubt, orders

LEAST_PROMPTS = 5  # agreement and drift over fewer prompts say nothing
LOW_TAU, OPPOSED_TAU = 0.2, -0.2
"""Agreement below which a person is named: with that of people who guess, or who turn the order round."""
LARGE_DRIFT = 0.3  # a fall of the agreement from the first half of the labels to the second that is named
NO_DAY = "no date"


def figures(
    panel: Panel, lines: Mapping[Slot, dict[str, Any]], key: Sequence[Mapping[str, Any]], aside: Sequence[str]
) -> dict[str, Any]:
    """The state of a team's labels: {alpha: {"ranking" or axis: number or None}, people: [one object each]}."""
    labels = {entry["prompt_id"]: sorted(entry["labels"]) for entry in key if "right" not in entry}
    right = {entry["prompt_id"]: entry["right"] for entry in key if "right" in entry}
    golds = {p: [name for group in groups for name in group] for p, groups in right.items()}
    ranked: dict[str, dict[str, Ranking]] = defaultdict(dict)
    for prompt_id, person, order in orders(lines, labels):
        ranked[prompt_id][person] = order
    shares = {(p, who): gold.share_right(order, right[p]) for p, who, order in orders(lines, golds)}
    records = gold.of_people(orders(lines, golds), right)
    for person, before in panel.earlier.items():
        records[person] = before.with_(records.get(person, gold.Record()))
    failing = {person for person, record in records.items() if record.fails(panel.min_gold)}
    asked = {person: sum(person in a["people"] for a in panel.assignments) for person in panel.people}
    owed = panel.to_come(lines, [])
    everybody = [*panel.people, *sorted({who for _, _, who in lines} - set(panel.people))]
    drifting = _drifting(everybody, lines, ranked, failing)
    people = []
    for person in everybody:
        own = [p for p, given in ranked.items() if person in given]
        taus = {p: _taus(ranked[p], person, set()) for p in own}
        sound = {p: _taus(ranked[p], person, failing) for p in own}
        record = records.get(person, gold.Record())
        one = {
            "person": person,
            "asked": asked.get(person, 0),
            "to_come": owed.get(person, 0),
            "gold_questions": record.questions,
            "gold_accuracy": record.accuracy,
            "tau": _mean(taus.values()),
            "tau_sound": _mean(sound.values()),
            "compared": sum(bool(some) for some in sound.values()),
            "alpha": _alphas({p: ranked[p] for p in own}, _axes(lines, set(own))),
            "days": _days(person, lines, sound, shares),
            "drift": _drift(person, lines, sound),
            "drifts": person in drifting,
            "set_aside": person in aside,
        }
        people.append(one | {"named": reasons(one, record, panel.min_gold)})
    return {"alpha": _alphas(ranked, _axes(lines, set(ranked))), "people": people}


def reasons(one: Mapping[str, Any], record: gold.Record, min_gold: float) -> list[str]:
    """Why a person is named, in words with the figures."""
    out = [doubt(record)] if record.fails(min_gold) else []
    tau = one["tau_sound"]
    if tau is not None and one["compared"] >= LEAST_PROMPTS and tau < LOW_TAU:
        kind = "adversarial, orders answers the other way round" if tau < OPPOSED_TAU else "careless"
        what = f"Kendall's tau {tau:.2f} with sound annotators over {one['compared']} prompts"
        out.append(f"{kind}: {what}, where guessing gives 0")
    if one["drifts"]:
        out.append(f"drift: Kendall's tau fell by {-one['drift']:.2f} from the first half of the labels to the second")
    return out


def _taus(given: Mapping[str, Ranking], person: str, without: set[str]) -> list[float]:
    return [kendall(given[person], order) for who, order in given.items() if who != person and who not in without]


def _mean(some: Iterable[Sequence[float]]) -> float | None:
    """The mean of the means; None where there is no number."""
    means = [fmean(numbers) for numbers in some if numbers]
    return fmean(means) if means else None


def _alphas(ranked: Mapping[str, Mapping[str, Ranking]], axes: Mapping[str, list[list[int]]]) -> dict[str, Any]:
    """Krippendorff's alpha of rankings, and of each axis that two people marked."""
    units: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    for prompt_id, given in ranked.items():
        for order in given.values():
            for (a, b), sign in signs(order).items():
                units[prompt_id, a, b].append(sign)
    found = {"ranking": alpha(units.values())} | {axis: alpha(marks) for axis, marks in axes.items()}
    return {name: value for name, value in found.items() if name == "ranking" or value is not None}


def _axes(lines: Mapping[Slot, dict[str, Any]], prompts: set[str]) -> dict[str, list[list[int]]]:
    """By axis, the marks that people gave to each prompt."""
    marks: dict[str, dict[str, list[int]]] = {axis: defaultdict(list) for axis in AXES}
    for (prompt_id, _, _), line in lines.items():
        for axis, mark in line.get("axes", {}).items() if prompt_id in prompts else ():
            marks[axis][prompt_id].append(mark)
    return {axis: list(by_prompt.values()) for axis, by_prompt in marks.items()}


def _days(
    person: str,
    lines: Mapping[Slot, dict[str, Any]],
    taus: Mapping[str, Sequence[float]],
    shares: Mapping[tuple[str, str], float],
) -> list[dict[str, Any]]:
    """{day, labels, tau_sound, gold_accuracy} of each day on which a person gave labels, in UTC by `at` of the line."""
    by_day: dict[str, list[Slot]] = defaultdict(list)
    for slot, line in lines.items():
        if slot[2] == person:
            by_day[when(line["at"]).date().isoformat() if "at" in line else NO_DAY].append(slot)
    return [
        {
            "day": day,
            "labels": len(slots),
            "tau_sound": _mean(taus.get(p, ()) for p, kind, _ in slots if kind == "rank"),
            "gold_accuracy": _mean([shares[p, person]] for p, _, _ in slots if (p, person) in shares),
        }
        for day, slots in sorted(by_day.items())
    ]


def _drift(person: str, lines: Mapping[Slot, dict[str, Any]], taus: Mapping[str, Sequence[float]]) -> float | None:
    """The mean agreement in the second half of a person's dated rankings, less that in the first half; None where a
    half has fewer than LEAST_PROMPTS."""
    dated = sorted(
        (when(line["at"]), slot[0])
        for slot, line in lines.items()
        if slot[1:] == ("rank", person) and "at" in line and taus.get(slot[0])
    )
    values = [fmean(taus[prompt_id]) for _, prompt_id in dated]
    half = len(values) // 2
    return fmean(values[half:]) - fmean(values[:half]) if half >= LEAST_PROMPTS else None


def _drifting(
    people: Sequence[str],
    lines: Mapping[Slot, dict[str, Any]],
    ranked: Mapping[str, Mapping[str, Ranking]],
    failing: set[str],
) -> set[str]:
    """Those whose agreement fell by more than LARGE_DRIFT.

    Whoever shares prompts with one of them seems to fall too. So the one who falls most is named first, and the others
    are looked at again without them.
    """
    found: set[str] = set()
    while True:
        falls = {}
        for person in (p for p in people if p not in found):
            own = {p: _taus(given, person, failing | found) for p, given in ranked.items() if person in given}
            drift = _drift(person, lines, own)
            if drift is not None and drift < -LARGE_DRIFT:
                falls[person] = drift
        if not falls:
            return found
        found.add(min(falls, key=falls.__getitem__))
