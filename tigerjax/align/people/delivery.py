"""The label files of a project: DIR/labels/01/ holds those of round 1, numbered in the order in which they came.

A label may come when the winners of its round have been mixed in. Then it joins the next round, as a line that brings
its own question (see label_lines), in a file NNNN-late-of-round-01-NAME.jsonl.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tigerjax.align.config import AlignConfig
from tigerjax.align.people import label_lines, panel
from tigerjax.align.people import labels as labels_lib
from tigerjax.align.people.label_studio import Sifted, sifted
from tigerjax.files import manifest, paths
from tigerjax.files.jsonl import dumped, read_jsonl
from tigerjax.records import note

LATE = "-late-of-round-"


class Questions(NamedTuple):
    """The questions of a round, and their key."""

    items: list[dict[str, Any]]
    key: list[dict[str, Any]]


def asked(round_folder: Path) -> Questions:
    """What people were asked in a round; nothing where it has no queue yet."""
    queue = round_folder / "queue"
    if manifest.read(queue) is None:
        return Questions([], [])
    return Questions(*([r for _, r in read_jsonl(queue / name)] for name in ("queue.jsonl", "key.jsonl")))


def delivered(folder: Path, index: int) -> list[Path]:
    """The label files of a round that were taken, the oldest first."""
    place = folder / "labels" / f"{index:02d}"
    return [place / name for name in paths.names(place) if name.endswith((".jsonl", ".json"))]


class Delivery:
    """Takes label files into the project in `folder`. `count_tokens` and `max_tokens` are those of labels.collect."""

    def __init__(
        self,
        folder: Path,
        config: AlignConfig,
        *,
        max_tokens: int,
        count_tokens: Callable[[list[dict[str, str]]], int],
    ):
        self._folder, self._rounds, self._config = folder, folder / "rounds", config
        self._limits: dict[str, Any] = {"max_tokens": max_tokens, "count_tokens": count_tokens}

    def taker(self, index: int) -> int:
        """The round that takes what comes now, while round `index` is under way: the next one, once it is mixed."""
        return index + (manifest.read(self._rounds / f"{index:02d}" / "mix") is not None)

    def all_late(self, index: int, files: Sequence[Path]) -> bool:
        """Whether files hold labels of rounds whose winners have been mixed in, and no others."""
        late = self._late_of(index)
        there = [path for path in files if path.is_file()]
        return bool(there) and all(late(line) for path in there for _, line in labels_lib.read_lines(path))

    def sifted(self, index: int, tasks: Sequence[Mapping[str, Any]]) -> Sifted:
        """The tasks of an export of Label Studio about round `index`, without the annotations that are wrong."""
        questions = {item["prompt_id"]: item for item in asked(self._rounds / f"{index:02d}").items}
        return sifted(tasks, lambda line: label_lines.check(line, questions, **self._limits))

    def take(self, index: int, files: Sequence[Path]) -> int:
        """Checks label files against their rounds' queues and copies the new ones; returns how many are new.

        Raises DataError with every wrong line, and copies nothing then. What is taken and may be a mistake is said on
        standard error, and how many lines are late.
        """
        late, taker = self._late_of(index), self.taker(index)
        place = self._rounds / f"{taker:02d}"
        earlier, questions = delivered(self._folder, taker), asked(place)

        asks = labels_lib.of_queue(questions.items)

        def check(files: Sequence[Path], takes: Callable[[Any], bool] = labels_lib.everything) -> labels_lib.Imported:
            team, mine = panel.of_round(place, self._config), lambda line: not late(line) and takes(line)
            more: dict[str, Any] = {"allow_partial": True, "panel": team, "takes": mine}
            return labels_lib.import_labels(questions.items, questions.key, files, **self._limits, **more)

        checked = check(files)
        tardy = {r: self._tardy(r, files, late) for r in sorted(set(self._closed(index).values()))}
        for line in (check([*earlier, *files], asks) if earlier else checked).notes:
            note(line)
        known = {manifest.sha256(path) for path in earlier}
        taken = 0
        for path in files:
            rest, is_mixed = _without(path, late)
            if rest is None:
                continue
            if not is_mixed and manifest.sha256(path) in known:
                note(f"labels: {path.name}: delivered before, and not taken a second time")
                continue
            suffix = ".json" if path.suffix == ".json" and not is_mixed else ".jsonl"
            self._write(taker, f"{path.stem}{suffix}", rest)
            taken += 1
        for closed, lines in tardy.items():
            taken += self._take_late(closed, taker, lines)
        return taken

    def _closed(self, index: int) -> dict[str, int]:
        """{batch: round} of the rounds up to `index` whose winners have been mixed in."""
        found = {}
        for r in range(1, index + 1):
            folder = self._rounds / f"{r:02d}"
            if manifest.read(folder / "mix") is not None:
                found.update({item["batch_sha256"]: r for item in asked(folder).items[:1]})
        return found

    def _late_of(self, index: int) -> Callable[[Any], int]:
        """A function that gives the closed round of a label line, and 0 for every other line."""
        closed = self._closed(index)

        def late(line: Any) -> int:
            if not isinstance(line, dict) or not isinstance(line.get("batch_sha256"), str):
                return 0
            return closed.get(line["batch_sha256"], 0)

        return late

    def _tardy(self, closed: int, files: Sequence[Path], late: Callable[[Any], int]) -> labels_lib.Collected:
        """The lines of files about a round that has been mixed, without those that it had in time; `total` has all."""
        items = asked(self._rounds / f"{closed:02d}").items
        in_time = delivered(self._folder, closed)
        in_queue = labels_lib.of_queue(items)
        had = labels_lib.collect(items, in_time, **self._limits, takes=in_queue).lines if in_time else {}
        new = labels_lib.collect(items, files, **self._limits, takes=lambda line: late(line) == closed)
        fresh = {slot: line for slot, line in new.lines.items() if _said(line) != _said(had.get(slot, {}))}
        return new._replace(lines=fresh, total=len(new.lines))

    def _take_late(self, closed: int, taker: int, found: labels_lib.Collected) -> int:
        """Writes late lines among the labels of round `taker`; returns 1 where there are new ones."""
        folder = self._rounds / f"{closed:02d}"
        questions = asked(folder)
        key = {entry["prompt_id"]: entry for entry in questions.key}
        known = {
            manifest.canonical(_said(line))
            for later in range(closed + 1, taker + 1)
            for path in delivered(self._folder, later)
            if f"{LATE}{closed:02d}" in path.name
            for _, line in read_jsonl(path)
        }
        counts = Counter[str]()
        lines = []
        items = {item["prompt_id"]: item for item in questions.items}
        finishes = _finishes(folder) if found.lines else {}
        for (prompt_id, _, _), line in found.lines.items():
            if "right" in key[prompt_id]:
                counts["gold"] += 1
                continue
            own = _own_question(line, items[prompt_id], key[prompt_id], finishes, closed)
            if manifest.canonical(_said(own)) not in known:
                lines.append(own)
        if counts["gold"]:
            note(f"labels: {counts['gold']} answers to gold questions of round {closed:02d} came too late to count")
        if again := found.total - counts["gold"] - len(lines):
            note(f"labels: {again} lines of round {closed:02d} were delivered before, and are not taken a second time")
        if lines:
            self._write(taker, f"{LATE[1:]}{closed:02d}.jsonl", _jsonl(lines))
            note(
                f"labels: {len(lines)} lines of round {closed:02d} came after its winners were mixed in; they join"
                f" round {taker:02d}"
            )
        return bool(lines)

    def _write(self, index: int, name: str, content: bytes) -> None:
        """Writes a label file. Its number gives the order: of two lines of one annotator the newer one counts."""
        place = self._folder / "labels" / f"{index:02d}"
        place.mkdir(parents=True, exist_ok=True)
        numbers = [int(path.name[:4]) for path in delivered(self._folder, index) if path.name[:4].isdecimal()]
        with paths.writing(place / f"{max(numbers, default=0) + 1:04d}-{name}") as copy:
            copy.write(content)


def _without(path: Path, late: Callable[[Any], int]) -> tuple[bytes | None, bool]:
    """(the bytes of a label file without its late lines, whether it has such lines); None where nothing is left."""
    lines = [line for _, line in labels_lib.read_lines(path)]
    if not any(late(line) for line in lines):
        return path.read_bytes(), False
    rest = [line for line in lines if isinstance(line, dict) and not late(line)]
    return (_jsonl(rest) if rest else None), True


def _jsonl(lines: Sequence[dict[str, Any]]) -> bytes:
    return b"".join(dumped(line) + b"\n" for line in lines)


def _said(line: Mapping[str, Any]) -> dict[str, Any]:
    """A label line without the time at which it was given."""
    return {name: value for name, value in line.items() if name != "at"}


def _finishes(round_folder: Path) -> dict[str, str]:
    """Why each answer of a round ended, by candidate id."""
    scored = read_jsonl(round_folder / "score" / "scored.jsonl")
    return {c["cid"]: c["finish"] for _, record in scored for c in record["candidates"]}


def _own_question(
    line: Mapping[str, Any],
    item: Mapping[str, Any],
    entry: Mapping[str, Any],
    finishes: Mapping[str, str],
    closed: int,
) -> dict[str, Any]:
    """A label line of round `closed` as one that brings its own question."""
    candidates = [c | {"finish": finishes[entry["labels"][c["label"]][0]]} for c in item["candidates"]]
    own = {"prompt_id": f"late-{closed:02d}-{entry.get('of', entry['prompt_id'])}", "annotator": line["annotator"]}
    own |= {"messages": item["messages"], "candidates": candidates}
    return own | {name: line[name] for name in label_lines.SAID if name in line}
