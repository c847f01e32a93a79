"""Checks a conversion: reads every tensor that was written again, and compares the logits of a few tokens.

The logits are computed twice, by two implementations that share no code: by our layers from the checkpoint, and in
numpy from the tensors of the Hugging Face folder. Each family brings both.
"""

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tigerjax.config import ModelConfig
from tigerjax.convert.journal import OnBytes
from tigerjax.convert.read import CHECKSUMS, Opened, open_hf
from tigerjax.convert.shards import DTYPES, Written, finite
from tigerjax.errors import DataError
from tigerjax.files.own import read_object
from tigerjax.model import families
from tigerjax.model.hf_config import BOS
from tigerjax.model.weights import TensorRow, get, tensor_bytes

Array = np.ndarray
PROBE_TOKENS = 16
LOGITS = 1e-4
"""The largest difference of the probe's logits that is allowed, as a share of the largest logit (or of 1). Both are
float32, and rounding leaves about 1e-6 a layer."""


def exported(
    out: Path, arrays: dict[str, Any], config: ModelConfig, dtype: Written, on_bytes: OnBytes | None
) -> dict[str, Any]:
    """Compares an exported Hugging Face folder with the checkpoint's `arrays`. Returns figures, or raises DataError at
    the first difference."""
    opened = open_hf(out)
    rows = {name: row for row in opened.spec for name in row.names(opened.config)}

    def blocks(name: str) -> Iterator[Array]:
        for start, stop in rows[name].blocks():
            yield np.ascontiguousarray(opened.tensors.rows(name, start, stop), DTYPES[dtype])

    _compare(out, list(rows), blocks, tensor_bytes(opened.spec, opened.config, 4), rows, on_bytes)
    return _probe(opened, arrays, config, dtype)


def imported(
    path: Path, arrays: dict[str, Any], opened: Opened, dtype: Written, on_bytes: OnBytes | None
) -> dict[str, Any]:
    """Compares the checkpoint at `path` with the Hugging Face folder that it was made of. Returns figures, or raises
    DataError at the first difference."""
    rows = {name: (row, i) for row in opened.spec for i, name in enumerate(row.names(opened.config))}

    def blocks(name: str) -> Iterator[Array]:
        row, layer = rows[name]
        for start, stop in row.blocks():
            yield np.ascontiguousarray(row.to_theirs(get(arrays, row.ours)[row.place(layer, start, stop)]))

    by_name = {name: row for name, (row, _) in rows.items()}
    _compare(path, list(rows), blocks, tensor_bytes(opened.spec, opened.config, 4), by_name, on_bytes)
    return _probe(opened, arrays, opened.config, dtype)


def _compare(
    folder: Path,
    names: list[str],
    blocks: Callable[[str], Iterator[Array]],
    total: int,
    rows: dict[str, TensorRow],
    on_bytes: OnBytes | None,
) -> None:
    """Reads every tensor again. Each must be finite and have the checksum that was noted when it was written."""
    sums = read_object(folder / CHECKSUMS, "convert again")
    if set(sums) != set(names):
        raise DataError(
            f"{folder / CHECKSUMS}: is of {len(sums)} other tensors than the {len(names)} that are there;"
            " export the model again"
        )
    done = 0
    for name in names:
        digest = hashlib.sha256()
        for block in blocks(name):
            finite(block, f"{folder}: {name}")
            digest.update(block.view(np.uint8).data)
        if digest.hexdigest() != sums[name]:
            raise DataError(f"{folder}: {name} is not as it was written (its sha256 differs); convert again")
        done += 4 * int(np.prod(rows[name].shape))
        if on_bytes is not None:
            on_bytes(done, total)


def _probe(opened: Opened, arrays: dict[str, Any], config: ModelConfig, dtype: Written) -> dict[str, Any]:
    ids_T = (np.arange(PROBE_TOKENS) * 7919 + BOS) % config.vocab_size
    family = families.of(config)
    theirs = family.numpy_logits(opened.tensors.rows, opened.config, opened.spec, ids_T, dtype)
    ours = family.layered_logits(arrays, config, ids_T, dtype)
    width = min(theirs.shape[-1], config.vocab_size)
    worst = float(np.abs(theirs[:, :width] - ours[:, :width]).max())
    scale = max(1.0, float(np.abs(theirs[:, :width]).max()))
    if not worst <= LOGITS * scale:
        raise DataError(
            f"{opened.where}: logits of the probe differ by {worst:.3g} from the checkpoint's, and {LOGITS * scale:.3g}"
            " is allowed; this is a fault of the conversion, please report it"
        )
    return {"verified_tensors": len(opened.tensors.shapes), "probe_max_abs_logit_diff": worst}
