"""What `convert from-hf` reads: a model folder, or a LoRA adapter with the base that it is merged into."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from tigerjax.checkpoint.files import META
from tigerjax.checkpoint.stored import open_whole
from tigerjax.convert import adapters, of_checkpoint, read, vocab_of_folder
from tigerjax.convert.read import Opened
from tigerjax.errors import ConfigError, DataError
from tigerjax.files import paths
from tigerjax.model.hf_config import CONFIG, remembered

if TYPE_CHECKING:
    from tigerjax.tokenizer.load import Tokenizer

RUN = {META, "checkpoints"}


class OpenedModel(NamedTuple):
    """An opened model and what is known of it."""

    opened: Opened
    tokenizer: "Tokenizer | None"
    """Of the folder; a checkpoint does not hold one."""
    tokenizer_sha256: str | None
    facts: dict[str, Any]
    """What the new checkpoint remembers of its source."""


def opened(folder: Path, base: Path | None, vocab_size: int | None) -> OpenedModel:
    """The model of a folder. For an adapter's folder it is `base` with the adapter in it: a folder of Hugging Face, or
    a run or a checkpoint of tigerjax.

    Raises ConfigError for an adapter without a base, and for a base without an adapter; DataError for a folder that is
    not there.
    """
    for place, what in ((folder, "the adapter's folder"), (base, "the model that the adapter was trained on")):
        if base is not None and place is not None and not paths.of(place).is_dir():
            state = "a file" if paths.of(place).is_file() else "not there"
            raise DataError(f"{place}: {state}; give {what}")
    if not adapters.there(folder):
        if base is not None:
            raise ConfigError(f"{folder} holds no LoRA adapter, which --base is for; leave --base out")
        return _of_folder(folder, vocab_size)
    adapter = adapters.read_adapter(folder)
    if base is None:
        raise ConfigError(f"{folder}: a LoRA adapter is merged into its base model; give that as --base")
    onto = _of_run(base, vocab_size) if _is_run(base) else _of_folder(base, vocab_size)
    merged = adapters.merged(onto.opened, adapter)
    return onto._replace(opened=merged, facts=adapter.facts | {"base": onto.facts})


def _of_folder(folder: Path, vocab_size: int | None) -> OpenedModel:
    model, tokenizer = vocab_of_folder.fitted(read.open_hf(folder), vocab_size)
    return OpenedModel(model, tokenizer, tokenizer.sha256 if tokenizer else None, read.source_facts(model))


def _of_run(base: Path, vocab_size: int | None) -> OpenedModel:
    if vocab_size is not None:
        raise ConfigError(f"{base}: a checkpoint knows its vocabulary; leave --vocab-size out")
    model = open_whole(base)
    known = of_checkpoint.opened(model)
    known = known._replace(extra=known.extra | remembered(model.extra, model.run_config))
    return OpenedModel(known, None, model.tokenizer_sha256, of_checkpoint.facts(model))


def _is_run(base: Path) -> bool:
    """Whether a folder is a run, its checkpoints or one of them, and no folder of Hugging Face."""
    names = set(paths.names(paths.of(base)))
    return CONFIG not in names and bool(RUN & names or (names and all(name.isdigit() for name in names)))
