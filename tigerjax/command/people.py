"""Commands about a team of annotators: its state, who said what, and its questions and labels in Label Studio."""

import time
from pathlib import Path
from typing import Annotated, Any

from tigerjax import terminal
from tigerjax.command import align
from tigerjax.command.align import Folder
from tigerjax.command.figures import as_text, save, show
from tigerjax.command.options import OutTable
from tigerjax.config.ranges import Range
from tigerjax.errors import Blocked, ConfigError, LabelStudioError
from tigerjax.terminal import printable

URL = "http://127.0.0.1:8080"
Seconds = Annotated[float, Range(0, 1e6)]


def status(dir: Folder, json: Path | None = None) -> None:
    """Shows how far each of a team is, how well they agree, and who labels badly, with the reason.

    Gold accuracy is the share of pairs of answers that a person orders rightly in gold questions (guessing: 50%); tau
    is Kendall's, with all others and with those who do not fail the gold questions; alpha is Krippendorff's. The
    questions that wait for the adjudicator are written below DIR/people.

    Example: tigerjax align people status runs/align
    """
    from tigerjax.align.people import desk

    project = align.open_project(dir)
    index, rounds = project.under_way(), list[dict[str, Any]]()
    for one in range(1, index + 1):
        found = desk.status(dir, project.align, one)
        if found is not None:
            rounds.append(found)
    if not rounds:
        raise ConfigError(f"{dir} has no queue for a team; set align.people before the step queue")
    waiting = desk.write_adjudicator(dir, project.align, rounds[-1]["round"])
    for found in rounds:
        _show(found)
    if waiting is not None:
        terminal.show(f"the adjudicator's questions are in {waiting}")
    save({"rounds": rounds}, json)


def _show(found: dict[str, Any]) -> None:
    """A table of one round's people, and a line for each reason by which one is named."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    head = ("person", "asked", "to come", "gold", "tau", "tau, sound", "alpha", "drift", "labels")
    table = Table(*head)
    table.columns[0].overflow = "fold"  # cut, two names could look the same
    for one in found["people"]:
        gold = f"{_percent(one['gold_accuracy'])} of {one['gold_questions']}"
        cells = [one["person"], one["asked"], one["to_come"], gold, _number(one["tau"]), _number(one["tau_sound"])]
        cells += [_number(one["alpha"]["ranking"]), _number(one["drift"]), "set aside" if one["set_aside"] else "count"]
        table.add_row(*(Text(printable(str(cell))) for cell in cells))
    due = f"due {found['due'][:16]}{', which has passed' if found['overdue'] else ''}"
    terminal.show(
        f"round {found['round']:02d}: {found['labels']} labels, {found['to_come']} to come, {due};"
        f" {found['for_adjudicator']} prompts for the adjudicator"
    )
    Console().print(table)
    if found["all_set_aside"] and not found["for_adjudicator"]:
        terminal.show(
            f"{found['all_set_aside']} prompts whose labels are all set aside; --align.adjudicator NAME asks somebody"
        )
    terminal.show(f"Krippendorff's alpha: {as_text({name: _number(value) for name, value in found['alpha'].items()})}")
    for one in found["people"]:
        for reason in one["named"]:
            terminal.show(f"{one['person']}: {reason}")


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.0%}"


def export(dir: Folder, out: OutTable, json: Path | None = None) -> None:
    """Writes who said what in all rounds, one label per line, as JSONL or CSV.

    OUT ends in .jsonl or .csv, which says the form. Each line has its state: counted, superseded by a later one of the
    same person, gold, set_aside, adjudicated or former_queue (a queue that was made again lacks the question).

    Example: tigerjax align people export runs/align --out labels.csv
    """
    from collections import Counter

    from tigerjax.align.people import desk

    project = align.open_project(dir)
    last = project.delivery.taker(project.under_way())
    rows = [row for index in range(1, last + 1) for row in desk.said(dir, project.align, index)]
    if not rows:
        raise ConfigError(f"{dir} has no labels yet; import some with `tigerjax align import {dir} --labels FILE`")
    out.parent.mkdir(parents=True, exist_ok=True)
    desk.write_said(out, rows)
    show({"labels": len(rows), **Counter(row["state"] for row in rows)}, json)


def push(dir: Folder, url: str = URL, token_file: Path | None = None, json: Path | None = None) -> None:
    """Brings the questions of each of a team to Label Studio, as a project of their own.

    Questions that are there already stay as they are, so the same command also brings the adjudicator's. People sign in
    with the e-mail addresses that align.people has. The token comes from LABEL_STUDIO_API_KEY or a file.

    Example: tigerjax align people push runs/align --url http://127.0.0.1:8080 --token-file token
    """
    from tigerjax.align.people import studio
    from tigerjax.records import note

    project = align.open_project(dir)
    index = project.under_way()
    questions = _questions(project, index)
    server = studio.Server(url, studio.token(token_file))
    known = {email.casefold() for email in server.emails().values()}
    if absent := [person for person in questions if person.casefold() not in known]:
        note(f"Label Studio has no account of {', '.join(absent)}; they sign up at {url} with these addresses")
    done = [studio.push(server, index, person, items) for person, items in questions.items()]
    show({pushed.title: {"tasks": pushed.tasks, "new": pushed.new} for pushed in done}, json)


def pull(
    dir: Folder,
    url: str = URL,
    token_file: Path | None = None,
    every_s: Seconds = 0,
    json: Path | None = None,
) -> None:
    """Fetches the labels of a team from Label Studio and imports them.

    A wrong annotation holds back no other label: it is counted, named with its task and person, and fetched again next
    time, when it may be corrected. Exit 4 while labels are missing. Labels of the round before are fetched too: those
    that came after its winners were mixed in join the next round. With --every-s it goes on until no label is missing,
    and fetches again after so many seconds.

    Example: tigerjax align people pull runs/align --url http://127.0.0.1:8080 --token-file token --every-s 600
    """
    from tigerjax.align.people import studio

    server = studio.Server(url, studio.token(token_file))
    while True:
        try:
            _pull(dir, server, json)
            return
        except (Blocked, LabelStudioError) as error:
            if not every_s:
                raise
            terminal.show(f"{error}; asked again in {every_s:g} s")
        time.sleep(every_s)


def _pull(dir: Path, server: Any, json: Path | None) -> None:
    """Fetches once, and imports what is new."""
    import tempfile

    from tigerjax.align.people import panel, studio
    from tigerjax.align.people.delivery import asked
    from tigerjax.records import note

    project = align.open_project(dir)
    index, files, wrong = project.under_way(), list[Path](), list[str]()
    names = [*project.align.people, *([project.align.adjudicator] if project.align.adjudicator else [])]
    with tempfile.TemporaryDirectory() as scratch:
        for one in range(max(1, index - 1), index + 1):
            items = asked(project.rounds / f"{one:02d}").items
            titles = {studio.title(one, name, items[0]["batch_sha256"]): name for name in names} if items else {}
            pulled = studio.pull(server, list(titles), names)
            team = panel.of_round(project.rounds / f"{one:02d}", project.align) if one == index else None
            answering = {person for each in team.assignments for person in each["people"]} if team else set()
            if lost := [title for title in pulled.absent if titles[title] in answering]:
                note(
                    f"Label Studio has no project {', '.join(lost)}, so no labels of theirs were fetched; `tigerjax"
                    f" align people push {dir}` makes it"
                )
            sound = project.delivery.sifted(one, pulled.tasks)
            wrong += [f"round {one:02d}: {line}" for line in sound.wrong]
            if sound.tasks:
                files.append(Path(scratch) / f"label-studio-round-{one:02d}.json")
                files[-1].write_bytes(sound.content)
        for line in wrong:
            note(f"wrong label: {line}")
        if wrong:
            note(f"{len(wrong)} wrong labels are not taken; once corrected in Label Studio, the next pull takes them")
        align.take_labels(dir, files, json, {"wrong": len(wrong)} if wrong else {})


def _questions(project: Any, index: int) -> dict[str, list[dict[str, Any]]]:
    """By person, the items that they are asked in a round; ConfigError without a queue for a team."""
    from tigerjax.align.people import assign, desk, panel
    from tigerjax.align.people.delivery import asked

    place = project.rounds / f"{index:02d}"
    team, items = panel.of_round(place, project.align), asked(place).items
    if team is None:
        raise ConfigError(f"round {index:02d} has no queue for a team; set align.people before the step queue")
    found = {person: assign.own_items(items, team.assignments, person) for person in team.people}
    if team.adjudicator is not None:
        found[team.adjudicator] = desk.adjudicated(project.folder, project.align, index)
    return {person: own for person, own in found.items() if own}
