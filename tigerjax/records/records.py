"""Records of files (tigerjax.records.readers): validated, converted, given ids.

Document:     {id, text, source, lang, meta}
SFT example:  {id, messages: [{role: user|assistant, content}], task, lang, source, weight?}
Alpaca ({instruction, input, output}) and ShareGPT ({conversations}) records are converted to the latter.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path

from tigerjax.errors import ConfigError, DataError
from tigerjax.files import paths
from tigerjax.files.jsonl import OnBad, Record, named, read_jsonl, refuse_empty, write_jsonl
from tigerjax.files.manifest import canonical, size
from tigerjax.records import readers

__all__ = ["OnBad", "Record", "read_jsonl", "write_jsonl"]

Paths = str | Path | Iterable[str | Path]

DENIED_SOURCES = ("commoncrawl", "c4")
"""Beginnings of `source` that no pretraining data may have: what Llama-2 was pretrained on is left out."""
SHAREGPT_ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant"}


def record_id(record: Record) -> str:
    """`xxh3_128` of the canonical JSON, in hex: the id of a record that brings none."""
    import xxhash

    return xxhash.xxh3_128_hexdigest(canonical(record))


TFDS = "tfds:"


def expand(patterns: Paths) -> list[Path]:
    """The files that paths, glob patterns and tfds:NAME name, sorted within a pattern; DataError for one without."""
    files: list[Path] = []
    for pattern in [patterns] if isinstance(patterns, str | Path) else patterns:
        if str(pattern).startswith(TFDS):
            from tigerjax.records import tfds_builder

            files.append(tfds_builder.folder(str(pattern).removeprefix(TFDS)))
            continue
        found = [path] if (path := paths.of(pattern)).is_file() else paths.matching(pattern)
        if not found:
            raise DataError(f"{pattern}: no such file; name a file, or a pattern that matches one")
        files += found
    return files


def distinct_names(paths: Iterable[Path]) -> None:
    """Stages write OUT/<name of the input>: two inputs of one name are refused."""
    names: dict[str, Path] = {}
    for path in paths:
        if path.name in names:
            raise ConfigError(f"inputs {names[path.name]} and {path} have one name; outputs would collide, rename one")
        names[path.name] = path


def speed(paths: Iterable[Path], seconds: float, cores: int = 1) -> dict[str, float]:
    """The figures `seconds` and `mb_per_s_per_core` of a stage that read these files on so many cores."""
    rate = sum(map(size, paths)) / 1e6 / max(seconds, 1e-9) / cores
    return {"seconds": round(seconds, 3), "mb_per_s_per_core": round(rate, 3)}


def unique_id(where: str, record: Record, seen: dict[str, str]) -> str:
    """The record's id, or its `record_id`; noted in `seen`, and refused when it is there already."""
    identity = record["id"] if "id" in record else record_id(record)
    if not isinstance(identity, str | int) or identity == "":
        raise DataError(f"{where}: id {identity!r} is neither text nor a number")
    identity = str(identity)
    if identity in seen:
        raise DataError(f"{where}: id {identity!r} occurs a second time; the first is at {seen[identity]}")
    seen[identity] = where
    return identity


def denied(record: Record, deny: Iterable[str] = DENIED_SOURCES) -> bool:
    """Whether the record's `source` begins with a denied name."""
    return str(record.get("source", "")).casefold().startswith(tuple(deny))


def refuse_denied(where: str, record: Record, deny: Iterable[str] = DENIED_SOURCES) -> None:
    """DataError for a record of a denied source: a mislabelled one must not slip by."""
    if denied(record, deny):
        raise DataError(
            f"{named(where, record)}: source {record['source']!r} is denied, as {', '.join(deny)} are; remove it,"
            " correct the source, or drop such records with `tigerjax data clean --drop-denied`"
        )


def _text(where: str, record: Record, field: str) -> str:
    value = record.get(field)
    if not isinstance(value, str):
        raise DataError(f"{where}: field {field!r} is {type(value).__name__}, but text is needed")
    return value


def as_document(record: Record, where: str, *, allow_empty: bool = False) -> Record:
    """A record with the fields of a document; `text` must be there and hold more than spaces."""
    where = named(where, record)
    if not _text(where, record, "text").strip() and not allow_empty:
        raise DataError(f"{where}: field 'text' is empty; remove the record")
    return {"source": "", "lang": "", **record}


def documents(patterns: Paths, *, on_bad: OnBad | None = None) -> Iterator[Record]:
    """Validated documents of the files, in order; an id given twice is an error that names both places."""
    seen: dict[str, str] = {}
    for path in expand(patterns):
        number = 0
        for number, record in readers.read(path, on_bad=on_bad):
            where = f"{path}:{number}"
            refuse_denied(where, record)
            try:
                document = as_document(record, where)
                yield {**document, "id": unique_id(where, record, seen)}
            except DataError as error:
                if on_bad is None:
                    raise
                on_bad(error, canonical(record) + b"\n")
        refuse_empty(path, number)


def _messages(record: Record, where: str) -> list[Record]:
    if "messages" in record:
        return record["messages"]
    if "conversations" in record:
        turns = record["conversations"]
        if not isinstance(turns, list) or not all(isinstance(t, dict) and "value" in t for t in turns):
            raise DataError(f"{where}: 'conversations' must be a list of {{from, value}}")
        return [{"role": SHAREGPT_ROLES.get(str(t.get("from")), t.get("from")), "content": t["value"]} for t in turns]
    if "instruction" in record and "output" in record:
        user = _text(where, record, "instruction")
        extra = _text(where, record, "input") if record.get("input") is not None else ""
        if extra and extra not in user:
            user = f"{user}\n{extra}"
        return [{"role": "user", "content": user}, {"role": "assistant", "content": _text(where, record, "output")}]
    raise DataError(f"{where}: needs 'messages', 'conversations', or 'instruction' and 'output'; has {sorted(record)}")


def as_sft(record: Record, where: str, *, allow_empty: bool = False) -> Record:
    """A record as an SFT example; turns must alternate user, assistant, …, and end with an assistant's answer."""
    where = named(where, record)
    messages = _messages(record, where)
    if not isinstance(messages, list) or not messages or len(messages) % 2:
        raise DataError(f"{where}: messages must be pairs of user and assistant, one pair at least")
    for i, message in enumerate(messages):
        role = ("user", "assistant")[i % 2]
        if not isinstance(message, dict) or message.get("role") != role:
            given = message.get("role") if isinstance(message, dict) else message
            raise DataError(f"{where}: message {i + 1} has role {given!r}, but {role!r} must stand there")
        if not _text(where, message, "content").strip() and not allow_empty:
            raise DataError(f"{where}: message {i + 1} ({role}) is empty; remove the example")
    weight = record.get("weight", 1.0)
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 <= weight < float("inf"):
        raise DataError(f"{where}: weight {weight!r} must be a number that is not negative")
    kept = {k: v for k, v in record.items() if k not in ("conversations", "instruction", "input", "output")}
    messages = [{"role": m["role"], "content": m["content"]} for m in messages]
    return {"task": "", "lang": "", "source": "", **kept, "messages": messages}


def sft_examples(patterns: Paths, *, on_bad: OnBad | None = None, allow_empty: bool = False) -> Iterator[Record]:
    """Validated SFT examples of the files, in order; Alpaca and ShareGPT records are converted."""
    seen: dict[str, str] = {}
    for path in expand(patterns):
        number = 0
        for number, record in readers.read(path, on_bad=on_bad):
            where = f"{path}:{number}"
            refuse_denied(where, record)
            try:
                example = as_sft(record, where, allow_empty=allow_empty)
                yield {**example, "id": unique_id(where, record, seen)}
            except DataError as error:
                if on_bad is None:
                    raise
                on_bad(error, canonical(record) + b"\n")
        refuse_empty(path, number)
