"""The queue as a project of Label Studio (1.23), and its export as label lines.

    label_studio.xml     the labelling interface: Settings, Labeling Interface, Code
    label_studio.json    the tasks: [{data: {prompt_id, batch_sha256, purpose, dialogue, answers, labels}}]

A task shows what queue.jsonl shows, in the same order: no score, no candidate id, no model. Annotators drag answers
from the list to `ranked` (best first) or `reject`. Answers left in the list come last, as equals.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple
from xml.etree import ElementTree as xml

from tigerjax.align.people.label_lines import AXES, BadLine, parse

RANKED, REJECT = "ranked", "reject"
KINDS = {"ranking": "ranker", "base": "choices", "edit": "textarea", "note": "textarea"} | dict.fromkeys(AXES, "rating")
"""Name of a control -> the type of its results in the export."""
EDIT = ("base", "edit")
"""The controls of an edit. Those of a ranking are the others."""
UNRANKED = "_"
"""Label Studio's own name, in an export, for the bucket of the answers that were left in the list."""


def config() -> str:
    """The labelling interface as XML: a dialogue, its answers, and the controls of KINDS."""
    view = xml.Element("View")
    # Line breaks of dialogue and answers are shown; the times that Label Studio adds to a dialogue are hidden.
    xml.SubElement(
        view, "Style"
    ).text = ".htx-ranker-item, [class*=dialoguetext] { white-space: pre-wrap; } [class*='time--'] { display: none; }"

    def add(tag: str, **attributes: str) -> xml.Element:
        return xml.SubElement(view, tag, attributes)

    add("Header", value="$purpose", size="4")
    add("Paragraphs", name="dialogue", value="$dialogue", layout="dialogue", nameKey="role", textKey="content")
    add("List", name="answers", value="$answers", title="Answers")
    ranker = add("Ranker", name="ranking", toName="answers")
    xml.SubElement(ranker, "Bucket", {"name": RANKED, "title": "Best first"})
    xml.SubElement(ranker, "Bucket", {"name": REJECT, "title": "Reject"})
    add("Header", value="The best answer, 1 to 5 stars (optional)", size="5")
    for axis in AXES:
        add("Header", value=axis, size="6")
        add("Rating", name=axis, toName="dialogue", maxRating="5")
    add("Header", value="Edit: which answer did you start from, and what should it say?", size="5")
    add("Choices", name="base", toName="dialogue", choice="single", showInline="true", value="$labels")
    add("TextArea", name="edit", toName="dialogue", rows="6", maxSubmissions="1", editable="true")
    add("Header", value="Note (optional)", size="5")
    add("TextArea", name="note", toName="dialogue", rows="2", maxSubmissions="1", editable="true")
    xml.indent(view)
    return xml.tostring(view, encoding="unicode") + "\n"


def tasks(items: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The items of a queue (see queue.build) as tasks to import into Label Studio."""
    return [{"data": _task(item)} for item in items]


def _task(item: Mapping[str, Any]) -> dict[str, Any]:
    wanted = {
        (True, False): "Rank the answers, best first.",
        (True, True): "Rank the answers, best first; then edit one of them until it is as good as it can be.",
        (False, True): "Edit one of the answers until it is as good as it can be.",
    }
    shown = [(c["label"], c["text"]) for c in item["candidates"]]
    return {
        "prompt_id": item["prompt_id"],
        "batch_sha256": item["batch_sha256"],
        "purpose": wanted[item["rank"], item["edit"]],
        "dialogue": [{"role": m["role"], "content": m["content"]} for m in item["messages"]],
        "answers": [{"id": label, "title": label, "body": text or "(empty)"} for label, text in shown],
        "labels": [{"value": label} for label, _ in shown],
    }


def lines(raw: bytes) -> Iterator[tuple[str, Any]]:
    """(where it stands in the export, label line) of each annotation, the oldest first.

    Instead of the line it gives a BadLine when the annotation is wrong, and None when the annotator skipped the task.
    An annotation gives a ranking line, an edit line or both. Its annotator is the e-mail address where the export has
    it, else "label studio user" with their number. Drafts and predictions are ignored.
    """
    try:
        tasks = parse(raw)
    except BadLine as error:
        yield "", error
        return
    dated: list[tuple[datetime, str, Any]] = []
    for number, task in enumerate(tasks, start=1):
        place = f"task {task['id']!r}" if isinstance(task, dict) and "id" in task else f"item {number}"
        if not isinstance(task, dict) or not all(isinstance(task.get(k), t) for k, t in _TASK.items()):
            yield place, BadLine("is not a task with `data` and `annotations`; export as JSON, not as JSON-MIN")
            continue
        for annotation in task["annotations"]:
            try:
                when, which = _when(annotation)
            except BadLine as error:
                yield place, error
                continue
            by = annotation.get("completed_by")
            who = f" of {by['email']}" if isinstance(by, dict) and isinstance(by.get("email"), str) else ""
            where = f"{place}, annotation {which!r}{who}"
            try:
                dated += [(when, where, line) for line in _annotation(task["data"], annotation, when)]
            except BadLine as error:
                dated.append((when, where, error))
    yield from ((where, line) for _, where, line in sorted(dated, key=lambda entry: entry[0]))


class Sifted(NamedTuple):
    """An export without what is wrong in it."""

    tasks: list[dict[str, Any]]
    """The tasks that have annotations left."""
    wrong: list[str]
    """A line for each ranking or edit that was left out: task, annotation, person, and what to change."""

    @property
    def content(self) -> bytes:
        """The export, as `lines` reads it."""
        return json.dumps(self.tasks, sort_keys=True).encode()


def sifted(tasks: Iterable[Mapping[str, Any]], check: Callable[[Any], object]) -> Sifted:
    """The annotations of an export whose label lines pass `check`, which raises BadLine for a wrong one.

    Of an annotation with a ranking and an edit only one may be wrong. The other stays then.
    """
    out, wrong = [], list[str]()
    for task in tasks:
        kept = []
        for annotation in task.get("annotations", []):
            sound, bad = 0, set[bool]()
            for where, line in lines(json.dumps([{**task, "annotations": [annotation]}]).encode()):
                try:
                    if isinstance(line, BadLine):
                        raise line
                    if line is not None:
                        check(line)
                    sound += 1
                except BadLine as error:
                    wrong.append(f"{where}: {error}")
                    bad.add(isinstance(line, dict) and "base" in line)
            if sound and bad:
                edits = bad == {True}
                rest = [r for r in annotation["result"] if (r["from_name"] in EDIT) != edits]
                kept.append({**annotation, "result": rest})
            elif sound:
                kept.append(annotation)
        if kept:
            out.append({**task, "annotations": kept})
    return Sifted(out, wrong)


_TASK = {"data": dict, "annotations": list}


def _when(annotation: Any) -> tuple[datetime, Any]:
    """(last change, id) of an annotation."""
    if not isinstance(annotation, dict) or not isinstance(annotation.get("result"), list):
        raise BadLine("has an annotation without `result`")
    try:
        when = datetime.fromisoformat(annotation["updated_at"])
    except (KeyError, TypeError, ValueError) as error:
        raise BadLine("has an annotation without the time `updated_at`") from error
    if when.tzinfo is None:
        raise BadLine("has an annotation whose `updated_at` names no time zone")
    return when, annotation.get("id")


def _annotation(data: Mapping[str, Any], annotation: Mapping[str, Any], when: datetime) -> list[dict[str, Any] | None]:
    """The label lines of one annotation of the task with `data`; [None] when the annotator skipped the task."""
    if annotation.get("was_cancelled"):
        return [None]
    who = annotation.get("completed_by")
    if isinstance(who, dict):
        who = who.get("email")
    elif isinstance(who, int) and not isinstance(who, bool):
        who = f"label studio user {who}"
    if not isinstance(who, str):
        raise BadLine("does not say who made it: `completed_by` is missing")
    given = _given(annotation["result"])
    signed = {name: data.get(name) for name in ("prompt_id", "batch_sha256")} | {
        "annotator": who,
        "at": when.isoformat(),
    }
    out: list[dict[str, Any] | None] = []
    buckets = given.get("ranking", {})
    axes = {axis: given[axis] for axis in AXES if axis in given}
    edited = any(name in given for name in EDIT)
    note = {"note": given["note"]} if "note" in given else {}
    if axes or buckets.get(RANKED) or buckets.get(REJECT) or not edited:
        ranking = {"ranking": [[label] for label in buckets.get(RANKED, [])], "reject": buckets.get(REJECT, [])}
        out.append({**signed, **ranking, **({"axes": axes} if axes else {}), **note})
        note = {}
    if edited:
        reason = {"reason": note["note"]} if note else {}
        out.append({**signed, "base": given.get("base"), "text": given.get("edit"), **reason})
    return out


def _given(result: Sequence[Any]) -> dict[str, Any]:
    """The value of each control: {ranking: {bucket: [labels]}, base: label, edit: text, note: text, axis: stars}."""
    given: dict[str, Any] = {}
    for region in result:
        name = region.get("from_name") if isinstance(region, dict) else None
        kind = KINDS.get(name) if isinstance(name, str) else None
        if not isinstance(name, str) or kind is None:
            raise BadLine(f"has a result of control {name!r}; label_studio.xml has {', '.join(KINDS)}")
        value = region.get("value")
        if region.get("type") != kind or not isinstance(value, dict):
            raise BadLine(f"control {name!r} gives a {region.get('type')!r}, not a {kind!r}")
        if name in given:
            raise BadLine(f"control {name!r} gives two results")
        given[name] = _ranker(value.get(kind)) if kind == "ranker" else _single(name, kind, value)
    return given


def _ranker(buckets: Any) -> dict[str, list[Any]]:
    """The buckets of the ranking control, checked: {bucket: [labels]}."""
    if not isinstance(buckets, dict) or not all(isinstance(labels, list) for labels in buckets.values()):
        raise BadLine("control 'ranking' needs buckets of labels")
    if unknown := sorted(buckets.keys() - {RANKED, REJECT, UNRANKED}):
        raise BadLine(f"control 'ranking' has a bucket {unknown[0]!r}; there are {RANKED!r} and {REJECT!r}")
    both = [label for label, n in Counter(repr(x) for labels in buckets.values() for x in labels).items() if n > 1]
    if both:
        raise BadLine(f"control 'ranking' holds {both[0]} twice")
    return buckets


def _single(name: str, kind: str, value: Mapping[str, Any]) -> Any:
    """The one entry of a control that takes one."""
    entry = value.get("text" if kind == "textarea" else kind)
    if kind == "rating":
        return entry
    if not isinstance(entry, list) or len(entry) != 1:
        count = len(entry) if isinstance(entry, list) else "no list of"
        raise BadLine(f"control {name!r} holds {count} entries; it takes one")
    return entry[0]
