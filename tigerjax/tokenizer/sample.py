"""Prepares text for the tokenizer's trainer: reads documents, draws a share of them, cuts them into lines.

A document is drawn when xxh3_64(seed, id) / 2^64 < fraction. So the order of files does not matter, and a larger
fraction only adds documents.
"""

import array
import functools
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from tigerjax import records
from tigerjax.errors import ConfigError, DataError
from tigerjax.files import jsonl, paths
from tigerjax.files.manifest import size, stage
from tigerjax.files.progress import Advance
from tigerjax.records import quarantine
from tigerjax.tokenizer.texts import HERE, RecordText, TextRunner, is_odd, read_blocks, read_record, tell_odd

SENTENCE_BYTES = 4192
"""SentencePiece's own default. Its trainer drops longer lines, so they are cut here."""
ENDS = "。！？"


def read_documents(
    path: str | Path, on_bytes: jsonl.OnBytes | None = None, reading: records.Reading = records.READING
) -> Iterator[RecordText]:
    """(id, text, language or None) of each record of a file, of any format that `tigerjax.records` reads.

    A language that is no text counts as none, and one line says how many. DataError names file and line of a record
    without text, and refuses a file without records.
    """
    path, number, odd = paths.of(path), 0, 0
    if not path.exists():
        raise DataError(f"{path} does not exist; give text or JSONL files")
    for number, record in records.read(path, on_bytes=on_bytes, reading=reading):
        odd += is_odd(record)
        yield read_record(record, f"{path}:{number}")
    jsonl.refuse_empty(path, number)
    tell_odd(path, odd)


def read_all(files: Sequence[str | Path], report: Advance | None = None) -> Iterator[RecordText]:
    """`read_documents` of files one after another; `report` is called with the bytes read and those of all files."""
    reading = records.reading_of(files)
    sizes = [size(path) if paths.of(path).exists() else 0 for path in files]
    total, before = sum(sizes), 0
    for path, own in zip(files, sizes, strict=True):
        # The total is reported once, at the end: a compressed file has been read whole before its last lines come.
        yield from read_documents(
            path, report and (lambda at, before=before: report(min(before + at, total - 1), total)), reading
        )
        before += own
    if report is not None:
        report(total, total)


def split_lines(text: str, max_bytes: int = SENTENCE_BYTES) -> Iterator[str]:
    """The lines of a text that are not empty, none longer than max_bytes in UTF-8.

    A longer line is cut after 。！？, and a sentence that is too long itself is cut anywhere. No character is lost.
    """
    for line in text.split("\n"):
        if len(line.encode()) <= max_bytes:
            if line.strip():
                yield line
            continue
        part, size = "", 0
        for sentence in _sentences(line, max_bytes):
            length = len(sentence.encode())
            if part and size + length > max_bytes:
                yield part
                part, size = "", 0
            part, size = part + sentence, size + length
        if part.strip():
            yield part


def _sentences(line: str, max_bytes: int) -> Iterator[str]:
    start, size = 0, 0
    for i, character in enumerate(line):
        length = len(character.encode())
        if size + length > max_bytes:
            yield line[start:i]
            start, size = i, 0
        size += length
        if character in ENDS:
            yield line[start : i + 1]
            start, size = i + 1, 0
    if start < len(line):
        yield line[start:]


def _draw(seed: int, key: str) -> int:
    return xxhash.xxh3_64_intdigest(f"{seed}\0{key}".encode())


def _drawn(folder: Path, seed: int, fraction: float, number: int, texts: Iterator[RecordText]) -> tuple[int, int]:
    """Writes the lines of a block's drawn documents, and the hash of each; returns (lines, documents)."""
    draws, documents = array.array("Q"), 0
    with paths.writing(folder / f"lines-{number}.txt") as file:
        for key, text, _ in texts:
            if _draw(seed, key) < fraction * 2**64:
                documents += 1
                for n, line in enumerate(split_lines(text)):
                    draws.append(_draw(seed, f"{key}\0{n}"))
                    file.write(line.encode() + b"\n")
    with paths.writing(folder / f"draws-{number}.npy") as file:
        file.write(draws.tobytes())
    return len(draws), documents


def _draws(folder: Path, number: int) -> np.ndarray:
    return np.fromfile(folder / f"draws-{number}.npy", np.uint64)


def _limit(folder: Path, blocks: int, most: int) -> int:
    """The hash that `most` hashes of all blocks lie below. One block's are in memory at a time."""
    counts = np.zeros(1 << 16, np.int64)
    for number in range(blocks):
        counts += np.bincount((_draws(folder, number) >> np.uint64(48)).astype(np.int64), minlength=len(counts))
    before = np.cumsum(counts) - counts
    first = int(np.flatnonzero(before <= most)[-1])  # the hashes that begin with these 16 bits hold the limit
    near = np.concatenate(
        [own[(own >> np.uint64(48)) == first] for own in (_draws(folder, number) for number in range(blocks))]
    )
    return int(np.sort(near)[most - int(before[first])])


def _thinned(folder: Path, limit: int, number: int) -> int:
    """Leaves out the lines of a block whose hash is not below the limit; returns how many stay."""
    stay = _draws(folder, number) < np.uint64(limit)
    with open(folder / f"lines-{number}.txt", "rb") as lines, paths.writing(folder / f"kept-{number}.txt") as file:
        file.writelines(line for line, kept in zip(lines, stay, strict=True) if kept)
    return int(stay.sum())


def sample(
    *,
    inputs: list[Path],
    out: Path,
    fraction: float,
    seed: int,
    min_sample_bytes: int,
    max_sentences: int = 10_000_000,
    max_bad_fraction: float = quarantine.MAX_BAD_FRACTION,
    runner: TextRunner = HERE,
) -> dict[str, Any]:
    """Writes OUT/sample.txt, one sentence per line, from a share of the documents; returns the manifest.

    More than `max_sentences` are thinned by a hash of the same kind. A sample of less than `min_sample_bytes` is a
    DataError: a tokenizer that was trained on too little text is worse than none. Records that cannot be read go to
    OUT/quarantine.json; more than `max_bad_fraction` of them are a DataError, too. The sample is the same on any
    runner.
    """
    quarantine.refuse_fraction(max_bad_fraction)
    if not 0 < fraction <= 1:
        raise ConfigError(f"fraction={fraction} must be in (0, 1]")
    config = {
        "fraction": fraction,
        "min_sample_bytes": min_sample_bytes,
        "max_sentences": max_sentences,
        "max_bad_fraction": max_bad_fraction,
        **records.inputs_config(inputs),
    }
    how: Any = {"hashing": runner.reporter("hashed", "GB"), "verify": runner.verify}
    with stage(out, name="tokenizer_sample", config=config, inputs=inputs, seed=seed, **how) as run, runner:
        if run.done:
            return run.manifest or {}
        started = time.perf_counter()
        folder = run.tmp / f"work-{time.time_ns()}"  # a new name, because workers keep what they have read by path
        folder.mkdir()
        work = functools.partial(_drawn, folder, seed, fraction)
        found = read_blocks(work, inputs, runner, "drawn from", folder, quarantine=True)
        counts, documents = ([given[n] for given in found.given] for n in (0, 1))
        blocks, kept, name = len(counts), counts, "lines"
        total, drawn = found.read + found.bad, sum(documents)
        quarantine.write(folder, range(blocks), run.tmp, found.bad, total, max_bad_fraction)
        if sum(counts) > max_sentences:
            limit, name = _limit(folder, blocks, max_sentences), "kept"
            kept = runner.each(functools.partial(_thinned, folder, limit), range(blocks), folder, "thinned")
        with open(run.tmp / "sample.txt", "wb") as file:
            for number in range(blocks):
                with open(folder / f"{name}-{number}.txt", "rb") as part:
                    shutil.copyfileobj(part, file, 1 << 22)
            written = file.tell()
        shutil.rmtree(folder)
        if written < min_sample_bytes:
            raise DataError(
                f"sample of {fraction:.0%} has {written} bytes, below min_sample_bytes={min_sample_bytes};"
                " give more text or a larger fraction"
            )
        dropped = {"not_drawn": found.read - drawn, "bad": found.bad}
        run.counts = {"in": total, "out": drawn, "dropped": {name: n for name, n in dropped.items() if n}}
        run.figures = {"records": total, "drawn": drawn, "bad": found.bad}
        run.figures |= {"sentences_seen": sum(counts), "sentences": sum(kept), "bytes": written}
        run.figures |= records.speed(inputs, time.perf_counter() - started, runner.cores())
    return run.manifest or {}
