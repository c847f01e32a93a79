"""Examples of rounds on the page: what is shown of them, and lists that hide what is not chosen, without a script."""

import re
from pathlib import Path

import headless
import pytest
from made_up import HOSTILE, made_up_examples

from tigerjax.report import render
from tigerjax.report.examples import examples


def page_of(folder: Path, **report: object) -> str:
    render({"version": "0.0.made-up"} | report, folder / "report.html")
    return (folder / "report.html").read_text(encoding="utf-8")


def test_a_prompt_has_its_answers_with_every_part_what_people_did_and_why_they_won(tmp_path):
    made = examples({"examples": [{"round": 2} | made_up_examples()], "align_rounds": [{}, {}]})
    people, floor, nobody, _ = made["rounds"][0]["prompts"]
    assert people["people"] == f"ann, {HOSTILE}: ranked 4, edited 1" and made["without"] == 1
    assert [answer["why"] for answer in people["answers"]] == [
        "written by people",
        "another answer is ahead of it; place 1 with people",
    ]
    assert [answer["why"] for answer in floor["answers"]] == ["highest score", "is below a floor"]
    assert floor["answers"][1]["parts"] == [(f"safe{HOSTILE}", "0.111", True), ("taste", "no score", False)]
    assert not nobody["won"] and nobody["answers"][0]["why"] == "is empty"
    text = page_of(tmp_path, examples=[{"round": 2} | made_up_examples()])
    for said in ("No answer won.", "Prompts not shown: 4,444.", "Held-out questions not shown: 55.", "below its floor"):
        assert said in text
    assert "earlier messages, not shown: 3" in text and "characters not shown: 22222" in text
    assert "<script" not in text and "\x1b" not in text and text.count("&lt;script") > 30


def test_a_list_has_each_kind_that_there_is_with_its_number(tmp_path):
    made = made_up_examples()
    kinds, changes = examples({"examples": [{"round": 1} | made]})["filters"]
    assert [(value, count) for value, _, count in kinds.choices] == [
        ("all", 4), ("people", 1), ("floor", 1), ("nobody", 1), ("reward", 1),
    ]  # fmt: skip
    assert [(value, count) for value, _, count in changes.choices] == [
        ("all", 3), ("better", 1), ("worse", 1), ("equal", 1),
    ]  # fmt: skip
    one_kind = made | {"prompts": made["prompts"][:1], "held_out": made["held_out"][:1]}
    assert "<select" not in page_of(tmp_path, examples=[{"round": 1} | one_kind])


@headless.needed
@pytest.mark.parametrize(("chosen", "left"), [("", 7), ("kind-floor", 4), ("change-worse", 5)])
def test_what_is_not_chosen_is_hidden_in_a_browser(tmp_path, chosen, left):
    text = page_of(tmp_path, examples=[{"round": 1} | made_up_examples()])
    picked = text.replace(f'<option class="{chosen}">', f'<option class="{chosen}" selected>')
    assert (picked != text) == bool(chosen)
    count = """<pre id="found"></pre><script>addEventListener("load", () => {
      const there = [...document.querySelectorAll(".example")].filter((e) => e.getClientRects().length);
      document.getElementById("found").textContent = "shown " + there.length; });</script>"""
    (tmp_path / "page.html").write_text(picked.replace("</main>", f"</main>{count}"), encoding="utf-8")
    found = headless.browser((tmp_path / "page.html").as_uri(), tmp_path / "profile", "--dump-dom")
    assert re.search(r"shown (\d+)", found)[1] == str(left)
