"""Training of a SentencePiece BPE with Llama-2's own settings."""

import contextlib
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import sentencepiece

from tigerjax.errors import ConfigError, DataError
from tigerjax.files.manifest import stage, write_json
from tigerjax.tokenizer.export import export
from tigerjax.tokenizer.load import MODEL_FILE, SPECIALS_FILE
from tigerjax.tokenizer.sample import SENTENCE_BYTES, Progress, Say, read_all, split_lines

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
"""As recorded in the trainer_spec of Llama-2's and the Apache-licensed base's tokenizer.model."""


def train_model(
    inputs: list[Path],
    size: int,
    out: Path,
    *,
    seed: int = 0,
    character_coverage: float = 0.9995,
    progress: Progress | None = None,
    elapsed: Callable[[str], contextlib.AbstractContextManager[None]] | None = None,
) -> dict[str, Any]:
    """Trains on all lines of text or JSONL files and writes a base tokenizer folder of `size` pieces.

    For a model to be merged, ask for a third more than will be needed: pieces that are not CJK are left out there.
    SentencePiece's own refusals (size below the required characters, or too high for so little text) are passed on
    as ConfigError. Returns the manifest. Training draws nothing: `seed` is recorded only. `progress` is
    told of the reading; the training tells nothing of itself, and stands within `elapsed(what)`.
    """
    config = {"size": size, "character_coverage": character_coverage} | LLAMA2_SETTINGS
    hashing = progress and progress("hashed", "GB")
    with stage(out, name="tokenizer_train", config=config, inputs=inputs, seed=seed, hashing=hashing) as run:
        if run.done:
            return run.manifest or {}
        counts = {"lines": 0, "characters": 0}
        failed: list[BaseException] = []

        def lines(say: Say | None = None) -> Iterator[str]:
            try:
                for _, text, _ in read_all(inputs, say):
                    for line in split_lines(text):
                        counts["lines"] += 1
                        counts["characters"] += len(line)
                        yield line
                if say is not None and elapsed is not None:
                    training.enter_context(elapsed(f"SentencePiece trains {size:,} pieces"))
            except BaseException as error:  # SentencePiece would turn it into a RuntimeError of its own
                failed.append(error)
                raise

        first = next(lines(), None)
        if first is None:
            raise DataError(f"{', '.join(map(str, inputs))}: no text to train a tokenizer on")
        counts = {"lines": 0, "characters": 0}
        failed.clear()  # the generator above was closed early, by its GeneratorExit
        model, training = io.BytesIO(), contextlib.ExitStack()
        try:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=lines(progress and progress("read", "GB")),
                model_writer=model,
                vocab_size=size,
                character_coverage=character_coverage,
                num_threads=1,
                minloglevel=2,
                **LLAMA2_SETTINGS,
            )
        except RuntimeError as error:
            if failed:
                raise failed[0] from None
            message = " ".join(str(error).split())
            raise ConfigError(f"SentencePiece refuses size={size} on {counts['lines']} lines: {message}") from error
        finally:
            training.close()
        (run.tmp / MODEL_FILE).write_bytes(model.getvalue())
        write_json(run.tmp / SPECIALS_FILE, {})
        export(run.tmp)
        run.figures = {"vocab_size": size} | counts
    return run.manifest or {}
