"""Many clients at once: none is lost, none gets another's answer, and one that goes away frees its slot."""

import asyncio
import dataclasses
import json
import threading
import time

import httpx2
import pytest
from bytes_tokenizer import Bytes
from live_server import BATCHING, DEFAULTS, LIMITS, RULES, listening

from tigerjax.serve.asked import AnswerPiece, Ask
from tigerjax.serve.drawing import Drawing
from tigerjax.serve.engine import Engine
from tigerjax.serve.service import Served

CLIENTS = 200
HTTP = httpx2.Client(verify=False)
LONG_S = 120  # a wait that ends only when something is wrong


def request(k: int) -> dict:
    """The request of client k: every one has its own text and seed, and settings of several kinds."""
    how = [{"temperature": 0}, {}, {"temperature": 1.5, "top_p": 0.7}, {"top_k": 5}, {"n": 2}, {"stop": ["a", "qu"]}]
    messages = [{"role": "user", "content": f"{k} " + "abc"[k % 3] * (k % 40)}]
    return {"messages": messages, "seed": k, "max_tokens": 4 + k % 9, "stream": k % 2 == 0, **how[k % len(how)]}


async def asked(client: httpx2.AsyncClient, url: str, body: dict) -> list[str]:
    """The texts of the answers."""
    response = await client.post(f"{url}/v1/chat/completions", json=body)
    assert response.status_code == 200, response.text
    texts = [""] * body.get("n", 1)
    if not body["stream"]:
        for choice in response.json()["choices"]:
            texts[choice["index"]] = choice["message"]["content"]
        return texts
    events = response.text.split("\n\n")
    assert events[-2] == "data: [DONE]" and events[-1] == ""
    for event in events[:-2]:
        (choice,) = json.loads(event.removeprefix("data: "))["choices"]
        texts[choice["index"]] += choice["delta"].get("content") or ""
    return texts


def test_200_clients_at_once_each_get_the_answer_that_they_get_alone(live):
    bodies = [request(k) for k in range(CLIENTS)]

    async def together() -> list[list[str]]:
        limits = httpx2.Limits(max_connections=CLIENTS)
        async with httpx2.AsyncClient(limits=limits, timeout=LONG_S) as client:
            return await asyncio.gather(*(asked(client, live.url, body) for body in bodies))

    async def alone() -> list[list[str]]:
        async with httpx2.AsyncClient(timeout=LONG_S) as client:
            return [await asked(client, live.url, bodies[k]) for k in range(0, CLIENTS, 7)]

    answers = asyncio.run(together())
    assert len(answers) == CLIENTS and answers[::7] == asyncio.run(alone())
    assert len({json.dumps(a) for a in answers}) > CLIENTS // 2


def idle(engine: Engine) -> bool:
    figures = engine.figures()
    return figures.used == figures.queued == 0


def waits_until(true) -> None:
    until = time.monotonic() + LONG_S
    while not true():
        assert time.monotonic() < until
        time.sleep(0.01)


class Held:
    """Stands in for the engine's `submit`: it answers nothing, so that requests stay as they are."""

    def __init__(self):
        self.cancelled = threading.Event()

    context = BATCHING.context

    def submit(self, ask, deliver):
        return self

    def cancel(self, answer=None):
        self.cancelled.set()


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_goes_away_frees_its_slot_and_the_log_says_that_it_went(live, stream, capfd):
    held, said = Held(), ""
    with listening(dataclasses.replace(live.served, engine=held), rules=RULES._replace(log=True)) as url:
        body = {"messages": [{"role": "user", "content": "Hi"}], "stream": stream}
        with pytest.raises(httpx2.TimeoutException):
            with (
                httpx2.Client() as client,
                client.stream("POST", f"{url}/v1/chat/completions", json=body, timeout=0.3) as r,
            ):
                list(r.iter_raw())
        assert held.cancelled.wait(LONG_S)

        def logged() -> bool:
            nonlocal said
            said += capfd.readouterr().err
            return said.endswith(" s, not finished\n" if stream else " s\n")

        waits_until(logged)
    assert "POST /v1/chat/completions 200 " in said if stream else "POST /v1/chat/completions 499 " in said


def test_an_answer_that_a_stop_string_has_ended_frees_its_slot_and_the_others_go_on():
    tokenizer, cancelled = Bytes(), []

    class Told:
        def submit(self, ask, deliver):
            for number, text in ((0, "one stop two"), (1, "three")):
                ids = tokenizer.encode(text)
                deliver(AnswerPiece(number, ids, [0.0] * len(ids), [], None))
            deliver(AnswerPiece(1, [], [], [], "length"))
            return self

        def cancel(self, answer=None):
            cancelled.append(answer)

    async def drawn() -> list:
        asks = [Ask(ids=(5,), prompt_id="p", n=2, max_new_tokens=99, temperature=1.0, top_p=1.0, top_k=0, seed=0)]
        drawing = Drawing(Told(), tokenizer, asks, [" stop"], first=lambda seconds: None)
        return [(news.choice, news.text, news.finish) async for news in drawing.news()]

    assert asyncio.run(drawn()) == [(0, "one", "stop"), (1, "three", None), (1, "", "length")]
    assert cancelled == [0]


def test_when_the_queue_is_full_the_next_request_is_told_when_to_come_again(engine):
    small = Engine(engine.model, batching=dataclasses.replace(BATCHING, queue=1))
    turn = threading.Lock()
    small._turn = lambda turn_=small._turn: (turn.acquire(), turn.release(), turn_())
    served = Served(name="tiny", sha256="5" * 64, tokenizer=engine.model.tokenizer, engine=small, defaults=DEFAULTS)
    try:
        with turn, listening(served) as url:
            body = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2}
            asking = {"args": (f"{url}/v1/chat/completions",), "kwargs": {"json": body}}
            # One for each slot, all of which are free, and one that waits.
            first = [threading.Thread(target=HTTP.post, **asking) for _ in range(small.slots + 1)]
            for client in first:
                client.start()
            waits_until(lambda: small.figures().queued == small.slots + 1)
            full = HTTP.post(f"{url}/v1/chat/completions", json=body)
            assert full.status_code == 429 and int(full.headers["retry-after"]) >= 1
            assert full.json()["error"]["code"] == "queue_full" and "ask again in" in full.text
            # What will never find a place is not told to come again.
            never = HTTP.post(f"{url}/v1/completions", json={"prompt": ["a", "b"], "max_tokens": 1})
            assert never.status_code == 400 and "the queue of this server has 1 places; send at most 1" in never.text
            assert f"tigerjax_serve_queued_requests {small.slots + 1}\n" in HTTP.get(f"{url}/metrics").text
            turn.release()
            for client in first:
                client.join(LONG_S)
            turn.acquire()
            assert not any(client.is_alive() for client in first)
    finally:
        small.close()


def test_an_engine_that_fails_ends_its_requests_with_a_line_and_is_seen_from_outside(engine):
    broken = Engine(engine.model, batching=BATCHING)
    served = Served(name="tiny", sha256="5" * 64, tokenizer=engine.model.tokenizer, engine=broken, defaults=DEFAULTS)

    def fail():
        raise RuntimeError("the device\nis gone")

    with pytest.MonkeyPatch.context() as patch, listening(served) as url:
        patch.setattr(threading, "excepthook", lambda arguments: None)
        assert HTTP.get(f"{url}/health").json() == {"status": "ok", "model": "tiny"}
        broken._turn = fail
        body = {"messages": [{"role": "user", "content": "Hi"}]}
        for _ in range(2):
            refused = HTTP.post(f"{url}/v1/chat/completions", json=body)
            assert refused.status_code == 503 and "\n" not in refused.json()["error"]["message"]
        assert HTTP.get(f"{url}/health").status_code == 503
        events = HTTP.post(f"{url}/v1/chat/completions", json=body | {"stream": True})
        assert events.status_code == 503


def test_the_figures_count_requests_tokens_and_the_time_to_the_first_token(live):
    def figures() -> dict[str, float]:
        lines = live.get("/metrics").text.splitlines()
        return {line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1]) for line in lines if not line.startswith("#")}

    before = figures()
    body = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 5, "seed": 1}
    usage = live.post("/v1/chat/completions", json=body).json()["usage"]
    live.post("/v1/chat/completions", json=body | {"n": 0})
    waits_until(lambda: idle(live.served.engine))
    after = figures()
    path = 'tigerjax_serve_requests_total{path="/v1/chat/completions",code="%d"}'
    for name, more in {
        path % 200: 1,
        path % 400: 1,
        'tigerjax_serve_tokens_total{kind="answer"}': usage["completion_tokens"],
        'tigerjax_serve_tokens_total{kind="prompt"}': usage["prompt_tokens"],
        "tigerjax_serve_first_token_seconds_count": 1,
        'tigerjax_serve_first_token_seconds_bucket{le="+Inf"}': 1,
    }.items():
        assert after[name] - before.get(name, 0) == more, name
    assert after["tigerjax_serve_slots"] == 8 and after["tigerjax_serve_slots_used"] == 0
    assert after["tigerjax_serve_tokens_per_second"] > 0


@pytest.mark.parametrize("log_prompts", [False, True])
def test_the_log_has_a_line_for_each_request_and_its_words_only_on_request(live, log_prompts, capfd):
    served = dataclasses.replace(live.served, log_prompts=log_prompts)
    body = {"messages": [{"role": "user", "content": "secret words\n秘密"}], "max_tokens": 3, "seed": 1}
    with listening(served, rules=RULES._replace(log=True)) as url:
        for stream in (False, True):
            assert HTTP.post(f"{url}/v1/chat/completions", json=body | {"stream": stream}).status_code == 200
        HTTP.get(f"{url}/v1/secret")
    lines = capfd.readouterr().err.splitlines()
    requests = [line for line in lines if line.startswith("127.0.0.1 ")]
    assert len(requests) == 3 and requests[2].startswith("127.0.0.1 GET other 404 ")
    assert all(" POST /v1/chat/completions 200 " in line and " tokens in, " in line for line in requests[:2])
    words = [json.loads(line) for line in lines if line.startswith("{")]
    assert ("secret" in str(lines)) == ("秘密" in str(lines)) == log_prompts == bool(words)
    assert all(one["request"]["messages"][0]["content"] == "secret words\n秘密" for one in words)


def test_keys_are_asked_for_everywhere_but_at_the_page_and_for_health(live):
    with listening(live.served, LIMITS, RULES._replace(keys=("old", "schlüssel"))) as url:
        for path in ("/", "/health"):
            assert HTTP.get(url + path).status_code == 200
        for path in ("/v1/models", "/metrics", "/nowhere"):
            for headers in (
                {},
                {"authorization": "Bearer wrong"},
                {"authorization": "old"},
                {"authorization": "Basic old"},
            ):
                refused = HTTP.get(url + path, headers=headers)
                assert refused.status_code == 401 and refused.json()["error"]["code"] == "invalid_api_key"
        for key in ("old", "schlüssel"):
            headers = {"authorization": f"Bearer {key}".encode()}
            assert HTTP.get(f"{url}/v1/models", headers=headers).status_code == 200


def test_without_a_key_a_web_site_cannot_ask_under_a_name_of_its_own(live):
    for host in ("evil.example", "evil.example:8000", "127.0.0.1.evil.example", ""):
        assert live.get("/v1/models", headers={"host": host}).status_code == 403
    for host in ("localhost:1", "127.0.0.1", "[::1]:8000"):
        assert live.get("/v1/models", headers={"host": host}).status_code == 200
    # What a form of another site can send without the browser asking first is no JSON.
    assert live.post("/v1/chat/completions", content=b"{}", headers={"content-type": "text/plain"}).status_code == 415
