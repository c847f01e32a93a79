"""Is what was written what was read? Every tensor again, and the logits of a probe by two implementations.

The probe runs our model, layer by layer, on the checkpoint, and a Llama written out in numpy on the tensors as Hugging
Face lays them out: (out, in) matrices, heads in rows, rotate_half. Both read one weight or one layer at a time.
"""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tigerjax.config import ComputeConfig, Dtype, ModelConfig
from tigerjax.convert.progress import Progress
from tigerjax.convert.read import CHECKSUMS, Opened, finite, open_hf
from tigerjax.convert.shards import DTYPES
from tigerjax.errors import DataError
from tigerjax.model import attention
from tigerjax.model.llama import hf_config
from tigerjax.model.llama import model as llama
from tigerjax.model.weights import Row, get, put, table, tensor_bytes

Array = np.ndarray
PROBE_TOKENS = 16
LOGITS = 1e-4
"""Largest difference of the probe's logits, as a share of the largest logit (or of 1): both are float32, and rounding
leaves 1e-6 or so a layer."""
COMPUTE = ComputeConfig(attention="reference", remat="none", dtype="float32", loss_chunk_tokens=1)


def exported(
    out: Path, arrays: dict[str, Any], config: ModelConfig, dtype: Dtype, progress: Progress | None
) -> dict[str, Any]:
    """Figures of a Hugging Face folder beside the checkpoint `arrays` that it was made of; DataError on any doubt."""
    opened = open_hf(out)
    rows = {name: row for row in opened.spec for name in row.names(opened.config)}

    def blocks(name: str) -> Iterator[Array]:
        for start, stop in rows[name].blocks():
            yield np.ascontiguousarray(opened.source.rows(name, start, stop), DTYPES[dtype])

    _compare(out, list(rows), blocks, tensor_bytes(opened.spec, opened.config, 4), rows, progress)
    return _probe(opened, arrays, config, dtype)


def imported(
    path: Path, arrays: dict[str, Any], opened: Opened, dtype: Dtype, progress: Progress | None
) -> dict[str, Any]:
    """Figures of the checkpoint at `path` beside the Hugging Face folder that it came from; DataError on any doubt."""
    rows = {name: (row, i) for row in opened.spec for i, name in enumerate(row.names(opened.config))}

    def blocks(name: str) -> Iterator[Array]:
        row, layer = rows[name]
        for start, stop in row.blocks():
            yield np.ascontiguousarray(row.to_theirs(get(arrays, row.ours)[row.place(layer, start, stop)]))

    by_name = {name: row for name, (row, _) in rows.items()}
    _compare(path, list(rows), blocks, tensor_bytes(opened.spec, opened.config, 4), by_name, progress)
    return _probe(opened, arrays, opened.config, dtype)


def _compare(
    folder: Path,
    names: list[str],
    blocks: Callable[[str], Iterator[Array]],
    total: int,
    rows: dict[str, Row],
    progress: Progress | None,
) -> None:
    """Reads every tensor again: finite, and with the checksum that was kept when it was written."""
    kept = json.loads((folder / CHECKSUMS).read_text(encoding="utf-8"))
    if set(kept) != set(names):
        raise DataError(f"{folder / CHECKSUMS}: is of {len(kept)} other tensors than the {len(names)} that are there")
    done = 0
    for name in names:
        found = hashlib.sha256()
        for block in blocks(name):
            finite(block, f"{folder}: {name}")
            found.update(block.view(np.uint8).data)
        if found.hexdigest() != kept[name]:
            raise DataError(f"{folder}: {name} is not as it was written (its sha256 differs); convert again")
        done += 4 * int(np.prod(rows[name].shape))
        if progress is not None:
            progress(done, total)


def _probe(opened: Opened, arrays: dict[str, Any], config: ModelConfig, dtype: Dtype) -> dict[str, Any]:
    ids_T = (np.arange(PROBE_TOKENS) * 7919 + hf_config.BOS) % config.vocab_size
    theirs = numpy_llama(opened, ids_T, dtype)
    ours = our_llama(arrays, config, ids_T, dtype)
    width = min(theirs.shape[-1], config.vocab_size)
    worst = float(np.abs(theirs[:, :width] - ours[:, :width]).max())
    scale = max(1.0, float(np.abs(theirs[:, :width]).max()))
    if not worst <= LOGITS * scale:
        raise DataError(
            f"{opened.where}: logits of the probe differ by {worst:.3g} from the checkpoint's, and {LOGITS * scale:.3g}"
            " is allowed; this is a fault of the conversion, please report it"
        )
    return {"verified_tensors": len(opened.source.shapes), "probe_max_abs_logit_diff": worst}


def numpy_llama(opened: Opened, ids_T: Array, dtype: Dtype) -> Array:
    """logits_TV (scores_T1 of a reward model) in float32, from weights rounded to `dtype` as Hugging Face lays them
    out."""
    c, source = opened.config, opened.source
    T, N, K, H = len(ids_T), c.num_heads, c.num_kv_heads, c.head_dim
    rows = {row.theirs: row for row in opened.spec}

    def read(name: str, start: int, stop: int) -> Array:
        return source.rows(name, start, stop).astype(DTYPES[dtype]).astype(np.float32)

    def product(x_TD: Array, template: str, layer: int = 0) -> Array:
        name = template.format(layer)
        parts = [x_TD @ read(name, start, stop).T for start, stop in rows[template].blocks()]
        return np.concatenate(parts, axis=1)

    def normed(x_TD: Array, template: str, layer: int = 0) -> Array:
        scale_D = read(template.format(layer), 0, c.model_dim)
        return x_TD / np.sqrt(np.mean(x_TD**2, axis=1, keepdims=True) + c.norm_eps) * scale_D

    angle = np.arange(T)[:, None] * c.rope_base ** (-np.arange(0, H, 2) / H)
    cos, sin = (np.tile(f(angle), 2)[:, None].astype(np.float32) for f in (np.cos, np.sin))

    def rotated(x_TNH: Array) -> Array:
        first, second = np.split(x_TNH, 2, axis=-1)
        return x_TNH * cos + np.concatenate([-second, first], axis=-1) * sin

    x_TD = np.concatenate([read("model.embed_tokens.weight", int(i), int(i) + 1) for i in ids_T])
    later = np.triu(np.full((T, T), -np.inf, np.float32), 1)
    layer = "model.layers.{}."
    for i in range(c.num_layers):
        h_TD = normed(x_TD, layer + "input_layernorm.weight", i)
        q_TNH = rotated(product(h_TD, layer + "self_attn.q_proj.weight", i).reshape(T, N, H))
        k_TKH = rotated(product(h_TD, layer + "self_attn.k_proj.weight", i).reshape(T, K, H))
        v_TKH = product(h_TD, layer + "self_attn.v_proj.weight", i).reshape(T, K, H)
        out = []
        for n in range(N):
            weights = q_TNH[:, n] @ k_TKH[:, n // (N // K)].T * H**-0.5 + later
            weights = np.exp(weights - weights.max(axis=1, keepdims=True))
            out.append(weights / weights.sum(axis=1, keepdims=True) @ v_TKH[:, n // (N // K)])
        x_TD = x_TD + product(np.concatenate(out, axis=1), layer + "self_attn.o_proj.weight", i)
        h_TD = normed(x_TD, layer + "post_attention_layernorm.weight", i)
        gate_TF = product(h_TD, layer + "mlp.gate_proj.weight", i)
        up_TF = product(h_TD, layer + "mlp.up_proj.weight", i)
        x_TD = x_TD + product(gate_TF / (1 + np.exp(-gate_TF)) * up_TF, layer + "mlp.down_proj.weight", i)
    x_TD = normed(x_TD, "model.norm.weight")
    return product(x_TD, "score.weight" if opened.kind == hf_config.REWARD else "lm_head.weight")


def our_llama(arrays: dict[str, Any], config: ModelConfig, ids_T: Array, dtype: Dtype) -> Array:
    """The same by `tigerjax.model`; of `arrays` (numpy or Stored) the attention's weights of one layer are in memory at
    a time, then its `down` and blocks of `gate` and `up`: an MLP is the sum of narrower ones."""
    kind = hf_config.REWARD if "score" in arrays else hf_config.LLAMA
    spec = table(config, rows=config.padded_vocab_size, kind=kind)

    def rounded(block: Any) -> jax.Array:
        return jnp.asarray(np.asarray(block).astype(DTYPES[dtype], copy=False), jnp.float32)

    def layer_of(part: str, layer: int) -> dict[str, Any]:
        w: dict[str, Any] = {}
        for row in (row for row in spec if row.ours.startswith(f"layers/{part}/")):
            put(w, row.ours.removeprefix(f"layers/{part}/"), rounded(get(arrays, row.ours)[layer]))
        return w

    positions_BT, segments_BT = jnp.arange(len(ids_T))[None], jnp.ones((1, len(ids_T)), jnp.int32)

    def attend(q_BTNH: jax.Array, k_BTKH: jax.Array, v_BTKH: jax.Array) -> tuple[jax.Array, None]:
        return attention.attend(q_BTNH, k_BTKH, v_BTKH, segments_BT, compute=COMPUTE), None

    def normed(x_BTD: jax.Array, w: Any) -> Any:
        return llama.RMSNorm(config.norm_eps).apply({"params": w}, x_BTD)

    def mlp(x_BTD: Any, layer: int) -> Any:
        down_FD = np.asarray(get(arrays, "layers/mlp/down")[layer])
        total: Any = jnp.zeros_like(x_BTD)
        gate = next(row for row in spec if row.ours == "layers/mlp/gate")
        for start, stop in gate.blocks():
            w = {n: rounded(get(arrays, f"layers/mlp/{n}")[gate.place(layer, start, stop)]) for n in ("gate", "up")}
            part = llama.MLP(dataclasses.replace(config, mlp_dim=stop - start))
            total += part.apply({"params": w | {"down": rounded(down_FD[start:stop])}}, x_BTD)
        return total

    with jax.default_matmul_precision("highest"):
        x_BTD: Any = jnp.stack([rounded(arrays["embed"][int(i)]) for i in ids_T])[None]
        for layer in range(config.num_layers):
            h_BTD = normed(x_BTD, layer_of("attn_norm", layer))
            attended: Any = llama.Attention(config).apply(
                {"params": layer_of("attn", layer)}, h_BTD, positions_BT, attend
            )
            x_BTD += attended[0]
            x_BTD += mlp(normed(x_BTD, layer_of("mlp_norm", layer)), layer)
        x_BTD = normed(x_BTD, {"scale": rounded(arrays["final_norm"]["scale"][:])})
        last = spec[-1]
        parts = []
        for start, stop in last.blocks():
            part = rounded(get(arrays, last.ours)[last.place(0, start, stop)])
            parts.append(x_BTD[0] @ part.reshape(config.model_dim, -1))
        return np.asarray(jnp.concatenate(parts, axis=1))
