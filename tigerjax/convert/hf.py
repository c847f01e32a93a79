"""Hugging Face Llama checkpoints, both ways, block by block: neither way ever holds the model.

A language model is written as LlamaForCausalLM, a reward model as LlamaForSequenceClassification with one label.
Memory is some blocks of `table.BLOCK_BYTES`, whatever the model's size, as long as the stored chunks are no larger;
with a grown vocabulary one old embedding table more.
"""

import dataclasses
import hashlib
import os
from pathlib import Path
from typing import Any, Literal

import numpy as np

import tigerjax
from tigerjax.checkpoint import arrays as store
from tigerjax.config import Dtype, ModelConfig
from tigerjax.convert import card, read
from tigerjax.convert.progress import Journal, Progress, begun, resume
from tigerjax.convert.read import finite
from tigerjax.convert.shards import DTYPES, Shards
from tigerjax.errors import ConfigError, DataError, disk_full
from tigerjax.files import manifest
from tigerjax.files import paths as places
from tigerjax.model.llama import hf_config
from tigerjax.model.weights import Row, get, paths, table

Vocab = Literal["trimmed", "padded"]
MAX_SHARD_BYTES = 5_000_000_000
STAGE = "convert to-hf"


def from_hf(hf_dir: Path) -> tuple[ModelConfig, dict[str, Any]]:
    """(sizes, float32 weights) in memory; a reward model has `score`, not `head`."""
    opened = read.open_hf(hf_dir)
    return opened.config, read.in_memory(opened)


def to_hf(
    weights: dict[str, Any],
    config: ModelConfig,
    out: Path,
    *,
    tokenizer: Path | None,
    dtype: Dtype = "float32",
    vocab: Vocab = "trimmed",
    max_shard_bytes: int = MAX_SHARD_BYTES,
    extra: dict[str, Any] | None = None,
    lineage: dict[str, Any] | None = None,
    progress: Progress | None = None,
) -> dict[str, int]:
    """Writes a LlamaForCausalLM folder, or LlamaForSequenceClassification when the weights have `score` and no `head`.
    Returns {tensors, bytes}. On a disk it appears whole or not at all; in a bucket manifest.json is written last, and
    an export that was there is removed first.

    `weights` are arrays, or Stored ones that are read block by block. `tokenizer` is a folder whose files are copied
    and whose ids go into the configs; None writes neither. `vocab` "trimmed" writes config.vocab_size rows, "padded"
    all of them. `lineage` is what the model card says, and with Stored weights what a restart is recognised by.
    """
    out = places.of(out)
    kind = hf_config.REWARD if "score" in weights and "head" not in weights else hf_config.LLAMA
    ids = hf_config.tokenizer_ids(tokenizer)
    if ids.size is not None and ids.size != config.vocab_size:
        raise ConfigError(
            f"tokenizer {tokenizer} has {ids.size} entries, but the model has vocab_size={config.vocab_size};"
            " give the tokenizer that the model was trained with"
        )
    if vocab not in ("trimmed", "padded") or dtype not in DTYPES:
        raise ConfigError(f"vocab={vocab!r}, dtype={dtype!r}: needs trimmed or padded, and one of {list(DTYPES)}")
    ours = (manifest.read(out) or {}).get("stage") == STAGE or begun(out, STAGE)
    if not ours and (out.is_file() or places.names(out)):
        raise ConfigError(f"{out} holds something that is not an export; give another folder or empty it")
    rows = config.vocab_size if vocab == "trimmed" else config.padded_vocab_size
    spec = table(config, rows=rows, kind=kind)
    _check_ours(weights, config, spec)

    built = out if places.on_bucket(out) else out.with_name(out.name + ".partial")
    shapes = {name: row.shape for row in spec for name in row.names(config)}
    stored = all(isinstance(get(weights, row.ours), store.Stored) for row in spec)
    job = {
        "stage": STAGE,
        "config": dataclasses.asdict(config),
        "dtype": dtype,
        "vocab": vocab,
        "max_shard_bytes": max_shard_bytes,
        "tokenizer": str(tokenizer),
        "lineage": lineage,
        # Arrays in memory may be any: only what lies on disk is known to be the same again.
        "once": None if stored and lineage else os.urandom(16).hex(),
    }

    if built == out and manifest.read(out) is not None:
        places.remove(out, commit=manifest.FILE)
    shards = Shards(built, shapes, dtype, max_shard_bytes)
    try:
        journal = resume(built, job, lambda: built.mkdir(parents=True, exist_ok=True))
        journal.done = shards.written(journal.done)
        _write_tensors(weights, config, spec, shards, journal, dtype, progress)
        content = hf_config.to_config(config, kind=kind, rows=rows, dtype=dtype, ids=ids, extra=extra or {})
        manifest.write_json(built / "config.json", content)
        if kind == hf_config.LLAMA:
            manifest.write_json(built / "generation_config.json", hf_config.to_generation_config(ids))
        if tokenizer is not None:
            for name in places.names(folder := places.of(tokenizer)):
                if name != manifest.FILE and (folder / name).is_file():
                    (built / name).write_bytes((folder / name).read_bytes())
        counts = {"tensors": len(shapes), "bytes": shards.total}
        facts = {"dtype": dtype, "vocab": vocab} | counts
        places.write_text(built / card.FILE, card.text(config, kind, facts, lineage or {}))
        manifest.write_json(built / read.CHECKSUMS, journal.done)
        done = {"stage": STAGE, "version": tigerjax.__version__, "config": {"dtype": dtype, "vocab": vocab}}
        manifest.write_json(built / manifest.FILE, done | {"counts": counts, "lineage": lineage or {}})
        store.sync(built)
        journal.remove()
        if built != out:
            places.publish(built, out, commit=manifest.FILE)
    except BaseException as error:
        # Nothing that a restart could go on from, or a disk that others need too.
        if isinstance(error, DataError) or job["once"] or (disk_full(error) and built != out):
            places.clear(built)
        raise
    finally:
        shards.close()
    return counts


def _write_tensors(
    weights: dict[str, Any],
    config: ModelConfig,
    spec: list[Row],
    shards: Shards,
    journal: Journal,
    dtype: Dtype,
    progress: Progress | None,
) -> None:
    done = 0
    for row in spec:
        array = get(weights, row.ours)
        if not isinstance(array, store.Stored):
            array = np.asarray(array)  # of JAX's arrays a block at a time would be a compilation at a time
        for layer, name in enumerate(row.names(config)):
            if name not in journal.done:
                total = hashlib.sha256()
                shards.start(name)
                for start, stop in row.blocks():
                    block = row.to_theirs(np.asarray(array[row.place(layer, start, stop)]))
                    block = np.ascontiguousarray(block, DTYPES[dtype])
                    finite(block, name)
                    total.update(block.view(np.uint8).data)
                    shards.write(block)
                journal.add(name, total.hexdigest())
                if shards.end(name):
                    journal.flush()
            done += shards.places[name].nbytes
            if progress is not None:
                progress(done, shards.total)
    shards.finish()


def _check_ours(weights: dict[str, Any], config: ModelConfig, spec: list[Row]) -> None:
    """Our weights have exactly the paths and shapes of the table."""
    left = set(paths(weights))
    for row in spec:
        if row.ours not in left:
            raise DataError(f"weights lack {row.ours}; is this the checkpoint of another kind of model?")
        left.discard(row.ours)
        want = row.stacked_shape(config)
        if (got := tuple(get(weights, row.ours).shape)) != want:
            raise DataError(f"weights {row.ours} have shape {got}, but the config needs {want}")
    if left:
        raise DataError(f"weights hold {min(left)}, which no Hugging Face tensor takes")
