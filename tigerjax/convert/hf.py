"""Writing a Hugging Face folder block by block, so that the whole model is never in memory.

A Llama is written as LlamaForCausalLM, its reward model as LlamaForSequenceClassification with one label. Memory is
some blocks of `weights.BLOCK_BYTES` whatever the size of the model, as long as the stored chunks are no larger than a
block.
"""

import dataclasses
import hashlib
import os
import typing
from pathlib import Path
from typing import Any, Literal

import numpy as np

import tigerjax
from tigerjax.checkpoint import arrays as store
from tigerjax.config import ModelConfig, stored_fields
from tigerjax.convert import card, read, tokenizer_files
from tigerjax.convert.journal import FILE as JOURNAL
from tigerjax.convert.journal import Journal, OnBytes, begun, resume
from tigerjax.convert.shards import DTYPES, Shards, Written, in_type
from tigerjax.errors import ConfigError, DataError, disk_full
from tigerjax.files import lock, manifest
from tigerjax.files import paths as places
from tigerjax.model import families, hf_config
from tigerjax.model.weights import TensorRow, get, paths
from tigerjax.processes import hosts

Vocab = Literal["trimmed", "padded"]
MAX_SHARD_BYTES = 5_000_000_000


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Export:
    """How a model is written as a Hugging Face folder, and what is written beside its weights."""

    tokenizer: Path | None
    """A folder whose files are copied and whose ids go into the configs. None copies no files, and the ids are those of
    the folder that the checkpoint was imported from."""
    dtype: Written = "float32"
    """The type of the tensors. float16 cannot hold every value: a larger one is refused."""
    vocab: Vocab = "trimmed"
    """trimmed: config.vocab_size rows of embedding and head; padded: all of them."""
    max_shard_bytes: int = MAX_SHARD_BYTES
    """Tensor bytes of one safetensors file, unless a single tensor has more."""
    seq_len: int | None = None
    """The length that the model was trained at: what loaders take as its context. None takes that of its source."""
    extra: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Of the checkpoint; an import gives it back."""
    lineage: dict[str, Any] | None = None
    """What the model card tells about the origin. A restart with stored weights resumes if it has the same lineage."""

    def __post_init__(self) -> None:
        if self.vocab not in typing.get_args(Vocab) or self.dtype not in DTYPES:
            raise ConfigError(
                f"vocab={self.vocab!r}, dtype={self.dtype!r}: needs trimmed or padded, and one of {list(DTYPES)}"
            )


def from_hf(hf_dir: Path) -> tuple[ModelConfig, dict[str, Any]]:
    """(sizes, float32 weights) in memory; a reward model has `score`, not `head`."""
    opened = read.open_hf(hf_dir)
    return opened.config, read.in_memory(opened)


def to_hf(
    weights: dict[str, Any],
    config: ModelConfig,
    out: Path,
    export: Export,
    *,
    on_bytes: OnBytes | None = None,
) -> dict[str, int]:
    """Writes a Hugging Face folder and returns {tensors, bytes}. It is a reward model's when the weights have `score`
    and no `head`, else a language model's.

    `weights` are arrays, or stored ones that are read block by block. On a disk the folder appears whole or not at all.
    In a bucket manifest.json is written last, and an export that was there before is removed first. ConfigError while
    another process exports there.
    """
    with lock.locked_beside(places.of(out)):
        return _to_hf(weights, config, places.of(out), export, on_bytes)


def _to_hf(
    weights: dict[str, Any], config: ModelConfig, out: Path, export: Export, on_bytes: OnBytes | None
) -> dict[str, int]:
    tokenizer = export.tokenizer
    family, reward = families.of(config), "score" in weights and "head" not in weights
    kind = family.REWARD_KIND if reward else family.KIND
    copied: dict[str, bytes] = {}
    ids = hf_config.source_ids(export.extra)
    if tokenizer is not None:
        copied, ids = tokenizer_files.read(tokenizer, export.extra)
    if ids.size is not None and ids.size != config.vocab_size:
        raise ConfigError(
            f"tokenizer {tokenizer} has {ids.size} entries, but the model has vocab_size={config.vocab_size};"
            " give the tokenizer that the model was trained with"
        )
    ours = (manifest.read(out) or {}).get("stage") == read.EXPORT or begun(out, read.EXPORT)
    if not ours and (out.is_file() or places.names(out)):
        raise ConfigError(f"{out} holds something that is not an export; give another folder or empty it")
    manifest.refuse_strangers(out, manifest.read(out))
    if tokenizer is not None and (others := tokenizer_files.left(tokenizer)):
        hosts.say(f"{tokenizer}: {len(others)} files are not a tokenizer's and are not copied, such as {others[0]}")
    rows = config.vocab_size if export.vocab == "trimmed" else config.padded_vocab_size
    spec = family.hf_rows(config, rows=rows, reward=reward)
    _check_ours(weights, config, spec)

    built = out if places.on_bucket(out) else out.with_name(out.name + ".partial")
    if built != out and not _interrupted(built):
        raise ConfigError(f"{built} holds something that is not an export that was interrupted; move it away")
    shapes = {name: row.shape for row in spec for name in row.names(config)}
    stored = all(isinstance(get(weights, row.ours), store.Stored) for row in spec)
    job = {
        "stage": read.EXPORT,
        "config": stored_fields(config),
        "dtype": export.dtype,
        "vocab": export.vocab,
        "max_shard_bytes": export.max_shard_bytes,
        "tokenizer": str(tokenizer),
        "lineage": export.lineage,
        # Of arrays in memory nobody knows whether they are the same the next time, so such an export never resumes.
        "once": None if stored and export.lineage else os.urandom(16).hex(),
    }

    if built == out and manifest.read(out) is not None:
        places.remove(out, commit=manifest.FILE)
    shards = Shards(built, shapes, export.dtype, export.max_shard_bytes)
    try:
        journal = resume(built, job, lambda: built.mkdir(parents=True, exist_ok=True))
        journal.done = shards.written(journal.done)
        _write_tensors(weights, config, spec, shards, journal, on_bytes)
        content = family.to_hf_config(
            config,
            reward=reward,
            rows=rows,
            dtype=export.dtype,
            ids=ids,
            extra=export.extra,
            seq_len=export.seq_len,
        )
        manifest.write_json(built / hf_config.CONFIG, content)
        if tokenizer is None and hf_config.SOURCE not in export.extra and not reward:
            hosts.say(
                f"note: without a tokenizer {hf_config.CONFIG} gets the ids of Llama 2: bos {ids.bos}, eos {ids.eos};"
                " give --tokenizer where the model has others"
            )
        if not reward:
            manifest.write_json(built / hf_config.GENERATION, hf_config.generation_config(ids, export.extra))
        for name, data in copied.items():
            (built / name).write_bytes(data)
        counts = {"tensors": len(shapes), "bytes": shards.total}
        form, lineage = {"dtype": export.dtype, "vocab": export.vocab}, export.lineage or {}
        places.write_text(built / card.FILE, card.text(config, kind, form | counts, lineage))
        manifest.write_json(built / read.CHECKSUMS, journal.done)
        # By name alone: what a user changes in an export, such as its model card, is no damage.
        outputs = [{"path": name} for name in sorted(places.sizes(built)) if name != JOURNAL]
        done = {"stage": read.EXPORT, "version": tigerjax.__version__, "config": form, "outputs": outputs}
        manifest.write(built, done | {"counts": counts, "lineage": lineage})
        store.sync(built)
        journal.remove()
        if built != out:
            places.publish(built, out, commit=manifest.FILE)
    except BaseException as error:
        # Removed where no restart can go on from it, and where the disk is full and others need it.
        if isinstance(error, DataError) or job["once"] or (disk_full(error) and built != out):
            places.clear(built)
        raise
    finally:
        shards.close()
    return counts


def _interrupted(built: Path) -> bool:
    """Whether the folder in which an export is built is absent, empty, or left there by an export."""
    if built.is_symlink():
        return False
    stages = (manifest.read(built) or {}).get("stage"), read.EXPORT if begun(built, read.EXPORT) else None
    return read.EXPORT in stages or not (built.is_file() or set(places.names(built)) - {JOURNAL})


def _write_tensors(
    weights: dict[str, Any],
    config: ModelConfig,
    spec: list[TensorRow],
    shards: Shards,
    journal: Journal,
    on_bytes: OnBytes | None,
) -> None:
    done = 0
    for row in spec:
        array = get(weights, row.ours)
        if not isinstance(array, store.Stored):
            array = np.asarray(array)  # slicing a JAX array would compile once for each block
        for layer, name in enumerate(row.names(config)):
            if name not in journal.done:
                total = hashlib.sha256()
                shards.start(name)
                for start, stop in row.blocks():
                    block = row.to_theirs(np.asarray(array[row.place(layer, start, stop)]))
                    block = in_type(block, shards.dtype, name)
                    total.update(block.view(np.uint8).data)
                    shards.write(block)
                journal.add(name, total.hexdigest())
                if shards.end(name):
                    journal.flush()
            done += shards.places[name].nbytes
            if on_bytes is not None:
                on_bytes(done, shards.total)
    shards.finish()


def _check_ours(weights: dict[str, Any], config: ModelConfig, spec: list[TensorRow]) -> None:
    """DataError unless our weights have exactly the paths and shapes of `spec`."""
    left = set(paths(weights))
    for row in spec:
        if row.ours not in left:
            raise DataError(f"weights lack {row.ours}; is this the checkpoint of another kind of model?")
        left.discard(row.ours)
        want = row.stacked_shape(config)
        if (got := tuple(get(weights, row.ours).shape)) != want:
            raise DataError(f"weights {row.ours} have shape {got}, but the config needs {want}")
    if left:
        raise DataError(
            f"weights hold {min(left)}, which no Hugging Face tensor takes; give a checkpoint of this model"
        )
