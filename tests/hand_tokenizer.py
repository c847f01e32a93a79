"""Tokenizer folders that are written by hand, without training: a few pieces, and the files that libraries write."""

import json
from pathlib import Path

from tigerjax.tokenizer.model_file import new_proto

INS, RES, PAD = "\n\n### Instruction:\n", "\n\n### Response:\n", "<pad>"
WORDS = ["▁", "a", "b", "c", "d", "▁a", "ab", "cd", "abcd"]
PIECES = 3 + 256 + len(WORDS)


def model_bytes(words: list[str] = WORDS) -> bytes:
    """A SentencePiece BPE: unk, bos, eos, 256 bytes, then the words, the first with the best score."""
    proto = new_proto()
    for text, kind in (("<unk>", 2), ("<s>", 3), ("</s>", 3)):
        proto.pieces.add(piece=text, score=0.0, type=kind)
    for byte in range(256):
        proto.pieces.add(piece=f"<0x{byte:02X}>", score=0.0, type=6)
    for n, text in enumerate(words):
        proto.pieces.add(piece=text, score=-1.0 - n, type=1)
    spec = proto.trainer_spec
    spec.model_type, spec.byte_fallback, spec.vocab_size = 2, True, len(proto.pieces)
    spec.unk_id, spec.bos_id, spec.eos_id, spec.pad_id = 0, 1, 2, -1
    proto.normalizer_spec.name = "identity"
    proto.normalizer_spec.add_dummy_prefix = True
    proto.normalizer_spec.remove_extra_whitespaces = False
    proto.normalizer_spec.escape_whitespaces = True
    return proto.SerializeToString()


def write_added(folder: Path, *texts: str, words: list[str] = WORDS) -> Path:
    """tokenizer.model, and added_tokens.json with these texts behind its pieces."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.model").write_bytes(model_bytes(words))
    first = 259 + len(words)
    (folder / "added_tokens.json").write_text(json.dumps({text: first + n for n, text in enumerate(texts)}))
    return folder
