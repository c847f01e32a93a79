"""Requests that come and go: each gets the answers of `tigerjax sample`, whatever else is answered."""

import dataclasses
import threading

import jax
import numpy as np
import pytest
from asking import LONG_S, Answers, ask

from tigerjax import mesh as mesh_axes
from tigerjax.config import MeshConfig
from tigerjax.errors import ConfigError, Full, Stopped
from tigerjax.model import families
from tigerjax.sample import slots
from tigerjax.sample.engine import Batching, SamplingConfig, generate
from tigerjax.serve.engine import AnswerPiece, Ask, Engine
from tigerjax.tokenizer.chat import encode_prompt

CONTEXT, CHUNK = 96, 16  # of the fixture `batching`
LOGPROB_TOLERANCE = 1e-4  # sums of 12 float32 log-probabilities, in other orders of summation


def served(engine: Engine, asks: list[Ask]) -> list[list[tuple[list[int], str]]]:
    """The answers to requests that all come at once."""
    got = [Answers(one.n) for one in asks]
    for one, answers in zip(asks, got, strict=True):
        engine.submit(one, answers)
    return [answers.result() for answers in got]


def sampled(tiny, text: str, one: Ask) -> list[tuple[list[int], str]]:
    """The same from the sampler."""
    how = {name: getattr(one, name) for name in ("n", "max_new_tokens", "temperature", "top_p", "top_k", "seed")}
    sampling = SamplingConfig(**how, stop_ids=one.stop_ids, context=CONTEXT)
    prompt = {"prompt_id": one.prompt_id, "text": text}
    (record,) = generate(tiny.loaded(), [prompt], sampling, batching=Batching(prompts=1, rows=4))
    return [(c["token_ids"], c["finish"]) for c in record["candidates"]]


# Few settings, as the sampler compiles each by itself; the engine mixes them all.
SETTINGS = [
    {"temperature": 0.0, "top_p": 1.0},
    {},
    {"temperature": 1.3, "top_p": 1.0, "top_k": 5},
    {"temperature": 0.7, "top_p": 0.8, "top_k": 40, "stop_ids": (100,)},
]
LONG = {"max_new_tokens": 90, "temperature": 5.0, "top_p": 1.0}  # nearly uniform: such an answer hardly ever ends


def test_thirty_mixed_requests_get_the_answers_of_sample_alone_and_together_and_compile_nothing(tiny, engine):
    # Longer ones with one setting only: each length of a prompt and each setting is a program of the sampler's own.
    texts = [chr(97 + k % 7) * (1 + 13 * k % (27 if k % len(SETTINGS) else 60)) for k in range(30)]
    asks = [
        ask(tiny, text, f"p{k}", seed=k % 3, n=1 + k % 3, **SETTINGS[k % len(SETTINGS)]) for k, text in enumerate(texts)
    ]
    compiled, before = slots.traced[0], engine.figures()
    together = served(engine, asks)
    alone = [served(engine, [one])[0] for one in asks]  # their beginnings are kept by now
    assert slots.traced[0] == compiled
    assert together == alone
    assert together == [sampled(tiny, text, one) for text, one in zip(texts, asks, strict=True)]
    after = engine.figures()
    assert (after.queued, after.used, after.requests - before.requests) == (0, 0, 60)
    assert after.answers - before.answers == 2 * sum(a.n for a in asks)
    assert before.kept_tokens < after.kept_tokens < after.prompt_tokens


def test_a_conversation_that_goes_on_is_not_read_again_and_answered_as_if_it_were(tiny, engine):
    ids = tuple(encode_prompt(tiny.tokenizer, [{"role": "user", "content": "abcdefgh" * 3}]))
    read = 0  # tokens that the model has read of this conversation
    for turn in range(2):
        before = engine.figures().kept_tokens
        one = ask(tiny, "a", f"turn {turn}", ids=ids, temperature=0.0, max_new_tokens=20)
        ((answer, finish),) = served(engine, [one])[0]
        assert engine.figures().kept_tokens - before == read // CHUNK * CHUNK
        for t, token in enumerate(answer):
            assert token == int(tiny.logits([*ids, *answer[:t]])[-1].argmax())
        ids = (*ids, *answer)
        read = len(ids) - (finish == "length")
        ids = (*ids, 2, *encode_prompt(tiny.tokenizer, [{"role": "user", "content": "i"}]))
    assert read > 2 * CHUNK


def test_log_probabilities_and_the_most_probable_tokens_are_those_of_whole_passes(tiny, engine):
    one = ask(tiny, "hello", "p", top_logprobs=3, seed=4)
    got = Answers(1)
    engine.submit(one, got)
    ((ids, _),) = got.result()
    logprobs = [x for piece in got.pieces for x in piece.logprobs]
    top = [x for piece in got.pieces for x in piece.top]
    assert len(ids) == len(logprobs) == len(top) > 1 and {len(x) for x in top} == {3}
    want_TV = np.asarray(jax.nn.log_softmax(tiny.logits([*one.ids, *ids]), axis=-1))[len(one.ids) - 1 :]
    for t, token in enumerate(ids):
        assert abs(logprobs[t] - want_TV[t, token]) < LOGPROB_TOLERANCE
        best = np.argsort(-want_TV[t])[:3]
        assert [i for i, _ in top[t]] == best.tolist()
        assert np.abs(np.array([x for _, x in top[t]]) - want_TV[t, best]).max() < LOGPROB_TOLERANCE


def test_a_cancelled_request_frees_its_slots_for_the_one_that_waits(tiny, engine):
    long = ask(tiny, "abc", "long", n=6, **LONG)  # more answers than slots: two of them never begin
    got, after = Answers(6), Answers(1)

    def deliver(piece: AnswerPiece) -> None:
        got(piece)
        ticket.cancel()

    ticket = engine.submit(long, lambda piece: deliver(piece))
    engine.submit(ask(tiny, "abc", "after"), after)
    assert [finish for _, finish in got.result()].count("cancelled") >= 5
    assert after.result() == sampled(tiny, "abc", ask(tiny, "abc", "after"))
    assert engine.figures().used == 0


def test_one_answer_is_cancelled_by_itself(tiny, engine):
    got = Answers(2)
    one = ask(tiny, "abc", "p", n=2)
    with engine._wake:  # the engine does not begin before the cancellation
        engine.submit(one, got).cancel(0)
    (_, first), second = got.result()
    assert first == "cancelled" and second == sampled(tiny, "abc", one)[1]


def test_a_receiver_that_fails_loses_its_own_request_only(tiny, engine):
    def deliver(piece: AnswerPiece) -> None:
        raise OSError("the client went away")

    ticket = engine.submit(ask(tiny, "abc", "broken", **LONG), deliver)
    one = ask(tiny, "abc", "whole")
    assert served(engine, [one])[0] == sampled(tiny, "abc", one)
    assert ticket.error == "OSError: the client went away"


def test_what_cannot_be_answered_is_refused_with_both_numbers(tiny, engine):
    for changes, said in (
        ({"ids": ()}, "the prompt has no tokens"),
        ({"ids": (5,) * 96}, "prompt of 96 tokens, but prompt and answer together have at most 96"),
        ({"ids": (5, 262)}, "id 262 in the request is outside the 262 entries"),
        ({"stop_ids": (300,)}, "id 300 in the request"),
    ):
        with pytest.raises(ConfigError, match=said):
            engine.submit(ask(tiny, "a", "p", **changes), lambda piece: None)
    with pytest.raises(ConfigError, match="request temperature=nan must be at least 0"):
        ask(tiny, "a", "p", temperature=float("nan"))
    with pytest.raises(ConfigError, match="request has 17 stop_ids; needs at most 16"):
        ask(tiny, "a", "p", stop_ids=tuple(range(17)))


def test_a_full_queue_refuses_and_a_closed_engine_ends_what_it_has(tiny, engine, make_engine, monkeypatch):
    engine = make_engine(queue=2)
    began, go_on = threading.Event(), threading.Event()
    answers = [Answers(4), Answers(1), Answers(1)]

    def deliver(piece: AnswerPiece) -> None:
        answers[0](piece)
        began.set()
        assert go_on.wait(LONG_S)

    engine.submit(ask(tiny, "a", "first", n=4, **LONG), deliver)
    assert began.wait(LONG_S)
    for k in (1, 2):
        engine.submit(ask(tiny, "a", f"{k}", **LONG), answers[k])
    with pytest.raises(Full, match=r"2 requests wait already; ask again in \d+ s") as full:
        engine.submit(ask(tiny, "a", "too many"), answers[0])
    assert full.value.retry_after_s >= 1
    assert (engine.figures().queued, engine.figures().used) == (2, 4)
    closer = threading.Thread(target=engine.close)
    closer.start()
    with pytest.raises(Stopped, match="takes no more requests"):
        while True:  # until the other thread has begun
            engine._check_open()
    go_on.set()
    closer.join()
    ends = [finish for each in answers for _, finish in each.result()]
    assert ends[4:] == ["cancelled"] * 2 and "cancelled" in ends[:4]  # one that had begun may reach its own end first


def test_an_engine_that_is_closed_gives_open_requests_the_time_that_it_is_given(tiny, engine, make_engine, monkeypatch):
    engine, got = make_engine(), Answers(5)
    engine.submit(ask(tiny, "abc", "p", n=5), got)
    engine.close(LONG_S)
    assert got.done.is_set() and "cancelled" not in [finish for _, finish in got.result()]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_an_error_of_the_device_ends_every_request_with_one_line(tiny, engine, make_engine, monkeypatch):
    engine = make_engine()

    def lost(*_: object) -> None:
        raise RuntimeError("device lost\nand more")

    monkeypatch.setattr(engine._rows, "advance", lost)
    got = [Answers(1), Answers(5)]
    with engine._wake:  # both are there before the engine looks
        tickets = [engine.submit(ask(tiny, "a", f"{k}", n=1 + 4 * k), got[k]) for k in range(2)]
    assert [finish for each in got for _, finish in each.result()] == ["failed"] * 6
    want = "the model stopped answering: RuntimeError: device lost"
    assert [ticket.error for ticket in tickets] == [want] * 2
    with pytest.raises(Stopped, match="the model stopped answering: RuntimeError: device lost; start it again"):
        engine.submit(ask(tiny, "a", "late"), got[0])
    engine.close()


def test_the_answers_do_not_depend_on_the_mesh(tiny, batching):
    mesh = mesh_axes.make_mesh(MeshConfig(data=2, fsdp=2, tensor=1), jax.devices()[:4])
    cut = families.weight_shardings(tiny.config, families.of(tiny.config).KIND, mesh)
    model = tiny.loaded(mesh=mesh, weights=jax.device_put(tiny.weights, cut))
    engine = Engine(model, batching=dataclasses.replace(batching, slots=3))
    assert engine.slots == 4
    texts = ["abc" * 8, "abc" * 9, "x"]
    asks = [ask(tiny, text, f"p{k}", n=2) for k, text in enumerate(texts)]
    assert served(engine, asks) == [sampled(tiny, text, one) for text, one in zip(texts, asks, strict=True)]
    assert engine.figures().kept_tokens == CHUNK
    engine.close()
