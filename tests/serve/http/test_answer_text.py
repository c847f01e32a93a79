"""The text of an answer as its tokens come: whole characters, stop strings over the borders of tokens."""

import pytest
from bytes_tokenizer import Bytes
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tigerjax.serve.text import AnswerText

TOKENIZER = Bytes()


def told(text: str, stops: list[str], sizes: list[int]) -> tuple[list[str], list, AnswerText]:
    """(the texts that were given, the tokens, the answer) where the tokens come in pieces of these sizes."""
    ids, answer, texts, tokens = TOKENIZER.encode(text), AnswerText(TOKENIZER, stops), [], []
    sizes = sizes or [1]
    at = place = 0
    while at < len(ids) and not answer.stopped:
        part = ids[at : at + sizes[place % len(sizes)]]
        delta = answer.add(part, [-float(i) for i in part], [])
        texts, tokens, at, place = [*texts, delta.text], tokens + delta.tokens, at + len(part), place + 1
    if not answer.stopped:
        delta = answer.end()
        texts, tokens = [*texts, delta.text], tokens + delta.tokens
    return texts, tokens, answer


def cut(text: str, stops: list[str]) -> str:
    places = [place for stop in stops if (place := text.find(stop)) >= 0]
    return text[: min(places)] if places else text


def test_a_stop_string_over_several_tokens_is_left_out_and_ends_the_answer():
    texts, tokens, answer = told("one two three", ["o th", "e "], [1])
    assert "".join(texts) == "on" and answer.stopped and answer.tokens == 4
    assert [t.id for t in tokens] == TOKENIZER.encode("on") and [t.begin for t in tokens] == [0, 1]


def test_what_may_begin_a_stop_string_is_held_back_until_it_is_decided():
    answer = AnswerText(TOKENIZER, ["abc"])
    seen = [answer.add([i], [0.0], []).text for i in TOKENIZER.encode("xababd")]
    assert seen == ["x", "", "", "ab", "", "abd"]
    assert answer.end().text == ""


def test_a_character_of_several_tokens_comes_whole_and_half_of_one_at_the_end():
    texts, tokens, _ = told("你a", [], [1])
    assert texts == ["", "", "你", "a", ""] and [t.begin for t in tokens] == [0, 0, 0, 1]
    answer = AnswerText(TOKENIZER, ["z"])
    answer.add(TOKENIZER.encode("你")[:2], [0.0, 0.0], [])
    ended = answer.end()
    assert ended.text == "\ufffd" and len(ended.tokens) == 2


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(
    st.text("ab你c", max_size=30),
    st.lists(st.text("ab你", min_size=1, max_size=4), max_size=3),
    st.lists(st.integers(1, 5), max_size=4),
)
def test_the_pieces_are_the_text_up_to_the_first_stop_string_however_they_come(text, stops, sizes):
    texts, tokens, answer = told(text, stops, sizes)
    whole = "".join(texts)
    if not stops:
        assert whole == text and len(tokens) == len(text.encode())
    # The answer ends with the token that completes a stop string: one that is complete later does not count.
    ends = min((text.find(s) + len(s) for s in stops if s in text), default=None)
    seen = text if ends is None else text[:ends]
    assert whole == cut(seen, stops) and answer.stopped == (ends is not None)
    assert [t.begin for t in tokens] == sorted(t.begin for t in tokens)


@pytest.mark.parametrize("stops", [[], ["zz"]])
def test_tokens_are_reported_once_each_with_what_belongs_to_them(stops):
    _, tokens, _ = told("hello", stops, [2])
    assert [(t.id, t.logprob) for t in tokens] == [(i, -float(i)) for i in TOKENIZER.encode("hello")]
