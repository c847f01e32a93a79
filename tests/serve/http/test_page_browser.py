"""The page in a real browser, at a desk's and a telephone's width, light and dark. Skipped where no Chromium is."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import headless
import pytest
from devtools import Page, browsing
from live_server import RULES, listening
from PIL import Image

pytestmark = headless.needed

# Elements that stand out of the page on the right.
WIDE = """[...document.querySelectorAll("body *")].filter((e) => e.getBoundingClientRect().right >
  document.documentElement.clientWidth + 1).map((e) => e.tagName + "." + e.className).join(" ")"""
ANSWERS = 'document.querySelectorAll(".answer").length'
IDLE = 'document.querySelector("#send").textContent === "Send" && !document.querySelector(".going")'
SHOTS = os.environ.get("TIGERJAX_SHOTS")
"""A folder for the pictures, for whoever wants to look at them."""


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Iterator[Page]:
    with browsing(tmp_path_factory.mktemp("profile")) as made:
        yield made


def opened(page: Page, url: str, **how) -> Page:
    page.open(url, **{"width": 1280} | how)
    page.until('document.querySelector("#name").textContent === "tiny"')
    page.run('document.querySelector("#panel").open = true')
    page.asked.clear()
    page.complaints.clear()
    return page


def ask(page: Page, text: str, n: int = 1) -> None:
    page.run(f'document.querySelector("#n").value = {n}')
    page.write("#question", text)
    page.click("#send")
    page.until(f"turns.length && {ANSWERS} >= {n}")


def texts(page: Page) -> list[str]:
    return page.run('[...document.querySelectorAll(".answer .text")].map((e) => e.textContent)')


def answer(live, *turns: str) -> str:
    """The likeliest answer, of at most 6 tokens, to a conversation."""
    messages = [{"role": ("user", "assistant")[k % 2], "content": text} for k, text in enumerate(turns)]
    body = {"messages": messages, "temperature": 0, "max_tokens": 6}
    return live.post("/v1/chat/completions", json=body).json()["choices"][0]["message"]["content"]


def kept(live) -> list[dict]:
    return [json.loads(line) for line in live.labels.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [1280, 390])
def test_a_chat_fits_the_window_and_follows_the_scheme(page, live, width, dark, tmp_path):
    opened(page, live.url, width=width, dark=dark)
    assert page.run(WIDE) == ""
    page.run('document.querySelector("#panel").open = false')
    ask(page, "W" * 45 + " 你好，很长的\n问题", n=3)
    page.until(f"{ANSWERS} === 3 && {IDLE}")
    assert page.run(WIDE) == "" and page.run("document.documentElement.scrollWidth") <= width
    shot = (Path(SHOTS) if SHOTS else tmp_path) / f"chat_{width}_{'dark' if dark else 'light'}.png"
    page.picture(shot)
    with Image.open(shot) as picture:
        shades = picture.convert("L").histogram()
    background = max(range(256), key=shades.__getitem__)
    assert sum(n > 0 for n in shades) > 30 and shades[background] < 0.99 * sum(shades), "a blank page"
    assert background > 230 if not dark else background < 40
    columns = page.run(
        'new Set([...document.querySelectorAll(".answer")].map((e) => e.getBoundingClientRect().x)).size'
    )
    assert columns == (3 if width == 1280 else 1)


def test_turns_are_asked_retried_chosen_and_edited_and_the_model_is_asked_with_what_is_shown(page, live):
    opened(page, live.url)
    for name, value in (("temperature", "0"), ("max_tokens", "6")):
        page.write(f"#{name}", value)
    question, first = next((q, said) for q in "abcdefgh" if (said := answer(live, q)))
    ask(page, question)
    page.until(f"{ANSWERS} === 1 && {IDLE}")
    assert texts(page) == [first]
    page.write("#temperature", "2")
    page.click('[data-does="retry"]')
    page.until(f"{ANSWERS} === 2 && {IDLE}")
    page.click('[data-does="use"]')
    assert page.run("turns[0].chosen") == 0
    page.write("#temperature", "0")
    ask(page, "second")
    page.until(f"turns.length === 2 && {IDLE}")
    assert texts(page)[-1] == answer(live, question, first, "second")
    page.click('[data-does="edit"]')
    page.write(".editor textarea", "other")
    page.click('[data-does="ask_again"]')
    page.until(f"turns.length === 1 && turns[0].question === 'other' && {IDLE}")
    assert texts(page) == [answer(live, "other")]
    assert page.complaints == [] and all(url.startswith(live.url) for url in page.asked)
    assert "tokens" in page.run('document.querySelector("#counts").textContent')


def test_the_conversation_continues_from_the_best_new_answer(page, live):
    """As in the terminal: the highest score, or the first that is not empty where nothing is scored."""
    chosen = "best({answers: %s.map(([text, score]) => ({text, score}))}, %d)"
    opened(page, live.url)
    for answers, first, best in (
        ('[["a", -1], ["b", 2], ["c", 0.5]]', 0, 1),
        ('[["old", 9], ["b", -2], ["", 3], ["d", -1]]', 1, 3),
        ('[["", undefined], ["b", undefined], ["c", undefined]]', 0, 1),
        ('[["a", undefined], ["b", -3]]', 0, 1),
        ('[["", 1]]', 0, -1),
    ):
        assert page.run(chosen % (answers, first)) == best, answers


def test_an_answer_can_be_stopped_and_what_was_said_stays(page, live):
    opened(page, live.url)
    page.run("fetch = ((real) => (...a) => real(...a))(fetch)")
    page.run(
        """fetch = async (path, how) => new Response(new ReadableStream({ start(control) {
          const said = { choices: [{ index: 0, delta: { content: "so far" }, finish_reason: null }] };
          control.enqueue(new TextEncoder().encode(`data: ${JSON.stringify(said)}\\n\\n`));
          how.signal.addEventListener("abort", () => control.error(new DOMException("", "AbortError")));
        } }))"""
    )
    ask(page, "go on")
    page.until('document.querySelector(".answer .text").textContent === "so far"')
    assert page.run('document.querySelector("#send").textContent') == "Stop"
    page.click("#send")
    page.until(IDLE)
    assert texts(page) == ["so far"] and "stopped" in page.run('document.querySelector(".answer").textContent')
    assert not page.run("""document.querySelector('[data-does="keep"]')""")


def test_answers_are_kept_and_edited_as_labels_with_a_name(page, live):
    opened(page, live.url)
    ask(page, "label me", n=3)
    page.until(f"{ANSWERS} === 3 && {IDLE}")
    before = kept(live)
    page.run("localStorage.clear(); document.querySelector('#annotator').value = ''")
    page.click('.answer:nth-child(2) [data-does="keep"]')
    page.until('!document.querySelector("#trouble").hidden')
    assert "Enter your name" in page.run('document.querySelector("#trouble").textContent') and kept(live) == before
    page.write("#annotator", "ann 安")
    page.click('.answer:nth-child(2) [data-does="keep"]')
    page.until('document.querySelectorAll(".kept").length === 1')
    answers = texts(page)
    page.click('.answer:nth-child(1) [data-does="edit_answer"]')
    page.write(".editor textarea", "a better answer")
    page.click('.editor [data-does="save"]')
    page.until(f"{ANSWERS} === 4 && turns[0].chosen === 3")
    ranking, edit = kept(live)[len(before) :]
    labels = {c["text"]: c["label"] for c in ranking["candidates"]}
    assert ranking["annotator"] == edit["annotator"] == "ann 安" and ranking["ranking"] == [[labels[answers[1]]]]
    assert edit["base"] == labels[answers[0]] and edit["text"] == "a better answer"
    assert edit["prompt_id"] == ranking["prompt_id"] and edit["candidates"] == ranking["candidates"]
    assert ranking["messages"] == [{"role": "user", "content": "label me"}] and page.complaints == []


def test_a_label_has_the_conversation_in_which_its_answer_was_given(page, live):
    opened(page, live.url)
    page.write("#annotator", "ann")
    asked = [{"role": "user", "content": "first"}]
    first = {"question": "first", "messages": asked, "chosen": 0}
    said = [*asked, {"role": "assistant", "content": "a"}, {"role": "user", "content": "second"}]
    second = {"question": "second", "messages": said, "chosen": 0}
    answers = [{"text": text, "finish": "stop"} for text in "abc"]
    page.run(f"turns = {json.dumps([first | {'answers': answers}, second | {'answers': answers[:2]}])}; show()")
    before = kept(live)
    # Of an earlier question another answer is kept, and one is edited: the conversation has continued from the first.
    page.click('.turn:first-child .answer:nth-child(2) [data-does="keep"]')
    page.until('document.querySelectorAll(".kept").length === 1')
    page.click('.turn:first-child .answer:nth-child(3) [data-does="edit_answer"]')
    page.write(".editor textarea", "a better answer")
    page.click('.editor [data-does="save"]')
    page.until("turns[0].answers.length === 4")
    assert page.run("turns[0].chosen") == 0
    # The instructions of later questions are not those of the answers that are here.
    page.write("#system", "Be brief.")
    page.click('.turn:last-child [data-does="keep"]')
    page.until('document.querySelectorAll(".turn:last-child .kept").length === 1')
    ranking, edit, last = kept(live)[len(before) :]
    assert ranking["messages"] == edit["messages"] == asked
    assert last["messages"] == said
    page.click('.turn:last-child [data-does="retry"]')
    page.until(f"turns[1].messages.length === 4 && {IDLE}")
    assert page.run("turns[1].answers.length") == 1 and page.run("turns[1].messages[0].content") == "Be brief."


def test_what_is_being_edited_stays_while_something_else_is_done(page, live):
    opened(page, live.url)
    page.write("#annotator", "ann")
    answers = [{"text": text, "finish": "stop"} for text in "ab"]
    turn = {
        "question": "edit me",
        "messages": [{"role": "user", "content": "edit me"}],
        "answers": answers,
        "chosen": 0,
    }
    page.run(f"turns = {json.dumps([turn])}; show()")
    drafts = 'JSON.stringify([...document.querySelectorAll(".editor textarea")].map((e) => e.value))'
    page.click('.answer:nth-child(1) [data-does="edit_answer"]')
    page.write(".editor textarea", "half of a better ans")
    page.click('.answer:nth-child(2) [data-does="keep"]')
    page.until('document.querySelectorAll(".kept").length === 1')
    page.click("#language")
    page.click("#language")
    ask(page, "and this", n=2)
    page.until(f"turns.length === 2 && {IDLE}")
    assert json.loads(page.run(drafts)) == ["half of a better ans"]
    page.click('.turn:first-child [data-does="cancel"]')
    assert page.run(drafts) == "[]" and texts(page)[:2] == ["a", "b"]


def test_the_page_shows_how_many_answers_it_asks_for(page, live):
    opened(page, live.url)
    page.write("#max_tokens", "2")
    page.run('document.querySelector("#n").value = 20')
    page.write("#question", "many")
    page.click("#send")
    assert page.run('document.querySelector("#n").value') == "8"
    page.until(f"turns.length && {IDLE}")
    page.run("turns[0].answers = Array.from({length: 26}, () => ({text: 'a', finish: 'stop'})); show()")
    page.click('[data-does="retry"]')
    page.until('!document.querySelector("#trouble").hidden')
    assert "at most 26 answers" in page.run('document.querySelector("#trouble").textContent')


def test_the_page_works_where_the_browser_keeps_nothing_and_enter_may_end_a_word(page, live):
    forbid = (
        """Object.defineProperty(window, "localStorage", { get() { throw new DOMException("", "SecurityError"); } })"""
    )
    script = page.call("Page.addScriptToEvaluateOnNewDocument", source=forbid)
    opened(page, live.url)
    page.call("Page.removeScriptToEvaluateOnNewDocument", **script)
    page.write("#annotator", "ann")
    page.write("#question", "ni hao")
    enter = (
        "document.querySelector('#question').dispatchEvent(new KeyboardEvent('keydown', {key: 'Enter', keyCode: %d}))"
    )
    page.run(enter % 229)  # of an input method, in Safari
    assert page.run("turns.length") == 0
    page.run(enter % 13)
    page.until(f"turns.length === 1 && {IDLE}")
    assert page.complaints == []


def test_what_the_model_says_is_text_and_runs_nothing(page, live):
    opened(page, live.url)
    evil = '<img src=x onerror="document.title=1"><script>document.title=2</script><b>&amp;</b>'
    turn = {"question": evil, "answers": [{"text": evil, "finish": "stop"}], "chosen": 0}
    page.run(f"turns = [{json.dumps(turn)}]; show()")
    assert texts(page) == [evil] and not page.run('document.querySelector("main img, main script, main b")')
    assert page.run("document.title") == "tiny"
    # Should HTML of the model ever get into the page, the policy stops it.
    page.run(f"document.querySelector('main').insertAdjacentHTML('beforeend', {json.dumps(evil)})")
    page.until("true")
    assert page.run("document.title") == "tiny"
    assert page.run("fetch('https://example.invalid/').then(() => 1, (e) => String(e))") != 1
    assert any("Content Security Policy" in text for text in page.complaints)


def test_the_page_speaks_chinese_where_the_browser_does_and_on_request(page, live):
    opened(page, live.url, language="zh-CN")
    assert page.run("document.documentElement.lang") == "zh-Hans"
    assert page.run('document.querySelector("#send").textContent') == "发送"
    page.click("#language")
    assert page.run('document.querySelector("#send").textContent') == "Send"
    words = page.run("WORDS")
    assert words["en"].keys() == words["zh"].keys()


def test_the_page_asks_for_the_key_where_the_server_wants_one(page, live):
    with listening(live.served, rules=RULES._replace(keys=("0123456789abcdef",))) as url:
        page.open(url, width=390)
        page.until('!document.querySelector("#secret").hidden && document.querySelector("#panel").open')
        page.until('document.querySelector("#trouble").textContent.includes("the API key is missing or wrong")')
        page.write("#key", "0123456789abcdef")
        page.until('document.querySelector("#name").textContent === "tiny"')
        ask(page, "Hi")
        page.until(IDLE)
        assert page.run('document.querySelector("#trouble").hidden')
        assert not page.run("JSON.stringify([{...localStorage}, {...sessionStorage}]).includes('0123456789abcdef')")


def test_a_wrong_request_shows_the_servers_line_and_gives_the_question_back(page, live):
    opened(page, live.url)
    page.write("#question", "x" * 300)
    page.click("#send")
    page.until('!document.querySelector("#trouble").hidden')
    assert "the prompt has 302 tokens" in page.run('document.querySelector("#trouble").textContent')
    assert page.run('document.querySelector("#question").value') == "x" * 300 and page.run("turns.length") == 0
