"""The files of checkpoints: listing them, checking that they are whole, publishing and removing them.

On a disk a checkpoint is built beside its final place and renamed. In a bucket it is built in place, and counts as
there once its meta.json is. Nothing here reads an array, so `tigerjax checkpoint` needs no devices.
"""

import contextlib
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from tigerjax.checkpoint import meta as metas
from tigerjax.checkpoint.meta import META
from tigerjax.errors import Absent, DataError, disk_full
from tigerjax.files import digests, paths
from tigerjax.processes import hosts

FOLDER = "checkpoints"
"""Of a run, which holds its checkpoints."""
SHA256, XXH3 = "sha256", "xxh3"
"""The checksums of its files, in meta.json: see `tigerjax.files.digests`."""
OTHERS = {"config.json", "adapter_config.json", "params.json"}
"""Of these a folder of Hugging Face, an adapter or Meta's files have one, and no checkpoint."""
Read = TypeVar("Read")


def folder_of(path: Path) -> Path:
    """The checkpoints folder of a run, or `path` itself when it is one. DataError when there is none."""
    for folder in (path / FOLDER, path):
        if steps(folder) or damaged(folder):
            return folder
    _need_folder(path)
    raise DataError(f"{path}: no checkpoints here; give a run folder or its checkpoints/")


def _need_folder(path: Path) -> None:
    """DataError where nothing is at `path`, or a file. In a bucket a folder is no more than the objects in it."""
    if paths.on_bucket(path) or path.is_dir():
        return
    if path.exists():
        raise DataError(f"{path} is a file; give a run folder, its checkpoints/ or one step of it")
    raise DataError(f"{path} does not exist; give a run folder, its checkpoints/ or one step of it")


def damaged(folder: Path) -> list[str]:
    """Names of the damaged checkpoints that were set aside."""
    return [name for name in paths.names(folder) if name.endswith(".damaged")]


def steps(folder: Path) -> list[int]:
    """Steps of the complete checkpoints, newest first."""
    return [step for step in _numbered(folder) if not paths.on_bucket(folder) or (folder / str(step) / META).exists()]


def _numbered(folder: Path) -> list[int]:
    return sorted((int(name) for name in paths.names(folder) if name.isdigit()), reverse=True)


def newest_whole(folder: Path, read: Callable[[Path], Read], damaged: Callable[[Path, Exception], None]) -> Read | None:
    """`read(path)` of the newest whole checkpoint in a checkpoints folder; None when there is none.

    A checkpoint is damaged when `read` raises DataError. `damaged` is then called with its path and the error, and the
    next older one is tried. An error of the kind Absent is raised again, since an older checkpoint would have it too.
    """
    for step in steps(folder):
        path = folder / str(step)
        try:
            return read(path)
        except Absent:
            raise
        except DataError as error:
            damaged(path, error)
    return None


def open_newest(path: Path, read: Callable[[Path], Read]) -> Read:
    """`read(path)` of the newest whole checkpoint; `path` is a run, its checkpoints/, or one checkpoint.

    Damaged ones that are passed over are named on stderr. DataError when none is whole, or `path` is no folder.
    """
    _need_folder(path)
    if (path / META).exists():
        return read(path)
    folder = path / "checkpoints" if paths.names(path / "checkpoints") else path
    newest = newest_whole(folder, read, lambda at, error: say_damaged(at, error, "trying the one before"))
    if newest is None:
        others = OTHERS & set(paths.names(path))
        advice = ", or import this model by `tigerjax convert from-hf`" if others else ""
        raise DataError(
            f"{path}: no whole checkpoint here; give a run folder, its checkpoints/ or one step of it{advice}"
        )
    return newest


def building(path: Path) -> Path:
    """Where the checkpoint `path` is written until `publish`."""
    return path if paths.on_bucket(path) else path.with_name(f"{path.name}.partial")


def make_room(built: Path) -> None:
    """Removes what lies where a checkpoint is going to be written. In a bucket that includes the one it replaces."""
    if (built / META).exists():
        remove(built)
    else:
        paths.clear(built)


def sweep(folder: Path) -> None:
    """Removes what a killed run left behind: checkpoints that were half written or half removed."""
    if paths.on_bucket(folder):
        left = [folder / str(step) for step in set(_numbered(folder)).difference(steps(folder))]
    else:
        left = [*folder.glob("*.partial*"), *folder.glob("*.removed")]
    for half in left:
        paths.clear(half)


def read_meta(path: Path) -> dict[str, Any]:
    """meta.json of one checkpoint. DataError when it cannot be read, or when a file is missing or has another size."""
    meta = metas.read(path / META)
    there = paths.sizes(path)
    for name, size in meta["files"].items():
        if (have := there.get(name)) != size:
            raise DataError(f"{path / name}: {'missing' if have is None else f'{have} bytes'}, {size} were written")
    return meta


def checksums(path: Path, *, part: int = 0, parts: int = 1) -> dict[str, tuple[str, str]]:
    """(SHA-256, XXH3) of each file below `path`; of `parts` hosts, host `part` reads its share of the files."""
    files = [name for name in paths.sizes(path) if name != META][part::parts]
    with digests.threads(path) as pool:
        return dict(zip(files, pool.map(digests.both, [path / name for name in files]), strict=True))


def check_bytes(
    path: Path,
    meta: dict[str, Any],
    rooms: Sequence[str],
    *,
    part: int = 0,
    parts: int = 1,
    every: bool = False,
    on_bytes: Callable[[int], None] = lambda _: None,
) -> None:
    """DataError for the first file whose checksum is not the one in `meta`: XXH3, which finds damage as fast as the
    file is read; with `every`, and for a checkpoint of an older version, SHA-256. It reads the files below the
    folders `rooms` ("weights", "opt_state") and those beside them, in which Orbax describes the checkpoint, or one
    host's share of them, and calls `on_bytes` with the size of each piece.

    A checkpoint without checksums passes: much older versions wrote none.
    """
    kind = SHA256 if every or XXH3 not in meta else XXH3
    wanted = meta.get(kind, {})
    chosen = sorted(name for name in meta["files"] if "/" not in name or name.split("/")[0] in rooms)
    if wanted and (without := [name for name in chosen if name not in wanted]):
        raise DataError(f"{path / without[0]}: {META} has no {kind} of it")
    mine = chosen[part::parts] if wanted else []
    begin = {SHA256: digests.sha256, XXH3: digests.xxh3}[kind]
    with digests.threads(path) as pool:
        for name, digest in [(name, begin(path / name, meta["files"][name], pool, on_bytes)) for name in mine]:
            try:
                found = digest()
            except Exception as error:
                paths.not_damage(error)
                why = getattr(error, "strerror", None) or error
                raise DataError(f"{path / name}: cannot be read: {why}") from error
            if found != wanted[name]:
                raise DataError(f"{path / name}: {kind} is {found[:12]}…, {wanted[name][:12]}… was written")


def publish(built: Path, final: Path, meta: dict[str, Any], sums: Mapping[str, Sequence[str]]) -> None:
    """Writes meta.json into a folder that Orbax has finished, and renames the folder if its name is not final. `sums`
    are those that `checksums` gives."""
    files = {name: size for name, size in paths.sizes(built).items() if name != META}
    kinds = {kind: {name: both[at] for name, both in sums.items()} for at, kind in enumerate((SHA256, XXH3))}
    metas.write(built / META, meta | {"files": files} | kinds)
    if built != final:
        paths.clear(final)
        paths.rename(built, final, commit=META)


def amend(path: Path, extra: dict[str, Any]) -> None:
    """Replaces a checkpoint's `extra`. Its arrays are neither changed nor read."""
    metas.write(path / META, read_meta(path) | {"extra": extra})


def prune(folder: Path, *, keep: int, keep_every_steps: int | None, best: int | None = None) -> None:
    """Removes all steps but the newest `keep`, `best` and, where it is given, the multiples of `keep_every_steps`."""
    for step in steps(folder)[keep:]:
        if step != best and (keep_every_steps is None or step % keep_every_steps):
            remove(folder / str(step))


def remove(path: Path) -> None:
    """Removes a checkpoint. If this is interrupted, no half of it is left under the step's name."""
    paths.remove(path, commit=META)


def set_aside(path: Path, error: Exception) -> None:
    """Renames a damaged checkpoint to N.damaged, with a line on stderr."""
    aside = path.with_name(f"{path.name}.damaged")
    paths.clear(aside)
    paths.rename(path, aside, commit=META)
    say_damaged(path, error, f"moved to {aside.name}, trying the one before")


@contextlib.contextmanager
def one_line_errors(built: Path, folder: Path) -> Iterator[None]:
    """Turns the error of a full disk into one DataError and removes what was written of `built`; older ones stay."""
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
            " whole: free space, or lower checkpoint.keep below the number of those that are there, then resume; what"
            " is too many goes before the next one is written"
        ) from error


def first_line(error: Exception) -> str:
    """The first line of an error's text, cut to 200 characters."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


def say_damaged(path: Path, error: Exception, then: str) -> None:
    """One line on stderr: which checkpoint is damaged, why, and what happens `then`."""
    hosts.say(f"checkpoint {path} is damaged ({first_line(error)}); {then}")
