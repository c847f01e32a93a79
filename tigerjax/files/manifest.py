"""Output folders that are whole or absent, each with a manifest.json of what was read, done and written.

A stage is a block of code that writes such a folder:

    with stage(out, name="dedup", config={...}, inputs=[path, ...], seed=0) as run:
        if run.done:            # OUT is there already, made from the same config and inputs
            return run.manifest
        ...                     # write files under run.tmp
        run.counts = {"in": 10, "out": 8, "dropped": {"exact": 2}}

The block writes into the folder OUT.partial. When it ends, manifest.json is added and the folder is renamed to OUT.
When it fails, OUT stays as it was. A finished stage is done again when an output is not as it was written. An
interrupted run starts again from the beginning. For an OUT in a bucket the block writes into a temporary folder on the
disk, which is then uploaded, manifest.json last. A stage replaces its own earlier result and nothing else: an OUT that
holds another file is refused, and the file named. So is an OUT into which another process writes.

Some stages take long and must resume after an interruption. Such a stage works in a folder of its own beside OUT, and
moves it into run.tmp when it is complete. Nothing can be moved in a bucket. There the stage writes into
`run.in_place("name")`, which is OUT/name itself, so an earlier result in OUT is removed when the work begins.
"""

import contextlib
import datetime
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import tigerjax
from tigerjax.errors import ConfigError, DataError
from tigerjax.files import folders, hashed, lock, paths, seal, written
from tigerjax.files.foreign import object_of, shown
from tigerjax.terminal import tell

FILE = "manifest.json"
BEGUN = f"{FILE}{paths.BEGUN}"
NOT_CONTENT = (FILE, BEGUN, lock.NAME)
"""Files that do not count in the hash of their folder."""
HASHED_BYTES = 1 << 20  # at one time: enough that Python costs nothing beside sha256
CHEAP_BYTES = 64 << 20
"""Outputs on a disk of so many bytes in all are compared by their hashes wherever they are met, others by size."""
AGAIN = "remove the folder and make it again"
FORM: dict[str, type] = {"stage": str, "inputs": list, "outputs": list, "counts": dict, "figures": dict}
"""What a manifest holds, each part of which may be absent."""
ENTRY: dict[str, Any] = {"path": "", "bytes": 0, "sha256": ""}
"""Of an input or an output: its parts, each with a value of its type."""
KINDS: dict[type, str] = {str: "a text", dict: "an object", list: "a list"}
STEPS_AWAY = 4  # folders above a file that are searched for the manifest of the stage that wrote it
CHECKPOINTS = "checkpoints"
"""A folder of this name among the outputs is not compared: checkpoints have checksums, and users remove old ones."""


def sha256(path: str | Path, on_bytes: Callable[[int], None] = lambda _: None) -> str:
    """The hash of a file's bytes. For a folder: the hash of the names and hashes of its files, in sorted order.

    `on_bytes` is called with the size of each piece that has been hashed.
    """
    path = paths.of(path)
    total = hashlib.sha256()
    if path.is_dir():
        for f in sorted(path / name for name in paths.sizes(path)):
            if f.name not in NOT_CONTENT:
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
        return sum(count for name, count in paths.sizes(path).items() if Path(name).name not in NOT_CONTENT)
    return paths.size(path)


def canonical(value: Any) -> bytes:
    """JSON with sorted keys and no spaces: equal values have equal bytes."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"), default=str).encode()


def write_json(path: str | Path, value: Any) -> None:
    """Writes a JSON file whole: a reader sees the old file or the new one, and never half of it."""
    paths.write_text(paths.of(path), written.text(value))


def write(folder: str | Path, made: Mapping[str, Any]) -> None:
    """Writes the manifest of a folder whole, with a checksum of itself."""
    paths.write_text(paths.of(folder) / FILE, seal.text(made))


def read(folder: str | Path, *, file: str = FILE) -> dict[str, Any] | None:
    """The manifest of a folder; None where there is none, which means that the folder is absent or not complete.

    Raises DataError for a manifest that is damaged.
    """
    path = paths.of(folder) / file
    if not path.is_file():
        return None
    raw = path.read_bytes()
    if seal.whole(raw) is False:
        raise DataError(f"{path}: its bytes are not those that were written; {AGAIN}")
    made = object_of(path, raw, AGAIN, finite=False)
    if seal.missing(made, raw):
        raise DataError(f"{path}: its checksum is missing; {AGAIN}")
    made = seal.opened(made)
    for name, kind in FORM.items():
        if not isinstance(made.get(name, kind()), kind):
            raise DataError(f"{path}: {name} is {shown(made[name])}, needs {KINDS[kind]}; {AGAIN}")
    for name in ("inputs", "outputs"):
        for entry in made.get(name, ()):
            if not isinstance(entry, dict) or not all(isinstance(entry.get(k, d), type(d)) for k, d in ENTRY.items()):
                raise DataError(f"{path}: {name} holds {shown(entry)}, needs path, bytes and sha256; {AGAIN}")
            if "path" not in entry:
                raise DataError(f"{path}: {name} holds {shown(entry)}, which has no path; {AGAIN}")
    return made


def described(folder: Path, names: Iterable[str], *, hashed: bool = True) -> list[dict[str, Any]]:
    """The outputs of a manifest: one {path, bytes, sha256} for each of these files of a folder."""
    there, out = paths.sizes(folder), []
    for name in sorted(names):
        output: dict[str, Any] = {"path": name}
        if CHECKPOINTS not in Path(name).parts:
            output["bytes"] = there[name]
            if hashed:
                output["sha256"] = sha256(folder / name)
        out.append(output)
    return out


def difference(
    folder: Path,
    made: Mapping[str, Any],
    *,
    verify: bool = False,
    reads: Mapping[str, str] | None = None,
    alone: bool = False,
) -> str:
    """The first output of a manifest that is not as it was written, and how it differs; empty for none.

    Sizes are compared, and hashes with `verify` or where that is cheap: on a disk, and few bytes in all.

    `reads` has the names of the outputs, or of folders of them, that are to be read, each with its sha256 where that is
    known. Only these are hashed, and with `alone` only these are compared; None stands for all.
    """
    outputs, there = [o for o in made.get("outputs", ()) if isinstance(o, dict) and "bytes" in o], paths.sizes(folder)
    content = [o for o in outputs if reads is None or any(str(p) in reads for p in _and_parents(o["path"]))]
    for output in content if alone else outputs:
        if (have := there.get(output["path"])) is None:
            return f"{output['path']} is missing, and was written"
        if have != output["bytes"]:
            return f"{output['path']} has {have:,} bytes, and {output['bytes']:,} were written"
    known = {name: digest for name, digest in (reads or {}).items() if digest}
    cheap = not paths.on_bucket(folder) and sum(output["bytes"] for output in content) <= CHEAP_BYTES
    for output in content:
        name = output["path"]
        if name in known or verify or cheap:
            digest = known.get(name) or sha256(folder / name)
            if output.get("sha256", digest) != digest:
                return f"{name} holds other bytes than were written"
    return ""


def refuse_strangers(folder: Path, made: Mapping[str, Any] | None, *more: str) -> None:
    """ConfigError when the folder of this manifest holds a file that is none of its outputs, nor below one of the
    folders `more`. Manifests of older versions that list no outputs say nothing."""
    if made is None or "outputs" not in made:
        return
    outputs = [Path(output["path"]) for output in made["outputs"]]
    runs = [p for output in outputs for p in output.parents if p.name == CHECKPOINTS]
    by = f"stage {made['stage']!r}" if "stage" in made else "the run there"
    folders.refuse_strangers(folder, map(str, [*NOT_CONTENT, *outputs, *runs, *more]), by)


def _and_parents(name: str) -> list[Path]:
    return [Path(name), *Path(name).parents]


def _writer(path: Path) -> tuple[Path, dict[str, Any]] | None:
    """(folder, manifest) of the finished stage that a file or folder belongs to; None where there is none."""
    place = paths.absolute(path)
    for folder in (place, *list(place.parents)[:STEPS_AWAY]):
        if str(folder) in ("/", paths.SCHEME):
            return None
        made = read(folder)
        if isinstance(made, dict) and "stage" in made:
            return folder, made
    return None


def refuse_changed(inputs: Iterable[Path], digests: Mapping[Path, str] | None = None, *, alone: bool = False) -> None:
    """DataError for an input that a finished stage wrote, and that is not as it was written.

    The other outputs of that stage are compared by their sizes, as a pattern does not match a file that is gone; with
    `alone` they are not. `digests` holds the sha256 of inputs that are files, where they are known.
    """
    stages: dict[Path, tuple[dict[str, Any], dict[str, str]]] = {}
    for path in inputs:
        if (found := _writer(path)) is not None:
            folder, made = found
            _, reads = stages.setdefault(folder, (made, {}))
            reads[str(paths.absolute(path).relative_to(folder))] = (digests or {}).get(path, "")
    for folder, (made, reads) in stages.items():
        if why := difference(folder, made, reads=reads, alone=alone):
            raise DataError(
                f"{folder}: {why} by stage {made['stage']!r}; run that stage again, or copy what you changed on"
                f" purpose to another folder, without its {FILE}"
            )


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


# The nine say which stage it is (name, config, inputs, seed) and how it is looked at; a stage gives the few it means.
@contextlib.contextmanager
def stage(
    out: str | Path,
    *,
    name: str,
    config: Any,
    inputs: Iterable[str | Path],
    seed: int | None = None,
    hashing: Callable[[int, int], None] | None = None,
    verify: bool = False,
    again: bool = True,
    by_content: bool = False,
) -> Iterator[Stage]:
    """Gives the block its `Stage`, as the module's docstring shows; `hashing(done, all)` reports the hashing of inputs.

    `verify` compares the outputs of a finished stage by their hashes. Where one is not as it was written, the stage is
    done again; with `again=False`, for work that costs too much, that is a DataError. With `by_content` an input may
    be called by another path than when the stage was made, if it holds the same.

    Raises DataError for an input that does not exist or is not as its stage wrote it, and for counts that do not
    balance; ConfigError for an `out` that holds something else, or that another
    process writes at this time.
    """
    out = paths.of(out)
    given = [paths.of(path) for path in inputs]
    for path in given:
        if not path.exists():
            raise DataError(
                f"{path}: input of stage {name} does not exist; correct the path, or run the stage that makes it"
            )
        if paths.resolved(path).is_relative_to(paths.resolved(out)):
            raise ConfigError(f"{path} is an input and lies in the output {out}; give another output folder")
    hashes = hashed.of(given, sha256, hashing, sum(map(size, given)) if hashing else 0)
    refuse_changed(given, hashes)
    wanted = {
        "stage": name,
        "version": tigerjax.__version__,
        "config": json.loads(canonical(config)),
        "config_sha256": hashlib.sha256(canonical(config)).hexdigest(),
        "inputs": [{"path": str(p), "sha256": hashes[p]} for p in given],
        "seed": seed,
    }
    old = read(out)
    begun = read(out, file=BEGUN) if paths.on_bucket(out) else None  # of an interrupted upload
    folders.refuse(out, name, old or begun)

    def matches(made: dict[str, Any] | None) -> bool:
        if made is None or any(made.get(k) != v for k, v in wanted.items() if k != "inputs"):
            return False
        if by_content:
            return [one.get("sha256") for one in made.get("inputs", [])] == [hashes[path] for path in given]
        return bool(made.get("inputs") == wanted["inputs"])

    if old is not None and matches(old):
        why = difference(out, old, verify=verify)
        if not why:
            lock.forget_beside(out)
            yield Stage(out, old)
            return
        if not again:
            raise DataError(
                f"{out}: {why} by stage {name!r}; put the file back, or remove the folder to have it all made again"
            )
        tell(f"{out}: {why}; the stage is done again")

    def begin() -> Path:
        if old is not None or not matches(begun):
            # BEGUN names the config only after the old files are gone: otherwise an interruption here would make them
            # look like the work of this config.
            paths.begin(out, canonical({"stage": name}), commit=FILE)
            write_json(out / BEGUN, wanted)
        return out

    refuse_strangers(out, old)
    with folders.building(out) as tmp:
        if old is None and matches(made := read(out)):  # another process has finished it while this one waited
            yield Stage(out, made)
            return
        run = Stage(tmp, None, begin)
        started = datetime.datetime.now(datetime.UTC)
        yield run
        dropped = run.counts.get("dropped", {})
        if "in" in run.counts and run.counts["in"] != run.counts.get("out", 0) + sum(dropped.values()):
            raise DataError(f"stage {name}: counts do not balance: {run.counts}")
        ended = datetime.datetime.now(datetime.UTC)
        in_place = [f"{run.stays}/{file}" for file in paths.sizes(out / run.stays)] if run.stays else []
        outputs = [*described(tmp, paths.sizes(tmp)), *described(out, in_place, hashed=False)]
        run.manifest = wanted | {
            "outputs": sorted(outputs, key=lambda output: output["path"]),
            "counts": run.counts,
            "figures": run.figures,
            "started": started.isoformat(timespec="seconds"),
            "ended": ended.isoformat(timespec="seconds"),
        }
        write(tmp, run.manifest)
        refuse_strangers(out, old, run.stays)  # that came while the stage worked
        paths.publish(tmp, out, commit=FILE, stays=run.stays)
