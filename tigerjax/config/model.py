"""The sizes of a model, and how it is computed."""

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any, Literal, NamedTuple

from tigerjax.config.ranges import Count, Range, check
from tigerjax.config.rope import RopeConfig
from tigerjax.errors import ConfigError

Attention = Literal["reference", "splash", "cudnn"]
Remat = Literal[
    "none",
    "full",
    "save_attention",
    "save_qkv",
    "save_residual",
    "save_kv_up",
    "save_up",
    "save_dots",
    "offload_qkv",
    "offload_residual",
]
Dtype = Literal["float32", "bfloat16"]
Quantise = Literal["none", "int8", "fp8", "fp8_full"]
DecodeKernels = Literal["off", "on", "interpret"]
Reduce = Literal["auto", "ring"]

# The limits are at least 50 times the largest published Llama's [our choice], so that what a broken file asks for is
# refused before memory is taken for it.
Layers = Annotated[int, Range(1, 10_000)]
Width = Annotated[int, Range(1, 2**22)]
Heads = Annotated[int, Range(1, 2**14)]
Entries = Annotated[int, Range(1, 2**24)]
Block = Annotated[int, Range(128, 2**20)]

LATER = "later"
"""In the metadata of a field with a default: versions before it wrote configs and checkpoints without it."""


class Extras(NamedTuple):
    """What the attention of a family has beyond a Llama's."""

    qkv_bias: bool = False
    """Biases behind the products that give queries, keys and values."""
    o_bias: bool = False
    """A bias behind the product that joins the heads."""
    qk_norm: bool = False
    """RMSNorm of each head's query and key, before they are turned."""
    window: int | None = None
    """How far back a token sees, in tokens, itself included. None: all before it."""

    def seen(self, seq_len: int) -> float:
        """Twice the tokens that a token of a row sees on average: seq_len, or less where a window cuts the triangle."""
        return seq_len if self.window is None or self.window >= seq_len else self.window * (2 - self.window / seq_len)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ModelConfig:
    """The sizes of a Llama, and what those of every family are made of. Two models with the same sizes can exchange
    checkpoints."""

    num_layers: Layers  # Decoder blocks (L)
    model_dim: Width  # Features of the residual stream (D)
    mlp_dim: Width  # Features inside the gated mlp (F)
    num_heads: Heads  # Query heads (N)
    num_kv_heads: Heads  # Key and value heads (K), each shared by N / K query heads
    head_dim: Heads  # Features of one head (H); N x H may differ from D
    vocab_size: Entries
    """Entries of the tokenizer, special tokens included. Token ids are below it."""
    padded_vocab_size: Entries
    """Rows of the embedding and columns of the head. Those past vocab_size are never predicted: their logits are
    set to -inf."""
    rope_base: Annotated[float, Range(1, 1e12, above=True)]  # Base of the rotary angles; Llama-2 has 10,000
    norm_eps: Annotated[float, Range(1e-12, 1)]  # Added to the mean square in RMSNorm, before its root
    rope: RopeConfig = dataclasses.field(default=RopeConfig(), metadata={LATER: True})
    """How rotary angles are scaled for rows longer than those of the first training."""
    tied: bool = dataclasses.field(default=False, metadata={LATER: True})
    """The head is the embedding, transposed, and not a weight of its own. Small models save much by it."""

    @property
    def extras(self) -> Extras:
        """What the family's attention has beyond a Llama's; other families override it."""
        return Extras()

    def __post_init__(self) -> None:
        check(self, "model.")
        if self.num_heads % self.num_kv_heads:
            raise ConfigError(
                f"num_heads={self.num_heads} is no multiple of num_kv_heads={self.num_kv_heads}; change one"
            )
        if self.head_dim % 2:
            raise ConfigError(f"head_dim={self.head_dim} is odd; rotary embedding pairs dimensions, make it even")
        if self.rope.kind == "dynamic" and self.head_dim < 4:
            raise ConfigError(f"head_dim={self.head_dim} is too small for rope kind dynamic; needs at least 4")
        if self.padded_vocab_size < self.vocab_size:
            raise ConfigError(f"padded_vocab_size={self.padded_vocab_size} < vocab_size={self.vocab_size}; raise it")


def stored_fields(config: "ModelConfig | ComputeConfig") -> dict[str, Any]:
    """The fields as checkpoints and samples store them and as hashes count them.

    A field marked LATER is left out while it has its default. So a model that does not use it is the same one, by name
    and hash, for the versions before that field and after it.
    """
    return _fields(config)


def _fields(config: Any) -> dict[str, Any]:
    fields = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if not (field.metadata.get(LATER) and value == field.default):
            fields[field.name] = _fields(value) if dataclasses.is_dataclass(value) else value
    return fields


def other_sizes(there: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """In words, each size in which a model differs from that of the config; both as `stored_fields` made them."""
    return [
        f"model.{name} is {there.get(name)!r} there and {wanted.get(name)!r} in the config"
        for name in sorted({*there, *wanted})
        if there.get(name) != wanted.get(name)
    ]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class SplashConfig:
    """Block sizes of the splash kernel, in tokens. Larger blocks keep the matrix units busier and need more VMEM."""

    kernel: Literal["jax", "wide"] = dataclasses.field(default="jax", metadata={LATER: True})
    """jax is the kernel of JAX. wide is ours, for heads of 128 on v6e and TPU7x; it needs fused_backward."""
    block_q: Block = 512  # Queries in a block, forward pass
    block_kv: Block = 1024
    """Keys that are in VMEM at one time, forward pass."""
    block_kv_compute: Block = 512  # Keys that are multiplied at one time, forward pass
    block_q_dkv: Block = 512
    """Queries in a block, in the backward kernel of k and v; with fused_backward also in that of q."""
    block_kv_dkv: Block = 1024  # Keys in VMEM at one time, backward kernel of k and v
    block_kv_dkv_compute: Block = 512  # Keys multiplied at one time, backward kernel of k and v
    block_q_dq: Block = 512
    """Queries in a block, in the backward kernel of q. Not used with fused_backward."""
    block_kv_dq: Block = 1024  # Keys in VMEM at one time, backward kernel of q; not used with fused_backward
    fused_backward: bool = False
    """Use one backward kernel with 5 matrix products, instead of two kernels with 7. It needs memory for partial
    gradients of q in the compute dtype, one for each block of block_kv_dkv keys, which it adds at the end."""
    interpret: bool = False
    """Run the kernel in the interpreter of Pallas: slow, but on any device. For tests."""

    def __post_init__(self) -> None:
        check(self, "compute.splash.")
        if self.kernel == "wide" and not self.fused_backward:
            raise ConfigError("compute.splash.kernel='wide' has one backward kernel; set compute.splash.fused_backward")
        for name, block in self.blocks().items():
            if block % 128:
                raise ConfigError(f"compute.splash.{name}={block} must be a multiple of the TPU's 128 lanes")
        for outer, inner in (("block_kv", "block_kv_compute"), ("block_kv_dkv", "block_kv_dkv_compute")):
            if getattr(self, outer) % getattr(self, inner):
                raise ConfigError(
                    f"compute.splash.{outer}={getattr(self, outer)} is no multiple of {inner}={getattr(self, inner)};"
                    " change one"
                )

    def blocks(self) -> dict[str, int]:
        """The block sizes that are in use, by the name of their field. Each must divide data.seq_len."""
        unused = ("block_q_dq", "block_kv_dq") if self.fused_backward else ()
        names = [f.name for f in dataclasses.fields(self) if f.name.startswith("block_")]
        return {name: getattr(self, name) for name in names if name not in unused}


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ComputeConfig:
    """How the model is computed. Any of these may change between two runs on the same checkpoint."""

    attention: Attention
    """splash is a kernel for TPUs, cudnn one for NVIDIA GPUs; reference is plain matrix products, on any device."""
    remat: Remat
    """Which activations a layer keeps for the backward pass; the others are computed again. docs/MEMORY.md lists what
    each policy costs."""
    dtype: Dtype
    """Type of the activations. Weights and optimiser state are float32."""
    loss_chunk_tokens: Count
    """The loss is computed for so many tokens at a time, over all rows of a device group. Fewer tokens need less memory
    for logits."""
    quantise: Quantise = dataclasses.field(default="none", metadata={LATER: True})
    """Round both operands of the layers' matrix products, in the forward pass and for the gradient of the activations;
    fp8_full also for the gradients of the weights. The sampler does not read it. docs/TPU.md has times and losses."""
    decode_kernels: DecodeKernels = dataclasses.field(default="off", metadata={LATER: True})
    """Kernels of a decode step for TPUs whose weights are cut along tensor alone (docs/TPU.md). None has run on a TPU.
    `interpret` runs them on any device, slowly."""
    cache_tokens: Count | None = dataclasses.field(default=None, metadata={LATER: True})
    """Of sampling: room in the KV cache for so many tokens of all answers and their prompts together. Answers take room
    as they grow; those that find none are drawn again later."""
    reduce: Reduce = dataclasses.field(default="auto", metadata={LATER: True})
    """How gradients of the layers' matrices are summed over fsdp: as XLA does it, or by a ring of products that hides
    the transfers, for TPUs without SparseCores (docs/TPU.md). It needs a mesh of data and fsdp alone."""
    splash: SplashConfig = SplashConfig()
    """Block sizes of the splash kernel. Only attention splash reads them."""

    def __post_init__(self) -> None:
        check(self, "compute.")


FLOAT32 = ComputeConfig(attention="reference", remat="none", dtype="float32", loss_chunk_tokens=1)
"""Plain float32 products without a backward pass: for checks, shapes and small models on a CPU."""


NOT_DECISIVE = ("cache_tokens",)
"""Fields of ComputeConfig that change no answer and no score but by rounding: they may be changed at any time."""


def decisive(compute: ComputeConfig) -> ComputeConfig:
    """The same with the defaults of NOT_DECISIVE: samples and rounds that were made with other ones stay valid."""
    defaults: dict[str, Any] = {
        field.name: field.default for field in dataclasses.fields(compute) if field.name in NOT_DECISIVE
    }
    return dataclasses.replace(compute, **defaults)
