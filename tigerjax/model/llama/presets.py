"""Sizes of Llama models by name, and the optimiser settings that the shipped runs share.

A file under `configs/` takes its sizes from here and says only what is particular to its run. Each docstring gives the
number of parameters, which tests/configs/test_presets.py counts.
"""

import dataclasses
from typing import Any

from tigerjax.config import ModelConfig, OptimConfig, RopeConfig, SplashConfig


def llama2_7b() -> ModelConfig:
    """Llama-2-7B as published: 6,738,415,616 parameters."""
    return ModelConfig(
        num_layers=32,
        model_dim=4096,
        mlp_dim=11008,
        num_heads=32,
        num_kv_heads=32,
        head_dim=128,
        vocab_size=32_000,
        padded_vocab_size=32_000,
        rope_base=10_000.0,
        norm_eps=1e-5,
    )


def llama2_13b() -> ModelConfig:
    """Llama-2-13B as published: 13,015,864,320 parameters."""
    return dataclasses.replace(llama2_7b(), num_layers=40, model_dim=5120, mlp_dim=13824, num_heads=40, num_kv_heads=40)


def llama2_70b() -> ModelConfig:
    """Llama-2-70B as published: 68,976,648,192 parameters; eight query heads share one key and value head."""
    return dataclasses.replace(llama2_7b(), num_layers=80, model_dim=8192, mlp_dim=28672, num_heads=64, num_kv_heads=8)


def llama3_8b() -> ModelConfig:
    """Llama-3-8B as published: 8,030,261,248 parameters, rows of 8,192 tokens."""
    return dataclasses.replace(
        llama2_7b(),
        mlp_dim=14336,
        num_kv_heads=8,
        vocab_size=128_256,
        padded_vocab_size=128_256,
        rope_base=500_000.0,
    )


def llama3_70b() -> ModelConfig:
    """Llama-3-70B as published: 70,553,706,496 parameters."""
    return dataclasses.replace(llama3_8b(), num_layers=80, model_dim=8192, mlp_dim=28672, num_heads=64)


def llama31_8b() -> ModelConfig:
    """Llama-3.1-8B as published: 8,030,261,248 parameters; Llama-3-8B with the angles of rows of 131,072 tokens."""
    return dataclasses.replace(llama3_8b(), rope=_rope_of_llama3(8.0))


def llama32_1b() -> ModelConfig:
    """Llama-3.2-1B as published: 1,235,814,400 parameters; the head is the embedding."""
    return dataclasses.replace(
        llama3_8b(), num_layers=16, model_dim=2048, mlp_dim=8192, head_dim=64, tied=True, rope=_rope_of_llama3(32.0)
    )


def llama32_3b() -> ModelConfig:
    """Llama-3.2-3B as published: 3,212,749,824 parameters; the head is the embedding."""
    return dataclasses.replace(llama32_1b(), num_layers=28, model_dim=3072, num_heads=24, head_dim=128)


def _rope_of_llama3(factor: float) -> RopeConfig:
    """Llama 3.1's and 3.2's scaling of 8,192 positions."""
    return RopeConfig(
        kind="llama3",
        factor=factor,
        original_max_position_embeddings=8192,
        low_freq_factor=1.0,
        high_freq_factor=4.0,
    )


def tiger_7b() -> ModelConfig:
    """Llama-2-7B with TigerBot's vocabulary: 6,975,393,792 parameters."""
    return _with_tiger_vocabulary(llama2_7b())


def tiger_13b() -> ModelConfig:
    """Llama-2-13B with TigerBot's vocabulary: 13,312,087,040 parameters."""
    return _with_tiger_vocabulary(llama2_13b())


def tiger_70b() -> ModelConfig:
    """Llama-2-70B with TigerBot's vocabulary: 69,450,604,544 parameters."""
    return _with_tiger_vocabulary(llama2_70b())


def tiger_13b_v5() -> ModelConfig:
    """Llama-2-13B with the vocabulary of TigerBot's second generation: 13,354,931,200 parameters."""
    return _with_second_vocabulary(llama2_13b())


def tiger_13b_v6() -> ModelConfig:
    """TigerBot-13B v6, for rows of 8,192 tokens by a larger rope base: 13,354,931,200 parameters."""
    return dataclasses.replace(tiger_13b_v5(), rope_base=500_000.0)


def tiger_70b_v2() -> ModelConfig:
    """Llama-2-70B with the vocabulary of TigerBot's second generation: 69,519,155,200 parameters."""
    return _with_second_vocabulary(llama2_70b())


def tiger_13b_long() -> ModelConfig:
    """tiger_13b for rows of 131,072 tokens, after its first training on 4,096: 13,312,087,040 parameters."""
    return _with_longer_rows(tiger_13b(), 32.0)


def tiger_70b_long() -> ModelConfig:
    """tiger_70b for rows of 32,768 tokens, after its first training on 4,096: 69,450,604,544 parameters."""
    return _with_longer_rows(tiger_70b(), 8.0)


def _with_longer_rows(model: ModelConfig, factor: float) -> ModelConfig:
    """The same model with YaRN's rope (arXiv 2309.00071), for rows `factor` times as long as 4,096 tokens."""
    yarn = RopeConfig(kind="yarn", factor=factor, original_max_position_embeddings=4096)
    return dataclasses.replace(model, rope=yarn)


def _with_tiger_vocabulary(model: ModelConfig) -> ModelConfig:
    """The same model with TigerBot's 60,515 tokens, padded as in its published configs."""
    return dataclasses.replace(model, vocab_size=60_515, padded_vocab_size=60_928)


def _with_second_vocabulary(model: ModelConfig) -> ModelConfig:
    """The same model with the 65,110 tokens of TigerBot's second generation, padded as in its published configs."""
    return dataclasses.replace(model, vocab_size=65_110, padded_vocab_size=65_112)


def llama2_tiny() -> ModelConfig:
    """The shape of Llama-2 for one CPU, with the quick start's extended vocabulary: 387,392 parameters."""
    return ModelConfig(
        num_layers=2,
        model_dim=64,
        mlp_dim=176,
        num_heads=4,
        num_kv_heads=2,
        head_dim=16,
        vocab_size=2303,
        padded_vocab_size=2304,
        rope_base=10_000.0,
        norm_eps=1e-5,
    )


def quickstart_base() -> ModelConfig:
    """The quick start's English model, which stands in for Llama-2: 1,049,728 parameters."""
    return dataclasses.replace(quickstart_extended(), vocab_size=1000, padded_vocab_size=1024)


def quickstart_extended() -> ModelConfig:
    """The quick start's model with the extended vocabulary: 1,377,408 parameters."""
    return ModelConfig(
        num_layers=4,
        model_dim=128,
        mlp_dim=384,
        num_heads=4,
        num_kv_heads=2,
        head_dim=32,
        vocab_size=2303,
        padded_vocab_size=2304,
        rope_base=10_000.0,
        norm_eps=1e-5,
    )


def adamw(
    *, peak_lr: float, warmup_steps: int, total_steps: int, weight_decay: float, gradient_accumulation_steps: int = 1
) -> OptimConfig:
    """AdamW with what all shipped runs have in common: betas, clipping, and a cosine that ends at a tenth of the peak.

    These are Llama 2's (arXiv 2307.09288, section 2.2), but for eps, where the paper has 1e-5.
    """
    return OptimConfig(
        peak_lr=peak_lr,
        final_lr_fraction=0.1,
        warmup_steps=warmup_steps,
        total_steps=total_steps,
        beta1=0.9,
        beta2=0.95,
        eps=1e-8,
        weight_decay=weight_decay,
        clip_norm=1.0,
        gradient_accumulation_steps=gradient_accumulation_steps,
    )


def square(block: int, *, fused: bool, multiplied: int | None = None) -> SplashConfig:
    """Blocks of so many queries and keys in every splash kernel, of whose keys `multiplied` are multiplied at one time;
    all of them where it is None. docs/PLAN.md compares such blocks by the compiler's schedules."""
    names = [name for name in SplashConfig().blocks() if not fused or not name.endswith("_dq")]
    sizes: dict[str, Any] = {name: multiplied or block if name.endswith("_compute") else block for name in names}
    return SplashConfig(**sizes, fused_backward=fused)


def wide(*, block_q: int = 1024) -> SplashConfig:
    """Blocks for the kernels of `tigerjax/model/wide.py`, on chips whose matrix units are 256 wide (v6e, tpu7x).
    `block_q` is that of the forward pass."""
    blocks = square(1024, fused=True, multiplied=512)
    return dataclasses.replace(blocks, kernel="wide", block_q=block_q, block_kv_dkv_compute=256)
