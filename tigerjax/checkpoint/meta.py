"""meta.json of a checkpoint: written with a checksum of itself, and read only when it is as it was written.

Checkpoints of older versions have no such checksum: they are read, and a line says that nothing protects their step and
data position.
"""

import functools
from pathlib import Path
from typing import Any

from tigerjax.errors import DataError
from tigerjax.files import paths, seal
from tigerjax.files.foreign import loads
from tigerjax.processes import hosts

META = "meta.json"
FORMS: dict[str, tuple[type | None, ...]] = {
    "kind": (str,), "model": (dict,), "tokenizer_sha256": (str, None), "step": (int,), "config": (list,),
    "data_seed": (int, None), "extra": (dict,), "files": (dict,), "sha256": (dict,), "xxh3": (dict,),
    "health": (dict, None), "base": (dict, None),
}  # fmt: skip
"""What each entry may be; None: null."""
NEEDED = ("kind", "model", "step", "files")


def write(path: Path, meta: dict[str, Any]) -> None:
    """Writes meta.json whole, with its checksum."""
    paths.write_text(path, seal.text(meta))


def read(path: Path) -> dict[str, Any]:
    """The content of meta.json. DataError when it cannot be read, is not as it was written, or misses an entry."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        paths.not_damage(error)
        raise DataError(f"{path}: not readable as a checkpoint's JSON ({error})") from error
    if (whole := seal.whole(raw)) is False:
        raise DataError(f"{path}: its bytes are not those that were written (its own sha256 differs)")
    try:
        meta = loads(raw, finite=False)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not readable as a checkpoint's JSON ({error})") from error
    if not isinstance(meta, dict) or seal.missing(meta, raw):
        raise DataError(f"{path}: not readable as a checkpoint's JSON (its own sha256 is missing)")
    _check_form(path, meta)
    if whole is None:
        _say_unprotected(path.parent)
    return seal.opened(meta)


def _check_form(path: Path, meta: dict[str, Any]) -> None:
    """DataError for an entry that is missing or of another kind, as it may be where no checksum protects it."""
    if missing := [name for name in NEEDED if name not in meta]:
        raise DataError(f"{path}: not readable as a checkpoint's JSON ({missing[0]!r} is missing)")
    for name, kinds in FORMS.items():
        kind = None if meta.get(name) is None else type(meta[name])
        if name in meta and kind not in kinds:
            raise DataError(f"{path}: not readable as a checkpoint's JSON ({name} is {meta[name]!r:.60})")
    for name, size in meta["files"].items():
        if type(size) is not int:
            raise DataError(f"{path}: not readable as a checkpoint's JSON (files.{name} is {size!r:.60})")
    if meta["step"] < 0:
        raise DataError(f"{path}: not readable as a checkpoint's JSON (step is {meta['step']})")


@functools.cache
def _say_unprotected(checkpoint: Path) -> None:
    """One line for each checkpoint, once."""
    hosts.say(
        f"checkpoint {checkpoint} was written by an older version: its {META} has no checksum, so its step and data"
        " position are taken as they are"
    )
