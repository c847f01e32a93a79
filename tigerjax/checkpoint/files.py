"""A checkpoint as files: which there are, whether they are whole, how one gets its name and loses it.

On a disk a checkpoint is built beside its place and renamed; in a bucket it is built in its place, and is there once
its meta.json is. Nothing here reads an array, so `tigerjax checkpoint` answers without devices.
"""

import contextlib
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from tigerjax.errors import DataError, disk_full
from tigerjax.files import manifest, paths
from tigerjax.processes import hosts

META = "meta.json"
NO_CHECKPOINT = "no whole checkpoint here; give a run folder, its checkpoints/ or one step of it"
Read = TypeVar("Read")


def folder_of(path: Path) -> Path:
    """The checkpoints folder of a run, or `path` itself when it is one. DataError when there is none."""
    for folder in (path / "checkpoints", path):
        if steps(folder) or damaged(folder):
            return folder
    raise DataError(f"{path}: no checkpoints here; give a run folder or its checkpoints/")


def damaged(folder: Path) -> list[str]:
    """Names of the checkpoints that were set aside."""
    return [name for name in paths.names(folder) if name.endswith(".damaged")]


def steps(folder: Path) -> list[int]:
    """Steps that were completed, newest first."""
    return [step for step in _numbered(folder) if not paths.on_bucket(folder) or (folder / str(step) / META).exists()]


def _numbered(folder: Path) -> list[int]:
    return sorted((int(name) for name in paths.names(folder) if name.isdigit()), reverse=True)


def newest_whole(folder: Path, read: Callable[[Path], Read], damaged: Callable[[Path, Exception], None]) -> Read | None:
    """What `read` gives for the newest checkpoint of a checkpoints folder for which it raises no DataError; None when
    there is none. `damaged` is called with each newer one and its error."""
    for step in steps(folder):
        path = folder / str(step)
        try:
            return read(path)
        except DataError as error:
            damaged(path, error)
    return None


def open_newest(path: Path, read: Callable[[Path], Read]) -> Read:
    """What `read` gives for the newest whole checkpoint of a run or of its checkpoints/, or for `path` itself where it
    is one checkpoint.

    Damaged ones that are passed over are named on stderr. DataError when none is whole.
    """
    if (path / META).exists():
        return read(path)
    folder = path / "checkpoints" if paths.names(path / "checkpoints") else path
    newest = newest_whole(folder, read, lambda at, error: say_damaged(at, error, "trying the one before"))
    if newest is None:
        raise DataError(f"{path}: {NO_CHECKPOINT}")
    return newest


def building(path: Path) -> Path:
    """Where the checkpoint `path` is written until `publish`."""
    return path if paths.on_bucket(path) else path.with_name(f"{path.name}.partial")


def make_room(built: Path) -> None:
    """Takes away what lies where a checkpoint is going to be written: in a bucket the one that it replaces, too."""
    if (built / META).exists():
        remove(built)
    else:
        paths.clear(built)


def sweep(folder: Path) -> None:
    """Takes away what a killed run left behind: halves of checkpoints that were written or removed."""
    if paths.on_bucket(folder):
        left = [folder / str(step) for step in set(_numbered(folder)).difference(steps(folder))]
    else:
        left = [*folder.glob("*.partial*"), *folder.glob("*.removed")]
    for half in left:
        paths.clear(half)


def read_meta(path: Path) -> dict[str, Any]:
    """meta.json of one checkpoint; DataError when it is unreadable, or a file is missing or not as long as it was."""
    try:
        meta = json.loads((path / META).read_text(encoding="utf-8"))
        files = meta["files"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        paths.not_damage(error)
        raise DataError(f"{path / META}: not readable as a checkpoint's JSON ({error})") from error
    there = paths.sizes(path)
    for name, size in files.items():
        if (have := there.get(name)) != size:
            raise DataError(f"{path / name}: {'missing' if have is None else f'{have} bytes'}, {size} were written")
    return meta


def checksums(path: Path, *, part: int = 0, parts: int = 1) -> dict[str, str]:
    """sha256 of the files below `path`, or of part `part` of `parts` of them: hosts share the reading."""
    files = [name for name in paths.sizes(path) if name != META]
    return {name: manifest.sha256(path / name) for name in files[part::parts]}


def check_bytes(
    path: Path,
    meta: dict[str, Any],
    rooms: Sequence[str],
    *,
    part: int = 0,
    parts: int = 1,
    told: Callable[[int], None] = lambda _: None,
) -> None:
    """Reads the files of the named rooms ("weights", "opt_state"), or a part of them, and raises DataError for the
    first whose sha256 is not the one in `meta`. A checkpoint of before there were checksums passes.
    `told` hears of the bytes of each piece that was read."""
    wanted = meta.get("sha256", {})
    mine = sorted(name for name in wanted if name.split("/")[0] in rooms)[part::parts]
    for name in mine:
        try:
            found = manifest.sha256(path / name, told)
        except Exception as error:
            paths.not_damage(error)
            raise DataError(f"{path / name}: cannot be read: {getattr(error, 'strerror', None) or error}") from error
        if found != wanted[name]:
            raise DataError(f"{path / name}: sha256 is {found[:12]}…, {wanted[name][:12]}… was written")


def publish(built: Path, final: Path, meta: dict[str, Any], sha256: dict[str, str]) -> None:
    """Writes the JSON into a folder that Orbax has finished, and gives it its name where it has another one."""
    files = {name: size for name, size in paths.sizes(built).items() if name != META}
    manifest.write_json(built / META, meta | {"files": files, "sha256": sha256})
    if built != final:
        paths.clear(final)
        paths.rename(built, final, commit=META)


def amend(path: Path, extra: dict[str, Any]) -> None:
    """Gives a checkpoint another `extra`; its arrays stay as they are, and are not read."""
    manifest.write_json(path / META, read_meta(path) | {"extra": extra})


def prune(folder: Path, *, keep: int, keep_every_steps: int | None) -> None:
    """Removes all steps but the newest `keep` and, where it is given, the multiples of `keep_every_steps`."""
    for step in steps(folder)[keep:]:
        if keep_every_steps is None or step % keep_every_steps:
            remove(folder / str(step))


def remove(path: Path) -> None:
    """Takes a checkpoint away; one that is interrupted leaves no half of it under the step's name."""
    paths.remove(path, commit=META)


def set_aside(path: Path, error: Exception) -> None:
    """Renames a damaged checkpoint to N.damaged, and says so."""
    aside = path.with_name(f"{path.name}.damaged")
    paths.clear(aside)
    paths.rename(path, aside, commit=META)
    say_damaged(path, error, f"moved to {aside.name}, trying the one before")


@contextlib.contextmanager
def one_line_errors(built: Path, folder: Path) -> Iterator[None]:
    """A full disk becomes one DataError, and what was written of `built` goes; older checkpoints stay."""
    try:
        yield
    except Exception as error:
        if paths.on_bucket(folder) or not disk_full(error):
            raise
        for leftover in folder.glob(f"{built.name}*"):
            paths.clear(leftover)
        free = shutil.disk_usage(folder).free
        raise DataError(
            f"{built}: the disk is full ({free / 1e9:.2f} GB free), this checkpoint is lost; those before it are"
            " whole: free space or lower checkpoint.keep, then resume"
        ) from error


def first_line(error: Exception) -> str:
    """Of an error's text, which may have many."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


def say_damaged(path: Path, error: Exception, then: str) -> None:
    """One line on stderr."""
    hosts.say(f"checkpoint {path} is damaged ({first_line(error)}); {then}")
