"""The export inside transformers itself: logits, greedy tokens, reward scores."""

import dataclasses
import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tigerjax.config import ComputeConfig, ModelConfig
from tigerjax.convert import hf
from tigerjax.model import decode, decoder, reward
from tigerjax.model.layers import init
from tigerjax.model.mistral.sizes import MistralConfig
from tigerjax.model.qwen2.sizes import Qwen2Config
from tigerjax.model.qwen3.sizes import Qwen3Config

pytestmark = [pytest.mark.slow, pytest.mark.peers]

LOGITS = 1e-4  # absolute, in float32: the bound
NEW = 20
COMPUTE = ComputeConfig(attention="reference", remat="none", dtype="float32", loss_chunk_tokens=8)
CONFIG = ModelConfig(
    num_layers=3,
    model_dim=24,
    mlp_dim=44,
    num_heads=6,
    num_kv_heads=2,
    head_dim=10,
    vocab_size=57,
    padded_vocab_size=64,
    rope_base=777.0,
    norm_eps=3e-4,
)
SIZES = dataclasses.asdict(CONFIG) | {"rope": CONFIG.rope}
MODELS = {
    "llama": CONFIG,
    "llama tied": dataclasses.replace(CONFIG, tied=True),
    "mistral": MistralConfig(**SIZES | {"sliding_window": 3}),
    "qwen2": Qwen2Config(**SIZES | {"tied": True}),
    "qwen3": Qwen3Config(**SIZES | {"attention_bias": True, "sliding_window": 6}),
}
PROMPTS_BT = np.array([[1, 9, 33, 4], [1, 50, 7, 21]])


def strong(model, seed):
    """Weights far from the initial ones, so that logits differ by much more than rounding, and no bias is 0."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda w: jnp.asarray(w * 5 + rng.normal(0, 0.1, w.shape).astype(np.float32)),
        nn.unbox(init(model, jax.random.key(seed))),
    )


@pytest.mark.parametrize("config", MODELS.values(), ids=MODELS)
@pytest.mark.parametrize("vocab", ["trimmed", "padded"])
def test_the_export_has_our_logits_and_our_greedy_tokens_in_transformers(tmp_path, vocab, config):
    import torch
    import transformers

    weights = strong(decoder.LanguageModel(config, COMPUTE), 0)
    hf.to_hf(weights, config, tmp_path / "hf", hf.Export(tokenizer=None, vocab=vocab, max_shard_bytes=20_000))
    model, report = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "hf", output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    theirs = model(torch.from_numpy(PROMPTS_BT)).logits.detach().numpy()
    tokens_BT = jnp.asarray(PROMPTS_BT)
    positions_BT = jnp.broadcast_to(jnp.arange(tokens_BT.shape[1]), tokens_BT.shape)
    ones_BT = jnp.ones_like(tokens_BT)
    ours = decoder.LanguageModel(config, COMPUTE).apply({"params": weights}, tokens_BT, positions_BT, ones_BT)
    V = CONFIG.vocab_size
    assert np.abs(theirs[..., :V] - np.asarray(ours)[..., :V]).max() <= LOGITS

    logits_BV, kv = decode.prefill(weights, config, COMPUTE, tokens_BT, ones_BT, max_len=tokens_BT.shape[1] + NEW)
    step = jax.jit(lambda kv, token_B: decode.decode_step(weights, config, COMPUTE, kv, token_B, kv.lengths_B))
    greedy = []
    for _ in range(NEW):
        greedy.append(np.asarray(logits_BV.argmax(-1)))
        logits_BV, kv = step(kv, greedy[-1])
    for row, prompt in enumerate(PROMPTS_BT):
        ids = torch.from_numpy(prompt[None])
        # Padded columns are masked in ours and zero in theirs: keep them out of the choice there too.
        bad = [[i] for i in range(V, CONFIG.padded_vocab_size)] if vocab == "padded" else None
        out = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=NEW, min_new_tokens=NEW, bad_words_ids=bad
        )
        want = [int(token[row]) for token in greedy]
        ended = want.index(2) if 2 in want else NEW  # min_new_tokens forbids eos there; ours has no such rule
        assert out[0, len(prompt) :].tolist()[:ended] == want[:ended] and ended > 5


@pytest.mark.parametrize("config", MODELS.values(), ids=MODELS)
def test_the_exported_reward_model_scores_as_ours_in_transformers(tmp_path, config):
    import torch
    import transformers

    model = reward.RewardModel(config, COMPUTE)
    weights = strong(model, 1)
    hf.to_hf(weights, config, tmp_path / "hf", hf.Export(tokenizer=None))
    (tmp_path / "hf/config.json").write_text(
        json.dumps(json.loads((tmp_path / "hf/config.json").read_text()) | {"pad_token_id": 56})
    )
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "hf")
    tokens_BT = jnp.asarray(PROMPTS_BT)
    positions_BT = jnp.broadcast_to(jnp.arange(tokens_BT.shape[1]), tokens_BT.shape)
    scores_BT = model.apply({"params": weights}, tokens_BT, positions_BT, jnp.ones_like(tokens_BT))
    padded = np.concatenate([PROMPTS_BT, np.full((2, 3), 56)], axis=1)
    got = theirs(torch.from_numpy(padded)).logits.detach().numpy()
    assert got.shape == (2, 1)
    assert np.abs(got[:, 0] - np.asarray(scores_BT)[:, -1]).max() <= LOGITS


@pytest.mark.parametrize(("kv_heads", "tied"), [(1, False), (2, True), (3, False), (6, True)])
def test_a_folder_written_by_transformers_is_read_with_its_logits(tmp_path, kv_heads, tied):
    import torch
    import transformers

    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        num_hidden_layers=2,
        hidden_size=24,
        intermediate_size=44,
        num_attention_heads=6,
        num_key_value_heads=kv_heads,
        tie_word_embeddings=tied,
        head_dim=10,
        vocab_size=57,
        rope_theta=777.0,
        rms_norm_eps=3e-4,
        initializer_range=0.2,
    )
    model = transformers.LlamaForCausalLM(config).eval()
    model.save_pretrained(tmp_path / "hf", max_shard_size="20KB")
    ours_config, weights = hf.from_hf(tmp_path / "hf")
    assert ours_config.rope_base == 777.0 and ours_config.num_kv_heads == kv_heads
    assert ours_config.tied is tied and ("head" in weights) is not tied
    tokens_BT = jnp.asarray(PROMPTS_BT)
    positions_BT = jnp.broadcast_to(jnp.arange(tokens_BT.shape[1]), tokens_BT.shape)
    ours = decoder.LanguageModel(ours_config, COMPUTE).apply(
        {"params": weights}, tokens_BT, positions_BT, jnp.ones_like(tokens_BT)
    )
    theirs = model(torch.from_numpy(PROMPTS_BT)).logits.detach().numpy()
    assert np.abs(theirs - np.asarray(ours)).max() <= LOGITS
