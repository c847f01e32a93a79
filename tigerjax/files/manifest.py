"""Output folders that are whole or absent, each with a manifest.json of what was read, done and written.

A stage is a block of code that writes such a folder:

    with stage(out, name="dedup", config={...}, inputs=[path, ...], seed=0) as run:
        if run.done:            # OUT is there already, made from the same config and inputs
            return run.manifest
        ...                     # write files under run.tmp
        run.counts = {"in": 10, "out": 8, "dropped": {"exact": 2}}

The block writes into the folder OUT.partial. When it ends, manifest.json is added and the folder is renamed to OUT.
When it fails, OUT stays as it was. An interrupted run starts again from the beginning. For an OUT in a bucket the block
writes into a temporary folder on the disk, which is then uploaded, manifest.json last. A stage replaces its own earlier
result and nothing else: an OUT that holds other files is refused.

Some stages take long and must go on after an interruption. Such a stage works in a folder of its own beside OUT, and
moves it into run.tmp when it is complete. Nothing can be moved in a bucket. There the stage writes into
`run.in_place("name")`, which is OUT/name itself, so an earlier result in OUT is removed when the work begins.
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


def sha256(path: str | Path, on_bytes: Callable[[int], None] = lambda _: None) -> str:
    """The hash of a file's bytes. For a folder: the hash of the names and hashes of its files, in sorted order.

    `on_bytes` is called with the size of each piece that has been hashed.
    """
    path = paths.of(path)
    total = hashlib.sha256()
    if path.is_dir():
        for f in sorted(path / name for name in paths.sizes(path)):
            if f.name not in (FILE, BEGUN):
                total.update(f"{f.relative_to(path)}\0{sha256(f, on_bytes)}\n".encode())
        return total.hexdigest()
    with paths.reading(path) as file:
        while piece := file.read(HASHED_BYTES):
            total.update(piece)
            on_bytes(len(piece))
    return total.hexdigest()


def size(path: str | Path) -> int:
    """The bytes that `sha256` reads of a file or folder."""
    path = paths.of(path)
    if path.is_dir():
        return sum(count for name, count in paths.sizes(path).items() if Path(name).name not in (FILE, BEGUN))
    return paths.size(path)


def canonical(value: Any) -> bytes:
    """JSON with sorted keys and no spaces: equal values have equal bytes."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"), default=str).encode()


def write_json(path: str | Path, value: Any) -> None:
    """Writes a JSON file whole: a reader sees the old file or the new one, and never half of it."""
    paths.write_text(paths.of(path), json.dumps(value, ensure_ascii=False, indent=1, default=str) + "\n")


def read(folder: str | Path, *, file: str = FILE) -> dict[str, Any] | None:
    """The manifest of a folder; None where there is none, which means that the folder is absent or not complete."""
    path = paths.of(folder) / file
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{path}: broken JSON ({error}); remove the folder and make it again") from error


class Stage:
    """What the block of a stage works with: it writes below `tmp` and sets `counts` and `figures` for the manifest."""

    def __init__(self, tmp: Path, manifest: dict[str, Any] | None, begin: Callable[[], Path] | None = None):
        self.tmp = tmp
        self.manifest = manifest
        self.done = manifest is not None
        self.counts: dict[str, Any] = {}
        self.figures: dict[str, Any] = {}
        self.stays = ""
        self._begin = begin

    def in_place(self, name: str) -> Path:
        """The folder OUT/NAME of a result in a bucket, to be written where it stays.

        It holds what an interrupted run of the same stage, config and inputs has already written.
        """
        assert self._begin is not None, "a stage that is done, or another process's, writes nothing"
        self.stays = name
        return self._begin() / name


def refuse(out: Path, name: str, there: Mapping[str, Any] | None) -> None:
    """ConfigError when `out` holds anything but a result of stage `name`; `there` is the manifest found in it."""
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
    """Gives the block its `Stage`, as the module's docstring shows; `hashing(done, all)` reports the hashing of inputs.

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

    def on_bytes(count: int) -> None:
        nonlocal hashed
        hashed += count
        if hashing is not None:
            hashing(hashed, size_of_all)

    wanted = {
        "stage": name,
        "version": tigerjax.__version__,
        "config": json.loads(canonical(config)),
        "config_sha256": hashlib.sha256(canonical(config)).hexdigest(),
        "inputs": [{"path": str(p), "sha256": sha256(p, on_bytes)} for p in inputs],
        "seed": seed,
    }
    old = read(out)
    begun = read(out, file=BEGUN) if paths.on_bucket(out) else None  # of an interrupted upload
    refuse(out, name, old or begun)
    if old is not None and all(old.get(k) == v for k, v in wanted.items()):
        yield Stage(out, old)
        return

    def begin() -> Path:
        if old is not None or begun is None or any(begun.get(k) != v for k, v in wanted.items()):
            # BEGUN names the config only after the old files are gone: otherwise an interruption here would make them
            # look like the work of this config.
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
        in_place = [f"{run.stays}/{file}" for file in paths.sizes(out / run.stays)] if run.stays else []
        run.manifest = wanted | {
            "outputs": sorted([*paths.sizes(tmp), *in_place]),
            "counts": run.counts,
            "figures": run.figures,
            "started": started.isoformat(timespec="seconds"),
            "ended": ended.isoformat(timespec="seconds"),
        }
        write_json(tmp / FILE, run.manifest)
        paths.publish(tmp, out, commit=FILE, stays=run.stays)
    except BaseException:
        shutil.rmtree(tmp, ignore_errors=True)
        raise
