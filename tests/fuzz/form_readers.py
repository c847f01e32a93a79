"""Readers of models that came another way than as a folder of `transformers`: Meta's own files, LoRA adapters."""

import importlib.util
import json
from pathlib import Path

import numpy as np
from meta_files import write_meta
from model_readers import MODEL, SIZE, foreign, header, imported
from reader import Reader
from safetensors.numpy import save_file

PARAMS = {
    "dim": 8, "n_layers": 2, "n_heads": 2, "n_kv_heads": 1, "vocab_size": -1, "multiple_of": 4, "norm_eps": 3e-3,
    "rope_theta": 731.0, "ffn_dim_multiplier": 0.9, "use_scaled_rope": True, "max_seq_len": 64,
}  # fmt: skip
MLP_DIM = 20  # what PARAMS make of dim 8
ROWS = SIZE + SIZE % 2  # two files hold the same number of them


def of_meta(folder: Path) -> None:
    """meta/, in two files."""
    rng = np.random.default_rng(4)
    shapes = {"self_attn.q_proj": (8, 8), "self_attn.k_proj": (4, 8), "self_attn.v_proj": (4, 8)}
    shapes |= {"self_attn.o_proj": (8, 8), "mlp.gate_proj": (MLP_DIM, 8), "mlp.up_proj": (MLP_DIM, 8)}
    shapes |= {"mlp.down_proj": (8, MLP_DIM), "input_layernorm": (8,), "post_attention_layernorm": (8,)}
    sizes = {f"model.layers.{i}.{name}": shape for i in range(2) for name, shape in shapes.items()}
    sizes |= {"model.embed_tokens": (ROWS, 8), "lm_head": (ROWS, 8), "model.norm": (8,)}
    tensors = {f"{name}.weight": rng.normal(size=shape).astype(np.float32) for name, shape in sizes.items()}
    write_meta(folder / "meta", tensors, shards=2, params=PARAMS)


def adapted(folder: Path) -> None:
    """hf/, and lora/ with two products of different ranks and a norm."""
    foreign(folder)
    rng, parts = np.random.default_rng(5), {}
    sizes = {"self_attn.q_proj": (2, MODEL.num_heads * MODEL.head_dim, MODEL.model_dim)}
    sizes |= {"mlp.down_proj": (3, MODEL.model_dim, MODEL.mlp_dim)}
    for name, (rank, out, into) in sizes.items():
        module = f"base_model.model.model.layers.1.{name}"
        parts[f"{module}.lora_A.weight"] = rng.normal(size=(rank, into)).astype(np.float32)
        parts[f"{module}.lora_B.weight"] = rng.normal(size=(out, rank)).astype(np.float32)
    parts["base_model.model.model.norm.weight"] = np.ones(MODEL.model_dim, np.float32)
    (folder / "lora").mkdir()
    save_file(parts, folder / "lora/adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "rank_pattern": {"down_proj": 3}, "alpha_pattern": {}}
    config |= {"use_rslora": True, "bias": "none", "init_lora_weights": True, "modules_to_save": ["norm"]}
    (folder / "lora/adapter_config.json").write_text(json.dumps(config))


READERS: dict[str, Reader] = {
    "adapter": Reader(
        make=adapted,
        words=lambda f: ["convert", "from-hf", f / "lora", f / "out", "--base", f / "hf"],
        files=("lora/*",),
        json=("lora/*.json",),
    ),
    "adapter header": Reader(
        make=adapted,
        words=lambda f: ["convert", "from-hf", f / "lora", f / "out", "--base", f / "hf"],
        files=("lora/*.safetensors",),
        head=header,
        reads=imported,
    ),
}
if importlib.util.find_spec("torch"):
    READERS["meta"] = Reader(
        make=of_meta,
        words=lambda f: ["convert", "from-hf", f / "meta", f / "out"],
        files=("meta/*",),
        json=("meta/params.json",),
    )
