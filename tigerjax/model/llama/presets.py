"""Sizes of Llama models by name, and the optimiser settings that the shipped runs share.

A file under `configs/` takes its sizes from here and says only what is particular to its run. Each docstring gives the
number of parameters, which tests/configs/test_presets.py counts.
"""

import dataclasses

from tigerjax.config import ModelConfig, OptimConfig


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


def tiger_7b() -> ModelConfig:
    """Llama-2-7B with TigerBot's vocabulary: 6,975,393,792 parameters."""
    return _with_tiger_vocabulary(llama2_7b())


def tiger_13b() -> ModelConfig:
    """Llama-2-13B with TigerBot's vocabulary: 13,312,087,040 parameters."""
    return _with_tiger_vocabulary(llama2_13b())


def tiger_70b() -> ModelConfig:
    """Llama-2-70B with TigerBot's vocabulary: 69,450,604,544 parameters."""
    return _with_tiger_vocabulary(llama2_70b())


def _with_tiger_vocabulary(model: ModelConfig) -> ModelConfig:
    """The same model with TigerBot's 60,515 tokens, padded as in its published configs."""
    return dataclasses.replace(model, vocab_size=60_515, padded_vocab_size=60_928)


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
