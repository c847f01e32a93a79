"""Makes tests/model/rope/MODEL/*.npz with torch and transformers: python tests/model/make_rope.py [MODEL …]

A random tiny model of each family for each kind of rope, in which no two sizes are equal and no number of the rope is
customary. Each file holds config.json, and for a row below and a row above the original length: tokens, logits, loss,
the gradient of every weight, and what `generate` adds greedily with its cache. All files of a model have the same
weights.
"""

import json
import sys
from pathlib import Path

import numpy as np

ROPE = Path(__file__).parent / "rope"
WEIGHTS = "weights.npz"  # of all files of a model
LAYERS, MODEL, MLP, HEADS, KV_HEADS, HEAD, VOCAB = 2, 12, 15, 6, 3, 10, 31
SHORT, LONG, NEW = 9, 45, 14
WINDOW = 7  # so short that even the short row passes it
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
ONE_OF_EACH = ("default", "linear", "dynamic", "yarn", "llama3")
WINDOWED = {"use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 0}
MODELS = {
    "llama": ({"model_type": "llama"}, tuple(KINDS)),
    "llama_tied": ({"model_type": "llama", "tie_word_embeddings": True}, ("llama3",)),
    "mistral": ({"model_type": "mistral", "sliding_window": WINDOW}, ONE_OF_EACH),
    "mistral_full": ({"model_type": "mistral", "sliding_window": None}, ("default",)),
    "qwen2": ({"model_type": "qwen2", "tie_word_embeddings": True}, ONE_OF_EACH),
    "qwen2_window": ({"model_type": "qwen2"} | WINDOWED, ("default",)),
    "qwen3": ({"model_type": "qwen3"}, ONE_OF_EACH),
    "qwen3_bias": ({"model_type": "qwen3", "tie_word_embeddings": True, "attention_bias": True} | WINDOWED, ("yarn",)),
}
"""What is particular to a model, and the kinds of rope that it is made with."""
CASES = [(model, kind) for model, (_, kinds) in MODELS.items() for kind in kinds]


def make(model_name: str, kind: str) -> dict[str, np.ndarray]:
    import torch
    import transformers

    own = MODELS[model_name][0]
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
        "tie_word_embeddings": False,
    }
    sizes |= KINDS[kind] | {name: value for name, value in own.items() if name != "model_type"}
    rng = np.random.default_rng(7)
    out = {"config": np.array(json.dumps(own | sizes))}
    weights = {}

    def fresh():
        """transformers' rope remembers the longest row that it has seen, so every row has a model of its own."""
        given = json.loads(json.dumps(sizes))
        config = transformers.AutoConfig.for_model(own["model_type"], **given, attn_implementation="eager")
        return transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").float().eval()

    for name, p in fresh().named_parameters():
        value = rng.normal(1.0 if "norm" in name else 0.0, 0.35, p.shape)
        weights[name] = value.astype(np.float32)
    np.savez_compressed(ROPE / model_name / WEIGHTS, **weights)
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
    for model_name, kind in CASES:
        if model_name in (sys.argv[1:] or MODELS):
            (ROPE / model_name).mkdir(parents=True, exist_ok=True)
            np.savez_compressed(ROPE / model_name / f"{kind}.npz", **make(model_name, kind))
            print(model_name, kind, flush=True)
