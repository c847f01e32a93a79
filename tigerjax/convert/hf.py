"""Hugging Face Llama checkpoints, both ways, from one table.

A Hugging Face Linear stores (out, in); ours store (in..., out...), heads unflattened and layers stacked. Both sides
pair rotary dimensions (i, i + H/2), so q and k need no permutation. A language model is written as LlamaForCausalLM,
a reward model as LlamaForSequenceClassification with one label.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

import tigerjax
from tigerjax import manifest
from tigerjax.config import Dtype, ModelConfig
from tigerjax.convert import hf_config
from tigerjax.errors import ConfigError, DataError

Array = np.ndarray
Vocab = Literal["trimmed", "padded"]
MAX_SHARD_BYTES = 5_000_000_000
INDEX = "model.safetensors.index.json"
DTYPES: dict[str, Any] = {"float32": np.float32, "bfloat16": ml_dtypes.bfloat16}
STAGE = "convert to-hf"
# Buffers that older exports saved beside the weights; derived from rope_theta, and checked against it.
INVERSE_FREQUENCY = ".self_attn.rotary_emb.inv_freq"
INVERSE_FREQUENCY_TOLERANCE = 1e-2  # some of them are saved as bfloat16


class Row(NamedTuple):
    ours: str  # '/'-joined path; rows under 'layers/' are stacked over L
    theirs: str
    shape: tuple[int, ...]  # theirs, of one layer
    to_ours: Callable[[Array], Array]
    to_theirs: Callable[[Array], Array]


def table(c: ModelConfig, *, rows: int, kind: str = hf_config.LLAMA) -> list[Row]:
    """One row a weight. `rows` is the length of the vocabulary in their tensors: trimmed or padded."""
    D, F, N, K, H = c.model_dim, c.mlp_dim, c.num_heads, c.num_kv_heads, c.head_dim
    hf = "model.layers.{}."

    def same(a: Array) -> Array:
        return a

    def flip(a: Array) -> Array:
        return a.T

    def pad(a: Array) -> Array:  # back to our padded rows, which are zero
        return np.pad(a, ((0, c.padded_vocab_size - rows), (0, 0)))

    def heads_in(ours: str, theirs: str, n: int) -> Row:
        to_ours, to_theirs = (lambda a: a.T.reshape(D, n, H)), (lambda a: a.reshape(D, n * H).T)
        return Row(ours, hf + theirs, (n * H, D), to_ours, to_theirs)

    out = [
        Row("embed", "model.embed_tokens.weight", (rows, D), pad, lambda a: a[:rows]),
        Row("layers/attn_norm/scale", hf + "input_layernorm.weight", (D,), same, same),
        heads_in("layers/attn/q", "self_attn.q_proj.weight", N),
        heads_in("layers/attn/k", "self_attn.k_proj.weight", K),
        heads_in("layers/attn/v", "self_attn.v_proj.weight", K),
        Row(
            "layers/attn/o",
            hf + "self_attn.o_proj.weight",
            (D, N * H),
            lambda a: a.T.reshape(N, H, D),
            lambda a: a.reshape(N * H, D).T,
        ),
        Row("layers/mlp_norm/scale", hf + "post_attention_layernorm.weight", (D,), same, same),
        Row("layers/mlp/gate", hf + "mlp.gate_proj.weight", (F, D), flip, flip),
        Row("layers/mlp/up", hf + "mlp.up_proj.weight", (F, D), flip, flip),
        Row("layers/mlp/down", hf + "mlp.down_proj.weight", (D, F), flip, flip),
        Row("final_norm/scale", "model.norm.weight", (D,), same, same),
    ]
    if kind == hf_config.REWARD:
        return [*out, Row("score", "score.weight", (1, D), lambda a: a[0], lambda a: a[None])]
    return [*out, Row("head", "lm_head.weight", (rows, D), lambda a: pad(a).T, lambda a: a.T[:rows])]


def size(weights: dict[str, Any], config: ModelConfig) -> dict[str, int]:
    """{tensors, bytes} of float32 weights as Hugging Face counts them: every layer apart."""
    spec = table(config, rows=config.vocab_size, kind=hf_config.REWARD if "score" in weights else hf_config.LLAMA)
    tensors = sum(config.num_layers if "{}" in row.theirs else 1 for row in spec)
    return {"tensors": tensors, "bytes": sum(_get(weights, row.ours).nbytes for row in spec)}


def to_tensors(weights: dict[str, Any], rows: list[Row]) -> Iterator[tuple[str, Array]]:
    """(name, tensor) in their layout, one at a time, in the order of the table."""
    for row in rows:
        w = np.asarray(_get(weights, row.ours))
        if "{}" in row.theirs:
            for i, layer in enumerate(w):
                yield row.theirs.format(i), row.to_theirs(layer)
        else:
            yield row.theirs, row.to_theirs(w)


def from_tensors(
    read: Callable[[str], Array], shapes: dict[str, tuple[int, ...]], config: ModelConfig, rows: list[Row], where: str
) -> dict[str, Any]:
    """Weights in float32, from `read(name)` one tensor at a time; `where` names the checkpoint in errors.

    Refuses by name: a tensor that is missing, left over, of another shape, or not finite.
    """
    left = dict(shapes)
    out: dict[str, Any] = {}
    for row in rows:
        names = [row.theirs.format(i) for i in range(config.num_layers if "{}" in row.theirs else 1)]
        missing = [name for name in names if name not in left]
        if missing:
            raise DataError(f"{where}: lacks {missing[0]} ({len(missing)} of {len(names)} for {row.ours})")
        for name in names:
            if (shape := left.pop(name)) != row.shape:
                raise DataError(f"{where}: {name} has shape {shape}, but the config needs {row.shape}")
    for name in [n for n in left if n.endswith(INVERSE_FREQUENCY)]:
        _check_inverse_frequency(read(name), config, f"{where}: {name}")
        del left[name]
    if left:
        raise DataError(f"{where}: {len(left)} tensors are left over that no weight takes, such as {min(left)}")
    for row in rows:
        if "{}" not in row.theirs:
            w = row.to_ours(_finite(read(row.theirs), where, row.theirs))
        else:
            w = np.empty((config.num_layers, *row.to_ours(np.empty(row.shape, np.float32)).shape), np.float32)
            for i in range(config.num_layers):
                name = row.theirs.format(i)
                w[i] = row.to_ours(_finite(read(name), where, name))
        _set(out, row.ours, np.ascontiguousarray(w))
    return out


def from_hf(hf_dir: Path) -> tuple[ModelConfig, dict[str, Any]]:
    """(sizes, float32 weights) of a folder with config.json and safetensors; a reward model has `score`, not `head`."""
    hf_dir = Path(hf_dir)
    kind, config = hf_config.read_config(hf_dir)
    files = _shards(hf_dir)
    shapes: dict[str, tuple[int, ...]] = {}
    home: dict[str, Any] = {}
    for path in files:
        try:
            f = safe_open(path, framework="np")
        except (SafetensorError, OSError) as error:
            raise DataError(f"{path}: not a whole safetensors file: {error}") from error
        for name in f.keys():
            if name in home:
                raise DataError(f"{path}: {name} is in another shard too")
            home[name], shapes[name] = f, tuple(f.get_slice(name).get_shape())
    rows = json.loads((hf_dir / "config.json").read_text(encoding="utf-8"))["vocab_size"]
    if not config.vocab_size <= rows <= config.padded_vocab_size:
        raise DataError(
            f"{hf_dir}/config.json: vocab_size={rows} is outside [{config.vocab_size}, {config.padded_vocab_size}],"
            f" the sizes it gives under {hf_config.OURS!r}; remove that key if the vocabulary was changed"
        )
    spec = table(config, rows=rows, kind=kind)
    return config, from_tensors(lambda name: home[name].get_tensor(name), shapes, config, spec, str(hf_dir))


def to_hf(
    weights: dict[str, Any],
    config: ModelConfig,
    out: Path,
    *,
    tokenizer: Path | None,
    dtype: Dtype = "float32",
    vocab: Vocab = "trimmed",
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> dict[str, int]:
    """Writes a LlamaForCausalLM folder; appears whole or not at all. Returns {tensors, bytes}.

    `tokenizer` is a folder whose files are copied and whose ids go into the configs; None writes neither.
    `vocab` "trimmed" writes config.vocab_size rows, "padded" all of them.
    """
    return _export(weights, config, Path(out), hf_config.LLAMA, tokenizer, dtype, vocab, max_shard_bytes)


def to_hf_reward(
    weights: dict[str, Any],
    config: ModelConfig,
    out: Path,
    *,
    tokenizer: Path | None,
    dtype: Dtype = "float32",
    vocab: Vocab = "trimmed",
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> dict[str, int]:
    """As `to_hf`, for a reward model: LlamaForSequenceClassification with one label."""
    return _export(weights, config, Path(out), hf_config.REWARD, tokenizer, dtype, vocab, max_shard_bytes)


def _export(
    weights: dict[str, Any],
    config: ModelConfig,
    out: Path,
    kind: str,
    tokenizer: Path | None,
    dtype: Dtype,
    vocab: Vocab,
    max_shard_bytes: int,
) -> dict[str, int]:
    ids = hf_config.tokenizer_ids(tokenizer)
    if ids.size is not None and ids.size != config.vocab_size:
        raise ConfigError(
            f"tokenizer {tokenizer} has {ids.size} entries, but the model has vocab_size={config.vocab_size};"
            " give the tokenizer that the model was trained with"
        )
    if vocab not in ("trimmed", "padded") or dtype not in DTYPES:
        raise ConfigError(f"vocab={vocab!r}, dtype={dtype!r}: needs trimmed or padded, and one of {list(DTYPES)}")
    if out.exists() and any(out.iterdir()) and (manifest.read(out) or {}).get("stage") != STAGE:
        raise ConfigError(f"{out} holds something that is not an export; give another folder or empty it")
    rows = config.vocab_size if vocab == "trimmed" else config.padded_vocab_size
    spec = table(config, rows=rows, kind=kind)
    _check_ours(weights, config, spec)

    tmp = out.with_name(out.name + ".partial")
    shutil.rmtree(tmp, ignore_errors=True)
    tmp.mkdir(parents=True)
    try:
        cast = ((name, np.ascontiguousarray(t, DTYPES[dtype])) for name, t in to_tensors(weights, spec))
        counts = _write_shards(tmp, cast, max_shard_bytes)
        manifest.write_json(
            tmp / "config.json", hf_config.to_config(config, kind=kind, rows=rows, dtype=dtype, ids=ids)
        )
        if kind == hf_config.LLAMA:
            manifest.write_json(tmp / "generation_config.json", hf_config.to_generation_config(ids))
        if tokenizer is not None:
            for path in sorted(p for p in Path(tokenizer).iterdir() if p.is_file() and p.name != manifest.FILE):
                shutil.copyfile(path, tmp / path.name)
        done = {"stage": STAGE, "version": tigerjax.__version__, "config": {"dtype": dtype, "vocab": vocab}}
        manifest.write_json(tmp / manifest.FILE, done | {"counts": counts})
        shutil.rmtree(out, ignore_errors=True)
        os.replace(tmp, out)
    except BaseException:
        shutil.rmtree(tmp, ignore_errors=True)
        raise
    return counts


def _write_shards(folder: Path, tensors: Iterator[tuple[str, Array]], max_bytes: int) -> dict[str, int]:
    """Shards of at most max_bytes (but one tensor at least), with an index when there are several."""
    shard: dict[str, Array] = {}
    shards: list[list[str]] = []
    size = total = 0

    def flush() -> None:
        save_file(shard, folder / f"part-{len(shards)}", metadata={"format": "pt"})
        shards.append(list(shard))
        shard.clear()

    for name, tensor in tensors:
        if not np.isfinite(tensor).all():
            raise DataError(f"{name} holds a value that is not finite; export an earlier checkpoint")
        if shard and size + tensor.nbytes > max_bytes:
            flush()
            size = 0
        shard[name] = tensor
        size, total = size + tensor.nbytes, total + tensor.nbytes
    flush()
    if len(shards) == 1:
        os.replace(folder / "part-0", folder / "model.safetensors")
    else:
        where: dict[str, str] = {}
        for i, names in enumerate(shards):
            file = f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors"
            os.replace(folder / f"part-{i}", folder / file)
            where |= dict.fromkeys(names, file)
        manifest.write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": where})
    return {"tensors": sum(map(len, shards)), "bytes": total}


def _shards(folder: Path) -> list[Path]:
    if (folder / INDEX).is_file():
        try:
            where = json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"]
            files = [folder / name for name in sorted(set(where.values()))]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(f"{folder / INDEX}: not an index of shards ({type(error).__name__}: {error})") from error
    else:
        files = [folder / "model.safetensors"]
    for path in files:
        if not path.is_file():
            raise DataError(f"{path}: not there; the folder needs its safetensors files, all of them")
    return files


def _check_ours(weights: dict[str, Any], config: ModelConfig, spec: list[Row]) -> None:
    """Our weights have exactly the paths and shapes of the table."""
    left = set(_paths(weights))
    rows = spec[0].shape[0]
    for row in spec:
        if row.ours not in left:
            raise DataError(f"weights lack {row.ours}; is this the checkpoint of another kind of model?")
        left.discard(row.ours)
        want = row.to_ours(np.broadcast_to(np.float32(0), row.shape)).shape
        want = (config.num_layers, *want) if "{}" in row.theirs else want
        if (got := np.shape(_get(weights, row.ours))) != want:
            raise DataError(f"weights {row.ours} have shape {got}, but the config needs {want} (of {rows} rows)")
    if left:
        raise DataError(f"weights hold {min(left)}, which no Hugging Face tensor takes")


def _check_inverse_frequency(read: Array, config: ModelConfig, where: str) -> None:
    want = config.rope_base ** (-np.arange(0, config.head_dim, 2) / config.head_dim)
    if read.shape != want.shape or not np.allclose(
        read.astype(np.float64), want, rtol=INVERSE_FREQUENCY_TOLERANCE, atol=0
    ):
        raise DataError(f"{where} does not belong to rope_theta={config.rope_base}; the config is of another model")


def _finite(tensor: Array, where: str, name: str) -> Array:
    tensor = np.asarray(tensor, np.float32)
    if not np.isfinite(tensor).all():
        raise DataError(f"{where}: {name} holds a value that is not finite")
    return tensor


def _paths(tree: Any, prefix: str = "") -> Iterator[str]:
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from _paths(value, f"{prefix}{name}/")
        else:
            yield prefix + name


def _get(tree: Any, path: str) -> Any:
    for name in path.split("/"):
        tree = tree[name]
    return tree


def _set(tree: dict[str, Any], path: str, value: Any) -> None:
    *parents, name = path.split("/")
    for parent in parents:
        tree = tree.setdefault(parent, {})
    tree[name] = value
