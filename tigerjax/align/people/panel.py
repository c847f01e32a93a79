"""The rules of a team: which labels count, whose are set aside, what the adjudicator decides, what is waited for."""

import datetime
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

from tigerjax.align.config import AlignConfig
from tigerjax.align.people import gold
from tigerjax.align.people.agreement import Ranking, kendall
from tigerjax.errors import Blocked, near_miss
from tigerjax.files import manifest, own
from tigerjax.files.jsonl import read_jsonl
from tigerjax.terminal import printable

Slot = tuple[str, str, str]
"""(prompt id, "rank" or "edit", annotator)"""
ASSIGNMENTS = "assignments.jsonl"
PEOPLE = "people.json"
WRONG_WAY = 0.25
"""Who orders a smaller share of pairs of gold questions rightly is called adversarial: guessing gives 0.5."""


NEAR_NAME = 0.85
"""How alike two names must be, from 0 to 1, for one to be a slip of the other: two addresses of a domain are alike."""


class Counted(NamedTuple):
    """The label lines that count, and why others do not."""

    lines: Mapping[Slot, dict[str, Any]]
    aside: list[str]
    """The people whose labels are set aside."""
    records: dict[str, gold.Record]
    """What each person did on the gold questions of this round and of earlier ones."""
    disputed: list[str]
    """Prompts that the adjudicator has still to decide."""
    dropped: dict[str, int]
    """The number of lines that do not count, by reason: gold, set_aside, adjudicated."""


class Panel(NamedTuple):
    """A team in one round."""

    people: Sequence[str]
    assignments: Sequence[Mapping[str, Any]]
    min_gold: float
    set_aside: bool
    min_agreement: float
    adjudicator: str | None
    due: datetime.datetime
    earlier: Mapping[str, gold.Record] = {}
    """What people did on the gold questions of earlier rounds."""
    now: datetime.datetime | None = None
    """None: the time of the clock."""

    @property
    def closed(self) -> bool:
        """Whether the day has passed until which every label is waited for."""
        return (self.now or datetime.datetime.now(datetime.UTC)) > self.due

    def counted(self, lines: Mapping[Slot, dict[str, Any]], key: Sequence[Mapping[str, Any]]) -> Counted:
        """The lines that count, of `lines` about the questions of `key`."""
        rights = {entry["prompt_id"]: entry["right"] for entry in key if "right" in entry}
        labels = {p: [name for group in right for name in group] for p, right in rights.items()}
        records = gold.of_people(orders(lines, labels), rights)
        for person, before in self.earlier.items():
            records[person] = before.with_(records.get(person, gold.Record()))
        failed = {person for person, record in records.items() if record.fails(self.min_gold)}
        aside = sorted(failed - {self.adjudicator}) if self.set_aside else []
        decided = {p for p, kind, who in lines if kind == "rank" and who == self.adjudicator}
        kept, dropped = dict[Slot, dict[str, Any]](), Counter[str]()
        for slot, line in lines.items():
            prompt_id, kind, person = slot
            if prompt_id in rights:
                dropped["gold"] += 1
            elif person in aside:
                dropped["set_aside"] += 1
            elif kind == "rank" and prompt_id in decided and person != self.adjudicator:
                dropped["adjudicated"] += 1
            else:
                kept[slot] = line
        return Counted(kept, aside, records, self._disputed(kept, key), dict(dropped))

    def _disputed(self, lines: Mapping[Slot, dict[str, Any]], key: Sequence[Mapping[str, Any]]) -> list[str]:
        """The prompts of the queue on which people disagree; none without an adjudicator."""
        labels = {entry["prompt_id"]: sorted(entry["labels"]) for entry in key if "right" not in entry}
        by_prompt: dict[str, dict[str, Ranking]] = {}
        for (prompt_id, kind, person), line in lines.items():
            if kind == "rank" and line["ranking"] and prompt_id in labels:
                by_prompt.setdefault(prompt_id, {})[person] = complete(line["ranking"], labels[prompt_id])
        if self.adjudicator is None:
            return []
        return sorted(p for p, given in by_prompt.items() if any(apart(given, self.min_agreement)))

    def for_adjudicator(
        self, counted: Counted, lines: Mapping[Slot, Any], key: Sequence[Mapping[str, Any]]
    ) -> list[str]:
        """The prompts that wait for the adjudicator: people disagree, or all who ranked them are set aside."""
        if self.adjudicator is None:
            return []
        return sorted({*counted.disputed, *self.all_aside(counted, lines, key)})

    def all_aside(self, counted: Counted, lines: Mapping[Slot, Any], key: Sequence[Mapping[str, Any]]) -> list[str]:
        """The prompts whose labels are all set aside: nobody else of the team is asked about them."""
        done = {prompt_id for prompt_id, kind, _ in counted.lines if kind == "rank"}
        done |= {entry["prompt_id"] for entry in key if "right" in entry}
        return [
            one["prompt_id"]
            for one in self.assignments
            if one["prompt_id"] not in done
            and all(p in counted.aside or (one["prompt_id"], "rank", p) in lines for p in one["people"])
        ]

    def for_whom(self, counted: Counted, lines: Mapping[Slot, Any], key: Sequence[Mapping[str, Any]]) -> str:
        """What of the missing labels is the adjudicator's, or would be if there were one, in words; else empty."""
        if self.adjudicator is None and (lost := len(self.all_aside(counted, lines, key))):
            return f"; --align.adjudicator NAME asks somebody for the {lost} prompts whose labels are all set aside"
        waiting = len(self.for_adjudicator(counted, lines, key))
        return f"; {waiting} prompts wait for the adjudicator, {self.adjudicator}" if waiting else ""

    def to_come(self, lines: Mapping[Slot, Any], aside: Sequence[str]) -> dict[str, int]:
        """By person of the team whose labels count, the questions whose ranking or edit has not come."""
        owed: Counter[str] = Counter()
        for one in self.assignments:
            owed.update(p for p in one["people"] if p not in aside and _owed(lines, one, p))
        return {person: owed[person] for person in self.people if owed[person]}

    def needs_edit(self, counted: Counted, prompt_id: str) -> bool:
        """Whether a prompt waits for its edit. A ranking is enough after the day until which all is waited for, and
        where the labels of the one who is asked for the edit are set aside."""
        ranked = any(slot[:2] == (prompt_id, "rank") for slot in counted.lines)
        by = {one["edit_by"] for one in self.assignments if one["prompt_id"] == prompt_id}
        return not (ranked and (self.closed or by.issubset(counted.aside)))

    def refuse_open(self, lines: Mapping[Slot, Any], counted: Counted, here: str) -> None:
        """Blocked while labels of the team are waited for, or prompts for the adjudicator."""
        owed = {} if self.closed else self.to_come(lines, counted.aside)
        if owed:
            who = ", ".join(f"{person} {count}" for person, count in owed.items())
            raise Blocked(
                f"labels of the team are still to come until {self.due:%Y-%m-%d %H:%M} UTC: {who}{here}; import them"
            )
        if counted.disputed:
            raise Blocked(
                f"people disagree on {len(counted.disputed)} prompts, such as {counted.disputed[0]}{here}; import the"
                f" rankings of the adjudicator, {self.adjudicator}"
            )

    def notes(self, counted: Counted, lines: Mapping[Slot, dict[str, Any]]) -> list[str]:
        """A line about each person whose labels are set aside, and about each who labels and is not of the team."""
        aside = [
            f"labels: those of {person} are set aside: {doubt(counted.records[person])}; --align.no-set-aside takes"
            " them"
            for person in counted.aside
        ]
        names = [*self.people, *([] if self.adjudicator is None else [self.adjudicator])]
        asked = {one["prompt_id"] for one in self.assignments}
        others = Counter(person for prompt_id, _, person in lines if prompt_id in asked and person not in names)
        return aside + [
            f"labels: {count} of {printable(person)}, who is not in align.people; they count as a person of their"
            f" own{_meant(person, names)}; to take them back, delete their file in labels/ of the project"
            for person, count in sorted(others.items())
        ]


def _meant(person: str, names: Sequence[str]) -> str:
    """`; did you mean X?` for a name that is not of the team, where one of `names` is spelt like it."""
    same = [name for name in names if name.casefold() == person.strip().casefold()]
    return f"; did you mean {same[0]}?" if same else near_miss(person, names, NEAR_NAME)


def doubt(record: gold.Record) -> str:
    """What is wrong with a person's answers to the gold questions, in words."""
    right = record.right / record.questions
    kind = "adversarial, orders answers the wrong way round" if right < WRONG_WAY else "careless"
    return f"{kind}: {right:.0%} right on {record.questions} gold questions, where guessing gives 50%"


def orders(lines: Mapping[Slot, dict[str, Any]], labels: Mapping[str, Sequence[str]]) -> list[tuple[str, str, Ranking]]:
    """(prompt id, person, complete ranking) of the ranking lines about the prompts of `labels`, {prompt id: the labels
    of its answers}. Rejected answers stand last."""
    return [
        (prompt_id, person, _order(line, labels[prompt_id]))
        for (prompt_id, kind, person), line in lines.items()
        if kind == "rank" and prompt_id in labels
    ]


def _order(line: Mapping[str, Any], labels: Sequence[str]) -> Ranking:
    rejected = set(line.get("reject", []))
    kept = [[name for name in group if name not in rejected] for group in line["ranking"]]
    groups = complete([group for group in kept if group], [name for name in labels if name not in rejected])
    return groups + ([sorted(rejected)] if rejected else [])


def complete(ranking: Ranking, labels: Sequence[str]) -> list[list[str]]:
    """The ranking with the labels that it leaves out as its last group."""
    listed = {name for group in ranking for name in group}
    rest = [name for name in labels if name not in listed]
    return [sorted(group) for group in ranking] + ([rest] if rest else [])


def apart(given: Mapping[str, Ranking], least: float) -> list[tuple[tuple[str, str], float]]:
    """The pairs of people whose Kendall's tau-b is below `least`, with it."""
    pairs = combinations(sorted(given), 2)
    return [((a, b), tau) for a, b in pairs if (tau := kendall(given[a], given[b])) < least]


def _owed(lines: Mapping[Slot, Any], one: Mapping[str, Any], person: str) -> bool:
    """Whether a person has not answered the question of an assignment, or not edited as asked."""
    given = {kind for kind in ("rank", "edit") if (one["prompt_id"], kind, person) in lines}
    return not given or (one["edit_by"] == person and "edit" not in given)


def of_round(folder: Path, config: AlignConfig) -> Panel | None:
    """The team of the round in `folder`, whose queue is there; None without a team."""
    queue = folder / "queue"
    if not config.people or not (queue / ASSIGNMENTS).is_file():
        return None
    ended = datetime.datetime.fromisoformat((manifest.read(queue) or {})["ended"])
    return Panel(
        people=config.people,
        assignments=[record for _, record in read_jsonl(queue / ASSIGNMENTS)],
        min_gold=config.min_gold,
        set_aside=config.set_aside,
        min_agreement=config.min_agreement,
        adjudicator=config.adjudicator,
        due=ended + datetime.timedelta(days=config.due_days),
        earlier=_read_records(earlier_records(folder, config)),
    )


def earlier_records(folder: Path, config: AlignConfig) -> list[Path]:
    """The file with what the team did on gold questions in the rounds before that in `folder`, where there is one."""
    path = folder.parent / f"{int(folder.name) - 1:02d}" / "labels" / PEOPLE
    return [path] if config.people and path.is_file() else []


def _read_records(files: Sequence[Path]) -> dict[str, gold.Record]:
    """What `write_records` wrote."""
    if not files:
        return {}
    (path,) = files
    with own.fields(path, manifest.AGAIN):
        stored = own.read_object(path, manifest.AGAIN)
        return {person: gold.Record(one["right"], one["questions"]) for person, one in stored.items()}


def write_records(path: Path, records: Mapping[str, gold.Record]) -> None:
    """Writes what people did on gold questions, for the rounds that follow."""
    manifest.write_json(path, {person: records[person]._asdict() for person in sorted(records)})
