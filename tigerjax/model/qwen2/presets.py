"""Sizes of Qwen2 models by name. tests/configs/test_presets.py counts their weights.

Their tokenizers have 151,665 entries; the other rows are padding.
"""

import dataclasses

from tigerjax.model.qwen2.sizes import Qwen2Config


def qwen25_7b() -> Qwen2Config:
    """Qwen2.5-7B as published: 7,615,616,512 parameters."""
    return Qwen2Config(
        num_layers=28,
        model_dim=3584,
        mlp_dim=18944,
        num_heads=28,
        num_kv_heads=4,
        head_dim=128,
        vocab_size=151_665,
        padded_vocab_size=152_064,
        rope_base=1_000_000.0,
        norm_eps=1e-6,
    )


def qwen25_05b() -> Qwen2Config:
    """Qwen2.5-0.5B as published: 494,032,768 parameters; the head is the embedding."""
    return dataclasses.replace(
        qwen25_7b(),
        num_layers=24,
        model_dim=896,
        mlp_dim=4864,
        num_heads=14,
        num_kv_heads=2,
        head_dim=64,
        padded_vocab_size=151_936,
        tied=True,
    )
