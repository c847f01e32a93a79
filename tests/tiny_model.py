"""A tiny Llama in which no value is customary and hardly two sizes are equal, and a tokenizer of bytes, for all rooms.

Two key heads and an even `model_dim`, so that a mesh of fsdp=2, tensor=2 divides it.
"""

from typing import ClassVar

from face import Face

from tigerjax.config import ComputeConfig, ModelConfig

CONFIG = ModelConfig(
    num_layers=2,
    model_dim=16,
    mlp_dim=40,
    num_heads=4,
    num_kv_heads=2,
    head_dim=6,
    vocab_size=262,
    padded_vocab_size=272,
    rope_base=3000.0,
    norm_eps=3e-4,
)
COMPUTE = ComputeConfig(attention="reference", remat="none", dtype="float32", loss_chunk_tokens=48)


class ByteTokenizer(Face):
    """UTF-8 bytes after unk, bos and eos, then the three specials: what is needed of tokenizer.load.Tokenizer."""

    folder, sha256 = "bytes", "b" * 64
    bos, eos, ins, res, pad, size = 1, 2, 259, 260, 261, 262
    special_texts: ClassVar = {"ins": "\n\n### Instruction:\n", "res": "\n\n### Response:\n", "pad": "<pad>"}

    def encode(self, text: str) -> list[int]:
        return [b + 3 for b in text.encode()]

    def decode(self, ids: list[int]) -> str:
        return bytes(i - 3 for i in ids if 3 <= i < 259).decode(errors="replace")
