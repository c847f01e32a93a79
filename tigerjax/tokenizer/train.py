"""Trains a SentencePiece BPE with Llama-2's own settings."""

import contextlib
import io
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import sentencepiece

from tigerjax.config.ranges import Pieces, PositiveShare, range_of
from tigerjax.errors import ConfigError, DataError
from tigerjax.files.manifest import stage, write_json
from tigerjax.files.progress import Advance, Progress
from tigerjax.tokenizer.added import MODEL_FILE, SPECIALS_FILE
from tigerjax.tokenizer.export import export
from tigerjax.tokenizer.sample import SENTENCE_BYTES, read_all, split_lines

LLAMA2_SETTINGS: dict[str, Any] = {
    "model_type": "bpe",
    "normalization_rule_name": "identity",
    "add_dummy_prefix": True,
    "remove_extra_whitespaces": False,
    "split_digits": True,
    "byte_fallback": True,
    "allow_whitespace_only_pieces": True,
    "max_sentencepiece_length": 16,
    "max_sentence_length": SENTENCE_BYTES,
    "unk_id": 0,
    "bos_id": 1,
    "eos_id": 2,
    "pad_id": -1,
    "unk_surface": " \u2047 ",
    "shuffle_input_sentence": False,
    "input_sentence_size": 0,
}
"""These are in the trainer_spec of Llama-2's tokenizer.model, and of the Apache-licensed base's."""


COVERAGE = 0.9995  # share of the characters that get a piece; the others are written in bytes
FEWEST = 260  # entries: unk, bos, eos, the bytes, and one piece
TOO_SMALL = re.compile(r"smaller than required_chars\. \d+ vs (\d+)")
TOO_LARGE = re.compile(r"Vocabulary size too high \(\d+\)\. Please set it to a value <= (\d+)")


def _refusal(size: int, lines: int, message: str) -> ConfigError:
    """What SentencePiece's refusal means for the user: it names options that this command does not have."""
    if match := TOO_SMALL.search(message):
        return ConfigError(
            f"--vocab-size {size} is too small for the characters of these {lines:,} lines; give at least {match[1]}"
        )
    if match := TOO_LARGE.search(message):
        return ConfigError(
            f"--vocab-size {size} is too large: these {lines:,} lines have pieces for {match[1]} entries only; give"
            f" more text, or --vocab-size {match[1]}"
        )
    message = re.sub(r"^\w+: src/\S+ \[.*?\] ", "", " ".join(message.split()))
    return ConfigError(
        f"SentencePiece refuses --vocab-size {size} on {lines:,} lines: {message}; change --vocab-size or the text"
    )


def _train(lines: Iterator[str], size: int, character_coverage: float, model: io.BytesIO) -> None:
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=lines,
        model_writer=model,
        vocab_size=size,
        character_coverage=character_coverage,
        num_threads=1,
        minloglevel=2,
        **LLAMA2_SETTINGS,
    )


def trainable(inputs: list[Path], enough: int) -> tuple[int, int]:
    """(least, most) entries that SentencePiece can train on the files. It tries `enough`, or twice the least where that
    is more, and `most` is not above it.

    It trains with all of the text in memory, so give it small files. DataError where they hold no text.
    """
    texts = [line for _, text, _ in read_all(inputs) for line in split_lines(text)]
    if not texts:
        raise DataError(f"{', '.join(map(str, inputs))}: no text to train a tokenizer on; give files that hold some")

    def limit(size: int, refused: re.Pattern[str]) -> int:
        try:
            _train(iter(texts), size, COVERAGE, io.BytesIO())
        except RuntimeError as error:
            if match := refused.search(str(error)):
                return int(match[1])
            raise _refusal(size, len(texts), str(error)) from error
        return size

    least = limit(FEWEST, TOO_SMALL)  # ends when the characters are counted
    return least, limit(max(enough, 2 * least), TOO_LARGE)


def train_model(
    inputs: list[Path],
    size: int,
    out: Path,
    *,
    seed: int = 0,
    character_coverage: float = COVERAGE,
    progress: Progress | None = None,
    elapsed: Callable[[str], contextlib.AbstractContextManager[None]] | None = None,
    verify: bool = False,
) -> dict[str, Any]:
    """Trains on all lines of the files and writes a base tokenizer folder of `size` pieces; returns the manifest.

    For a model that will be merged, ask for a third more pieces than are needed, as those that are not CJK are left out
    then. A `size` that SentencePiece refuses (below the number of characters, or too large for so little text) is a
    ConfigError. Training draws nothing: `seed` is only recorded. `progress` shows how much has been read. SentencePiece
    does not report how far it is, so `elapsed(what)` surrounds its training. `verify` is that of `manifest.stage`.
    """
    for name, value, kind in (("size", size, Pieces), ("character_coverage", character_coverage, PositiveShare)):
        if (allowed := range_of(kind)) is not None and value not in allowed:
            raise ConfigError(f"{name}={value} must be {allowed}")
    config = {"size": size, "character_coverage": character_coverage} | LLAMA2_SETTINGS
    hashing = progress and progress("hashed", "GB")
    with stage(
        out, name="tokenizer_train", config=config, inputs=inputs, seed=seed, hashing=hashing, verify=verify
    ) as run:
        if run.done:
            return run.manifest or {}
        counts = {"lines": 0, "characters": 0}
        failed: list[BaseException] = []

        def lines(report: Advance | None = None) -> Iterator[str]:
            try:
                for _, text, _ in read_all(inputs, report):
                    for line in split_lines(text):
                        counts["lines"] += 1
                        counts["characters"] += len(line)
                        yield line
                if report is not None and elapsed is not None:
                    training.enter_context(elapsed(f"SentencePiece trains {size:,} pieces"))
            except BaseException as error:  # SentencePiece raises a RuntimeError of its own instead
                failed.append(error)
                raise

        first = next(lines(), None)
        if first is None:
            raise DataError(
                f"{', '.join(map(str, inputs))}: no text to train a tokenizer on; give files that hold some"
            )
        counts = {"lines": 0, "characters": 0}
        failed.clear()  # closing the generator above raised GeneratorExit in it
        model, training = io.BytesIO(), contextlib.ExitStack()
        try:
            _train(lines(progress and progress("read", "GB")), size, character_coverage, model)
        except RuntimeError as error:
            if failed:
                raise failed[0] from None
            raise _refusal(size, counts["lines"], str(error)) from error
        finally:
            training.close()
        (run.tmp / MODEL_FILE).write_bytes(model.getvalue())
        write_json(run.tmp / SPECIALS_FILE, {})
        export(run.tmp)
        run.figures = {"vocab_size": size} | counts
    return run.manifest or {}
