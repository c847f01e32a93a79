"""Makes tests/model/parity/*.npz with torch and transformers: python tests/model/llama/make_parity.py

Random tiny Llamas in which no two sizes are equal and neither rope base nor eps is customary, for 1, 2 and N kv
heads. Each file holds their config, weights, tokens, positions, logits, loss and the gradient of every weight.
"""

import json
from pathlib import Path

import numpy as np

PARITY = Path(__file__).parent / "parity"
LAYERS, MODEL, MLP, HEADS, HEAD, VOCAB, ROWS, LENGTH = 3, 12, 28, 6, 4, 31, 5, 11
KV_HEADS = (1, 2, 6)


def make(kv_heads: int) -> dict[str, np.ndarray]:
    import torch
    import transformers

    sizes = {
        "num_hidden_layers": LAYERS,
        "hidden_size": MODEL,
        "intermediate_size": MLP,
        "num_attention_heads": HEADS,
        "num_key_value_heads": kv_heads,
        "head_dim": HEAD,
        "vocab_size": VOCAB,
        "rope_theta": 731.0,
        "rms_norm_eps": 3e-3,
    }
    config = transformers.LlamaConfig(**sizes, attn_implementation="eager", tie_word_embeddings=False)
    rope = getattr(config, "rope_parameters", None)
    assert rope["rope_theta"] == 731.0, rope
    model = transformers.LlamaForCausalLM(config).float().eval()
    rng = np.random.default_rng(kv_heads)
    with torch.no_grad():
        for name, p in model.named_parameters():
            # Far from the usual 0.02, so that softmax and silu leave their linear range; norm scales around 1.
            value = rng.normal(1.0 if "norm" in name else 0.0, 0.35, p.shape)
            p.copy_(torch.from_numpy(value.astype(np.float32)))
    tokens = rng.integers(0, VOCAB, (ROWS, LENGTH))
    positions = np.cumsum(rng.integers(1, 9, (ROWS, LENGTH)), axis=1)  # gaps, so that rotation is not by index
    ids = torch.from_numpy(tokens)
    logits = model(ids, position_ids=torch.from_numpy(positions)).logits
    loss = torch.nn.functional.cross_entropy(logits[:, :-1].reshape(-1, VOCAB), ids[:, 1:].reshape(-1))
    loss.backward()
    out = {"config": np.array(json.dumps({"model_type": "llama"} | sizes)), "tokens": tokens.astype(np.int32)}
    out |= {"positions": positions.astype(np.int32), "logits": logits.detach().numpy(), "loss": loss.detach().numpy()}
    for name, p in model.named_parameters():
        out["weight " + name] = p.detach().numpy()
        out["gradient " + name] = p.grad.numpy()
    return out


if __name__ == "__main__":
    PARITY.mkdir(exist_ok=True)
    for kv_heads in KV_HEADS:
        np.savez_compressed(PARITY / f"kv_heads_{kv_heads}.npz", **make(kv_heads))
