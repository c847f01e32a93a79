"""Sizes of Qwen3 models by name. tests/configs/test_presets.py counts their weights.

Their tokenizers have 151,669 entries; the other rows are padding.
"""

import dataclasses

from tigerjax.model.qwen3.sizes import Qwen3Config


def qwen3_8b() -> Qwen3Config:
    """Qwen3-8B as published: 8,190,735,360 parameters."""
    return Qwen3Config(
        num_layers=36,
        model_dim=4096,
        mlp_dim=12288,
        num_heads=32,
        num_kv_heads=8,
        head_dim=128,
        vocab_size=151_669,
        padded_vocab_size=151_936,
        rope_base=1_000_000.0,
        norm_eps=1e-6,
    )


def qwen3_06b() -> Qwen3Config:
    """Qwen3-0.6B as published: 596,049,920 parameters; the head is the embedding."""
    return dataclasses.replace(qwen3_8b(), num_layers=28, model_dim=1024, mlp_dim=3072, num_heads=16, tied=True)
