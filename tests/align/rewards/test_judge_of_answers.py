"""A judge that answers well, badly, late or not at all: its scores are its own or there are none."""

import datetime
import json
import math
import time
from pathlib import Path

import pytest
from fake_api import Sent

from tigerjax.align.answers import Answer
from tigerjax.align.rewards import judge as judge_module
from tigerjax.align.rewards import requests
from tigerjax.align.rewards.judge import Judge, key, score_in, template
from tigerjax.align.rewards.requests import CUT
from tigerjax.errors import ConfigError, DataError, JudgeError


def answers(*texts: str) -> list[Answer]:
    asked = [{"role": "user", "content": "q"}]
    return [Answer(asked, text, "stop", {"prompt_id": f"e{place}"}) for place, text in enumerate(texts)]


def score_of_last_digit(number: int, body: dict) -> Sent:
    return Sent(f"It is fine.\n**Score:** {body['messages'][0]['content'].split('A: ')[1][0]}")


@pytest.mark.parametrize(
    ("reply", "score"),
    [
        ("7", 7), (" **7.5** ", 7.5), ("7/10", 7), ("Score: 7", 7), ("score: 3 at first.\nFinal score: 8/10.", 8),
        ("Score: 9 out of 10", 9), ("评分：6", 6), ("得分 6", 6), ("Score:7.", 7),
        ("<think>Score: 2</think>Score: 4", 4),
        ("", None), ("I give it seven.", None), ("7 of my 10 points", None), ("Score: 11", None), ("Score: 0.5", None),
        ("Score: -7", None), ("Score: 4/5", None), ("Score: 70/100", None), ("Score (1-10): 7", None),
        ("Score: 1-10", None), ("Score: NaN", None), ("Score: 1e1000", None), ("Score: 70-80", None), ("-3", None),
        ("underscore 7", None), ("7 8", None), ("**Score** **7**", 7), ("_7_", 7), ("得分6。", 6),
        ("Score: **8**/10", 8),
        ("Score: 3. A better answer would score 9.", 3), ("It would score 9.", None), ("score_7", None),
        ("Score: 8,5", None), ("Score: 1,000", None), ("Score: 7 or 8", None), ("评分：7到8", None),
        ("Score: 7 (out of 100)", None), ("Score: 7 (out of 10)", 7), ("评分：7（满分 100）", None),
        ("<think>Score: 3", None), ("<think>Score: 3</think>\nI cannot.", None), ("Score: 3? No.\n</think>\n8", 8),
        (f"Score: 1{CUT}", None), (f"1{CUT}", None), (f"Score: 7.{CUT}", None), (f"Score: 7/1{CUT}", None),
        (f"Score: 7/10{CUT}", None), (f"Score: 2\nFinal score: 7{CUT}", None), (f"Score: 7\nSince{CUT}", 7),
        ("Score: **7**/100", None), ("Score: 3\nFinal score: 7-8", None), ("Score: 4\nWhy this score: it is fine.", 4),
    ],
)  # fmt: skip
def test_a_score_is_a_number_that_the_reply_calls_so_and_nothing_else(reply, score):
    assert score_in(reply, 1, 10) == score


def test_each_answer_gets_its_score_and_no_question_is_asked_twice(fake, config_of, capfd):
    fake.respond = score_of_last_digit
    judge = Judge("taste", config_of())
    assert judge(answers("3a", "9b", "3a", "1{{answer}}")) == [3, 9, 3, 1]
    assert len(fake.asked) == 3  # two answers are the same
    assert any("A: 1{{answer}}\n" in content for content in fake.contents)  # braces of an answer are its own
    body = fake.asked[0]
    assert body["model"] == "m" and body["temperature"] == 0 and body["max_tokens"] == 512
    said = capfd.readouterr().err
    assert "judge taste: answers 4, of these by replies in" in said
    assert said.endswith(".jsonl 0; calls 3, tokens read 30, tokens written 6\n")
    assert Judge("taste", config_of())(answers("9b", "3a", "5c")) == [9, 3, 5]
    assert len(fake.asked) == 4 and ".jsonl 2; calls 1, tokens read 10, t" in capfd.readouterr().err
    fake.respond = lambda number, body: Sent("Score: 2")
    assert Judge("taste", config_of(body={"temperature": 1}))(answers("9b")) == [2]  # another question


@pytest.mark.parametrize(
    "sent",
    [
        Sent(status=500, raw=b"<html>oops"), Sent(status=503, raw=b""), Sent(status=429, raw=b"{}"),
        Sent(raw=b'{"choices": ['), Sent(raw=b'{"choices": []}'), Sent(raw=b"[]"), Sent(raw=b"\xff\xfe"),
        Sent(raw=b'{"choices": [{"message": {"content": null}}]}'), Sent(raw=b"[" * 5000),
        Sent("Score: 9", promised=100_000), Sent("no idea"), Sent("Score: 12"), Sent(""),
    ],
)  # fmt: skip
def test_a_judge_that_fails_twice_is_asked_again_and_its_own_score_counts(fake, config_of, sent):
    fake.respond = lambda number, body: Sent("Score: 5") if number > 2 else sent
    assert Judge("taste", config_of(timeout_s=5))(answers("a")) == [5] and len(fake.asked) == 3


def test_a_judge_that_says_when_to_come_again_is_left_alone_until_then(fake, config_of, capfd):
    late = {"Retry-After": "1"}
    fake.respond = lambda n, body: Sent("Score: 5") if n > 1 else Sent(status=429, raw=b"{}", headers=late)
    began = time.monotonic()
    assert Judge("taste", config_of())(answers("a")) == [5]
    assert time.monotonic() - began >= 1 and "HTTP 429; asked again in 1 s, for 20 s in all" in capfd.readouterr().err
    fake.respond = lambda n, body: Sent(status=429, raw=b"{}", headers={"Retry-After": "3600"})
    with pytest.raises(
        JudgeError, match=r"HTTP 429, and the API asks to wait 3,600 s \(1 tries in 0 s, patience_s=20\)"
    ):
        Judge("taste", config_of())(answers("b"))


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"patience_s": 0.2}, r"HTTP 500: out of order \(\d+ tries in 0 s, patience_s=0.2\)"),
        (
            {"url": "http://127.0.0.1:9/v1", "patience_s": 0},
            r"no connection: ConnectionRefusedError .* \(1 tries in 0 s",
        ),
        ({"url": "http://judge.invalid/v1", "patience_s": 0}, "no connection: gaierror"),
    ],
)
def test_a_judge_that_is_down_stops_the_command_in_one_line_and_what_it_said_is_kept(fake, config_of, changed, said):
    out_of_order = json.dumps({"error": {"message": "out\nof order"}}).encode()
    fake.respond = lambda n, body: score_of_last_digit(n, body) if n <= 2 else Sent(status=500, raw=out_of_order)
    config = config_of(calls=1, **changed)
    with pytest.raises(JudgeError, match=said) as error:
        Judge("taste", config)(answers("1", "2", "3", "4"))
    assert "\n" not in str(error.value) and "start the same command again" in str(error.value)
    if "url" in changed:
        return
    fake.respond = score_of_last_digit
    before = len(fake.asked)
    assert Judge("taste", config)(answers("1", "2", "3", "4")) == [1, 2, 3, 4]
    assert len(fake.asked) == before + 2  # the first two are there already


def test_a_judge_that_is_slow_is_not_waited_for_longer_than_its_time(fake, config_of):
    fake.respond = lambda number, body: Sent("Score: 5", after_s=0.0 if number > 1 else 0.5)
    assert Judge("taste", config_of(timeout_s=0.2))(answers("a")) == [5]
    with pytest.raises(JudgeError, match=r"no reply within timeout_s=0\.2"):
        fake.respond = lambda number, body: Sent("Score: 5", after_s=0.5)
        Judge("taste", config_of(timeout_s=0.2, patience_s=0))(answers("b"))
    fake.respond, began = lambda number, body: Sent("Score: 5", drips=30), time.monotonic()
    with pytest.raises(JudgeError, match=r"no reply within timeout_s=0\.3 .1 tries"):
        Judge("taste", config_of(timeout_s=0.3, patience_s=0))(answers("c"))
    assert time.monotonic() - began < 2.0  # of the 3 s that its drops take


@pytest.mark.parametrize("text", ["I cannot say.", "Score: 11", "Score: 4/5"])
def test_no_score_is_invented_and_so_many_answers_may_go_without_one(fake, config_of, text):
    fake.respond = lambda n, body: Sent(text) if "A: x" in body["messages"][0]["content"] else Sent("Score: 3")
    with pytest.raises(
        DataError, match=r"gave no score from 1 to 10 for the answer 'x' to prompt 'e1', but '.*'; have"
    ):
        Judge("taste", config_of(asked_again=1))(answers("a", "x", "b", "c"))
    asked = sum("A: x" in content for content in fake.contents)
    assert asked == 2
    scores = Judge("taste", config_of(asked_again=1, max_unread=0.25))(answers("a", "x", "b", "c"))
    assert scores[0] == scores[2] == 3 and math.isnan(scores[1])


@pytest.mark.parametrize(
    ("sent", "said"),
    [
        (
            Sent(status=401, raw=b'{"error": {"message": "bad key sk-secret"}}'),
            r"HTTP 401: bad key \[key\]; check key_file",
        ),
        (Sent(status=404, raw=b'{"error": "no model m"}'), "HTTP 404: no model m; check url, model and body"),
        (Sent(status=307, raw=b"", headers={"Location": "http://other/v1"}), "redirects to http://other/v1; give that"),
    ],
)
def test_a_request_that_the_judge_refuses_is_a_wrong_setting_and_is_sent_once(fake, config_of, tmp_path, sent, said):
    (tmp_path / "key").write_text("sk-secret\n")
    fake.respond = lambda number, body: sent
    with pytest.raises(ConfigError, match=said):
        Judge("taste", config_of(key_file=str(tmp_path / "key")))(answers("a"))
    assert len(fake.asked) == 1 and fake.headers[0]["Authorization"] == "Bearer sk-secret"


def test_replies_that_were_cut_off_are_asked_again_and_damaged_ones_are_named(fake, config_of):
    fake.respond = score_of_last_digit
    judge = Judge("taste", config_of(calls=1))
    judge(answers("1", "2"))
    whole = judge.replies.read_text()
    judge.replies.write_text(whole[:-20])
    assert judge(answers("1", "2")) == [1, 2] and len(fake.asked) == 3 and judge.replies.read_text() == whole
    judge.replies.write_text(whole.replace('"Score', "Score").replace("It is fine", '"'))
    with pytest.raises(DataError, match=r"\.jsonl:1: .*remove the line"):
        judge(answers("1"))
    judge.replies.write_text('{"request": "x"}\n')
    with pytest.raises(DataError, match=r"not as it was written .*; remove the line"):
        judge(answers("1"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{{question}}", "needs {{answer}}, and {{question}} or {{conversation}}"),
        ("{{answer}}", "needs {{answer}}, and"),
        ("{{question}} {{anwser}}", "{{anwser}} is not filled in; did you mean answer?; use"),
    ],
)
def test_a_template_that_cannot_show_the_answer_is_refused(tmp_path, text, said):
    (tmp_path / "t").write_text(text)
    with pytest.raises(ConfigError) as error:
        template(str(tmp_path / "t"))
    assert said in str(error.value)


def test_a_key_comes_from_a_file_or_the_environment(config_of, tmp_path):
    (tmp_path / "key").write_text(" abc \n")
    assert key(config_of()) is None and key(config_of(key_file=str(tmp_path / "key"))) == "abc"
    assert key(config_of(key_env="K"), {"K": "x"}) == "x"
    for wrong in ({}, {"K": "a b"}, {"K": "ключ"}):
        with pytest.raises(ConfigError, match=r"the variable K of judge\.key_env holds no key"):
            key(config_of(key_env="K"), wrong)
    with pytest.raises(ConfigError, match="No such file"):
        key(config_of(key_file=str(tmp_path / "none")))


@pytest.mark.parametrize(
    "url",
    ["", "v1", "ftp://x/v1", "http://", "http://u:p@x/v1", "http://x/v1?key=1", "http://x y/v1", "http://x:99999/v1",
     "http://x/v1/chat/completions", "http://[::1/v1", "http://a..b/v1", f"http://{'a' * 64}.org/v1",
     "http://x/\u4e2d/v1", "http://\u4e2d.org/v1"],
)  # fmt: skip
def test_an_address_that_is_none_is_refused(config_of, url):
    with pytest.raises(ConfigError, match=r"judge\.url"):
        config_of(url=url)


@pytest.mark.parametrize(("value", "seconds"), [("2", 2), ("-1", 0), ("soon", 0), ("nan", 0), (None, 0), ("1e30", 0)])
def test_when_to_come_again_is_a_number_or_a_date(value, seconds):
    assert requests._retry_after(value) == seconds
    later = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + 100))
    assert 90 < requests._retry_after(later) <= 100


def test_a_judge_whose_replies_have_no_score_is_not_asked_about_the_rest(fake, config_of, capfd):
    fake.respond = lambda number, body: Sent("no idea")
    with pytest.raises(DataError, match="judge taste gave no score from 1 to 10 for the answer '1' to prompt 'e0'"):
        Judge("taste", config_of(calls=1))(answers(*"123456789"))
    assert len(fake.asked) == 3 and "without a score: 1\n" in capfd.readouterr().err


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_question_that_the_api_refuses_is_named(fake, config_of, status):
    long = json.dumps({"error": {"message": "context too long"}}).encode()
    fake.respond = lambda number, body: Sent(status=status, raw=long)
    with pytest.raises(ConfigError, match=r"context too long; it was about the answer '1' to prompt 'e0'; check url"):
        Judge("taste", config_of(calls=1))(answers("1"))


@pytest.mark.parametrize("value", [math.nan, datetime.date(2026, 1, 1)])
def test_what_json_has_not_is_refused_in_the_body_of_a_request(config_of, value):
    with pytest.raises(ConfigError, match=r"judge.body holds what JSON has not \("):
        config_of(body={"seed": value})


FILTERED = json.dumps({"error": {"message": "content filter. Score: 9"}}).encode()


def refusing(sent: Sent):
    """A judge that refuses the answer x alone."""
    return lambda number, body: sent if "A: x" in body["messages"][0]["content"] else Sent("Score: 3")


@pytest.mark.parametrize("status", [400, 413, 422])
def test_one_answer_that_the_api_refuses_counts_as_unread(fake, config_of, capfd, status):
    fake.respond = refusing(Sent(status=status, raw=FILTERED))
    with pytest.raises(ConfigError, match=r"the answer 'x' to prompt 'e1'; .* by a higher max_unread=0$"):
        Judge("taste", config_of(calls=1))(answers("a", "x", "b", "c"))
    fake.asked.clear()
    capfd.readouterr()
    scores = Judge("taste", config_of(max_unread=0.25))(answers("a", "x", "b", "c"))
    assert scores[0] == scores[2] == scores[3] == 3 and math.isnan(scores[1])  # and not the 9 of the refusal
    assert sum("A: x" in content for content in fake.contents) == 1  # it would be refused again
    said = f"without a score: 1, of these questions refused: 1 (1 x HTTP {status}: content filter. Score: 9)\n"
    assert capfd.readouterr().err.endswith(said)
    with pytest.raises(ConfigError, match="refuses the request"):
        Judge("taste", config_of(max_unread=0.25))(answers("a", "x1", "b", "x2"))


@pytest.mark.parametrize("status", [401, 403, 404, 418])
def test_a_refusal_that_is_not_about_one_answer_stops_whatever_may_be_unread(fake, config_of, status):
    fake.respond = refusing(Sent(status=status, raw=FILTERED))
    with pytest.raises(ConfigError, match=f"refuses the request: HTTP {status}: content filter"):
        Judge("taste", config_of(max_unread=1))(answers("a", "x"))
    fake.respond = refusing(Sent(status=500, raw=b""))
    with pytest.raises(JudgeError, match="HTTP 500"):
        Judge("taste", config_of(max_unread=1, patience_s=0))(answers("b", "x"))


@pytest.mark.parametrize(("why", "said"), [("content_filter", "content_filter"), ("Score: 7", "?core???")])
def test_a_reply_without_text_has_no_score_and_says_why(fake, config_of, why, said):
    nothing = {"choices": [{"message": {"content": None}, "finish_reason": why}]}
    fake.respond = refusing(Sent(raw=json.dumps(nothing).encode()))
    with pytest.raises(DataError) as error:
        Judge("taste", config_of(asked_again=1))(answers("a", "x"))
    assert f"'[no text; finish_reason: {said}]'" in str(error.value)
    scores = Judge("taste", config_of(asked_again=1, max_unread=0.5))(answers("a", "x"))
    assert scores[0] == 3 and math.isnan(scores[1]) and sum("A: x" in content for content in fake.contents) == 4


@pytest.mark.parametrize(
    ("content", "why", "score"),
    [
        ([{"type": "thinking", "thinking": "Score: 2"}, {"type": "text", "text": "Score: 7"}], "stop", 7),
        ([{"type": "text", "text": "Score: "}, {"type": "text", "text": "7"}], "stop", 7),
        ([{"type": "thinking", "thinking": "Score: 2"}], "length", None), ("Score: 1", "length", None),
        ("Score: 4. For", "length", 4), ("<think>Score: 2, or", "length", None),
    ],
)  # fmt: skip
def test_a_score_is_what_the_judge_wrote_to_its_end_and_not_what_it_thought(fake, config_of, content, why, score):
    said = {"choices": [{"message": {"content": content}, "finish_reason": why}]}
    fake.respond = lambda number, body: Sent(raw=json.dumps(said).encode())
    judge = Judge("taste", config_of(asked_again=0))
    if score is not None:
        assert judge(answers("a")) == [score] and Judge("taste", config_of())(answers("a")) == [score]
        assert len(fake.asked) == 1  # the kept reply says the same
        return
    with pytest.raises(DataError, match=r"but .*finish_reason: length\]'; have the template"):
        judge(answers("a"))


@pytest.mark.parametrize(
    ("raw", "said"),
    [(b"<html>Sign in</html>", "<html>Sign in</html>"), (b'{"error": {"message": "no such model"}}', "no such model"),
     (b"", "nothing"), (b'{"choices": [], "echo": "the-key"}', r"\{\"choices\": \[\], \"echo\": \"\[key\]\"\}")],
)  # fmt: skip
def test_what_came_in_place_of_a_reply_is_shown(fake, config_of, tmp_path, raw, said):
    (tmp_path / "key").write_text("the-key")
    fake.respond = lambda number, body: Sent(raw=raw)
    with pytest.raises(JudgeError, match=rf"message\.content, but: {said} \(1 tries"):
        Judge("taste", config_of(patience_s=0, key_file=str(tmp_path / "key")))(answers("a"))


def test_whoever_interrupts_is_told_what_is_waited_for_and_no_more_is_asked(fake, config_of, capfd, monkeypatch):
    fake.respond = lambda number, body: Sent("Score: 5" if number == 1 else "no score", after_s=0.3)

    def interrupted(*given, **more):
        while len(fake.asked) < 2:
            time.sleep(0.01)
        raise KeyboardInterrupt

    monkeypatch.setattr(judge_module, "wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        Judge("taste", config_of())(answers(*"123456"))
    said = capfd.readouterr().err
    assert "judge taste: 2 replies are under way and waited for, at most 120 s; Ctrl-C again ends at once" in said
    assert len(fake.asked) == 2 and "calls 2," in said  # the one without a score is not asked for again
    monkeypatch.undo()
    (kept,) = Path(config_of().cache).iterdir()
    assert len(kept.read_text().splitlines()) == 1


def test_nothing_is_asked_where_the_replies_have_no_folder(fake, config_of, tmp_path):
    with pytest.raises(FileExistsError):  # the command line words it
        Judge("taste", config_of(cache=str(tmp_path / "judge.md")))(answers("a"))
    assert not fake.asked
