"""OpenAI's own client, as it stands in programs that talked to another server before."""

import math

import openai
import pytest

from tigerjax.sample.engine import Batching, SamplingConfig, generate
from tigerjax.tokenizer.chat import encode_prompt

CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "say something"}], "seed": 7}
TOLERANCE = 1e-4  # sums of float32 log-probabilities, in other orders of summation


@pytest.fixture(scope="module")
def client(live):
    with live.client() as made:
        yield made


def test_an_answer_is_that_of_the_sampler_with_the_seed_and_prompt_id_that_it_names(client, tiny):
    one = client.chat.completions.create(**CHAT, n=3, max_tokens=12)
    assert one.object == "chat.completion" and one.model == "tiny" and len(one.choices) == 3
    prompt = {"prompt_id": one.sampling["prompt_ids"][0], "messages": CHAT["messages"]}
    how = {"n": 3, "max_new_tokens": 12, "temperature": 0.9, "top_p": 0.95, "top_k": 0, "context": 96}
    sampling = SamplingConfig(**how, seed=one.sampling["seed"])
    (record,) = generate(tiny.loaded(), [prompt], sampling, batching=Batching(prompts=1, rows=8))
    assert [c.message.content for c in one.choices] == [c["text"] for c in record["candidates"]]
    assert [c.finish_reason for c in one.choices] == [
        "length" if c["finish"] == "length" else "stop" for c in record["candidates"]
    ]
    assert one.usage.completion_tokens == sum(c["ntok"] for c in record["candidates"])
    assert one.usage.total_tokens == one.usage.prompt_tokens + one.usage.completion_tokens
    named = client.chat.completions.create(**CHAT, max_tokens=12, metadata={"prompt_id": "p1"})
    assert named.sampling == {"seed": 7, "prompt_ids": ["p1"]}


def test_a_stream_gives_the_same_text_and_its_counts_last(client):
    whole = client.chat.completions.create(**CHAT, n=2, max_tokens=12)
    texts, ends, counts = ["", ""], [None, None], []
    for chunk in client.chat.completions.create(
        **CHAT, n=2, max_tokens=12, stream=True, stream_options={"include_usage": True}
    ):
        counts.append(chunk.usage)
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
            ends[choice.index] = choice.finish_reason or ends[choice.index]
    assert texts == [c.message.content for c in whole.choices]
    assert ends == [c.finish_reason for c in whole.choices]
    assert counts[-1] == whole.usage and not any(counts[:-1])


def test_a_stop_string_ends_an_answer_wherever_it_falls(client):
    text = client.chat.completions.create(**CHAT, temperature=0, max_tokens=20).choices[0].message.content
    stop = text[3:6]
    cut = client.chat.completions.create(**CHAT, temperature=0, max_tokens=20, stop=[stop, "never there"])
    assert cut.choices[0].message.content == text[: text.find(stop)] and cut.choices[0].finish_reason == "stop"
    stream = client.chat.completions.create(**CHAT, temperature=0, max_tokens=20, stop=stop, stream=True)
    assert "".join(c.choices[0].delta.content or "" for c in stream) == text[: text.find(stop)]


def test_log_probabilities_are_those_of_the_drawn_tokens_and_the_most_probable_ones(client, tiny):
    one = client.chat.completions.create(**CHAT, max_tokens=6, logprobs=True, top_logprobs=3)
    content = one.choices[0].logprobs.content
    assert b"".join(bytes(t.bytes) for t in content).decode(errors="replace") == one.choices[0].message.content
    ids = [*encode_prompt(tiny.tokenizer, CHAT["messages"]), *(b + 3 for t in content for b in t.bytes)]
    logits_TV = tiny.logits(ids)[-len(content) - 1 : -1]
    for row_V, token in zip(logits_TV, content, strict=True):
        row_V = row_V.astype("float64")
        row_V[262:] = -math.inf
        logprob_V = row_V - row_V.max()
        logprob_V -= math.log(sum(math.exp(x) for x in logprob_V))
        assert abs(token.logprob - logprob_V[token.bytes[0] + 3]) < TOLERANCE
        best = sorted(logprob_V, reverse=True)[:3]
        assert all(abs(t.logprob - b) < TOLERANCE for t, b in zip(token.top_logprobs, best, strict=True))


def test_a_text_is_continued_and_several_at_once_are_told_apart_by_index(client, engine):
    one = client.completions.create(model="tiny", prompt="once", max_tokens=8, temperature=0, logprobs=2)
    assert one.object == "text_completion" and len(one.choices[0].logprobs.tokens) == one.usage.completion_tokens
    assert one.choices[0].logprobs.text_offset[0] == 0 and one.usage.prompt_tokens == 4
    both = client.completions.create(model="tiny", prompt=["once", "other"], max_tokens=8, temperature=0, n=2)
    assert [c.index for c in both.choices] == [0, 1, 2, 3]
    assert both.choices[0].text == both.choices[1].text == one.choices[0].text
    ids = client.completions.create(
        model="tiny", prompt=engine.model.tokenizer.encode("once"), max_tokens=8, temperature=0
    )
    assert ids.choices[0].text == one.choices[0].text
    stream = client.completions.create(model="tiny", prompt=["once", "other"], max_tokens=8, temperature=0, stream=True)
    texts = ["", ""]
    for chunk in stream:
        texts[chunk.choices[0].index] += chunk.choices[0].text
    assert texts == [both.choices[0].text, both.choices[2].text]


def test_system_messages_parts_and_earlier_turns_are_read(client):
    turns = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "Hi"}]},
        {"role": "assistant", "content": "Yes?"},
        {"role": "user", "content": "More"},
    ]
    joined = [{"role": "user", "content": "Be brief.\n\nHi"}, *turns[2:]]
    how = {"model": "tiny", "temperature": 0, "max_tokens": 5}
    texts = [client.chat.completions.create(**how, messages=m).choices[0].message.content for m in (turns, joined)]
    assert texts[0] == texts[1]


def test_the_model_is_listed_with_what_the_server_takes(client):
    (model,) = client.models.list().data
    assert model.id == "tiny" and model.tigerjax["context"] == 96 and model.tigerjax["max_new_tokens"] == 24
    assert client.models.retrieve("tiny") == model
    with pytest.raises(openai.NotFoundError, match="model 'large' is not served; there is 'tiny'"):
        client.models.retrieve("large")


LONG = [{"role": "user", "content": "x" * 200}]


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        (
            {"messages": LONG},
            openai.BadRequestError,
            "the prompt has 202 tokens, and prompt and answer together may have 96",
        ),
        ({"max_tokens": 25}, openai.BadRequestError, "max_tokens=25, and this server gives at most 24 tokens"),
        ({"model": "gpt-4o"}, openai.NotFoundError, "model 'gpt-4o' is not served; ask for 'tiny'"),
        ({"temperature": -1}, openai.BadRequestError, "temperature=-1: input should be greater than or equal to 0"),
        ({"top_p": 0}, openai.BadRequestError, "top_p=0: input should be greater than 0"),
        ({"seed": -1}, openai.BadRequestError, "seed=-1: "),
        ({"n": 0}, openai.BadRequestError, "n=0: "),
        ({"stop": ["", "a"]}, openai.BadRequestError, "stop.0='': "),
        ({"messages": []}, openai.BadRequestError, "messages=.*: list should have at least 1 item"),
        ({"messages": [{"role": "tool", "content": "x"}]}, openai.BadRequestError, "messages.0.role='tool': "),
        ({"messages": [{"role": "assistant", "content": "x"}]}, openai.BadRequestError, "must end with the user"),
        ({"top_logprobs": 2}, openai.BadRequestError, "top_logprobs needs logprobs to be true"),
        ({"stream_options": {}}, openai.BadRequestError, "stream_options needs stream to be true"),
        (
            {"tools": [{"type": "function"}]},
            openai.BadRequestError,
            "tools=.* is not done by this server; leave tools out",
        ),
        ({"response_format": {"type": "json_object"}}, openai.BadRequestError, "response_format=.* is not done"),
        ({"logit_bias": {"5": 1}}, openai.BadRequestError, "logit_bias=.* is not done"),
        ({"frequency_penalty": 0.5}, openai.BadRequestError, "frequency_penalty=0.5 is not done"),
        ({"presence_penalty": -1}, openai.BadRequestError, "presence_penalty=-1 is not done"),
        ({"extra_body": {"repetition_penalty": 1.2}}, openai.BadRequestError, "no field 'repetition_penalty' is known"),
        ({"extra_body": {"temprature": 1}}, openai.BadRequestError, "did you mean temperature"),
    ],
)
def test_what_is_not_done_is_refused_by_name_in_one_line(client, changes, error, words):
    with pytest.raises(error, match=words) as caught:
        client.chat.completions.create(**CHAT | changes)
    body = caught.value.body
    assert "\n" not in body["message"] and body["type"] in ("invalid_request_error", "not_found_error")


def test_neutral_values_and_fields_that_say_who_asks_are_taken(client):
    neutral = {"frequency_penalty": 0, "presence_penalty": 0.0, "logit_bias": {}, "user": "ann", "store": False}
    neutral |= {"response_format": {"type": "text"}, "parallel_tool_calls": True, "metadata": {"a": "b"}}
    same = [client.chat.completions.create(**CHAT | more, max_tokens=5) for more in ({}, neutral)]
    assert same[0].choices == same[1].choices


def test_what_is_not_served_is_refused_by_name(client, live):
    with pytest.raises(openai.NotFoundError, match="/v1/embeddings is not served"):
        client.embeddings.create(model="tiny", input="x")
    assert "did you mean /v1/completions" in live.post("/v1/completion", json={}).json()["error"]["message"]
    assert live.get("/v1/chat/completions").status_code == 405


def test_a_reward_model_scores_the_answers_to_a_conversation(live):
    messages = [{"role": "user", "content": "Hi"}]
    body = live.post("/v1/score", json={"messages": messages, "answers": ["long answer", "short"]}).json()
    assert [d["score"] for d in body["data"]] == [1.1, 0.5] and body["ranking"] == [0, 1]
    long = live.post("/v1/score", json={"messages": messages, "answers": ["a", "x" * 60]})
    assert long.status_code == 400 and "answer 1 and its conversation are too long" in long.text
