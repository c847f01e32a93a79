"""Folders that are replaced as a whole: what they may hold, and where the new one is built."""

import contextlib
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from tigerjax.errors import ConfigError
from tigerjax.files import lock, paths

OF_THE_SYSTEM = (".DS_Store", "Thumbs.db", "desktop.ini", lock.NAME)
"""Files that file managers, and locks, put into any folder. They go with it."""
MOST_NAMED = 3


def refuse(out: Path, name: str, there: Mapping[str, Any] | None) -> None:
    """ConfigError when `out` holds anything but a result of stage `name`; `there` is the manifest found in it."""
    made_by = (there or {}).get("stage")
    if made_by != name and out.exists() and (not out.is_dir() or any(out.iterdir())):
        what = f"the result of stage {made_by!r}" if made_by else "files that no stage wrote"
        raise ConfigError(f"{out} holds {what}, and stage {name!r} would replace it; give another folder or empty it")


def refuse_strangers(out: Path, written: Iterable[str], by: str) -> None:
    """ConfigError when `out`, which is about to be replaced, holds a file that is not among those `written`.

    `written` has names below `out`, of files and of folders whose content is not looked at. `by` says who wrote them.
    """
    known = set(written)
    there = set(paths.sizes(out))
    if not paths.on_bucket(out):
        there |= {str(p.relative_to(out)) for p in out.rglob("*") if p.is_symlink()}
    others = sorted(
        name
        for name in there
        if Path(name).name not in OF_THE_SYSTEM and not known & {name, *map(str, Path(name).parents)}
    )
    if others:
        more = f" and {len(others) - MOST_NAMED} others" if len(others) > MOST_NAMED else ""
        raise ConfigError(
            f"{out} holds {', '.join(others[:MOST_NAMED])}{more}, which {by} did not write and would lose; move it to"
            " another folder, or give another folder for the output"
        )


def _empty(folder: Path) -> None:
    """Makes an empty folder of the disk in the place of what has its name; what a link there points to stays."""
    if folder.is_symlink() or folder.is_file():
        folder.unlink()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)


@contextlib.contextmanager
def building(out: Path) -> Iterator[Path]:
    """The empty folder in which the new `out` is built: OUT.partial, or a temporary one for an `out` in a bucket.

    It is gone afterwards, whatever happens. FolderInUse while another process builds there.
    """
    with lock.locked_beside(out):
        if paths.on_bucket(out):
            tmp = Path(tempfile.mkdtemp(prefix=f"{out.name}-"))
        else:
            tmp = out.with_name(out.name + ".partial")
            _empty(tmp)
        try:
            yield tmp
        finally:
            shutil.rmtree(tmp, ignore_errors=True)
