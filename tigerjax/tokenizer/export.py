"""Writes the Hugging Face files of a tokenizer folder.

We do not use `LlamaTokenizer`: in transformers 5 it builds its pipeline anew and gives other ids than SentencePiece,
even for Llama-2. A plain BPE with all merges written out, read by `PreTrainedTokenizerFast`, gives the same ids in 4.57
and 5.x. Each segment between specials gets its own "▁", so a chat that is encoded as one string has the ids of
`tigerjax.tokenizer.chat`.
"""

import json
from pathlib import Path
from typing import Any

from tigerjax.tokenizer.added import CONFIG_FILE, FAST_FILE, decoder
from tigerjax.tokenizer.hf_files import MAP_FILE
from tigerjax.tokenizer.load import Tokenizer
from tigerjax.tokenizer.model_file import CONTROL, NORMAL, UNKNOWN, read_proto

CHAT_TEMPLATE = (  # a system message opens the user's next one, as in `tigerjax.records.dialogue`
    "{%- set seen = namespace(system='', turns=0) -%}"
    "{%- for message in messages -%}"
    "{%- if message['role'] in ['system', 'developer'] -%}"
    "{%- if message['content'].strip() -%}"
    "{%- set seen.system = seen.system + message['content'] + '\\n\\n' -%}"
    "{%- endif -%}"
    "{%- else -%}"
    "{%- if message['role'] != ('user' if seen.turns % 2 == 0 else 'assistant') -%}"
    "{{- raise_exception('roles must alternate user, assistant, user, ...') -}}"
    "{%- endif -%}"
    "{%- set seen.turns = seen.turns + 1 -%}"
    "{%- if message['role'] == 'user' -%}"
    "{{- '\\n\\n### Instruction:\\n' + seen.system + message['content'] -}}"
    "{%- set seen.system = '' -%}"
    "{%- else -%}"
    "{{- '\\n\\n### Response:\\n' + message['content'] + eos_token -}}"
    "{%- endif -%}"
    "{%- endif -%}"
    "{%- if seen.system and (loop.last or message['role'] == 'assistant') -%}"
    "{{- raise_exception('a system message must be followed by a message of the user') -}}"
    "{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '\\n\\n### Response:\\n' -}}{%- endif -%}"
)


def merges(pieces: list[tuple[str, float]], first_id: int = 0) -> list[list[str]]:
    """[left, right] of every way to make a piece of two others, the best score of the whole first.

    Equal scores are ordered by the ids of the whole, the left and the right piece. `pieces` are (text, score) of the
    NORMAL pieces in the order of their ids. The time is linear in their total length.
    """
    ids = {text: first_id + n for n, (text, _) in enumerate(pieces)}
    splits: list[tuple[float, int, int, int, str, str]] = []
    for text, score in pieces:
        for cut in range(1, len(text)):
            left, right = text[:cut], text[cut:]
            if left in ids and right in ids:
                splits.append((-score, ids[text], ids[left], ids[right], left, right))
    splits.sort()
    return [[left, right] for *_, left, right in splits]


def _known(proto: Any, added: dict[int, str]) -> dict[int, str]:
    """{id: text} of all tokens that text never gives: those of the model (<s> and the like) and the added ones."""
    return {i: piece.piece for i, piece in enumerate(proto.pieces) if piece.type in (UNKNOWN, CONTROL)} | added


def tokenizer_json(proto: Any, added: dict[int, str]) -> dict[str, Any]:
    """The content of tokenizer.json for a SentencePiece model and the texts of the added tokens by id."""
    vocab = {piece.piece: i for i, piece in enumerate(proto.pieces)}
    normal = [(piece.piece, piece.score) for piece in proto.pieces if piece.type == NORMAL]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {
                "id": i,
                "content": text,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": True,
            }
            for i, text in sorted(_known(proto, added).items())
        ],
        "normalizer": {
            "type": "Sequence",
            "normalizers": [
                {"type": "Prepend", "prepend": "▁"},
                {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
            ],
        },
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
                {"type": "Strip", "content": " ", "start": 1, "stop": 0},
            ],
        },
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": proto.trainer_spec.unk_piece or "<unk>",
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": True,
            "ignore_merges": False,
            "vocab": vocab,
            "merges": merges(normal),
        },
    }


def files_of(folder: Path) -> dict[str, str]:
    """The text of tokenizer.json, tokenizer_config.json and special_tokens_map.json for a tokenizer folder."""
    tokenizer, proto = Tokenizer(folder), read_proto(folder)
    spec = proto.trainer_spec
    names = {"bos_token": spec.bos_piece, "eos_token": spec.eos_piece, "unk_token": spec.unk_piece}
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "add_bos_token": False,
        "add_eos_token": False,
        "clean_up_tokenization_spaces": False,
        # transformers' value for "no limit"; the model knows its context
        "model_max_length": int(1e30),
        "padding_side": "left",
        "added_tokens_decoder": decoder(_known(proto, tokenizer.added)),
    }
    if tokenizer.pad is not None:
        names["pad_token"] = tokenizer.added[tokenizer.pad]
    if {"ins", "res"} <= set(tokenizer.special_texts):
        config["chat_template"] = CHAT_TEMPLATE
    fast = json.dumps(tokenizer_json(proto, tokenizer.added), ensure_ascii=False, separators=(",", ":"))
    return {FAST_FILE: fast, CONFIG_FILE: _indented(config | names), MAP_FILE: _indented(names)}


def export(folder: Path) -> None:
    """Writes these three files beside the model and its specials."""
    for name, text in files_of(folder).items():
        (folder / name).write_text(text, encoding="utf-8")


def _indented(value: dict[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False, indent=1) + "\n"
