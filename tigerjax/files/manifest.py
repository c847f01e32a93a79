"""What a stage read, did and wrote; atomic output folders; skip when nothing changed.

A stage is a block that writes a folder:

    with stage(out, name="dedup", config={...}, inputs=[path, ...], seed=0) as run:
        if run.done:            # a manifest with the same config and input hashes is there already
            return run.manifest
        ...                     # write files under run.tmp
        run.counts = {"in": 10, "out": 8, "dropped": {"exact": 2}}

Work goes on in OUT.partial (what an interrupted run left there is redone). On success it becomes `out` by rename, with
manifest.json inside; on any exception nothing of `out` changes. An `out` in a bucket is made in a temporary folder of
the disk and uploaded, manifest.json last. Only an earlier result of the same stage is ever replaced: a folder that
holds anything else is refused.

A folder that takes long, and goes on after an interruption, is moved into run.tmp by a rename. In a bucket it is made
where it stays, in `run.in_place("name")`: an earlier result of the stage goes before that, and not at the end.
"""

import contextlib
import datetime
import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import tigerjax
from tigerjax.errors import ConfigError, DataError
from tigerjax.files import paths

FILE = "manifest.json"
BEGUN = f"{FILE}{paths.BEGUN}"
HASHED_BYTES = 1 << 20  # at one time: enough that Python costs nothing beside sha256


def sha256(path: str | Path, told: Callable[[int], None] = lambda _: None) -> str:
    """Of a file's bytes, or of a folder: the hash of its files' names and hashes in sorted order. `told` hears of each
    piece's bytes."""
    path = paths.of(path)
    total = hashlib.sha256()
    if path.is_dir():
        for f in sorted(path / name for name in paths.sizes(path)):
            if f.name not in (FILE, BEGUN):
                total.update(f"{f.relative_to(path)}\0{sha256(f, told)}\n".encode())
        return total.hexdigest()
    with paths.reading(path) as file:
        while piece := file.read(HASHED_BYTES):
            total.update(piece)
            told(len(piece))
    return total.hexdigest()


def size(path: str | Path) -> int:
    """Bytes of a file, or of the files that `sha256` reads of a folder."""
    path = paths.of(path)
    if path.is_dir():
        return sum(found for name, found in paths.sizes(path).items() if Path(name).name not in (FILE, BEGUN))
    return paths.size(path)


def canonical(value: Any) -> bytes:
    """JSON with sorted keys and no spaces: equal values have equal bytes."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"), default=str).encode()


def write_json(path: str | Path, value: Any) -> None:
    """A reader sees the old file or the new one, and never half of it."""
    paths.write_text(paths.of(path), json.dumps(value, ensure_ascii=False, indent=1, default=str) + "\n")


def read(folder: str | Path, *, file: str = FILE) -> dict[str, Any] | None:
    """The manifest of a folder; None when there is none, so the folder is absent or partial."""
    path = paths.of(folder) / file
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{path}: broken JSON ({error}); remove the folder and make it again") from error


class Stage:
    """Handed to the body of `stage`: where to write, and what to say about it."""

    def __init__(self, tmp: Path, manifest: dict[str, Any] | None, begin: Callable[[], Path] | None = None):
        self.tmp = tmp
        self.manifest = manifest
        self.done = manifest is not None
        self.counts: dict[str, Any] = {}
        self.figures: dict[str, Any] = {}
        self.kept = ""
        self._begin = begin

    def in_place(self, name: str) -> Path:
        """A folder of a result in a bucket that is written where it stays; what an interrupted stage with the same
        config and inputs has written of it is there."""
        assert self._begin is not None, "a stage that is done, or another process's, writes nothing"
        self.kept = name
        return self._begin() / name


def refuse(out: Path, name: str, there: Mapping[str, Any] | None) -> None:
    """ConfigError when `out` holds anything but a result of stage `name`; `there` is the manifest of what it holds."""
    made_by = (there or {}).get("stage")
    if made_by != name and out.exists() and (not out.is_dir() or any(out.iterdir())):
        what = f"the result of stage {made_by!r}" if made_by else "files that no stage wrote"
        raise ConfigError(f"{out} holds {what}, and stage {name!r} would replace it; give another folder or empty it")


@contextlib.contextmanager
def stage(
    out: str | Path,
    *,
    name: str,
    config: Any,
    inputs: Iterable[str | Path],
    seed: int | None = None,
    hashing: Callable[[int, int], None] | None = None,
) -> Iterator[Stage]:
    """See the module docstring. `hashing(done, all)` is told of the inputs' bytes that were hashed.

    Raises DataError for an input that does not exist or counts that do not balance, and ConfigError for an `out` that
    holds something else.
    """
    out = paths.of(out)
    for path in (inputs := [paths.of(p) for p in inputs]):
        if not path.exists():
            raise DataError(f"{path}: input of stage {name} does not exist")
        if paths.resolved(path).is_relative_to(paths.resolved(out)):
            raise ConfigError(f"{path} is an input and lies in the output {out}; give another output folder")
    hashed, size_of_all = 0, sum(map(size, inputs)) if hashing else 0

    def told(count: int) -> None:
        nonlocal hashed
        hashed += count
        if hashing is not None:
            hashing(hashed, size_of_all)

    wanted = {
        "stage": name,
        "version": tigerjax.__version__,
        "config": json.loads(canonical(config)),
        "config_sha256": hashlib.sha256(canonical(config)).hexdigest(),
        "inputs": [{"path": str(p), "sha256": sha256(p, told)} for p in inputs],
        "seed": seed,
    }
    old = read(out)
    begun = read(out, file=BEGUN) if paths.on_bucket(out) else None  # by an upload, or a stage, that was cut short
    refuse(out, name, old or begun)
    if old is not None and all(old.get(k) == v for k, v in wanted.items()):
        yield Stage(out, old)
        return

    def begin() -> Path:
        if old is not None or begun is None or any(begun.get(k) != v for k, v in wanted.items()):
            # Until all that was there is gone it is not what an interrupted stage of this config has left.
            paths.begin(out, canonical({"stage": name}), commit=FILE)
            write_json(out / BEGUN, wanted)
        return out

    if paths.on_bucket(out):
        tmp = Path(tempfile.mkdtemp(prefix=f"{out.name}-"))
    else:
        tmp = out.with_name(out.name + ".partial")
        shutil.rmtree(tmp, ignore_errors=True)
        tmp.mkdir(parents=True)
    run = Stage(tmp, None, begin)
    started = datetime.datetime.now(datetime.UTC)
    try:
        yield run
        dropped = run.counts.get("dropped", {})
        if "in" in run.counts and run.counts["in"] != run.counts.get("out", 0) + sum(dropped.values()):
            raise DataError(f"stage {name}: counts do not balance: {run.counts}")
        ended = datetime.datetime.now(datetime.UTC)
        in_place = [f"{run.kept}/{file}" for file in paths.sizes(out / run.kept)] if run.kept else []
        run.manifest = wanted | {
            "outputs": sorted([*paths.sizes(tmp), *in_place]),
            "counts": run.counts,
            "figures": run.figures,
            "started": started.isoformat(timespec="seconds"),
            "ended": ended.isoformat(timespec="seconds"),
        }
        write_json(tmp / FILE, run.manifest)
        paths.publish(tmp, out, commit=FILE, kept=run.kept)
    except BaseException:
        shutil.rmtree(tmp, ignore_errors=True)
        raise
