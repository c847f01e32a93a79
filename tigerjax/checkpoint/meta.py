"""meta.json of a checkpoint: written with a checksum of itself, and read only when it is as it was written.

The first entry holds the sha256 of the file's own bytes, computed with 64 zeros in its place. The second says that it
must be there, so damage to the first entry is found too. Checkpoints of older versions have neither: they are read,
and a line says that nothing protects their step and data position.
"""

import functools
import hashlib
import json
import re
from pathlib import Path
from typing import Any

from tigerjax.errors import DataError
from tigerjax.files import paths
from tigerjax.processes import hosts

META = "meta.json"
OWN, SEALED = "own_sha256", "sealed"
ZEROS = "0" * 64
FIRST = re.compile(rb'\{\n "' + OWN.encode() + rb'": "([0-9a-f]{64})",\n')
FORMS: dict[str, tuple[type | None, ...]] = {
    "kind": (str,), "model": (dict,), "tokenizer_sha256": (str, None), "step": (int,), "config": (list,),
    "data_seed": (int, None), "extra": (dict,), "files": (dict,), "sha256": (dict,),
    "health": (dict, None),
}  # fmt: skip
"""What each entry may be; None: null."""
NEEDED = ("kind", "model", "step", "files")


def write(path: Path, meta: dict[str, Any]) -> None:
    """Writes meta.json whole, with its checksum."""
    entries = {OWN: ZEROS, SEALED: True} | {k: v for k, v in meta.items() if k not in (OWN, SEALED)}
    text = json.dumps(entries, ensure_ascii=False, indent=1, default=str) + "\n"
    paths.write_text(path, text.replace(ZEROS, hashlib.sha256(text.encode()).hexdigest(), 1))


def read(path: Path) -> dict[str, Any]:
    """The content of meta.json. DataError when it cannot be read, is not as it was written, or misses an entry."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        paths.not_damage(error)
        raise DataError(f"{path}: not readable as a checkpoint's JSON ({error})") from error
    own = FIRST.match(raw)
    if own is not None:
        zeroed = raw[: own.start(1)] + ZEROS.encode() + raw[own.end(1) :]
        if hashlib.sha256(zeroed).hexdigest().encode() != own[1]:
            raise DataError(f"{path}: its bytes are not those that were written (its own sha256 differs)")
    try:
        meta = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not readable as a checkpoint's JSON ({error})") from error
    if not isinstance(meta, dict) or (own is None and (SEALED in meta or OWN in meta)):
        raise DataError(f"{path}: not readable as a checkpoint's JSON (its own sha256 is missing)")
    _check_form(path, meta)
    if own is None:
        _say_unprotected(path.parent)
    return {name: value for name, value in meta.items() if name not in (OWN, SEALED)}


def _check_form(path: Path, meta: dict[str, Any]) -> None:
    """DataError for an entry that is missing or of another kind, as it may be where no checksum protects it."""
    if missing := [name for name in NEEDED if name not in meta]:
        raise DataError(f"{path}: not readable as a checkpoint's JSON ({missing[0]!r} is missing)")
    for name, kinds in FORMS.items():
        kind = None if meta.get(name) is None else type(meta[name])
        if name in meta and kind not in kinds:
            raise DataError(f"{path}: not readable as a checkpoint's JSON ({name} is {str(meta[name])[:60]!r})")
    for name, size in meta["files"].items():
        if type(size) is not int:
            raise DataError(f"{path}: not readable as a checkpoint's JSON (files.{name} is {str(size)[:60]!r})")
    if meta["step"] < 0:
        raise DataError(f"{path}: not readable as a checkpoint's JSON (step is {meta['step']})")


@functools.cache
def _say_unprotected(checkpoint: Path) -> None:
    """One line for each checkpoint, once."""
    hosts.say(
        f"checkpoint {checkpoint} was written by an older version: its {META} has no checksum, so its step and data"
        " position are taken as they are"
    )
