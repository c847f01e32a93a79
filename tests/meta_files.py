"""A model in Meta's own form, written by what is known of it: parts for model parallelism, rows for pairs."""

import json

import numpy as np

SHARDS = "consolidated.{:02d}.pth"


def interleaved(tensor, head_dim):
    """Feature 2i of a head in Meta's order is feature i of Hugging Face's, and 2i + 1 is i + head_dim / 2."""
    out = np.empty_like(tensor)
    for row in range(len(tensor)):
        head, place = divmod(row, head_dim)
        pair, second = divmod(place, 2)
        out[row] = tensor[head * head_dim + pair + second * head_dim // 2]
    return out


def meta_tensors(tensors, params):
    """{Meta's name: (whole tensor, the axis along which model parallelism cuts it)}."""
    head_dim = params["dim"] // params["n_heads"]
    out = {
        "tok_embeddings.weight": (tensors["model.embed_tokens.weight"], 1),
        "norm.weight": (tensors["model.norm.weight"], None),
        "output.weight": (tensors["lm_head.weight"], 0),
        "rope.freqs": (731.0 ** -(np.arange(0, head_dim, 2) / head_dim), None),
    }
    for i in range(params["n_layers"]):
        theirs = {name.split(f"layers.{i}.")[1]: t for name, t in tensors.items() if f"layers.{i}." in name}
        out |= {
            f"layers.{i}.attention.wq.weight": (interleaved(theirs["self_attn.q_proj.weight"], head_dim), 0),
            f"layers.{i}.attention.wk.weight": (interleaved(theirs["self_attn.k_proj.weight"], head_dim), 0),
            f"layers.{i}.attention.wv.weight": (theirs["self_attn.v_proj.weight"], 0),
            f"layers.{i}.attention.wo.weight": (theirs["self_attn.o_proj.weight"], 1),
            f"layers.{i}.feed_forward.w1.weight": (theirs["mlp.gate_proj.weight"], 0),
            f"layers.{i}.feed_forward.w2.weight": (theirs["mlp.down_proj.weight"], 1),
            f"layers.{i}.feed_forward.w3.weight": (theirs["mlp.up_proj.weight"], 0),
            f"layers.{i}.attention_norm.weight": (theirs["input_layernorm.weight"], None),
            f"layers.{i}.ffn_norm.weight": (theirs["post_attention_layernorm.weight"], None),
        }
    return out


def write_meta(folder, tensors, *, shards, params, by_vocabulary=False):
    """Llama 1 and 2 cut the embedding by features, Llama 3 by its vocabulary."""
    import torch

    folder.mkdir(exist_ok=True)
    (folder / "params.json").write_text(json.dumps(params))
    cuts = meta_tensors(tensors, params)
    if by_vocabulary:
        cuts["tok_embeddings.weight"] = (cuts["tok_embeddings.weight"][0], 0)
    for n in range(shards):
        parts = {k: t if a is None else np.split(t, shards, axis=a)[n] for k, (t, a) in cuts.items()}
        torch.save({k: torch.from_numpy(p.copy()) for k, p in parts.items()}, folder / SHARDS.format(n))
    return folder
