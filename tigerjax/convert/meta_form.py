"""Llamas in Meta's own form: params.json beside consolidated.00.pth, consolidated.01.pth and so on.

They are read as the Hugging Face folder that they would be: `opened` gives the content of its config.json and its
tensors by their Hugging Face names. Every .pth file holds a part of each matrix, as model parallelism split it:

    rows     attention.wq, wk, wv; feed_forward.w1, w3; output; tok_embeddings of Llama 3
    columns  attention.wo; feed_forward.w2; tok_embeddings of Llama 1 and 2
    whole    norms, which are alike in every file

Meta turns the pairs of features (2i, 2i+1) of a head, Hugging Face (i, i + H/2): the rows of q and k change places.
"""

import fnmatch
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tigerjax.config import ModelConfig, ranges
from tigerjax.convert.tensors import float_shapes, load_torch
from tigerjax.errors import ConfigError, DataError
from tigerjax.files import paths
from tigerjax.files.foreign import read_object, shown
from tigerjax.model.hf_fields import Fields
from tigerjax.processes import hosts

Array = np.ndarray
PARAMS, FILES = "params.json", "consolidated.{:02d}.pth"
PATTERN = "consolidated.*.pth"
AGAIN = "give the files as Meta published them"
KNOWN = (
    "dim", "n_layers", "n_heads", "n_kv_heads", "vocab_size", "multiple_of", "ffn_dim_multiplier", "norm_eps",
    "rope_theta", "use_scaled_rope", "max_seq_len", "max_batch_size",
)  # fmt: skip
"""What a params.json says of a Llama. Anything else would make another model of it."""
NAMES = {
    "tok_embeddings.weight": "model.embed_tokens.weight",
    "norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
LAYER_NAMES = {
    "attention.wq.weight": "self_attn.q_proj.weight",
    "attention.wk.weight": "self_attn.k_proj.weight",
    "attention.wv.weight": "self_attn.v_proj.weight",
    "attention.wo.weight": "self_attn.o_proj.weight",
    "attention_norm.weight": "input_layernorm.weight",
    "feed_forward.w1.weight": "mlp.gate_proj.weight",
    "feed_forward.w2.weight": "mlp.down_proj.weight",
    "feed_forward.w3.weight": "mlp.up_proj.weight",
    "ffn_norm.weight": "post_attention_layernorm.weight",
}
BY_COLUMNS = ("attention.wo.weight", "feed_forward.w2.weight")
TURNED = ("attention.wq.weight", "attention.wk.weight")
UNUSED = "rope.freqs"
"""Rotary frequencies that the files of Llama 1 and 2 hold. Meta's code computes them from rope_theta instead."""
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
"""What `use_scaled_rope` means in Meta's code (llama-models, models/llama3/model.py)."""
SMALL_3_2, SMALL_FACTOR = ((2048, 16), (3072, 28)), 32.0
"""(dim, n_layers) of Llama 3.2 1B and 3B. Their config.json on Hugging Face has another factor, which no params.json
says."""
LLAMA3 = {"vocab_size": 128_256, "bos_token_id": 128_000, "eos_token_id": 128_001}
"""Llama 3's vocabulary and its ids, as in its config.json on Hugging Face."""


def there(folder: Path) -> bool:
    """Whether the folder holds a model in Meta's form, and none in Hugging Face's."""
    names = paths.names(folder)
    return "config.json" not in names and bool(fnmatch.filter(names, PATTERN))


def opened(folder: Path) -> tuple[Fields, "MetaFiles"]:
    """(what a config.json would say, the tensors by their Hugging Face names).

    Raises ConfigError for what no Llama has and where torch is missing, DataError for files that are missing or not as
    Meta's.
    """
    path = folder / PARAMS
    if not path.is_file():
        raise DataError(f"{path}: not there; copy it from where the {PATTERN} files came from")
    content = read_object(path, AGAIN, finite=False)
    params = Fields(content, path)
    if other := [name for name in content if name not in KNOWN and content[name] is not None]:
        raise ConfigError(
            f"{path}: {other[0]}={shown(content[other[0]])} is of another model than a Llama; download the files of the"
            " Hugging Face form instead"
        )
    most = {name: int(allowed.range.most) for name, allowed in ranges.fields(ModelConfig).items() if allowed.range}
    heads, dim = params.whole("n_heads", 1, most["num_heads"]), params.whole("dim", 1, most["model_dim"])
    layers = params.whole("n_layers", 1, most["num_layers"])
    if dim % (2 * heads):
        raise DataError(f"{path}: dim={dim} must be a multiple of 2 x n_heads={heads}; {AGAIN}")
    tensors = MetaFiles(_files(folder), dim=dim, head_dim=dim // heads)
    rows = params.whole("vocab_size", -1, most["vocab_size"], default=-1)
    if rows < 1:  # Llama 1 and 2 say -1: their vocabulary is the tokenizer's
        rows = tensors.shapes.get(NAMES["tok_embeddings.weight"], (0,))[0]
    theta = params.real("rope_theta", 1, 1e12, default=None) or 10_000.0
    rope = _rope(params, (dim, layers))
    fields = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "num_hidden_layers": layers,
        "hidden_size": dim,
        "intermediate_size": _mlp_dim(params, dim, most["mlp_dim"]),
        "num_attention_heads": heads,
        "num_key_value_heads": params.whole("n_kv_heads", 1, most["num_kv_heads"], default=None) or heads,
        "head_dim": dim // heads,
        "rms_norm_eps": params.real("norm_eps", 0, 1),
        "rope_theta": theta,
        "tie_word_embeddings": NAMES["output.weight"] not in tensors.shapes,
        "vocab_size": rows,
    }
    fields |= {"rope_scaling": rope} if rope else {}
    fields |= LLAMA3 if rows == LLAMA3["vocab_size"] else {"bos_token_id": 1, "eos_token_id": 2}
    if (length := params.whole("max_seq_len", 1, default=None)) is not None:
        fields["max_position_embeddings"] = length
    else:
        hosts.say(
            f"{path}: does not say how long rows this model reads; where you know it, add max_seq_len, which exports"
            " write as max_position_embeddings"
        )
    return Fields(fields, path), tensors


def _files(folder: Path) -> list[Path]:
    names = sorted(fnmatch.filter(paths.names(folder), PATTERN))
    for n, name in enumerate(names):
        if name != FILES.format(n):
            raise DataError(f"{folder / FILES.format(n)}: not there, but {name} is; copy all of the model's files")
    return [folder / name for name in names]


def _mlp_dim(params: Fields, dim: int, most: int) -> int:
    """The width of the MLP: two thirds of 4 x dim, times a factor, rounded up to a multiple."""
    width = int(2 * 4 * dim / 3)
    if (factor := params.real("ffn_dim_multiplier", 0, 1000, default=None)) is not None:
        width = int(factor * width)
    multiple = params.whole("multiple_of", 1, most, default=256)
    return int(multiple * ((width + multiple - 1) // multiple))


def _rope(params: Fields, size: tuple[int, int]) -> dict[str, Any] | None:
    if not params.flag("use_scaled_rope"):
        return None
    rope = LLAMA3_ROPE | ({"factor": SMALL_FACTOR} if size in SMALL_3_2 else {})
    hosts.say(f"{params.path}: use_scaled_rope is read as rope llama3 with factor {rope['factor']:g}")
    return rope


class _Part(NamedTuple):
    """A Hugging Face tensor in Meta's files."""

    name: str  # Meta's
    rows: int  # of the part in each file
    axis: int | None  # along which the parts are joined; None where every file has all of it


class MetaFiles:
    """The tensors of Meta's files under their Hugging Face names and with their rows in Hugging Face's order."""

    def __init__(self, files: list[Path], *, dim: int, head_dim: int):
        """DataError for a file that is no state dict, or whose tensors are not those of the first file."""
        self.files = files
        self._head_dim = head_dim
        self._copies = [paths.fetched(path) for path in files]  # torch knows disks only
        self._last: tuple[str, list[dict[str, Any]]] = ("", [])
        first: dict[str, tuple[int, ...]] = {}
        for path, copy in zip(files, self._copies, strict=True):
            shapes = float_shapes(path, load_torch(path, copy))
            first = first or shapes
            if different := sorted(set(first.items()) ^ set(shapes.items())):
                name = different[0][0]
                raise DataError(
                    f"{path}: {name} has shape {shapes.get(name)}, but {first.get(name)} in {files[0].name}; they are"
                    " not files of one model, copy all of them again"
                )
        self.shapes: dict[str, tuple[int, ...]] = {}
        self._parts: dict[str, _Part] = {}
        for name, shape in first.items():
            if name == UNUSED:
                continue
            theirs, end = _hf_name(name)
            axis = _axis(end, shape, dim, len(files))
            self._parts[theirs] = _Part(name, shape[0] if shape else 1, axis)
            whole = [size * (len(files) if a == axis else 1) for a, size in enumerate(shape)]
            self.shapes[theirs] = tuple(whole)
        self._refuse_missing_files(dim)

    def rows(self, name: str, start: int, stop: int) -> Array:
        part = self._parts[name]
        if not part.name.endswith(TURNED):
            return self._joined(part, start, stop)
        H = self._head_dim
        first, last = start // H * H, -(-stop // H) * H
        meta_RD = self._joined(part, first, last)
        ours_RD = meta_RD.reshape(-1, H // 2, 2, meta_RD.shape[1]).swapaxes(1, 2).reshape(meta_RD.shape)
        return ours_RD[start - first : stop - first]

    def _joined(self, part: _Part, start: int, stop: int) -> Array:
        """Rows of a tensor in Meta's order, joined from the files that hold a part of them."""
        files = self._loaded(part.name)
        if part.axis == 0:
            spans = [(max(start - n * part.rows, 0), min(stop - n * part.rows, part.rows)) for n in range(len(files))]
            pieces = [_float(f[part.name][a:b]) for f, (a, b) in zip(files, spans, strict=True) if a < b]
            return np.concatenate(pieces)
        pieces = [_float(f[part.name][start:stop]) for f in files]
        if part.axis == 1:
            return np.concatenate(pieces, axis=1)
        if other := [n for n, piece in enumerate(pieces) if not np.array_equal(piece, pieces[0])]:
            raise DataError(
                f"{self.files[other[0]]}: {part.name} is not that of {self.files[0].name}; they are files of different"
                " models, copy all of them again"
            )
        return pieces[0]

    def _loaded(self, name: str) -> list[dict[str, Any]]:
        """The files, mapped anew for each tensor: what was read of the last one then leaves the memory."""
        if self._last[0] != name:
            self._last = ("", [])
            self._last = (name, [load_torch(p, copy) for p, copy in zip(self.files, self._copies, strict=True)])
        return self._last[1]

    def _refuse_missing_files(self, dim: int) -> None:
        rows = next((p.rows for p in self._parts.values() if p.name.endswith("attention.wq.weight")), dim)
        have = len(self.files)
        if rows * have < dim and dim % rows == 0:
            raise DataError(
                f"{self.files[-1].parent}: {have} of the {dim // rows} consolidated.*.pth files are there; copy the"
                " others too"
            )


def _hf_name(name: str) -> tuple[str, str]:
    """(Hugging Face's name of a tensor, the end of Meta's). A name that no Llama has stays as it is."""
    layers, _, rest = name.partition(".")
    number, _, end = rest.partition(".")
    if layers == "layers" and number.isdigit() and end in LAYER_NAMES:
        return f"model.layers.{number}.{LAYER_NAMES[end]}", end
    return NAMES.get(name, name), name


def _axis(end: str, shape: tuple[int, ...], dim: int, files: int) -> int | None:
    """Along which axis the parts of a tensor are joined."""
    if len(shape) != 2 or files == 1:
        return None
    if end == "tok_embeddings.weight":
        return 0 if shape[1] == dim else 1
    return 1 if end in BY_COLUMNS else 0


def _float(tensor: Any) -> Array:
    out: Array = tensor.float().numpy()
    return out
