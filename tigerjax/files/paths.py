"""Paths on a disk and in a Google Cloud Storage bucket, by the same methods.

`of("runs/x")` is a pathlib.Path, and `of("gs://bucket/x")` is an etils path, which has the same methods. What the
builtin `open`, `os` and `shutil` do for a disk, this module does for both. A bucket differs from a disk in three ways:

- It cannot rename a folder. A folder that must be whole or absent therefore has a *commit file*, which is written last
  and removed first. A folder without its commit file counts as absent.
- It cannot append to a file. `tigerjax.files.log` keeps the lines in memory and writes the whole object again.
- It writes an object whole or not at all. So an object needs no second name while it is written.
"""

import contextlib
import functools
import glob
import hashlib
import importlib.util
import io
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import quote

from tigerjax.errors import BucketError, BucketRefused, ConfigError, TigerjaxError
from tigerjax.files import held, temporary

SCHEME = "gs://"
COLLAPSED = "gs:/"  # what pathlib leaves of it
# etils would use TensorFlow's client where that is installed. That takes seconds to import, and the tests have no
# stand-in for its server. etils looks at the variable once, at the first path of any kind.
os.environ["EPATH_USE_TF"] = "false"
# gcsfs would otherwise ask a second service, by gRPC, for the kind of each bucket.
os.environ["GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT"] = "false"

CLIENTS = ("aiohttp", "gcsfs", "google", "requests")  # whose errors are the bucket's
REFUSALS = ("Forbidden: ", "PERMISSION_DENIED", "UNAUTHENTICATED", "Invalid Credentials")
OUTAGES = ("UNAVAILABLE", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED")  # in TensorStore's messages
BEGUN = ".begun"  # added to the commit file's name in a bucket while its folder is uploaded
READ_BYTES = 16 << 20  # one request, when a file is read from its beginning to its end
BUFFER_BYTES = 1 << 18


def on_bucket(path: str | os.PathLike[str]) -> bool:
    """Whether a path lies in a bucket; also when pathlib has made `gs:/bucket` of it."""
    return f"{os.fspath(path)}/".startswith(COLLAPSED)


def of(path: str | os.PathLike[str]) -> Path:
    """A path on the disk or in a bucket. ConfigError when the bucket has no name, or gcsfs is not installed."""
    if not on_bucket(path):
        return Path(path)
    place = os.fspath(path).removeprefix("gs:").strip("/")
    if not place:
        raise ConfigError(f"{SCHEME} names no bucket; write gs://BUCKET/FOLDER")
    _client()
    from etils import epath

    path_in_bucket: Any = epath.Path(SCHEME + place)
    return path_in_bucket


def absolute(path: str | os.PathLike[str]) -> Path:
    """`of`, with a path on the disk made absolute."""
    return of(path) if on_bucket(path) else Path(path).absolute()


def resolved(path: str | os.PathLike[str]) -> Path:
    """`absolute`, with the links of the disk followed."""
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
    """The names directly below a folder; empty when there is none. A bucket that does not answer is an error."""
    if not on_bucket(folder):
        return sorted(p.name for p in folder.iterdir()) if folder.is_dir() else []
    try:
        listed = _client().ls(_key(folder), detail=False)
    except FileNotFoundError:
        return []
    return sorted({name.rstrip("/").rpartition("/")[2] for name in listed if name.rstrip("/") != _key(folder)})


def sizes(folder: Path) -> dict[str, int]:
    """Bytes of each file below a folder, by its name there; empty when there is none."""
    if not on_bucket(folder):
        return {str(p.relative_to(folder)): p.stat().st_size for p in sorted(folder.rglob("*")) if p.is_file()}
    root = _key(folder) + "/"
    listed = _client().find(root, detail=True)
    return {name.removeprefix(root): info["size"] for name, info in sorted(listed.items()) if not name.endswith("/")}


def size(path: Path) -> int:
    """Bytes of a file."""
    return _client().size(_key(path)) if on_bucket(path) else path.stat().st_size


def stamp(path: Path) -> str:
    """A text that changes whenever the file is written; nothing is read for it. In a bucket a folder has one too."""
    if not on_bucket(path):
        stat = path.stat()
        return f"{stat.st_size} {stat.st_mtime_ns}"
    listed = _client().find(_key(path), detail=True)
    generations = sorted(f"{name}#{info['generation']}" for name, info in listed.items())
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


def parts(spans: Sequence[tuple[Path, int, int]]) -> list[bytes]:
    """Bytes [start, stop) of each (path, start, stop) in a bucket, all asked for at one time."""
    keys, starts, stops = zip(*((_key(path), start, stop) for path, start, stop in spans), strict=True)
    return _client().cat_ranges(list(keys), list(starts), list(stops), on_error="raise")


@contextlib.contextmanager
def writing(path: Path) -> Iterator[BinaryIO]:
    """Opens a file that appears whole: a reader sees the old one or the new one, and never half of it."""
    if on_bucket(path):
        with tempfile.TemporaryDirectory() as folder:
            made = Path(folder) / path.name  # the client takes the object's type from the ending, so .html is shown
            with open(made, "wb") as file:
                yield file
            held.before_writing(path)
            _client().put_file(str(made), _key(path))
        return
    part = temporary.name_of(path)
    part.unlink(missing_ok=True)
    try:
        with open(part, "xb") as file:  # x: a link that somebody puts there meanwhile is not followed, but an error
            yield file
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Writes a file whole, as UTF-8."""
    with writing(path) as file:
        file.write(text.encode())


def whole_lines(path: Path) -> list[bytes]:
    """The complete lines of a file, none where it does not exist; a last line without its newline is left out."""
    return path.read_bytes().split(b"\n")[:-1] if path.is_file() else []


def remove(folder: Path, *, commit: str) -> None:
    """Removes a folder. If that is interrupted, what is left has no commit file and so counts as absent."""
    if on_bucket(folder):
        held.before_writing(folder)
        (folder / commit).unlink(missing_ok=True)
        clear(folder)
        return
    gone = folder.with_name(f"{folder.name}.removed")
    os.replace(folder, gone)
    shutil.rmtree(gone)


def clear(folder: Path) -> None:
    """Removes a folder, if it exists, that nobody reads; unlike `remove` it may leave half of it when interrupted."""
    if not on_bucket(folder):
        if folder.is_symlink():
            folder.unlink()
        shutil.rmtree(folder, ignore_errors=True)
    elif sizes(folder):
        held.before_writing(folder)
        _client().rm(_key(folder), recursive=True)


def rename(folder: Path, target: Path, *, commit: str) -> None:
    """Renames a folder to a name that is free. In a bucket it moves each object, `commit` first."""
    if not on_bucket(folder):
        os.replace(folder, target)
        return
    held.before_writing(target)
    names = sorted(sizes(folder), key=lambda name: name != commit)
    for some in (names[:1], names[1:]):
        if some:
            _client().mv([f"{_key(folder)}/{name}" for name in some], [f"{_key(target)}/{name}" for name in some])


def begin(target: Path, owner: bytes, *, commit: str, stays: str = "") -> None:
    """Empties a folder in a bucket, but for its folder `stays`, before it is written anew.

    Until the folder has its `commit` file again, the file COMMIT.begun holds `owner`: who is writing it.
    """
    held.before_writing(target)
    begun = target / f"{commit}{BEGUN}"
    begun.write_bytes(owner)
    (target / commit).unlink(missing_ok=True)
    if old := [n for n in sizes(target) if n != begun.name and not (stays and n.startswith(f"{stays}/"))]:
        _client().rm([f"{_key(target)}/{name}" for name in old])


def publish(built: Path, target: Path, *, commit: str, stays: str = "") -> None:
    """Puts a finished folder of the disk in the place of `target`, by a rename or by an upload with `commit` last.

    TARGET/STAYS in a bucket was written where it is, and stays.
    """
    if not on_bucket(target):
        shutil.rmtree(target, ignore_errors=True)
        os.replace(built, target)
        return
    begin(target, (built / commit).read_bytes(), commit=commit, stays=stays)
    upload(built, target, last=commit)
    (target / f"{commit}{BEGUN}").unlink()
    shutil.rmtree(built)


def upload(folder: Path, target: Path, *, last: str = "") -> None:
    """Copies every file below a folder of the disk to `target`, in a bucket."""
    for name in sorted(sizes(folder), key=lambda name: name == last):
        held.before_writing(target)
        _client().put_file(str(folder / name), f"{_key(target)}/{name}")


def fetched(path: Path, sha256: str = "") -> Path:
    """The same file or folder on the disk, for a library that cannot read from a bucket.

    A copy is made once, in $XDG_CACHE_HOME/tigerjax, and again when the bucket's has changed. Where its sha256 is known
    the bucket is not asked for that.
    """
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
            except OSError:  # a folder cannot replace the one that another process has made meanwhile
                if not place.is_dir():
                    raise
    return place


def matching(pattern: str | os.PathLike[str]) -> list[Path]:
    """The files and folders that a glob pattern names, `**` included, in order of name."""
    if not on_bucket(pattern):
        return [Path(name) for name in sorted(glob.glob(os.fspath(pattern), recursive=True))]
    return [of(SCHEME + name) for name in sorted(_client().glob(_key(of(pattern))))]


def request(method: str, path: Path, content: bytes | None = None, **parameters: Any) -> dict[str, Any]:
    """A single request of Cloud Storage's JSON API for an object, and its answer. POST writes `content`.

    FileExistsError where a condition among the `parameters`, such as ifGenerationMatch, does not hold.
    FileNotFoundError where there is no such object.
    """
    bucket, _, name = _key(path).partition("/")
    if method == "POST":
        place = f"{_client()._location}/upload/storage/v1/b/{quote(bucket)}/o"
        _, answer = _client().call(method, place, uploadType="media", name=name, data=content, **parameters)
    else:
        _, answer = _client().call(method, "b/{}/o/{}", bucket, name, **parameters)
    return json.loads(answer or b"{}")


def trouble(error: BaseException) -> BucketError | None:
    """The error to raise when a bucket refused or did not answer; None when the error is of another kind."""
    if not _client.cache_info().currsize:
        return None
    message = " ".join(str(error).split())[:300] or type(error).__name__
    missing = isinstance(error, FileNotFoundError) and error.errno is None  # gcsfs sets none, a disk does
    if missing or getattr(error, "code", None) in (401, 403) or any(word in message for word in REFUSALS):
        return BucketRefused(f"the bucket refused: {message}; look at its name, and at what this account may do there")
    if type(error).__module__.partition(".")[0] in CLIENTS or any(word in message for word in OUTAGES):
        return BucketError(f"the bucket did not answer: {message}; start again")
    return None


def not_damage(error: BaseException) -> None:
    """Raises the `trouble` that an error stands for, if any: a file is not damaged because its bucket did not answer.

    A missing object is no trouble here.
    """
    if not isinstance(error, FileNotFoundError) and (meant := trouble(error)) is not None:
        raise meant from error


@contextlib.contextmanager
def bucket_errors() -> Iterator[None]:
    """Turns an error of a bucket's client into the `trouble` that it stands for.

    For places where the error passes through another process or library, which keeps its text and loses its type.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, TigerjaxError) or (meant := trouble(error)) is None:
            raise
        raise meant from error


def _key(path: Path) -> str:
    """BUCKET/NAME, which is how the client names an object."""
    return str(path).removeprefix(SCHEME)


@functools.cache
def _client() -> Any:
    """fsspec's client of Cloud Storage, which etils uses too.

    It caches no listing, since TensorStore and other hosts write to the same folders.
    """
    if importlib.util.find_spec("gcsfs") is None:
        raise ConfigError("paths that begin with gs:// need gcsfs; `pip install gcsfs`, or mount the bucket by gcsfuse")
    for name in ("gcsfs", "fsspec"):  # they log errors that they also raise
        logging.getLogger(name).setLevel(logging.CRITICAL)
    import fsspec

    fsspec.config.conf["gcs"] = {"use_listings_cache": False}
    return fsspec.filesystem("gcs", finalize_on_close=True)
