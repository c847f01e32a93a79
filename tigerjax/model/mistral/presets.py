"""Sizes of Mistral models by name. tests/configs/test_presets.py counts their weights."""

import dataclasses

from tigerjax.model.mistral.sizes import MistralConfig


def mistral_7b() -> MistralConfig:
    """Mistral-7B-v0.1 as published: 7,241,732,096 parameters; a token sees 4,096 tokens."""
    return MistralConfig(
        num_layers=32,
        model_dim=4096,
        mlp_dim=14336,
        num_heads=32,
        num_kv_heads=8,
        head_dim=128,
        vocab_size=32_000,
        padded_vocab_size=32_000,
        rope_base=10_000.0,
        norm_eps=1e-5,
        sliding_window=4096,
    )


def mistral_7b_v3() -> MistralConfig:
    """Mistral-7B-v0.3 as published: 7,248,023,552 parameters; without a window."""
    return dataclasses.replace(
        mistral_7b(), vocab_size=32_768, padded_vocab_size=32_768, rope_base=1_000_000.0, sliding_window=None
    )
