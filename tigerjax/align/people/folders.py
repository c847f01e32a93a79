"""What the steps queue and labels write: files for people, and what people said."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tigerjax.align.config import AlignConfig
from tigerjax.align.people import assign, label_studio, panel
from tigerjax.align.people import queue as queue_lib
from tigerjax.align.people.gold import GoldQuestion
from tigerjax.align.people.labels import Imported
from tigerjax.files import manifest, paths
from tigerjax.files.jsonl import write_jsonl
from tigerjax.records import note

PEOPLE = "people"
"""Folder below that of the queue: one folder for each of the team."""


def write_queue(
    folder: Path, scored: Sequence[dict[str, Any]], config: AlignConfig, index: int, golds: Sequence[GoldQuestion]
) -> dict[str, Any]:
    """Writes the questions of round `index` to a folder; returns how many there are for each purpose.

    For a team `people/NAME/` has the questions of each person. key.jsonl is for nobody's eyes but the import's.
    """
    asked = queue_lib.build(
        scored,
        rank_fraction=config.rank_fraction,
        edit_fraction=config.edit_fraction,
        edit_within_ranked=config.edit_within_ranked,
        seed=config.seed,
        round_index=index,
    )
    if config.people:
        fewest = min((len(item["candidates"]) for item in asked.items), default=0)
        if short := sum(sum(map(len, one.groups)) < fewest for one in golds):
            note(
                f"gold questions: {short} of {len(golds)} have fewer answers than every question of the queue"
                f" ({fewest}), by which people may know them; give more answers"
            )
        asked, assignments = assign.build(asked, golds, config, index)
        write_jsonl(folder / panel.ASSIGNMENTS, assignments)
        for person in config.people:
            write_questions(folder / PEOPLE / person, assign.own_items(asked.items, assignments, person), person)
    write_questions(folder, asked.items, "")
    write_jsonl(folder / "queue.jsonl", asked.items)
    write_jsonl(folder / "key.jsonl", asked.key)
    (folder / "label_studio.xml").write_text(label_studio.config(), encoding="utf-8")
    return dict(asked.counts)


def write_questions(folder: Path, items: Sequence[Mapping[str, Any]], person: str) -> None:
    """Writes questions as a page, as lines to fill in with the name of `person`, and as tasks of Label Studio."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [line | {"annotator": person} for line in queue_lib.template(items)]
    write_jsonl(folder / "template.jsonl", lines)
    paths.write_text(folder / "queue.md", queue_lib.markdown(items))
    manifest.write_json(folder / "label_studio.json", label_studio.tasks(items))


def write_labels(folder: Path, imported: Imported, conversations: str) -> None:
    """Writes what people said to a folder; `conversations` is the name of the file of questions that they brought."""
    verdicts = ({"prompt_id": p, **v._asdict()} for p, v in imported.verdicts.items())
    write_jsonl(folder / "verdicts.jsonl", verdicts)
    write_jsonl(folder / "adjudicate.jsonl", imported.adjudicate)
    manifest.write_json(folder / "missing.json", imported.missing)
    if imported.conversations:
        write_jsonl(folder / conversations, imported.conversations)
    if imported.records:
        panel.write_records(folder / panel.PEOPLE, imported.records)
