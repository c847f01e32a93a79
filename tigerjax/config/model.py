"""Sizes of a model, and how it is computed."""

import dataclasses
from typing import Literal

from tigerjax.errors import ConfigError

Attention = Literal["reference", "splash", "cudnn"]
Remat = Literal[
    "none",
    "full",
    "save_attention",
    "save_qkv",
    "save_residual",
    "save_up",
    "save_dots",
    "offload_qkv",
    "offload_residual",
]
Dtype = Literal["float32", "bfloat16"]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ModelConfig:
    """Sizes of one Llama. Everything that changes the checkpoint is here, nothing else is."""

    num_layers: int  # L: decoder blocks
    model_dim: int  # D: features of the residual stream
    mlp_dim: int  # F: features inside the gated mlp
    num_heads: int  # N: query heads
    num_kv_heads: int  # K: key and value heads, each shared by N / K query heads
    head_dim: int  # H: features of one head; N x H may differ from D
    vocab_size: int
    """Entries of the tokenizer, specials included: ids in [0, vocab_size) are real."""
    padded_vocab_size: int
    """Rows of the embedding and columns of the head; the padding is masked to -inf wherever logits are used."""
    rope_base: float  # Base of the rotary angles; 10,000 for Llama-2
    norm_eps: float  # Added to the mean square under RMSNorm's root

    def __post_init__(self) -> None:
        if self.num_heads % self.num_kv_heads:
            raise ConfigError(
                f"num_heads={self.num_heads} is no multiple of num_kv_heads={self.num_kv_heads}; change one"
            )
        if self.head_dim % 2:
            raise ConfigError(f"head_dim={self.head_dim} is odd; rotary embedding pairs dimensions, make it even")
        if self.padded_vocab_size < self.vocab_size:
            raise ConfigError(f"padded_vocab_size={self.padded_vocab_size} < vocab_size={self.vocab_size}; raise it")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class SplashConfig:
    """Blocks of the splash kernel, in tokens: larger ones keep the matrix units busier and need more VMEM."""

    block_q: int = 512  # Queries of one block, forward
    block_kv: int = 1024
    """Keys brought into VMEM at one time; block_kv_compute of them are multiplied at one time."""
    block_kv_compute: int = 512  # Keys multiplied at one time, forward
    block_q_dkv: int = 512
    """The backward kernel of k and v, and of q too with fused_backward."""
    block_kv_dkv: int = 1024  # Keys in VMEM at one time, backward of k and v
    block_kv_dkv_compute: int = 512  # Keys multiplied at one time, backward of k and v
    block_q_dq: int = 512
    """The backward kernel of q; not used with fused_backward."""
    block_kv_dq: int = 1024  # Keys in VMEM at one time, backward of q
    fused_backward: bool = False
    """One backward kernel of 5 matrix products instead of two of 7; partial gradients of q, one for each block of
    block_kv_dkv keys, are held in the compute dtype and added afterwards."""
    interpret: bool = False
    """Run the kernel in Pallas' interpreter, on any device and slowly: for tests."""

    def __post_init__(self) -> None:
        for name, block in self.blocks().items():
            if block < 128 or block % 128:
                raise ConfigError(f"compute.splash.{name}={block} must be a multiple of the TPU's 128 lanes")
        for outer, inner in (("block_kv", "block_kv_compute"), ("block_kv_dkv", "block_kv_dkv_compute")):
            if getattr(self, outer) % getattr(self, inner):
                raise ConfigError(
                    f"compute.splash.{outer}={getattr(self, outer)} is no multiple of {inner}={getattr(self, inner)};"
                    " change one"
                )

    def blocks(self) -> dict[str, int]:
        """The block sizes that are used, by field; each divides the row length."""
        unused = ("block_q_dq", "block_kv_dq") if self.fused_backward else ()
        names = [f.name for f in dataclasses.fields(self) if f.name.startswith("block_")]
        return {name: getattr(self, name) for name in names if name not in unused}


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ComputeConfig:
    """How the model is computed; never changes what a checkpoint means."""

    attention: Attention  # splash: the TPU kernel; cudnn: NVIDIA's; reference: plain products, anywhere
    remat: Remat  # What a layer keeps for the backward pass; docs/MEMORY.md has their cost
    dtype: Dtype
    """Of activations; weights and optimiser state are float32."""
    loss_chunk_tokens: int
    """Tokens whose logits exist at one time, over all rows of a device group: bounds loss memory."""
    splash: SplashConfig = SplashConfig()
    """Read when attention is 'splash'."""

    def __post_init__(self) -> None:
        if self.loss_chunk_tokens < 1:
            raise ConfigError(f"loss_chunk_tokens={self.loss_chunk_tokens} must be at least 1")


FLOAT32 = ComputeConfig(attention="reference", remat="none", dtype="float32", loss_chunk_tokens=1)
"""Plain float32 products without a backward pass: for checks, shapes and small models on a CPU."""
