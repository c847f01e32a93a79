"""Paths on a disk and in a Google Cloud Storage bucket, by the same methods.

`of("runs/x")` is a pathlib.Path, and `of("gs://bucket/x")` an etils path that has its methods; what the builtin `open`,
`os` and `shutil` do for a disk is here for both. A bucket differs from a disk in three ways:

- It renames no folder. A folder that must be whole or absent has a *commit file*: written last, removed first, and a
  folder without it is not there.
- It appends to nothing: `tigerjax.files.log` keeps the lines and writes the object again.
- It writes an object whole or not at all, so that no object needs a second name while it is written.
"""

import contextlib
import functools
import glob
import hashlib
import importlib.util
import io
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from tigerjax.errors import BucketError, BucketRefused, ConfigError, TigerjaxError

SCHEME = "gs://"
COLLAPSED = "gs:/"  # what pathlib leaves of it
# etils would take TensorFlow's client where that is installed: seconds to import, and no stand-in for its server. It
# looks at this once, at the first path of any kind.
os.environ["EPATH_USE_TF"] = "false"
# gcsfs would ask a second service, by gRPC, what kind each bucket is.
os.environ["GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT"] = "false"

CLIENTS = ("aiohttp", "gcsfs", "google", "requests")  # whose errors are the bucket's
REFUSALS = ("Forbidden: ", "PERMISSION_DENIED", "UNAUTHENTICATED", "Invalid Credentials")
OUTAGES = ("UNAVAILABLE", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED")  # as TensorStore says it
BEGUN = ".begun"  # what a commit file is called in a bucket while its folder is uploaded
READ_BYTES = 16 << 20  # of one request of a file that is read from its beginning to its end
BUFFER_BYTES = 1 << 18


def on_bucket(path: str | os.PathLike[str]) -> bool:
    """Whether a path lies in a bucket; also when pathlib has made `gs:/bucket` of it."""
    return f"{os.fspath(path)}/".startswith(COLLAPSED)


def of(path: str | os.PathLike[str]) -> Path:
    """The path, for reading and writing where it lies. ConfigError without a bucket's name, or without a client."""
    if not on_bucket(path):
        return Path(path)
    place = os.fspath(path).removeprefix("gs:").strip("/")
    if not place:
        raise ConfigError(f"{SCHEME} names no bucket; write gs://BUCKET/FOLDER")
    _client()
    from etils import epath

    found: Any = epath.Path(SCHEME + place)
    return found


def absolute(path: str | os.PathLike[str]) -> Path:
    """`of`, from the root of the disk; a path in a bucket is that already."""
    return of(path) if on_bucket(path) else Path(path).absolute()


def resolved(path: str | os.PathLike[str]) -> Path:
    """`absolute`, links of the disk followed."""
    return of(path) if on_bucket(path) else Path(path).resolve()


def need_disk(what: str, path: str | os.PathLike[str] | None) -> None:
    """ConfigError for a path in a bucket, where `what` works on a disk only."""
    if path is not None and on_bucket(path):
        place = os.fspath(path).removeprefix("gs:").strip("/")
        raise ConfigError(
            f"{what}: {SCHEME}{place} lies in a bucket, which is read and written here through a mount only; mount it"
            " with gcsfuse and give that folder (docs/OPERATIONS.md says what takes gs:// itself)"
        )


def names(folder: Path) -> list[str]:
    """What lies right below a folder; empty when there is none. A bucket that does not answer is an error."""
    if not on_bucket(folder):
        return sorted(p.name for p in folder.iterdir()) if folder.is_dir() else []
    try:
        found = _client().ls(_key(folder), detail=False)
    except FileNotFoundError:
        return []
    return sorted({name.rstrip("/").rpartition("/")[2] for name in found if name.rstrip("/") != _key(folder)})


def sizes(folder: Path) -> dict[str, int]:
    """Bytes of each file below a folder, by its name there; empty when there is none."""
    if not on_bucket(folder):
        return {str(p.relative_to(folder)): p.stat().st_size for p in sorted(folder.rglob("*")) if p.is_file()}
    root = _key(folder) + "/"
    found = _client().find(root, detail=True)
    return {name.removeprefix(root): info["size"] for name, info in sorted(found.items()) if not name.endswith("/")}


def size(path: Path) -> int:
    """Bytes of a file."""
    return _client().size(_key(path)) if on_bucket(path) else path.stat().st_size


def stamp(path: Path) -> str:
    """Changes whenever a file is written, or in a bucket one below a folder, and is found without reading any."""
    if not on_bucket(path):
        stat = path.stat()
        return f"{stat.st_size} {stat.st_mtime_ns}"
    found = _client().find(_key(path), detail=True)
    generations = sorted(f"{name}#{info['generation']}" for name, info in found.items())
    return hashlib.sha256("\n".join(generations).encode()).hexdigest()


def reading(path: Path) -> io.BufferedReader:
    """The file, opened for its bytes. OSError when it does not exist."""
    if not on_bucket(path):
        return open(path, "rb")
    # fsspec's own iterator would copy READ_BYTES for every line
    return io.BufferedReader(_client().open(_key(path), "rb", block_size=READ_BYTES), BUFFER_BYTES)


def part(path: Path, start: int, stop: int) -> bytes:
    """Bytes [start, stop) of a file; fewer where it ends before."""
    if on_bucket(path):
        return _client().cat_file(_key(path), start, stop)
    with open(path, "rb") as file:
        file.seek(start)
        return file.read(stop - start)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[BinaryIO]:
    """A file to be written whole: a reader sees the old one or the new one, and never half of it."""
    if on_bucket(path):
        with tempfile.TemporaryDirectory() as folder:
            made = Path(folder) / path.name  # from whose ending the client takes the object's type: a page is shown
            with open(made, "wb") as file:
                yield file
            _client().put_file(str(made), _key(path))
        return
    part = path.with_name(f"{path.name}.part")
    try:
        with open(part, "wb") as file:
            yield file
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Writes a file whole, as UTF-8."""
    with writing(path) as file:
        file.write(text.encode())


def whole_lines(path: Path) -> list[bytes]:
    """Lines of a file that is there or not; a last one that was cut short is left out."""
    return path.read_bytes().split(b"\n")[:-1] if path.is_file() else []


def remove(folder: Path, *, commit: str) -> None:
    """Takes a folder away; when that is interrupted, what is left of it is not taken for a whole one."""
    if on_bucket(folder):
        (folder / commit).unlink(missing_ok=True)
        clear(folder)
        return
    gone = folder.with_name(f"{folder.name}.removed")
    os.replace(folder, gone)
    shutil.rmtree(gone)


def clear(folder: Path) -> None:
    """Takes away what is in the way, if anything is: a folder that nobody reads."""
    if not on_bucket(folder):
        shutil.rmtree(folder, ignore_errors=True)
    elif sizes(folder):
        _client().rm(_key(folder), recursive=True)


def rename(folder: Path, target: Path, *, commit: str) -> None:
    """Gives a folder another name, at which nothing is; in a bucket object by object, `commit` first."""
    if not on_bucket(folder):
        os.replace(folder, target)
        return
    names = sorted(sizes(folder), key=lambda name: name != commit)
    for some in (names[:1], names[1:]):
        if some:
            _client().mv([f"{_key(folder)}/{name}" for name in some], [f"{_key(target)}/{name}" for name in some])


def begin(target: Path, said: bytes, *, commit: str, kept: str = "") -> None:
    """Takes away what a folder of a bucket holds, but for its folder `kept`; until there is a `commit` again,
    COMMIT.begun says whose folder it is going to be."""
    begun = target / f"{commit}{BEGUN}"
    begun.write_bytes(said)
    (target / commit).unlink(missing_ok=True)
    if old := [n for n in sizes(target) if n != begun.name and not (kept and n.startswith(f"{kept}/"))]:
        _client().rm([f"{_key(target)}/{name}" for name in old])


def publish(built: Path, target: Path, *, commit: str, kept: str = "") -> None:
    """Puts a finished folder of the disk in the place of `target`: a rename, or an upload with `commit` last.

    What a bucket has below TARGET/KEPT was written there and stays."""
    if not on_bucket(target):
        shutil.rmtree(target, ignore_errors=True)
        os.replace(built, target)
        return
    begin(target, (built / commit).read_bytes(), commit=commit, kept=kept)
    upload(built, target, last=commit)
    (target / f"{commit}{BEGUN}").unlink()
    shutil.rmtree(built)


def upload(folder: Path, target: Path, *, last: str = "") -> None:
    """Copies every file below a folder of the disk to `target`, in a bucket."""
    for name in sorted(sizes(folder), key=lambda name: name == last):
        _client().put_file(str(folder / name), f"{_key(target)}/{name}")


def fetched(path: Path, sha256: str = "") -> Path:
    """A file or folder for a reader that knows disks only: from a bucket it is copied, once, to
    $XDG_CACHE_HOME/tigerjax. Where its sha256 is known the bucket is not asked whether it has changed."""
    if not on_bucket(path):
        return path
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tigerjax"
    place = cache / f"{sha256 or stamp(path)}-{path.name}"
    if not place.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as made:
            copy = Path(made) / path.name
            if path.is_dir():
                copy.mkdir()
                for name in sizes(path):
                    _client().get_file(f"{_key(path)}/{name}", str(copy / name))
            else:
                _client().get_file(_key(path), str(copy))
            try:
                os.replace(copy, place)
            except OSError:  # a folder does not replace one, which another process has made meanwhile
                if not place.is_dir():
                    raise
    return place


def matching(pattern: str | os.PathLike[str]) -> list[Path]:
    """The files and folders that a glob pattern names, `**` included, in order of name."""
    if not on_bucket(pattern):
        return [Path(name) for name in sorted(glob.glob(os.fspath(pattern), recursive=True))]
    return [of(SCHEME + name) for name in sorted(_client().glob(_key(of(pattern))))]


def trouble(error: BaseException) -> BucketError | None:
    """What an error of a bucket's client means: that it refused or did not answer; None for all other errors."""
    if not _client.cache_info().currsize:
        return None
    said = " ".join(str(error).split())[:300] or type(error).__name__
    missing = isinstance(error, FileNotFoundError) and error.errno is None  # gcsfs sets none, a disk does
    if missing or getattr(error, "code", None) in (401, 403) or any(word in said for word in REFUSALS):
        return BucketRefused(f"the bucket refused: {said}; look at its name, and at what this account may do there")
    if type(error).__module__.partition(".")[0] in CLIENTS or any(word in said for word in OUTAGES):
        return BucketError(f"the bucket did not answer: {said}; start again")
    return None


def not_damage(error: BaseException) -> None:
    """Raises the `trouble` that an error stands for, so that it is not taken for damage; an object may be missing."""
    if not isinstance(error, FileNotFoundError) and (found := trouble(error)) is not None:
        raise found from error


@contextlib.contextmanager
def told() -> Iterator[None]:
    """An error of a bucket's client leaves as the `trouble` that it stands for: where another process, or another
    library's error, carries its text alone."""
    try:
        yield
    except Exception as error:
        if isinstance(error, TigerjaxError) or (found := trouble(error)) is None:
            raise
        raise found from error


def _key(path: Path) -> str:
    """BUCKET/NAME, as the client wants it."""
    return str(path).removeprefix(SCHEME)


@functools.cache
def _client() -> Any:
    """fsspec's client of Cloud Storage, the one that etils uses too; it remembers no listing, as TensorStore and other
    hosts write beside it."""
    if importlib.util.find_spec("gcsfs") is None:
        raise ConfigError("paths that begin with gs:// need gcsfs; `pip install gcsfs`, or mount the bucket by gcsfuse")
    for name in ("gcsfs", "fsspec"):  # they log what they raise
        logging.getLogger(name).setLevel(logging.CRITICAL)
    import fsspec

    fsspec.config.conf["gcs"] = {"use_listings_cache": False}
    return fsspec.filesystem("gcs", finalize_on_close=True)
