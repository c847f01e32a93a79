"""The page needs nothing but itself, says every figure that it is given and trusts none of the text."""

import io
import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path

import pytest
from made_up import HOSTILE, made_up_report
from rich.console import Console

from tigerjax.report import print_table, reasons, render

SECTIONS = {
    "verdict": [],
    "tokenizer": ["tokenizer"],
    "data": ["data"],
    "shares": ["shares"],
    "curves": ["curves"],
    "validation": ["validation"],
    "accuracy": ["accuracy"],
    "round": ["true_reward", "round"],
    "rounds": ["align_rounds"],
    "examples": ["examples"],
    "samples": ["samples"],
    "speed": ["runs"],
    "parity": ["hf_max_abs_logit_diff", "hf_greedy_equal"],
    "time": ["seconds"],
    "graph": ["lineage"],
    "lineage": [],
}
VOID = {"meta", "br", "hr", "img", "input", "link"}


class Page(HTMLParser):
    """Collects ids, attributes and text, and checks that every tag that is opened is closed in order."""

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert not self.open, self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(k, v or "") for k, v in attrs]
        self.ids += [v for k, v in attrs if k == "id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(k, v or "") for k, v in attrs]

    def handle_endtag(self, tag):
        assert self.open and self.open[-1] == tag, (self.open, tag)
        self.open.pop()

    def handle_data(self, data):
        self.text += data


def rendered(report: dict, folder: Path) -> str:
    render(report, folder / "report.html")
    return (folder / "report.html").read_text(encoding="utf-8")


def test_the_page_asks_nothing_of_the_network_and_runs_no_script(tmp_path: Path):
    text = rendered(made_up_report(), tmp_path)
    page = Page(text)
    assert not {"script", "link", "img", "iframe", "object", "base"} & set(page.tags)
    assert not [a for a in page.attributes if a[0] in ("src", "xlink:href", "srcset", "data", "action")]
    assert not [a for a in page.attributes if a[0] == "href" and not a[1].startswith("#")]
    assert not [a for a in page.attributes if a[0].startswith("on") or "://" in a[1]]
    style = text[text.index("<style>") : text.index("</style>")]
    assert "url(" not in style and "@import" not in style
    assert "prefers-color-scheme: dark" in style and "max-width: 640px" in style
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]


def test_every_section_is_there_once_and_in_order(tmp_path: Path):
    page = Page(rendered(made_up_report(), tmp_path))
    assert page.ids == list(SECTIONS)


@pytest.mark.parametrize("name", [name for name, keys in SECTIONS.items() if keys])
def test_a_section_without_figures_is_left_out_and_the_others_stay(name: str, tmp_path: Path):
    report = {k: v for k, v in made_up_report().items() if k not in SECTIONS[name]}
    page = Page(rendered(report, tmp_path))
    assert page.ids == [s for s in SECTIONS if s != name]
    print_table(report, Console(file=io.StringIO()))


def test_a_report_of_a_version_alone_is_a_page(tmp_path: Path):
    assert Page(rendered({"version": "0.0.made-up"}, tmp_path)).ids == ["verdict", "lineage"]
    print_table({"version": "0.0.made-up"}, Console(file=io.StringIO()))


def test_text_from_the_models_and_the_data_is_escaped(tmp_path: Path):
    report = made_up_report()
    tag = "<b onclick=x>"
    report["shares"]["wanted"][tag] = 0.0
    report["seconds"][tag] = 1.0
    report["accuracy"][tag] = report["accuracy"]["sft"]
    report["curves"][tag] = [[0, 1.0]]
    report["data"][tag] = {"in": 1, "out": 0, "dropped": {tag: 1}}
    report["round"]["winners"][tag] = 1
    report["version"] = report["seed"] = report["samples"][0]["lang"] = tag
    report["accuracy"]["base"]["by_task"][tag] = 0.5
    text = rendered(report, tmp_path)
    page = Page(text)
    assert "<script" not in text and "<b onclick" not in text
    assert "\x00" not in text and "\x1b" not in text
    assert HOSTILE.replace("\x00", "\ufffd").replace("\x1b", "\ufffd") in page.text
    assert page.text.count(tag) >= 9


def test_every_plot_is_valid_svg_with_a_title_for_those_who_do_not_see_it(tmp_path: Path):
    text = rendered(made_up_report(), tmp_path)
    plots = re.findall(r'<svg role="img".*?</svg>(?=<span|<ul|</div>)', text, re.DOTALL)
    assert len(plots) == text.count('<svg role="img"') > 30
    for plot in plots:
        tree = ET.fromstring(plot)
        title = tree.find("title")
        assert title is not None and title.text
        assert "nan" not in plot.replace(title.text, "") and "inf" not in plot.replace(title.text, "")


def test_the_page_says_the_figures_that_it_was_given(tmp_path: Path):
    page = Page(rendered(made_up_report(), tmp_path))
    said = [
        "0.0% → 66.0%",  # accuracy, base to rejection-sampled
        "+11.0 points",  # over SFT
        "+10.0 points over the control",
        "66.0% ± 2.4, n = 400",  # 100 sqrt(.66 .34 / 400) = 2.37
        "45.01%",
        "0.333 → 1.22",
        "1.11e-05",
        "22 of 22",
        "-0.111 → 0.333",
        "human edits 6 (5.4%)",
        "5 min 33 s".replace(" ", "\u00a0"),
        "0.700 → nan nats",  # a diverged run is not hidden
    ]
    assert [s for s in said if s not in page.text] == []


def test_accuracy_by_language_is_read_as_a_share_or_as_the_judge_gives_it(tmp_path: Path):
    report = made_up_report()
    before = Page(rendered(report, tmp_path)).text
    for told in report["accuracy"].values():
        for by in ("by_lang", "by_task"):
            told[by] = {k: v["accuracy"] for k, v in told[by].items()}
    after = Page(rendered(report, tmp_path)).text
    assert before.split("Lineage")[0] == after.split("Lineage")[0]


def test_the_terminal_table_says_accuracy_with_its_error_and_n():
    out = io.StringIO()
    print_table(made_up_report(), Console(file=out, width=120))
    rows = {line.split("│")[1].strip(): line for line in out.getvalue().splitlines() if line.startswith("│")}
    assert re.findall(r"[\d.]+", rows["rejection-sampled"]) == ["66.0", "2.4", "400", "69.3", "62.7"]
    assert "22 of 22" in rows["greedy answers equal to transformers"]


def test_page_and_terminal_say_when_the_export_was_compared_with_numpy_only(tmp_path: Path):
    report, out = made_up_report() | {"hf_compared_with": "numpy"}, io.StringIO()
    print_table(report, Console(file=out, width=120))
    page = Page(rendered(report, tmp_path)).text
    for text in (out.getvalue(), page):
        assert "largest logit difference to a Llama in numpy" in text and "to transformers" not in text
    assert "read by a Llama in numpy, against" in page


def contents(page: Page) -> list[str]:
    return [v.removeprefix("#") for k, v in page.attributes if k == "href"]


def test_the_contents_name_the_sections_that_are_there_and_no_others(tmp_path: Path):
    report = made_up_report()
    page = Page(rendered(report, tmp_path))
    assert contents(page) == [name for name, keys in SECTIONS.items() if keys]
    del report["lineage"], report["runs"]
    assert contents(Page(rendered(report, tmp_path))) == [
        name for name, keys in SECTIONS.items() if keys and name not in ("graph", "speed")
    ]
    assert contents(Page(rendered({"version": "0", "seconds": {"a": 1.0}}, tmp_path))) == []


def test_the_head_says_the_verdict_of_the_gate(tmp_path: Path):
    report = made_up_report()
    text = Page(rendered(report, tmp_path)).text.split("Tokenizer efficiency")[0]
    assert "gate of round 2refusedwin rate 66.0%" in text and "22.0% → 33.0%the start, and the model of round 1" in text
    del report["align_rounds"]
    report["round"] |= {"gate": "accepted", "win_rate": 0.5}
    text = Page(rendered(report, tmp_path)).text.split("Tokenizer efficiency")[0]
    assert "gate of the roundacceptedwin rate 50.0%; a tie: the new model wins as often as it loses" in text


def test_one_seed_is_warned_of_where_models_are_compared(tmp_path: Path):
    report = made_up_report()
    assert "One run, one seed." in rendered(report, tmp_path)
    del report["accuracy"], report["align_rounds"]
    assert "One run, one seed." not in rendered(report, tmp_path)


def test_each_stage_says_why_it_went_up_or_down(tmp_path: Path):
    text = Page(rendered(made_up_report(), tmp_path)).text
    # 200 sqrt((.11 .89 + .55 .45) / 400) = 5.9; (.55 - .11) (1.1, 1, .9) by task
    assert "+44.0 points compared with holistic base, more than two standard errors of the difference (5.9" in text
    assert "By task, in points: addition +48.4, word count +44.0, capitals +39.6." in text
    assert "+1.0 points compared with SFT, no more than two standard errors" in text and "it may be chance" in text


def test_declined_answers_and_a_long_list_of_tasks_are_in_the_sentence():
    def side(right: int, evasive: int) -> dict:
        by_task = {f"task_{i}": {"accuracy": right * i / 100, "right": right * i, "n": 100} for i in range(7)}
        return {"overall": right / 9, "n": 63, "evasive": evasive, "by_task": by_task}

    (_, said) = reasons.of_stages({"base": side(2, 30), "sft": side(1, 4)})[0]
    assert "in points: task 6 -6.0, task 5 -5.0, task 4 -4.0, task 3 -3.0, and 3 more tasks" in said
    assert "Answers that decline to answer: 30 → 4." in said
    assert reasons.of_stages({"base": side(2, 30)}) == []


@pytest.mark.parametrize(
    ("reward", "accuracy", "characters", "wanted"),
    [
        (0.1, 0.1, 10, "Reward and accuracy both rose"),
        (0.1, 0.0, 10, "The reward rose and the accuracy did not rise: the new model may have learnt to please"),
        (
            0.1,
            -0.02,
            30,
            "fell by 2.0 points: the new model may have learnt to please the reward model. Its answers",
        ),
        (-0.1, 0.1, 10, "The accuracy rose and the reward did not"),
        (0.0, 0.0, 10, "the new model is no better and no worse"),
        (-0.1, 0.0, 10, "Neither reward nor accuracy rose"),
    ],
)
def test_a_round_says_what_reward_accuracy_and_length_say_together(reward, accuracy, characters, wanted):
    before = {"reward": 1.0, "accuracy": 0.5, "characters": 10.0}
    after = {"reward": 1.0 + reward, "accuracy": 0.5 + accuracy, "characters": characters}
    assert wanted in reasons.of_round(before, after)


def test_names_that_people_gave_stay_as_they_wrote_them(tmp_path: Path):
    report = made_up_report()
    report["curves"] = {"my_zh_run-2": [[1, 2.0], [2, 1.0]], "sft": [[1, 2.0]]}
    report["runs"] = {"runs/my_zh_run-2": report["runs"]["holistic"]}
    text = Page(rendered(report, tmp_path)).text
    assert "my_zh_run-2" in text and "runs/my_zh_run-2" in text and "my zh run" not in text


def test_chinese_questions_answers_and_names_are_marked(tmp_path: Path):
    report = made_up_report()
    report["samples"][1]["answers"]["sft"] = "三百三十三"
    report["curves"]["中文运行"] = [[1, 2.0]]
    text = rendered(report, tmp_path)
    assert '<div class="ask" lang="zh-Hans"><span class="lang" lang="en">Chinese</span>虚构' in text
    assert '<dd lang="zh-Hans">三百三十三' in text and '<h3 lang="zh-Hans">中文运行</h3>' in text
    assert text.count('lang="zh-Hans"') == 3 + len(report["examples"][0]["held_out"])


def test_wanted_shares_stand_beside_measured_ones_on_a_scale_to_100_percent(tmp_path: Path):
    text = rendered(made_up_report(), tmp_path)
    shares = text[text.index('<section id="shares"') :].split("</section>")[0]
    assert re.findall(r'class="fill" x="0.0%" y="3" width="([\d.]+)%"', shares) == [
        "45.00", "45.01", "45.00", "44.99", "10.00", "10.00"
    ]  # fmt: skip
    assert shares.count('class="bar scale"') == 1 and shares.count(">wanted<") == 3 == shares.count(">measured<")


def test_the_terminal_says_the_verdict_of_each_round():
    out = io.StringIO()
    report = made_up_report()
    report["align_rounds"][0]["note"] = "a tie"
    print_table(report, Console(file=out, width=160))
    lines = out.getvalue().splitlines()
    for name, value in (("gate", "accepted, a tie"), ("win rate", "66.0%"), ("held-out accuracy", "22.0% → 33.0%")):
        assert any(f"round 1: {name}" in line and value in line for line in lines), name


def test_mean_rewards_of_different_rewards_are_not_drawn_as_one_series(tmp_path: Path):
    report = made_up_report()
    said = "The reward has changed between rounds: compare mean rewards within a round only"
    for one in report["align_rounds"]:
        one["scored_by"] = "a"
    text = rendered(report, tmp_path)
    assert said not in text and "the reward has changed" not in text
    dots = text.count('class="dot')
    report["align_rounds"][1]["scored_by"] = "b"
    text = rendered(report, tmp_path)
    assert said in text and "round 2; the reward has changed" in text
    assert text.count('class="dot') == dots - 2  # one in each plane


def test_a_failed_write_leaves_the_old_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    text = rendered(made_up_report(), tmp_path)
    monkeypatch.setattr("tigerjax.files.paths.os.replace", lambda *_: (_ for _ in ()).throw(OSError("made up")))
    with pytest.raises(OSError, match="made up"):
        render({"version": "other"}, tmp_path / "report.html")
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == text


def test_rounds_are_drawn_with_scores_shares_and_every_model_in_both_planes(tmp_path: Path):
    text = rendered(made_up_report(), tmp_path)
    made = text[text.index('<section id="rounds"') :].split("</section>")[0]
    assert "reward model <b>77 (77.0%)</b>" in made and "Refused: mean en lost 2.22 points &lt;script" in made
    assert made.count("n = 11, mean") == 2 * 2 * 2  # of twelve scores one is not finite: legend and title, both sides
    assert made.count("<circle") == 2 * 3 and made.count("dot refused") == 2 and made.count("dot start") == 2


def test_foreign_text_reaches_the_terminal_without_control_characters_or_markup():
    report = made_up_report()
    report["version"] = HOSTILE
    report["accuracy"]["[bold]\x1b[31m"] = report["accuracy"]["sft"]
    report["shares"]["wanted"] = {HOSTILE: 1.0}
    out = io.StringIO()
    print_table(report, Console(file=out, width=200))
    text = out.getvalue()
    assert "\x1b" not in text and "\x00" not in text
    assert "[bold]\ufffd[31m" in text and HOSTILE.replace("\x00", "\ufffd").replace("\x1b", "\ufffd") in text
