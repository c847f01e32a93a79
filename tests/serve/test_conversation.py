"""A conversation: what is sent, what is kept, and what a terminal shows."""

import dataclasses
import io
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence

import pytest
from tiny_model import ByteTokenizer

from tigerjax.errors import ConfigError, DataError
from tigerjax.sample.engine import Batching, SamplingConfig, generate
from tigerjax.serve import chat as chat_room
from tigerjax.serve import screen
from tigerjax.serve.asked import AnswerPiece, ServeBatching, name_of
from tigerjax.serve.chat import Chat, ChatAnswer, ChatSettings, refuse_base
from tigerjax.serve.engine import Ticket
from tigerjax.serve.screen import Screen, answer_input, side_by_side

SETTINGS = ChatSettings(n=1, temperature=0.9, top_p=0.95, top_k=0, max_new_tokens=12, seed=0)


def chat_with(engine, *, system="", score=None, **changes) -> Chat:
    return Chat(engine, dataclasses.replace(SETTINGS, **changes), system=system, score=score)


def typed(chat: Chat, *lines: str, kept: Sequence[Callable[[], object]] = ()) -> None:
    """A person who types these lines, and then Ctrl-D."""
    left = [*lines]

    def read(prompt: str) -> str:
        if not left:
            raise EOFError
        return left.pop(0)

    Screen(chat, read, *kept).talk()


def test_an_answer_is_that_of_sample_to_the_same_messages(tiny, engine):
    chat = chat_with(engine, system="be brief", n=2)
    texts = ["", ""]
    for new in chat.ask("hello"):
        texts[new.answer] += new.text
    messages = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hello"}]
    prompt = {"prompt_id": name_of(messages), "messages": messages}
    sampling = SamplingConfig(n=2, max_new_tokens=12, seed=0, context=96)
    (record,) = generate(tiny.loaded(), [prompt], sampling, batching=Batching(prompts=1, rows=4))
    assert texts == [c["text"] for c in record["candidates"]] == [answer.text for answer in chat.answers]


def test_the_next_question_is_asked_behind_what_was_said_and_reset_forgets_it(engine, monkeypatch):
    sent = []
    submit = engine.submit
    monkeypatch.setattr(engine, "submit", lambda ask, deliver: sent.append(ask.ids) or submit(ask, deliver))
    chat = chat_with(engine)
    list(chat.ask("hello"))
    answer, decode = chat.answers[0].text, engine.model.tokenizer.decode
    list(chat.ask("more"))
    list(chat.retry())
    assert decode(sent[1]) == f"hello{answer}more" and sent[1] == sent[2]
    chat.reset()
    list(chat.ask("new"))
    assert decode(sent[3]) == "new"
    chat.reset()
    with pytest.raises(ConfigError, match="there is no question yet"):
        list(chat.retry())


def test_the_oldest_turns_are_left_out_where_the_context_ends_and_a_long_question_is_refused(engine, capsys):
    chat = chat_with(engine, system="sys")
    for _ in range(4):
        typed(chat, "x" * 30)
    assert chat.left_out >= 2 and chat.left_out % 2 == 0
    assert f"the first {chat.left_out} messages of the conversation were left out" in capsys.readouterr().err
    typed(chat, "y" * 100)
    said = "this question has 107 tokens with its system text, but it and its answer have at most 96 together"
    assert said in capsys.readouterr().err


def test_the_answer_with_the_highest_score_goes_on_or_the_one_that_is_taken(engine, capsys):
    def score(messages, drawn):
        assert messages[-1]["content"] == "hello" and all(isinstance(one, ChatAnswer) for one in drawn)
        return [0.25, None, 1.5][: len(drawn)]

    chat = chat_with(engine, n=3, score=score)
    typed(chat, "hello", "/take 2", "/take 4")
    out, err = capsys.readouterr()
    assert "[1] score 0.25" in out and "[2]\n" in out and "[3] score 1.50, the conversation continues from it" in out
    assert "the conversation continues from answer 2" in out
    assert "answer 4 is not there; there are 3 answers, from 1" in err
    assert chat._said[-1]["content"] == chat.answers[1].text


def test_what_was_said_can_be_written_down_after_each_line(engine):
    chat = chat_with(engine)
    answers: list[str] = []
    typed(chat, "hello", "/n 200", "more", kept=[lambda: answers.append(chat.record()["answers"][0]["text"])])
    assert len(answers) == 2 and answers[-1] == chat.answers[0].text


def test_what_is_typed_wrongly_is_named_and_the_conversation_goes_on(engine, capsys):
    chat = chat_with(engine)
    typed(
        chat, "/tempratur 1", "/n four", "/n", "/n 100000", "/temperature 1000", "/nothing", "/temperature 0", "/n 2",
        "/system X", "/system", "/reset", "/help", "", "//slash", "/quit now", "/quit", "never reached",
    )  # fmt: skip
    out, err = capsys.readouterr()
    assert "no command /tempratur (`/help` lists them); did you mean /temperature?" in err
    assert "/n four needs a number; type /n 4" in err
    assert "\n/n needs a number; type /n 4\nn=100000 must be a whole number at least 1 and at most 128\n" in err
    assert "temperature=1000.0 must be at least 0 and at most 100" in err
    assert "no command /nothing (`/help` lists them)" in err
    assert "/quit takes nothing behind it; type /quit alone to end" in err
    assert "temperature is 0 from now on\nn is 2 from now on\nthe instruction holds" in out
    assert all(line in out for line in screen.HELP)
    assert chat._question == [{"role": "user", "content": "/slash"}] and len(chat.answers) == 2


class Slow:
    """An engine that gives one token of each answer, and more only when it is cancelled."""

    def __init__(self, model, *, batching):
        self.model, self.batching, self.slots, self.context, self.closed = model, batching, batching.slots, 96, False

    def submit(self, ask, deliver):
        ticket = Ticket(ask, deliver)

        def work() -> None:
            for answer in range(ask.n):
                deliver(AnswerPiece(answer, [100], [0.0], [], None))
            while len(ticket._cancelled) < ask.n:
                time.sleep(0.01)
            for answer in range(ask.n):
                deliver(AnswerPiece(answer, [], [], [], "cancelled"))

        threading.Thread(target=work, daemon=True).start()
        return ticket

    def close(self) -> None:
        self.closed = True


def test_more_answers_than_slots_are_answered_by_an_engine_of_more_slots(tiny, monkeypatch):
    monkeypatch.setattr(chat_room, "Engine", Slow)
    engine = Slow(tiny.loaded(), batching=ServeBatching(slots=2, queue=7))
    chat = chat_with(engine, n=1)
    chat.change(dataclasses.replace(SETTINGS, n=2))
    assert chat._engine is engine and not engine.closed
    chat.change(dataclasses.replace(SETTINGS, n=5))
    assert engine.closed and chat._engine.batching == ServeBatching(slots=5, queue=7)
    assert chat._engine.model is engine.model


@pytest.fixture
def ctrl_c():
    """Ctrl-C raises KeyboardInterrupt; a process that was started in the background ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_ctrl_c_ends_an_answer_and_not_the_conversation(tiny, ctrl_c, capsys):
    chat = chat_with(Slow(tiny.loaded(), batching=ServeBatching()), n=2)
    for question in ("hello", "and then"):
        for number, _ in enumerate(chat.ask(question)):
            if number == 1:
                os.kill(os.getpid(), signal.SIGINT)
        assert chat.answers == [ChatAnswer("a", "cancelled")] * 2
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert [m["content"] for m in chat._said] == ["hello", "a", "and then", "a"]
    lines = iter([KeyboardInterrupt, "/quit"])

    def read(prompt: str) -> str:
        line = next(lines)
        if line is KeyboardInterrupt:
            raise line
        return line

    Screen(chat, read).talk()
    assert "/quit or Ctrl-D ends" in capsys.readouterr().out


def test_a_second_ctrl_c_ends_the_program(tiny, ctrl_c):
    chat = chat_with(Slow(tiny.loaded(), batching=ServeBatching()))
    with pytest.raises(KeyboardInterrupt):
        for _ in chat.ask("hello"):
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_question_on_standard_input_gets_its_answer_and_nothing_else_on_standard_output(engine, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("hello\n"))
    chat = chat_with(engine)
    answer_input(chat)
    out, err = capsys.readouterr()
    assert out == f"{screen.printable(chat.answers[0].text)}\n"
    assert ("cut at --max-new-tokens 12" in err) == (chat.answers[0].finish == "length")
    monkeypatch.setattr("sys.stdin", io.StringIO("\n"))
    with pytest.raises(DataError, match="nothing came on standard input"):
        answer_input(chat)


def test_answers_stand_side_by_side_where_the_terminal_is_wide_enough():
    english, chinese = "[1]\n" + "word " * 20, "[2]\n" + "虎" * 40
    lines = side_by_side([english, chinese], 80)
    assert lines[0] == "[1]" + " " * 35 + " | [2]"
    assert {screen._columns(line) for line in lines[1:3]} == {79} and lines[1].count("虎") == 19
    assert all(screen._columns(line) <= 80 for line in lines)
    assert "".join(lines).count("word") == 20 and "".join(lines).count("虎") == 40
    below = side_by_side([english, chinese], 50)
    assert not any(" | " in line for line in below) and "[2]" in below
    assert side_by_side(["\x1b[31mred"], 80) == ["\ufffd[31mred"]


def test_a_base_model_gets_one_line():
    base = type("Base", (ByteTokenizer,), {"ins": None, "res": None, "pad": None, "no_template": ""})()
    with pytest.raises(ConfigError, match=r"runs/base cannot hold a conversation: tokenizer bytes is a base tokenizer"):
        refuse_base(base, "runs/base")
