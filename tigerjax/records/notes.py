"""One line on standard error for what a stage or a reader did to records that a user gave, with its count."""

from collections.abc import Iterable, Mapping

from tigerjax.terminal import tell as to_terminal

TRIMMED, NUMBERED, RENAMED = "trimmed", "numbered", "renamed"
"""Names of the counts of what happens to records while they are read."""
NOT_GIVEN = "not given"
"""What a missing task or language is called where figures are listed by it."""
MOST_NAMED = 3
SAID = {
    TRIMMED: "dialogues began with an answer or ended with a question, and were cut to whole pairs",
    NUMBERED: "records without an id are equal to an earlier one; their ids are numbered, as ID-000002",
    RENAMED: "records have the id of a record in another file; their ids became FILE:ID",
}


def note(line: str) -> None:
    """Prints the line to standard error."""
    to_terminal(f"tigerjax: note: {line}")


def changes(counts: Mapping[str, int]) -> dict[str, int]:
    """Those counts of what happened to records while they were read that are not 0."""
    return {name: counts[name] for name in SAID if counts.get(name)}


def tell(what: str, counts: Mapping[str, int], said: Mapping[str, str] = SAID) -> None:
    """One line for each of the `changes`; `what` says which records, `said` replaces some of `SAID`."""
    for name, count in changes(counts).items():
        note(f"{what}: {count} {said.get(name, SAID[name])}")


def shown(paths: Iterable[object]) -> str:
    """The paths of a line, of which only the first few are named."""
    names = [str(path) for path in paths]
    return ", ".join(names[:MOST_NAMED]) + (f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else "")
