"""Reading a Hugging Face folder into our layout, block by block: into memory, or into a checkpoint on disk.

It needs memory for some blocks of `weights.BLOCK_BYTES`, whatever the size of the model. When the vocabulary grows, it
needs one old embedding table more.
"""

import contextlib
import dataclasses
import hashlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import tigerjax
from tigerjax.checkpoint import arrays as store
from tigerjax.checkpoint.files import META, checksums, publish, remove
from tigerjax.checkpoint.model import claim, make_meta
from tigerjax.config import Dtype, ModelConfig, stored_fields
from tigerjax.convert import journal as journals
from tigerjax.convert import meta_form
from tigerjax.convert.forms import refuse_others
from tigerjax.convert.journal import Journal, OnBytes, begun, fingerprint, resume
from tigerjax.convert.shards import DTYPES, Written, finite
from tigerjax.convert.tensors import Grown, Tensors, Without, open_folder
from tigerjax.convert.vocab import moved
from tigerjax.errors import ConfigError, DataError, disk_full
from tigerjax.files import manifest, paths
from tigerjax.files.foreign import read_object
from tigerjax.files.lock import locked_beside
from tigerjax.model import families, hf_config
from tigerjax.model.hf_config import CONFIG, OURS
from tigerjax.model.weights import TensorRow, get, put, tensor_bytes

Array = np.ndarray
STAGE, EXPORT = "convert from-hf", "convert to-hf"
CHECKSUMS = "checksums.json"
"""{tensor's Hugging Face name: sha256 of its bytes as Hugging Face lays them out, in the type that was written}."""
BUFFER_TOLERANCE = 1e-2  # relative; older exports saved some buffers as bfloat16


class Opened(NamedTuple):
    """A Hugging Face folder, its tensors checked by name and shape and not yet read."""

    where: str
    kind: str  # as our checkpoints name it: see families.of_kind
    config: ModelConfig
    tensors: Tensors
    spec: list[TensorRow]
    extra: dict[str, Any]
    """`extra` of the checkpoint that the folder was exported from (a reward model's calibration), and what an export
    must write again: see hf_config.SOURCE."""
    sized: bool
    """Whether it is known how many rows of the embedding are the vocabulary."""
    grown: str | None = None
    """sha256 of the rule by which the vocabulary grew."""
    sums: Mapping[str, str] = {}
    """{tensor: its CHECKSUMS entry} of an export of ours; an import compares each. Empty for other folders."""
    written: Written = "float32"
    """The type in which an export of ours wrote its tensors."""


def open_hf(hf_dir: Path) -> Opened:
    """A folder with config.json and weights, or with params.json and the weights of Meta's form. DataError names every
    tensor that is missing, left over or misshapen.

    The vocabulary is what the folder says under our own key, else all rows of the embedding: see `sized`.
    """
    hf_dir = paths.of(hf_dir)
    refuse_others(hf_dir)
    tensors: Tensors
    if meta_form.there(hf_dir):
        fields, tensors = meta_form.opened(hf_dir)
        read = families.of_fields(fields)
    else:
        read, tensors = families.read_hf_config(hf_dir), open_folder(hf_dir)
    if read.config.tied and not families.is_reward(read.kind):
        embed, *_, head = _rows(read.kind, dataclasses.replace(read.config, tied=False), read.rows)
        if head.theirs in tensors.shapes:
            _refuse_other_head(tensors, embed, head.theirs, str(hf_dir))
            tensors = Without(tensors, head.theirs)
    spec = _rows(read.kind, read.config, read.rows)
    if not read.config.vocab_size <= read.rows <= read.config.padded_vocab_size:
        raise DataError(
            f"{hf_dir}/config.json: vocab_size={read.rows} is outside [{read.config.vocab_size},"
            f" {read.config.padded_vocab_size}], the sizes it gives under {OURS!r}; remove that key if the"
            " vocabulary was changed"
        )
    check(tensors, read.config, spec, str(hf_dir))
    opened = Opened(str(hf_dir), read.kind, read.config, tensors, spec, read.extra, read.sized)
    made = manifest.read(hf_dir) or {}
    if made.get("stage") != EXPORT or not (hf_dir / CHECKSUMS).is_file():
        return opened
    sums = read_object(hf_dir / CHECKSUMS, "export the model again, or remove the file")
    return opened._replace(sums=sums, written=made["config"]["dtype"])


def _refuse_other_head(tensors: Tensors, embed: TensorRow, head: str, where: str) -> None:
    """DataError where a folder with tie_word_embeddings has a head of its own that differs from its embedding.

    transformers 4 computes with the embedding then, and transformers 5 with the head: nobody can know what is meant.
    """
    same = tensors.shapes[head] == tensors.shapes.get(embed.theirs)
    for start, stop in embed.blocks() if same else ():
        same = same and np.array_equal(tensors.rows(head, start, stop), tensors.rows(embed.theirs, start, stop))
    if not same:
        raise DataError(
            f"{where}: config.json has tie_word_embeddings=true, but {head} is there and differs from {embed.theirs};"
            f" set tie_word_embeddings to false to use {head} as transformers 5 does, or remove {head} to use the"
            " embedding as transformers 4 does"
        )


def _rows(kind: str, config: ModelConfig, rows: int) -> list[TensorRow]:
    return families.of_kind(kind).hf_rows(config, rows=rows, reward=families.is_reward(kind))


def sized(opened: Opened, vocab_size: int) -> Opened:
    """The same folder, of whose rows the first `vocab_size` are the vocabulary, and the others padding.

    Raises ConfigError for a vocabulary of more entries than there are rows, DataError for a token id of the folder that
    is none of them.
    """
    rows = opened.spec[0].shape[0]
    if not 0 < vocab_size <= rows:
        raise ConfigError(f"vocab_size={vocab_size} must be from 1 to the {rows} rows of {opened.where}")
    hf_config.refuse_ids(opened.extra, vocab_size, paths.of(opened.where))
    return opened._replace(config=dataclasses.replace(opened.config, vocab_size=vocab_size), sized=True)


def grow(opened: Opened, kept: int, sub_tokens: list[list[int]], *, multiple: int) -> Opened:
    """The same folder with its first `kept` rows of vocabulary, and a new row for each of `sub_tokens`, padded to a
    multiple. Its own padding is left out. The token ids that it says move with their tokens.

    What the new rows hold is described in `tigerjax.convert.vocab`.

    Raises ConfigError for a `multiple` below 1.
    """
    if multiple < 1:
        raise ConfigError(f"multiple={multiple} must be at least 1")
    size = kept + len(sub_tokens)
    config = dataclasses.replace(opened.config, vocab_size=size, padded_vocab_size=-(-size // multiple) * multiple)
    tables = [row.theirs for row in opened.spec if row.ours in ("embed", "head")]
    return opened._replace(
        config=config,
        tensors=Grown(opened.tensors, sub_tokens, kept=kept, grown=tables),
        sums={name: digest for name, digest in opened.sums.items() if name not in tables},
        spec=_rows(opened.kind, config, size),
        extra=hf_config.moved_ids(opened.extra, moved(kept, sub_tokens)),
        grown=hashlib.sha256(manifest.canonical([kept, sub_tokens])).hexdigest(),
    )


def check(tensors: Tensors, config: ModelConfig, spec: list[TensorRow], where: str) -> None:
    """Raises DataError for a tensor that is missing, left over or of another shape than the table's."""
    # Asked first: the names of a thousand million layers would fill the memory.
    there = max(_layers(row, tensors) for row in spec if row.layered)
    if there == 0 and tensors.shapes and spec[0].theirs not in tensors.shapes:
        raise DataError(
            f"{where}: the tensors have other names than this model's: there is {min(tensors.shapes)}, but"
            f" {spec[0].theirs} is needed; save the whole model with save_pretrained, with its head and not wrapped"
            " (DataParallel, peft)"
        )
    if config.num_layers > there:
        raise DataError(
            f"{where}: its config says num_hidden_layers={config.num_layers}, but the tensors are of {there} layers;"
            " the config is of another model, or shards are missing"
        )
    left = dict(tensors.shapes)
    for row in spec:
        names = row.names(config)
        missing = [name for name in names if name not in left]
        if missing:
            raise DataError(
                f"{where}: lacks {missing[0]} ({len(missing)} of {len(names)} for {row.ours});"
                " copy the missing files, or take the model's own config.json"
            )
        for name in names:
            if (shape := left.pop(name)) != row.shape:
                raise DataError(f"{where}: {name} has shape {shape}, but the config needs {row.shape}")
    for name in list(left):
        if (want := families.of(config).hf_buffer(name, config)) is not None:
            have = tensors.rows(name, 0, left.pop(name)[0]).astype(np.float64)
            if have.shape != want.shape or not np.allclose(have, want, rtol=BUFFER_TOLERANCE, atol=0):
                raise DataError(
                    f"{where}: {name} does not belong to rope_theta={config.rope_base} and rope kind"
                    f" {config.rope.kind}; the config is of another model"
                )
    if left:
        raise DataError(
            f"{where}: {len(left)} tensors are left over that no weight takes, such as {min(left)};"
            " take the config.json that belongs to them"
        )


def _layers(row: TensorRow, tensors: Tensors) -> int:
    before, after = row.theirs.split("{}")
    return sum(name.startswith(before) and name.endswith(after) for name in tensors.shapes)


def source_facts(opened: Opened) -> dict[str, Any]:
    """What a checkpoint remembers of the folder that it came from."""
    folder = paths.of(opened.where)
    name = folder.name if paths.on_bucket(folder) else folder.resolve().name
    config = meta_form.PARAMS if meta_form.there(folder) else CONFIG
    return {"folder": name, "config_sha256": manifest.sha256(folder / config)}


def in_memory(opened: Opened) -> dict[str, Any]:
    """The weights as float32 numpy arrays. DataError names a tensor with a value that is not finite."""
    out: dict[str, Any] = {}
    for row in opened.spec:
        put(out, row.ours, np.zeros(row.stacked_shape(opened.config), np.float32))
    for _ in _copy_in(opened, out, "float32", done=set()):
        pass
    return out


def stream_in(opened: Opened, partial: Path, *, dtype: Dtype = "float32", on_bytes: OnBytes | None = None) -> Journal:
    """Writes the weights and CHECKSUMS into an Orbax checkpoint folder `partial`, or resumes where it was interrupted.

    A folder that cannot become whole (a value that is not finite, a full disk) is removed. An interrupted one stays,
    and its journal tells a restart where to go on. Returns the journal, which the caller removes at the end.
    """
    partial = paths.absolute(partial)
    job = {
        "stage": STAGE,
        "from": opened.where,
        "files": fingerprint(opened.tensors.files),
        "config": stored_fields(opened.config),
        "kind": families.architecture(opened.kind),
        "grown": opened.grown,
        "dtype": dtype,
        "version": tigerjax.__version__,
    }
    plan = {row.ours: (row.stacked_shape(opened.config), row.chunks(opened.config)) for row in opened.spec}

    def make() -> None:
        partial.parent.mkdir(parents=True, exist_ok=True)
        store.create_arrays(partial, plan, DTYPES[dtype])

    journal = resume(partial, job, make)
    arrays = store.open_arrays(partial)
    total = tensor_bytes(opened.spec, opened.config, 4)
    sizes = {name: 4 * int(np.prod(row.shape)) for row in opened.spec for name in row.names(opened.config)}
    done = sum(sizes[name] for name in journal.done)
    try:
        for name, sha256 in _copy_in(opened, arrays, dtype, done=set(journal.done)):
            journal.add(name, sha256)
            done += sizes[name]
            if on_bytes is not None:
                on_bytes(done, total)
    except Exception as error:
        if isinstance(error, DataError) or disk_full(error):
            for row in opened.spec:  # a write that still runs would make the folder again
                with contextlib.suppress(Exception):
                    get(arrays, row.ours).flush()
            paths.clear(partial)
        raise
    manifest.write_json(partial / CHECKSUMS, journal.done)
    store.sync(partial)
    journal.flush()
    return journal


def stream_model(
    path: str | Path,
    fill: Callable[[Path], Journal],
    config: ModelConfig,
    *,
    kind: str,
    tokenizer_sha256: str | None,
    extra: dict[str, Any],
) -> None:
    """A checkpoint as `save_model` writes it, from weights that `fill(partial)` puts into the folder `partial`.

    After an interruption `fill` gets the same folder again. In a bucket that is `path` itself. ConfigError while
    another process converts there."""
    path = paths.absolute(path)
    with locked_beside(path):
        partial = path if paths.on_bucket(path) and begun(path, STAGE) else claim(path)
        if (partial / META).exists():  # only in a bucket
            remove(partial)
        journal = fill(partial)
        sums = checksums(partial)
        del sums[journals.FILE]
        journal.remove()
        meta = make_meta(kind=kind, model=config, tokenizer_sha256=tokenizer_sha256, extra=extra) | {"step": 0}
        publish(partial, path, meta, sums)


def _copy_in(opened: Opened, arrays: dict[str, Any], dtype: Dtype, *, done: set[str]) -> Iterator[tuple[str, str]]:
    """Copies every tensor that is not in `done` into `arrays`, and yields (name, sha256) when each has been copied.

    Where our vocabulary has more rows than theirs, the rest is set to zero.
    """
    for row in opened.spec:
        array = get(arrays, row.ours)
        for layer, name in enumerate(row.names(opened.config)):
            if name in done:
                continue
            total, theirs = hashlib.sha256(), hashlib.sha256()
            for start, stop in row.blocks():
                block = opened.tensors.rows(name, start, stop)
                finite(block, f"{opened.where}: {name}")
                if name in opened.sums:
                    theirs.update(np.ascontiguousarray(block, DTYPES[opened.written]).view(np.uint8).data)
                block = np.ascontiguousarray(block, DTYPES[dtype])
                total.update(block.view(np.uint8).data)
                array[row.place(layer, start, stop)] = row.to_ours(block)
            if opened.sums.get(name, theirs.hexdigest()) != theirs.hexdigest():
                raise DataError(
                    f"{opened.where}: {name} is not as it was exported (its sha256 differs from {CHECKSUMS}); export"
                    f" the model again, or remove {CHECKSUMS} if the weights were changed on purpose"
                )
            for index, shape in _padding(row):
                array[index] = np.zeros(shape, DTYPES[dtype])
            if isinstance(array, store.Stored):
                array.flush()
            yield name, total.hexdigest()


def _padding(row: TensorRow) -> Iterator[tuple[tuple[Any, ...], tuple[int, ...]]]:
    """(index, shape) of the rows that our vocabulary has and theirs has not, in blocks."""
    ours, step = row.ours_shape[row.axis], max(stop - start for start, stop in row.blocks())
    for start in range(row.shape[0] // row.unit, ours if row.shape[0] > 1 else 0, step):
        stop = min(start + step, ours)
        shape = list(row.ours_shape)
        shape[row.axis] = stop - start
        yield tuple(slice(start, stop) if a == row.axis else slice(None) for a in range(len(shape))), tuple(shape)
