"""Answers to score where the tokenizer has a chat template."""

import json_tokenizer
import pytest

from tigerjax.align.encoding import OverlongAnswer, check_end, encode_answer, encode_sampled
from tigerjax.errors import DataError
from tigerjax.tokenizer.chat import encode_chat, encode_prompt
from tigerjax.tokenizer.load import Tokenizer

SYSTEM = {"role": "system", "content": "Be brief."}
TURNS = [
    {"role": "user", "content": "first " * 20},
    {"role": "assistant", "content": "yes"},
    {"role": "user", "content": "second"},
]


@pytest.fixture(scope="module")
def tok(tmp_path_factory):
    return Tokenizer(json_tokenizer.write(tmp_path_factory.mktemp("tok"), "qwen", eos_token="<|endoftext|>"))


def test_an_answer_is_what_training_sees_and_ends_with_what_ends_a_turn(tok):
    ids = encode_answer(tok, [SYSTEM, *TURNS], "no", "stop", seq_len=1000, where="").ids
    whole, _ = encode_chat(tok, [SYSTEM, *TURNS, {"role": "assistant", "content": "no"}])
    assert ids == whole[: len(ids)] and ids[-1] == tok.end != tok.eos
    check_end(tok, ids, "stop", "")
    with pytest.raises(DataError, match="has no eos"):
        check_end(tok, [*ids[:-1], tok.eos], "stop", "")


def test_a_long_dialogue_loses_its_oldest_turns_and_keeps_its_system_message(tok):
    short = encode_prompt(tok, [SYSTEM, TURNS[2]])
    ids = encode_answer(tok, [SYSTEM, *TURNS], "no", "stop", seq_len=len(short) + 10, where="").ids
    assert ids == [*short, *tok.encode("no"), tok.end]
    with pytest.raises(OverlongAnswer, match="question and answer have"):
        encode_answer(tok, [SYSTEM, *TURNS], "no", "stop", seq_len=len(short), where="")
    cut, finish = encode_sampled(tok, [SYSTEM, *TURNS], "no " * 50, "stop", seq_len=len(short) + 5, where="")
    assert cut.ids == [*short, *tok.encode("no " * 50)][: len(short) + 5] and finish == "length"
