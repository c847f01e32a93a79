"""The examples of a SeqIO task of the user's own as records, by a small file that names it: x.seqio.

    {"task": "my_books", "modules": ["my_tasks"], "split": "train"}

The modules register the task, and are looked for as those of a mixture. What is read is what the task has before it is
tokenised: its source, and the preprocessors up to SeqIO's `tokenize`. A field holds text, numbers or lists of these.
`inputs` and `targets` are a question and its answer, `targets` alone is the text of a document, unless the example has
fields that documents and dialogues have here.

A file of data that chooses which code runs must be meant: it is read where its own name is given, and not where a
pattern or a folder matches it.
"""

import functools
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tigerjax.errors import ConfigError, DataError, TigerjaxError, near_miss
from tigerjax.files import jsonl, paths
from tigerjax.records import fingerprint, user_code
from tigerjax.records.block import FileBlock
from tigerjax.records.tensorflow_files import plain_value
from tigerjax.records.tf import start

ENDING = ".seqio"
TEXTS = ("text", "content", "raw_content", "messages", "conversations", "instruction")
"""Fields that say themselves what a record is."""
FIELDS = {"task", "modules", "split"}


class NamedTask(NamedTuple):
    """What the file says."""

    task: str
    modules: tuple[str, ...]
    split: str


def import_modules(modules: Sequence[str], named_by: str) -> None:
    """Imports the modules that register tasks and mixtures; ConfigError with the error of one that cannot be."""
    start()  # before a module imports SeqIO in its own way
    for module in modules:
        user_code.imported(module, f"{named_by}: ")


def is_task_file(path: Path) -> bool:
    return path.name.lower().endswith(ENDING)


def named_task(path: Path) -> NamedTask:
    """What a file says. DataError where it is no such file."""
    try:
        found = json.loads(paths.of(path).read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        paths.not_damage(error)
        raise _no_task(path, f"is no JSON ({str(error)[:80]})") from error
    if not isinstance(found, dict) or not isinstance(found.get("task"), str):
        raise _no_task(path, "names no task")
    if unknown := set(found) - FIELDS:
        raise _no_task(path, f"has {sorted(unknown)[0][:40]!r}")
    modules, split = found.get("modules", []), found.get("split", "train")
    if (
        not isinstance(modules, list)
        or not all(isinstance(m, str) and m for m in modules)
        or not isinstance(split, str)
    ):
        raise _no_task(path, "'modules' must be a list of names, and 'split' a name")
    return NamedTask(found["task"], tuple(modules), split)


def _no_task(path: Path, why: str) -> DataError:
    return DataError(f'{path}: {why}; write {{"task": "NAME", "modules": ["MODULE"], "split": "train"}}')


@functools.lru_cache
def _registered(path: Path, named: NamedTask) -> Any:
    """The task of a file. ConfigError where its modules do not register it, DataError for a split that it has not."""
    import_modules(named.modules, str(path))
    _, seqio = start()
    if named.task not in (there := sorted(seqio.TaskRegistry.names())):
        near = near_miss(named.task, there) or f"; there are {', '.join(there[:20]) or 'none'}"
        raise ConfigError(f"{path}: no SeqIO task {named.task!r}; its modules must register it{near}")
    task = seqio.TaskRegistry.get(named.task)
    if named.split not in task.splits:
        raise DataError(
            f"{path}: task {named.task} has the splits {sorted(task.splits)}, not {named.split!r}; give one of them"
        )
    return task


def _untokenised(task: Any) -> Any:
    """The task up to where its texts become ids."""
    _, seqio = start()
    tokenise, before = seqio.preprocessors.tokenize, list[Any]()
    for preprocessor in task.preprocessors:
        if getattr(preprocessor, "func", preprocessor) is tokenise:
            break
        if not isinstance(preprocessor, seqio.CacheDatasetPlaceholder):
            before.append(preprocessor)
    return seqio.Task(f"{task.name}_untokenised", source=task.source, output_features={}, preprocessors=before)


def examples(block: FileBlock, on_bytes: jsonl.OnBytes | None = None) -> Iterator[tuple[int, dict[str, Any]]]:
    """(number, fields) of the task's examples. DataError for what its source or its preprocessors raise."""
    named = named_task(block.path)
    task = _registered(block.path, named)
    try:
        dataset = _untokenised(task).get_dataset(None, split=named.split, shuffle=False)
        yield from enumerate(dataset.as_numpy_iterator(), 1)
    except TigerjaxError:
        raise
    except Exception as error:  # of the user's code, and of TensorFlow, which runs it
        said = " ".join(re.sub(r"\{\{.*?\}\} | \[Op:.*|\[\[.*", "", getattr(error, "message", str(error))).split())
        raise DataError(
            f"{block.path}: task {named.task} cannot be read: {type(error).__name__}: {said[:300]}; correct the task"
        ) from error


def parse_example(where: str, example: dict[str, Any]) -> jsonl.Record:
    """A record of the fields of an example."""
    record = {name: plain_value(f"{where}, field {name!r}", value) for name, value in example.items()}
    targets = record.get("targets")
    if any(name in record for name in TEXTS) or not isinstance(targets, str):
        return record
    asked = record.pop("inputs", "")
    del record["targets"]
    if not asked:
        return {**record, "text": targets}
    messages = [{"role": "user", "content": asked}, {"role": "assistant", "content": targets}]
    return {**record, "messages": messages}


def depends_on(files: Iterable[Path]) -> dict[str, Any]:
    """For the config of a stage: what the tasks of these files depend on, their code and the files that they read."""
    made: dict[str, Any] = {}
    for path in filter(is_task_file, files):
        task = _registered(path, named_task(path))
        own: dict[str, Any] = {}
        read = fingerprint.inputs_of(task, own)
        made[str(path)] = own | {"files": [[str(file), *_state(file)] for file in read]}
    return {"seqio_tasks": made} if made else {}


def _state(file: Path) -> tuple[int, int]:
    """Size and time of a file: a terabyte that a task reads is not hashed."""
    try:
        found = file.stat()
    except OSError as error:
        paths.not_damage(error)
        return 0, 0
    return found.st_size, found.st_mtime_ns
