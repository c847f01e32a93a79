"""One line on standard error for what a stage or a reader did to records that a user gave, with its count."""

from collections.abc import Iterable, Mapping, MutableMapping

from tigerjax.terminal import tell as to_terminal

TRIMMED, NUMBERED, RENAMED, DAMAGED = "trimmed", "numbered", "renamed", "damaged_pages"
"""Names of the counts of what happens to records while they are read."""
UNREAD = "unread "
"""Begins the name of the count of examples with a field that has no form here; the field's name follows."""
MOST_UNREAD = 20
"""Fields that are counted by their names; those after them are counted together."""
NOT_GIVEN = "not given"
"""What a missing task or language is called where figures are listed by it."""
MOST_NAMED = 3
SAID = {
    TRIMMED: "dialogues began with an answer or ended with a question, and were cut to whole pairs",
    NUMBERED: "records without an id are equal to an earlier one; their ids are numbered, as ID-000002",
    RENAMED: "records have the id of a record in another file; their ids became FILE:ID",
    DAMAGED: "pages of web archives cannot be decoded, and are left out",
}


def note(line: str) -> None:
    """Prints the line to standard error."""
    to_terminal(f"tigerjax: note: {line}")


def changes(counts: Mapping[str, int]) -> dict[str, int]:
    """Those counts of what happened to records while they were read that are not 0."""
    unread = sorted(name for name in counts if name.startswith(UNREAD))
    return {name: counts[name] for name in [*SAID, *unread] if counts.get(name)}


def count_unread(fields: Iterable[str], counts: MutableMapping[str, int]) -> None:
    """Counts an example with fields that are not read, once for each."""
    for field in set(fields):
        name = f"{UNREAD}{field}"
        if name not in counts and sum(known.startswith(UNREAD) for known in counts) >= MOST_UNREAD:
            name = f"{UNREAD}others"
        counts[name] = counts.get(name, 0) + 1


def tell(what: str, counts: Mapping[str, int], said: Mapping[str, str] = SAID) -> None:
    """One line for each of the `changes`, and one for all fields that are not read; `what` says which records, `said`
    replaces some of `SAID`."""
    unread = []
    for name, count in changes(counts).items():
        if name.startswith(UNREAD):
            unread.append(f"{name.removeprefix(UNREAD)!r} of {count} examples")
        else:
            note(f"{what}: {count} {said.get(name, SAID[name])}")
    if unread:
        note(f"{what}: not read, as the chat encoding has no form for them: {', '.join(unread)}")


def shown(paths: Iterable[object]) -> str:
    """The paths of a line, of which only the first few are named."""
    names = [str(path) for path in paths]
    return ", ".join(names[:MOST_NAMED]) + (f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else "")
