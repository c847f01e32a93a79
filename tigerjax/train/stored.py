"""Checkpoints whose weights stay on disk: written and read a part at a time, for conversion.

The folders are those of `tigerjax.train.checkpoint`; the arrays are `tigerjax.convert.store`'s.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from tigerjax.config import ModelConfig, model_from_dict
from tigerjax.convert import store
from tigerjax.errors import DataError
from tigerjax.train.checkpoint import NO_CHECKPOINT, claim, make_meta
from tigerjax.train.checkpoint_files import META, checksums, publish, read_meta, say_damaged, steps


class StoredModel(NamedTuple):
    """As Model, but its weights stay on disk and are read a part at a time."""

    config: ModelConfig
    weights: Any  # nested dict of tigerjax.convert.store.Stored
    kind: str
    tokenizer_sha256: str | None
    step: int
    run_config: list[str]  # `config.dump` of the run that trained it; empty for an import
    extra: dict[str, Any]
    path: Path  # the checkpoint folder itself


def stream_model(
    path: str | Path,
    fill: Callable[[Path], None],
    config: ModelConfig,
    *,
    kind: str,
    tokenizer_sha256: str | None,
    extra: dict[str, Any],
) -> None:
    """As `save_model` for weights that `fill(partial)` writes, by `tigerjax.convert.store`; a partial folder that it
    left when it was interrupted is handed to it again."""
    path = Path(path).absolute()
    partial = claim(path)
    fill(partial)
    meta = make_meta(kind=kind, model=config, tokenizer_sha256=tokenizer_sha256, extra=extra) | {"step": 0}
    publish(partial, path, meta, checksums(partial))


def open_model(path: str | Path) -> StoredModel:
    """The newest whole checkpoint of a run, its checkpoints/ or one step, as `load_model` finds it; weights unread.

    Damaged ones are named on stderr. DataError when none is whole."""
    path = Path(path).absolute()
    if (path / META).is_file():
        return _open(path)
    folder = path / "checkpoints" if (path / "checkpoints").is_dir() else path
    for step in steps(folder):
        try:
            return _open(folder / str(step))
        except DataError as error:
            say_damaged(folder / str(step), error, "trying the one before")
    raise DataError(f"{path}: {NO_CHECKPOINT}")


def _open(path: Path) -> StoredModel:
    meta = read_meta(path)
    return StoredModel(
        model_from_dict(meta["model"]),
        store.open_arrays(path),
        meta["kind"],
        meta["tokenizer_sha256"],
        meta["step"],
        meta["config"],
        meta["extra"],
        path,
    )
