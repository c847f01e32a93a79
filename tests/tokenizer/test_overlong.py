"""Dialogues longer than a row, by each policy: literal ids, and nothing lost without a count."""

import pytest
from face import Face

from tigerjax.data.tasks import RowMaker
from tigerjax.tokenizer.chat import encode_chat, shorten


class Letters(Face):
    """One id a lower-case letter."""

    bos, eos, ins, res, pad, folder = 1, 2, 30, 31, 32, "letters"

    def encode(self, text: str) -> list[int]:
        return [3 + ord(c) - ord("a") for c in text]

    def decode(self, ids: list[int]) -> str:
        return "".join(chr(i - 3 + ord("a")) for i in ids)


TOK = Letters()
TALK = [
    {"role": role, "content": text}
    for role, text in [("user", "ab"), ("assistant", "cd"), ("user", "e"), ("assistant", "fghij")]
]
FIRST = [30, 3, 4, 31, 5, 6, 2]  # 7 tokens; the whole dialogue has 16


def test_a_cut_response_has_no_eos_and_the_loss_of_what_is_left():
    ids, weights = shorten(TOK, TALK, 13, "truncate_response")
    assert ids == [*FIRST, 30, 7, 31, 8, 9, 10]
    assert weights == [0, 0, 0, 0, 1, 1, 1, 0, 0, 0, 1, 1, 1]
    assert shorten(TOK, TALK, 10, "truncate_response") is None  # none of its tokens would be left
    assert len(shorten(TOK, TALK, 11, "truncate_response")[0]) == 11
    assert shorten(TOK, TALK, 15, "truncate_response")[0] == encode_chat(TOK, TALK)[0][:15]  # all but the eos


def test_left_turns_are_kept_whole():
    for length in (7, 15):
        assert shorten(TOK, TALK, length, "keep_left_turns") == (FIRST, [0, 0, 0, 0, 1, 1, 1])
    assert shorten(TOK, TALK, 6, "keep_left_turns") is None
    assert shorten(TOK, TALK, 15, "drop") is None


@pytest.mark.parametrize(
    ("overlong", "tokens", "dropped"), [("drop", 7, 2), ("truncate_response", 20, 1), ("keep_left_turns", 14, 1)]
)
def test_rows_hold_what_the_policy_keeps_and_the_rest_is_counted(overlong, tokens, dropped, monkeypatch):
    monkeypatch.setattr("tigerjax.tokenizer.load.Tokenizer", lambda folder: TOK)
    maker = RowMaker("sft", (), "letters", None, overlong=overlong)
    hopeless = [{"role": "user", "content": "a" * 30}, {"role": "assistant", "content": "b"}]
    rows = list(maker.make([{"messages": m} for m in (TALK, TALK[:2], hopeless)], 13))
    assert maker.counts["records"] == 3 and maker.counts["overlong"] == dropped
    assert maker.counts["tokens"] == tokens == sum(int((row[1] > 0).sum()) for row in rows)
    assert maker.counts.get("shortened", 0) == 2 - dropped
