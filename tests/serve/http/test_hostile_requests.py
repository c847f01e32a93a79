"""Broken, huge, slow and strange requests: a 4xx with one line, at once, and no word of anybody else."""

import gc
import json
import random
import select
import socket
import string
import time

import httpx2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from live_server import LIMITS, listening

from tigerjax.serve.drawing import Drawing
from tigerjax.serve.responses import Choice
from tigerjax.serve.text import AnswerText

PATHS = ("/v1/chat/completions", "/v1/completions", "/v1/score", "/v1/labels")
JSON = {"content-type": "application/json"}
SECRET = "the word of somebody else"


def refused(response: httpx2.Response) -> str:
    """The message of a request that was refused in order."""
    assert 400 <= response.status_code < 500, response.text
    message = response.json()["error"]["message"]
    assert "\n" not in message and "Traceback" not in response.text and len(message) < 3500
    assert SECRET not in response.text
    return message


BODIES = {
    "empty": (b"", "the body is no JSON"),
    "text": (b"hello", "the body is no JSON"),
    "list": (b"[]", "the body is a JSON list; send an object"),
    "cut": (b'{"messages": [', "the body is no JSON"),
    "twice": (b'{"n": 1, "n": 2}', "field 'n' is given twice"),
    "nan": (b'{"temperature": NaN}', "NaN is no number of JSON"),
    "infinity": (b'{"temperature": 1e999}', "the number 1e999 is too large"),
    "digits": (b'{"seed": ' + b"9" * 5000 + b"}", "a number has more than"),
    "deep": (b'{"messages": ' + b"[" * 50_000 + b"]" * 50_000 + b"}", "the body is no JSON that can be read"),
    "deep objects": (
        b'{"messages": ' + b'{"a":' * 300 + b"1" + b"}" * 300 + b"}",
        "the body is no JSON that can be read",
    ),
    "no utf-8": (b'{"model": "\xff"}', "the body is no UTF-8 at byte 11"),
    "surrogate": (b'{"model": "\\ud800"}', "half of a surrogate pair"),
    "huge field": (b'{"' + b"x" * 100_000 + b'": 1}', "no field 'xxx"),
    "null byte in a name": (b'{"a\\u0000b": 1}', "no field"),
}


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", BODIES)
def test_a_body_that_is_no_request_is_refused_in_a_line(live, path, name):
    body, words = BODIES[name]
    assert words in refused(live.post(path, content=body, headers=JSON))


@pytest.mark.parametrize("size", [LIMITS.body_bytes + 1, 1_000_000, 10_000_000])
def test_a_body_that_is_too_long_is_refused_and_the_client_sees_it(live, size):
    body = json.dumps({"messages": [{"role": "user", "content": "x" * size}]}).encode()
    response = live.post("/v1/chat/completions", content=body, headers=JSON)
    assert "the body has more than 200,000 bytes" in refused(response) and response.status_code == 413


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
FIELDS = "messages prompt model n temperature top_p top_k max_tokens seed stop stream stream_options logprobs".split()
FIELDS += (
    "top_logprobs metadata tools answers annotator candidates ranking base text user best_of response_format".split()
)
VALID = {
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "Hi"}]},
    "/v1/completions": {"prompt": "Hi"},
    "/v1/score": {"messages": [{"role": "user", "content": "Hi"}], "answers": ["a"]},
    "/v1/labels": {"annotator": "a", "messages": [], "candidates": [], "ranking": [[0]]},
}


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(PATHS), st.dictionaries(st.sampled_from(FIELDS) | st.text(max_size=6), values, max_size=3))
def test_fields_of_any_type_and_size_are_taken_or_refused_in_a_line(live, path, changes):
    # JSON escapes: text of any Unicode arrives as it is, halves of pairs too.
    body = json.dumps(VALID[path] | {"max_tokens": 1} | changes if "chat" in path else VALID[path] | changes).encode()
    response = live.post(path, content=body, headers=JSON)
    if response.status_code != 200:
        refused(response)


def test_the_values_that_go_wrong_most_often_are_refused(live):
    chat = VALID["/v1/chat/completions"]
    for changes in (
        {"n": 10**30},
        {"n": True},
        {"n": 1.0},
        {"n": "1"},
        {"max_tokens": 2**31},
        {"seed": 2**32},
        {"temperature": "0"},
        {"temperature": 1e300},
        {"temperature": [0.5]},
        {"stop": ["x"] * 17},
        {"stop": 5},
        {"stop": "x" * 5000},
        {"stream": "yes"},
        {"stream": 1},
        {"logprobs": 3},
        {"top_logprobs": 21, "logprobs": True},
        {"messages": "Hi"},
        {"messages": [{"role": "user"}]},
        {"messages": [{"role": "user", "content": None}]},
        {"messages": [{"role": "user", "content": ""}]},
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
        {"messages": [{"role": "user", "content": "x", "tool_calls": []}]},
        {"messages": [{"role": "user", "content": "x"}] * 2},
        {"metadata": {"a": 1}},
        {"metadata": {"prompt_id": ""}},
        {"metadata": {str(k): "v" for k in range(17)}},
    ):
        refused(live.post("/v1/chat/completions", json=chat | changes))
    for body, place in (({"stream": "yes"}, "stream='yes': "), ({"stream_options": {"x": 1}}, "'stream_options.x'")):
        assert place in refused(live.post("/v1/chat/completions", json=chat | body))
    assert "a prompt is a text, a list of" in refused(live.post("/v1/completions", json={"prompt": ["a", 1]}))
    for prompt in ([], [[]], "", [10**9], [-1], [1.5], [None], [["a"]], ["a", 1], {"a": 1}, ["a"] * 129, [262]):
        refused(live.post("/v1/completions", json={"prompt": prompt, "max_tokens": 1}))


turns = st.sampled_from(["system", "user", "assistant"]).flatmap(
    lambda role: st.fixed_dictionaries({"role": st.just(role), "content": st.sampled_from(["Hi", "", " ", "\u2028"])})
)
labels_given = st.fixed_dictionaries(
    {
        "annotator": st.sampled_from(["ann", " ", "a\nb", "安\x1b[31m"]),
        "messages": st.lists(turns, max_size=4) | st.just([{"role": "user", "content": "Hi"}]),
        "candidates": st.lists(
            st.fixed_dictionaries({"text": st.sampled_from(["a", "b", "", " a"])}), min_size=1, max_size=3
        ),
    },
    optional={
        "ranking": st.lists(st.lists(st.integers(0, 2), max_size=2), max_size=2),
        "reject": st.lists(st.integers(0, 2), max_size=2),
        "base": st.integers(0, 2),
        "text": st.sampled_from(["better", "", "   ", "\n", "a"]),
    },
)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(labels_given)
def test_a_label_that_is_taken_is_one_that_the_import_takes(live, asked):
    """The import refuses a whole file for one bad line."""
    from tigerjax.align.people import label_lines

    response = live.post("/v1/labels", json=asked)
    if response.status_code == 200:
        line = json.loads(live.labels.read_text(encoding="utf-8").splitlines()[-1])
        assert line["annotator"].isprintable()
        assert label_lines.check(line, {}, 1000, lambda messages: 1) in ("rank", "edit")
    else:
        refused(response)


def test_labels_that_no_import_would_take_are_refused_in_a_line(live):
    fine = {
        "annotator": "ann",
        "messages": [{"role": "user", "content": "Hi"}],
        "candidates": [{"text": "a"}, {"text": "b"}],
    }
    assert live.post("/v1/labels", json=fine | {"ranking": [[0]]}).status_code == 200
    said = refused(live.post("/v1/labels", json=fine | {"base": 1, "text": " \n "}))
    assert "text is blank; write an answer, or send a ranking" in said
    answered = {"messages": [*fine["messages"], {"role": "assistant", "content": "a"}], "ranking": [[0]]}
    said = refused(live.post("/v1/labels", json=fine | answered))
    assert "messages must alternate between user and assistant, and end with the user" in said


def test_an_empty_answer_may_be_sent_back_and_is_left_out_with_its_question(live):
    """A client that appends every answer, as most do, goes on after one that was empty."""
    asked = {"temperature": 0, "max_tokens": 3, "seed": 1}
    last = [{"role": "user", "content": "Hi"}]
    for nothing in ("", None, []):
        said = [{"role": "user", "content": "You?"}, {"role": "assistant", "content": nothing}]
        given = live.post("/v1/chat/completions", json=asked | {"messages": [*said, *last]}).json()
        plain = live.post("/v1/chat/completions", json=asked | {"messages": last}).json()
        assert given["choices"][0]["message"] == plain["choices"][0]["message"]
        assert given["usage"] == plain["usage"] and given["sampling"]["prompt_ids"] == plain["sampling"]["prompt_ids"]
        assert given["sampling"]["empty_answers_left_out"] == 1
        assert "empty_answers_left_out" not in plain["sampling"]
    for empty in ("user", "system"):
        said = [{"role": empty, "content": ""}, *last]
        assert f"a message of the {empty} is empty" in refused(
            live.post("/v1/chat/completions", json={"messages": said})
        )


def test_paths_and_bodies_of_another_form_get_a_line_of_json(live):
    body = json.dumps(VALID["/v1/chat/completions"] | {"max_tokens": 1}).encode()
    with_slash = live.post("/v1/chat/completions/", content=body, headers=JSON)
    assert with_slash.status_code == 404 and "there is no /v1/chat/completions/" in refused(with_slash)
    packed = live.post("/v1/chat/completions", content=body, headers=JSON | {"content-encoding": "gzip"})
    assert packed.status_code == 415 and "send the JSON as it is" in refused(packed)
    plain = live.post("/v1/chat/completions", content=body, headers=JSON | {"content-encoding": "identity"})
    assert plain.status_code == 200
    assert raw(live.url, b"GET /health HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.1 200 ")  # as a simple probe asks


def test_a_request_for_more_answers_than_one_may_have_is_refused_before_any_is_drawn(live):
    before = live.served.engine.figures().requests
    many = {"prompt": ["a"] * 43, "n": 3, "max_tokens": 1}
    said = refused(live.post("/v1/completions", json=many))
    assert said == "43 prompts with n=3 are 129 answers; ask for at most 128 in one request"
    assert live.served.engine.figures().requests == before
    assert live.post("/v1/completions", json=many | {"prompt": ["a"] * 42}).status_code == 200


def test_odd_unicode_is_answered_like_any_text(live):
    for text in ("\u202e\u0000\u0007", "👩‍👩‍👧‍👦", "e\u0301" * 5, "\ufdfa", "\U0010ffff", "\u2028\u2029\x85"):
        body = {"messages": [{"role": "user", "content": text}], "max_tokens": 2}
        assert live.post("/v1/chat/completions", json=body).status_code == 200
        assert live.post("/v1/chat/completions", json=body | {"stream": True}).text.endswith("data: [DONE]\n\n")


def raw(url: str, *parts: bytes, pause: float = 0.0) -> bytes:
    """What the server answers to bytes that are sent with pauses, until it hangs up."""
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as made:
        for part in parts:
            # What is sent after the server has hung up would make the system forget the answer.
            if select.select([made], [], [], 0)[0]:
                break
            made.sendall(part)
            time.sleep(pause)
        found = b""
        while True:
            try:
                more = made.recv(65536)
            except ConnectionResetError:
                return found
            if not more:
                return found
            found += more


HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"


def test_who_sends_too_slowly_is_told_and_hung_up_on(live):
    with listening(live.served, LIMITS._replace(request_s=0.4)) as url:
        slow = raw(url, b"")
        assert slow.startswith(b"HTTP/1.1 408 ")
        assert json.loads(slow.partition(b"\r\n\r\n")[2])["error"]["type"] == "timeout_error"
        assert raw(url, b"GET / HT", b"TP", b"/1.1\r\n", b"a: b\r\n", pause=0.05).startswith(b"HTTP/1.1 408 ")
        body = raw(url, HEAD + b"content-length: 100\r\n\r\n{", b'"a', b'": ', pause=0.05)
        assert body.startswith(b"HTTP/1.1 408 ") and b"did not arrive within 0.4 s" in body
        # The second request of a connection has the same time.
        with socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])), timeout=60) as made:
            made.sendall(b"GET /health HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n")
            answer = b""
            while not answer.endswith(b"}"):  # head and body may come one after the other
                answer += made.recv(65536)
            assert answer.startswith(b"HTTP/1.1 200 ")
            made.sendall(b"GET / HT")
            assert made.recv(65536).startswith(b"HTTP/1.1 408 ")


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # TLS
        b"GET /\r\n\r\n",
        b"\r\n" * 50 + b"x",
        b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 20_000 + b"\r\n",
        HEAD + b"content-length: -5\r\n\r\n",
        HEAD + b"content-length: 5\r\ncontent-length: 6\r\n\r\nabcdef",
        HEAD + b"transfer-encoding: chunked\r\n\r\nzzz\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
    ],
)
def test_what_is_no_http_is_refused_and_the_next_client_is_answered(live, sent):
    found = raw(live.url, sent)
    assert b"Traceback" not in found and (found == b"" or found.startswith(b"HTTP/1.1 4")), found
    assert live.get("/health").status_code == 200


def test_a_wrong_method_and_openais_other_path_are_told_what_to_use(live):
    response = live.get("/v1/chat/completions")
    assert refused(response) == "/v1/chat/completions does not know GET; send POST"
    assert response.status_code == 405 and response.headers["allow"] == "POST"
    assert "ask /v1/chat/completions" in refused(live.post("/v1/responses", json={"input": "Hi"}))


def test_strange_paths_and_methods_are_refused_in_a_line(live):
    for path in ("/nowhere", "/v1/" + "x" * 5000, "/%00", "/%1b[31m", "/v1/models/%0a", "/../etc/passwd", "/é"):
        refused(live.get(path))
    for method in ("PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "X" * 30):
        refused(live.http.request(method, "/v1/chat/completions"))


def test_no_words_of_others_are_in_the_answer_to_a_wrong_request(live):
    generator = random.Random(0)
    for _ in range(30):
        text = "".join(generator.choices(string.printable, k=20)) + SECRET
        live.post("/v1/chat/completions", json={"messages": [{"role": "user", "content": text}], "max_tokens": 1})
    refused(live.post("/v1/chat/completions", json={"messages": [{"role": "user", "content": "x" * 300}]}))


def test_hundreds_of_requests_leave_nothing_behind(live):
    """The short form of test_memory.py: the objects of a request are gone after it."""

    def objects() -> int:
        gc.collect()
        kinds = (Drawing, AnswerText, Choice)
        return sum(isinstance(one, kinds) for one in gc.get_objects())

    before = objects()
    for k in range(100):
        body = {"messages": [{"role": "user", "content": f"{k}"}], "max_tokens": 1, "stream": k % 2 == 0}
        assert live.post("/v1/chat/completions", json=body).status_code == 200
    end = time.monotonic() + 60
    while objects() > before + 2:  # those of the last request may still be about to go
        assert time.monotonic() < end
        time.sleep(0.05)
