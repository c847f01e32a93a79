"""SFT examples of every form that people have: nothing that they say is left out without a count."""

import json

import pytest
from face import Face

from tigerjax import records
from tigerjax.align import reward_data
from tigerjax.align.encoding import encode_answer, encode_sampled
from tigerjax.align.prompts import prompt_key
from tigerjax.data.tasks import RowMaker
from tigerjax.errors import DataError
from tigerjax.tokenizer.chat import encode_chat, encode_prompt


def talk(*texts):
    """Messages of user and assistant in turns."""
    return [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(texts)]


def turns(*pairs):
    return [{"from": role, "value": text} for role, text in pairs]


def sft(record, counts=None):
    return records.as_sft(record, "x.jsonl:1", counts=counts)["messages"]


SYSTEM = {"role": "system", "content": "Be kind."}
QUESTION, ANSWER = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}
SAME = {
    "messages": {"messages": [SYSTEM, QUESTION, ANSWER]},
    "messages and a column": {"system": "Be kind.", "messages": [QUESTION, ANSWER]},
    "both, the same text": {
        "system": "Be kind.",
        "messages": [SYSTEM, QUESTION, ANSWER],
    },
    "OpenAI's newer role": {"messages": [{"role": "developer", "content": "Be kind."}, QUESTION, ANSWER]},
    "ShareGPT turn": {"conversations": turns(("system", "Be kind."), ("human", "Hi"), ("gpt", "Hello"))},
    "ShareGPT column": {"system": "Be kind.", "conversations": turns(("human", "Hi"), ("gpt", "Hello"))},
    "Alpaca": {"system": "Be kind.", "instruction": "Hi", "input": "", "output": "Hello"},
}


@pytest.mark.parametrize("form", SAME)
def test_the_system_text_opens_the_first_question_in_every_form(form):
    example = records.as_sft(SAME[form], "x.jsonl:1")
    assert example["messages"] == talk("Be kind.\n\nHi", "Hello") and "system" not in example


@pytest.mark.parametrize("empty", [None, "", " \n"])
def test_an_empty_system_text_is_none(empty):
    assert sft({"system": empty, "instruction": "Hi", "output": "Hello"}) == talk("Hi", "Hello")


def test_a_later_system_message_opens_the_question_that_follows_it():
    later = [*talk("a", "b"), {"role": "system", "content": "Now in French."}, *talk("c", "d")]
    assert sft({"messages": later}) == talk("a", "b", "Now in French.\n\nc", "d")
    with pytest.raises(DataError, match="message 3 has role 'system', but 'user' must stand there"):
        sft({"messages": [*talk("a", "b"), {"role": "system", "content": "x"}, *talk("c", "d")[1:], *talk("e", "f")]})


class Letters(Face):
    """One id a lower-case letter; the blank lines behind a system text are 0."""

    bos, eos, ins, res, pad, folder = 1, 2, 30, 31, 32, "letters"

    def encode(self, text):
        return [0 if c == "\n" else 3 + ord(c) - ord("a") for c in text]


def test_the_encoding_of_a_prompt_with_a_system_message_is_that_of_the_example():
    system = [{"role": "system", "content": "s"}, *talk("a", "b")]
    ids, weights = encode_chat(Letters(), system)
    assert (ids, weights) == encode_chat(Letters(), sft({"messages": system}))
    assert ids == [30, 21, 0, 0, 3, 31, 4, 2] and weights == [0, 0, 0, 0, 0, 0, 1, 1]
    assert encode_prompt(Letters(), system[:2]) == ids[:6]


def test_preferences_and_their_answers_read_a_system_message_in_the_same_way(tmp_path):
    system = [{"role": "system", "content": "s"}, {"role": "user", "content": "a"}]
    pair = {"messages": system, "chosen": "b", "rejected": "c"}
    (tmp_path / "x.jsonl").write_text(json.dumps(pair) + "\n")
    ((comparison,), _) = reward_data.read([tmp_path / "x.jsonl"])
    assert comparison.messages == talk("s\n\na")
    long = [*system, *talk("q", "a")[1:], {"role": "user", "content": "d"}]
    for given, wanted in ((system, [30, 21, 0, 0, 3, 31, 4, 2]), (long, [30, 6, 31, 4, 2])):
        ids = encode_answer(Letters(), given, "b", "stop", seq_len=8, where="x").ids
        assert ids == wanted  # the oldest turns fall out, the system text with them
    cut, finish = encode_sampled(Letters(), system, "bb", "stop", seq_len=8, where="x")
    assert (cut.prompt, cut.answer, finish) == ([30, 21, 0, 0, 3, 31], [4, 4], "length")


def test_earlier_turns_of_an_alpaca_record_become_messages():
    record = {"instruction": "And of Italy?", "input": "", "output": "Rome.", "history": [["Of France?", "Paris."]]}
    example = records.as_sft(record, "x.jsonl:1")
    assert example["messages"] == talk("Of France?", "Paris.", "And of Italy?", "Rome.")
    assert example.keys() == {"messages", "task", "lang", "source"}
    for none in (None, []):
        assert sft(record | {"history": none}) == talk("And of Italy?", "Rome.")


@pytest.mark.parametrize(
    ("history", "says"),
    [
        ([["only a question"]], r"pair 1 of 'history' must be \[question, answer\]"),
        ([["a", "b"], ["c", None]], "pair 2 of 'history'"),
        ("a text", "'history' is str, but a list"),
        ([["a", " "]], "message 2 .assistant. is empty"),
        ([["a", "\u200b\ufeff"]], "message 2 .assistant. is empty"),
    ],
)
def test_a_history_of_another_form_is_named(history, says):
    with pytest.raises(DataError, match=r"x\.jsonl:1: .*" + says):
        sft({"instruction": "q", "output": "a", "history": history})


@pytest.mark.parametrize("given", ["cat", "Translate", "Translate cat."])
def test_an_input_that_stands_in_the_instruction_is_kept(given):
    record = {"instruction": "Translate cat.", "input": given, "output": "猫"}
    assert sft(record) == talk(f"Translate cat.\n{given}", "猫")
    assert sft(record | {"input": " "}) == talk("Translate cat.", "猫")


def test_dialogues_are_cut_to_whole_pairs_and_counted():
    counts = {}
    hello = talk("Hi", "Hello")
    assert sft({"conversations": turns(("human", "Hi"), ("gpt", "Hello"), ("human", "thanks"))}, counts) == hello
    assert sft({"conversations": turns(("gpt", "Welcome!"), ("human", "Hi"), ("gpt", "Hello"))}, counts) == hello
    greeting = [{"role": "system", "content": "s"}, {"role": "assistant", "content": "Welcome!"}, *hello]
    assert sft({"messages": greeting}, counts) == talk("s\n\nHi", "Hello")
    assert counts == {"trimmed": 3}
    assert sft({"messages": hello}, counts) == hello and counts == {"trimmed": 3}
    for nothing in (talk("q"), talk("q", "a")[1:], []):
        with pytest.raises(DataError, match="pairs of user and assistant"):
            sft({"messages": nothing}, counts)
    assert counts == {"trimmed": 3}


@pytest.mark.parametrize(
    ("dialogue", "says"),
    [
        (
            {"conversations": turns(("human", "w?"), ("function_call", "{}"), ("observation", "x"), ("gpt", "y"))},
            "'func",
        ),
        ({"conversations": turns(("human", "w?"), ("observation", "sunny"), ("gpt", "It is."))}, "'observation'"),
        ({"messages": [QUESTION, {"role": "assistant", "content": None, "tool_calls": [{"id": 1}]}]}, "'tool_calls'"),
        ({"messages": [QUESTION, {"role": "tool", "content": "sunny"}, ANSWER]}, "role 'tool'"),
    ],
)
def test_turns_of_tools_are_refused_by_name(dialogue, says):
    with pytest.raises(DataError, match=rf"message 2 .*{says}.*turns of tools have no form"):
        sft(dialogue)


WEIGHTED = {
    "weight": {
        "messages": [*talk("a", "b")[:1], {**talk("a", "b")[1], "weight": 0}, {**talk("c")[0], "weight": 1}, ANSWER]
    },
    "train": {
        "conversations": [
            {"from": "human", "value": "a"},
            {"from": "gpt", "value": "b", "train": False},
            {"from": "human", "value": "c", "train": False},
            {"from": "gpt", "value": "Hello", "train": True},
        ]
    },
    "loss": {"messages": [*talk("a", "b")[:1], {**talk("a", "b")[1], "loss": False}, *talk("c"), ANSWER]},
}


@pytest.mark.parametrize("mark", WEIGHTED)
def test_a_turn_that_is_marked_is_no_part_of_the_loss(mark):
    messages = sft(WEIGHTED[mark])
    assert messages == [*talk("a"), {"role": "assistant", "content": "b", "weight": 0.0}, *talk("c"), ANSWER]
    lower = [m | {"content": m["content"].lower()} for m in messages]
    ids, weights = encode_chat(Letters(), lower)
    assert ids == [30, 3, 31, 4, 2, 30, 5, 31, *Letters().encode("hello"), 2]
    assert weights == [0] * 8 + [1] * 6


def test_weights_of_turns_and_of_the_example_multiply_and_pass_through_rows(monkeypatch):
    monkeypatch.setattr("tigerjax.tokenizer.load.Tokenizer", lambda folder: Letters())
    messages = [*talk("a"), {"role": "assistant", "content": "b", "weight": 0.5}]
    example = {"messages": messages, "weight": 0.5}
    (row,) = RowMaker("sft", (), "letters", None).make([example], 5)
    assert row[2].view("float32").tolist() == [0, 0, 0, 0.25, 0.25]
    plain = RowMaker("plain", (), "letters", None)
    bad = {"messages": [*talk("a"), {"role": "assistant", "content": "b", "weight": 0}]}
    monkeypatch.setattr(Letters, "encode_batch", lambda self, texts: [*map(self.encode, texts)], raising=False)
    assert len(list(plain.make([{"messages": talk("a", "b")}, bad, {"messages": talk("a", "b"), "weight": 0}], 2))) == 2
    assert plain.counts["weightless"] == 2 and plain.counts["records"] == 3


def test_a_prompt_is_the_same_whatever_its_turns_weigh():
    assert prompt_key([*talk("a"), {**talk("a", "b")[1], "weight": 0.0}]) == prompt_key(talk("a", "b"))


@pytest.mark.parametrize("wrong", [{"weight": -1}, {"weight": "0"}, {"weight": True}, {"train": "no"}])
def test_a_wrong_weight_of_a_turn_is_named(wrong):
    with pytest.raises(DataError, match=r"x\.jsonl:1: .*message 2.* (weight|train)"):
        sft({"messages": [QUESTION, ANSWER | wrong]})


def test_what_readers_change_is_one_line_on_standard_error(tmp_path, capsys):
    cut = {"conversations": turns(("gpt", "Welcome!"), ("human", "Hi"), ("gpt", "Hello"))}
    (tmp_path / "x.jsonl").write_text(json.dumps(cut) + "\n" + json.dumps(cut) + "\n")
    ids = [example["id"] for example in records.sft_examples(tmp_path / "x.jsonl")]
    assert ids[1] == ids[0] + "-000002"
    first, second = capsys.readouterr().err.splitlines()
    assert "x.jsonl: 2 dialogues began with an answer" in first
    assert "x.jsonl: 1 records without an id are equal to an earlier one" in second


@pytest.mark.parametrize("mark", [{"loss": 0}, {"loss": 0.0}, {"train": 0}, {"train": False}])
def test_a_mark_of_zero_is_the_same_as_false(mark):
    assert sft({"messages": [QUESTION, ANSWER | mark]})[1]["weight"] == 0.0


@pytest.mark.parametrize("mark", [{"loss": "false"}, {"loss": 0.5}, {"train": "false"}])
def test_a_mark_that_is_neither_true_nor_false_is_named(mark):
    with pytest.raises(DataError, match=r"message 2 has (loss|train) .*must be true or false"):
        sft({"messages": [QUESTION, ANSWER | mark]})


EARLIER = {
    "messages": {"messages": talk("c", "d")},
    "ShareGPT": {"conversations": turns(("human", "c"), ("gpt", "d"))},
    "Alpaca": {"instruction": "c", "output": "d"},
}


@pytest.mark.parametrize("form", EARLIER)
def test_earlier_turns_are_kept_in_every_form(form):
    assert sft(EARLIER[form] | {"history": [["a", "b"]]}) == talk("a", "b", "c", "d")


def test_lists_that_a_table_holds_as_text_are_read(tmp_path):
    pairs = talk("q", "a")
    for field, value in (("messages", pairs), ("conversations", turns(("human", "q"), ("gpt", "a")))):
        assert sft({field: json.dumps(value), "history": ""}) == pairs
    assert sft({"instruction": "q", "output": "a", "history": json.dumps([["x", "y"]])}) == talk("x", "y", "q", "a")
    with pytest.raises(DataError, match=r"no JSON .*json\.dumps"):
        sft({"messages": str(pairs)})


def test_parts_of_text_are_one_text_and_other_parts_are_refused():
    parts = [{"type": "text", "text": "H"}, {"type": "text", "text": "i"}]
    assert sft({"messages": [QUESTION | {"content": parts}, ANSWER]}) == talk("Hi", "Hello")
    with pytest.raises(DataError, match="'content' is list"):
        sft({"messages": [QUESTION | {"content": [{"type": "image_url"}, *parts]}, ANSWER]})


def test_a_weight_of_null_is_no_weight():
    given = {"messages": [QUESTION, ANSWER | {"weight": None}], "weight": None}
    assert sft(given) == talk("Hi", "Hello") and "weight" not in records.as_sft(given, "x:1")
