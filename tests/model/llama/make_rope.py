"""Makes tests/model/llama/rope/*.npz with torch and transformers: python tests/model/llama/make_rope.py

A random tiny Llama for each kind of rope, in which no two sizes are equal and no number of the rope is customary. Each
file holds config.json, and for a row below and a row above the original length: tokens, logits, loss, the gradient of
every weight, and what `generate` adds greedily with its cache. All have the same weights.
"""

import json
from pathlib import Path

import numpy as np

ROPE = Path(__file__).parent / "rope"
WEIGHTS = ROPE / "weights.npz"  # of all of them
LAYERS, MODEL, MLP, HEADS, KV_HEADS, HEAD, VOCAB = 2, 12, 15, 6, 3, 10, 31
SHORT, LONG, NEW = 9, 45, 14
FIRST = 13  # the original length, and max_position_embeddings where the kind has no other
THETA = 731.0
KINDS = {
    "default": {"rope_theta": THETA},
    "linear": {"rope_theta": THETA, "rope_scaling": {"type": "linear", "factor": 3.7}},
    "dynamic": {"rope_theta": THETA, "rope_scaling": {"type": "dynamic", "factor": 5.3}},
    "yarn": {
        "rope_theta": THETA,
        "max_position_embeddings": 61,
        "rope_scaling": {
            "rope_type": "yarn",
            "factor": 4.6,
            "original_max_position_embeddings": FIRST,
            "beta_fast": 1.7,
            "beta_slow": 0.3,
            "truncate": False,
        },
    },
    "yarn_customary": {"rope_theta": THETA, "rope_scaling": {"rope_type": "yarn", "factor": 8.0}},
    "yarn_5": {
        "max_position_embeddings": 61,
        "rope_parameters": {
            "rope_type": "yarn",
            "rope_theta": THETA,
            "factor": 3.3,
            "original_max_position_embeddings": FIRST,
            "beta_fast": 2.9,
            "beta_slow": 0.4,
            "attention_factor": 1.37,
        },
    },
    "yarn_mscale": {
        "rope_theta": THETA,
        "max_position_embeddings": 61,
        "rope_scaling": {
            "type": "yarn",
            "factor": 4.6,
            "original_max_position_embeddings": FIRST,
            "mscale": 1.9,
            "mscale_all_dim": 0.7,
        },
    },
    "llama3": {
        "max_position_embeddings": 61,
        "rope_parameters": {
            "rope_type": "llama3",
            "rope_theta": THETA,
            "factor": 5.9,
            "original_max_position_embeddings": FIRST,
            "low_freq_factor": 0.3,
            "high_freq_factor": 1.4,
        },
    },
}


def make(kind: str) -> dict[str, np.ndarray]:
    import torch
    import transformers

    sizes = {
        "num_hidden_layers": LAYERS,
        "hidden_size": MODEL,
        "intermediate_size": MLP,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "head_dim": HEAD,
        "vocab_size": VOCAB,
        "rms_norm_eps": 3e-3,
        "max_position_embeddings": FIRST,
    } | KINDS[kind]
    rng = np.random.default_rng(7)
    out = {"config": np.array(json.dumps({"model_type": "llama"} | sizes))}
    weights = {}

    def fresh():
        """transformers' rope remembers the longest row that it has seen, so every row has a model of its own."""
        given = json.loads(json.dumps(sizes))
        config = transformers.LlamaConfig(**given, attn_implementation="eager", tie_word_embeddings=False)
        return transformers.LlamaForCausalLM(config).float().eval()

    for name, p in fresh().named_parameters():
        value = rng.normal(1.0 if "norm" in name else 0.0, 0.35, p.shape)
        weights[name] = value.astype(np.float32)
    np.savez_compressed(WEIGHTS, **weights)
    for where, length in (("below", SHORT), ("above", LONG)):
        model = fresh()
        with torch.no_grad():
            for name, p in model.named_parameters():
                p.copy_(torch.from_numpy(weights[name]))
        ids = torch.from_numpy(rng.integers(0, VOCAB, (1, length)))
        logits = model(ids).logits
        loss = torch.nn.functional.cross_entropy(logits[0, :-1], ids[0, 1:])
        loss.backward()
        out |= {f"{where} tokens": ids.numpy().astype(np.int32), f"{where} logits": logits.detach().numpy()}
        out[f"{where} loss"] = loss.detach().numpy()
        out |= {f"{where} gradient {name}": p.grad.numpy() for name, p in model.named_parameters()}
        again = fresh()
        again.load_state_dict(model.state_dict())
        greedy = {
            "do_sample": False,
            "eos_token_id": None,
            "pad_token_id": 0,
            "use_cache": True,
            "attention_mask": torch.ones_like(ids),
        }
        grown = again.generate(ids, max_new_tokens=NEW, min_new_tokens=NEW, **greedy)
        out[f"{where} greedy"] = grown[:, length:].numpy().astype(np.int32)
    return out


if __name__ == "__main__":
    ROPE.mkdir(exist_ok=True)
    for kind in KINDS:
        np.savez_compressed(ROPE / f"{kind}.npz", **make(kind))
