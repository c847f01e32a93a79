"""The index of the site's search, and the two languages of its pages."""

import re
from pathlib import Path

import chinese
import languages
import pytest
import search
import telephone

PAGE = """<p>before any heading</p>
<h1 id="data">Data<a class="headerlink" href="#data" title="x">¶</a></h1>
<p>One <code>--batch-size</code>, and</p>
<pre><span class="gp">$ </span>tigerjax<span> --n</span> 4</pre>
<h2 id="rows">Rows &amp; <em>shares</em><a class="headerlink" href="#rows">¶</a></h2>
<ul><li>one</li><li>two</li></ul>"""


def test_a_section_has_its_heading_its_anchor_and_its_words_unbroken():
    first, second = search.sections(PAGE)
    assert first == ("Data", "data", "One --batch-size, and $ tigerjax --n 4", ())
    assert second == ("Rows & shares", "rows", "one two", ())


def test_options_are_those_at_the_beginning_of_a_line_of_help_or_of_a_row():
    rows = "<tr>\n<td><code>--a.b-c</code></td>\n<td>as --no is</td></tr>"
    lines = "usage: x --no\n\nSuch as --no or\n  --d INT   Number\n            --no, or --no\n  --long-one\n"
    (section,) = search.sections(f'<h2 id="x">X</h2><table>{rows}</table><pre><code>{lines}</code></pre>')
    assert section.options == ("a.b-c", "d", "long-one")


def test_chinese_words_of_an_english_page_are_marked_and_tags_are_left_alone():
    made = languages.marked('<p title="书">一本 book（书）</p>')
    assert made == '<p title="书"><span lang="zh-Hans">一本</span> book<span lang="zh-Hans">（书）</span></p>'


def test_a_cell_has_the_name_of_its_column_for_a_narrow_screen():
    table = "<table><thead><tr><th>a <code>b</code></th><th>c &amp; d</th></tr></thead>"
    made = telephone.labelled(f"{table}<tbody><tr><td>1</td><td>2</td></tr></tbody></table>")
    assert (
        made == table + '<tbody><tr><td data-label="a b">1</td><td data-label="c &amp; d">2</td></tr></tbody></table>'
    )


def test_only_tables_of_words_become_cards():
    def page(*cells: str) -> str:
        rows = [f"<tr><td>a name, as long as it may be</td><td>{cell}</td></tr>" for cell in cells]
        return f"<table>{''.join(rows)}</table>"

    for cells, words in (
        (("a sentence about it", "another sentence about it"), True),
        (("说明一个较长的含义", "另一个较长的含义的说明"), True),
        (("<code>1</code>", "12.5", "about 3 GB"), False),
        ((), False),
    ):
        assert ("cards" in telephone.on_page_content(page(*cells), None, None, None)) == words, cells


CHINESE_PAGES = sorted(chinese.CHINESE.rglob("*.md"))


@pytest.mark.parametrize("path", CHINESE_PAGES, ids=lambda p: p.stem)
def test_a_chinese_page_has_the_commands_of_the_english_one(path: Path):
    assert chinese.refresh(path, write=False) == ""
    english = (chinese.DOCS / path.relative_to(chinese.CHINESE)).read_text(encoding="utf-8")
    headings = [re.findall(r"^##? ", text, re.MULTILINE) for text in (path.read_text(encoding="utf-8"), english)]
    assert len(headings[0]) == len(headings[1]), "a section is missing"


def test_home_errors_and_every_tutorial_are_there_in_chinese():
    wanted = {"index.md", "QUICKSTART.md", "ERRORS.md", "COMING_FROM.md", "LONG_CONTEXT.md", "SERVING.md"}
    wanted |= {f"tutorials/{p.name}" for p in (chinese.DOCS / "tutorials").glob("*.md")}
    assert {str(p.relative_to(chinese.CHINESE)) for p in CHINESE_PAGES} == wanted


def test_output_that_is_written_into_a_page_reaches_its_chinese_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(chinese, "DOCS", tmp_path)
    monkeypatch.setattr(chinese, "CHINESE", tmp_path / "zh")
    (tmp_path / "zh").mkdir()
    (tmp_path / "a.md").write_text("one\n```console\n$ new\n```\n", encoding="utf-8")
    (tmp_path / "zh" / "a.md").write_text("一\n```console\n$ old\n```\n", encoding="utf-8")
    assert chinese.follow(tmp_path / "a.md") == "wrote zh/a.md"
    assert (tmp_path / "zh" / "a.md").read_text(encoding="utf-8") == "一\n```console\n$ new\n```\n"
    assert chinese.follow(tmp_path / "a.md") == "" and chinese.follow(tmp_path.parent / "README.md") == ""


def named(path: Path) -> list[tuple[str, set[str]]]:
    """What stands in code in the prose of each part, with the part's beginning: commands, options, fields, files.

    A part is a row of a table, or what stands between two headings.
    """
    prose = chinese.BLOCK.sub("", path.read_text(encoding="utf-8"))
    rows = re.findall(r"^\|.*\|$", prose, re.MULTILINE)
    parts = [*rows, *re.split(r"^#+ ", re.sub(r"^\|.*\|$", "", prose, flags=re.MULTILINE), flags=re.MULTILINE)]
    return [(part[:60], {" ".join(words.split()) for words in re.findall(r"`([^`]+)`", part)}) for part in parts]


@pytest.mark.parametrize("path", CHINESE_PAGES, ids=lambda p: p.stem)
def test_each_part_of_a_chinese_page_names_the_commands_options_and_files_of_the_english_one(path: Path):
    english = named(chinese.DOCS / path.relative_to(chinese.CHINESE))
    for (beginning, theirs), (_, ours) in zip(english, named(path), strict=True):
        assert ours == theirs, beginning


ENGLISH = """text
<!-- run: shown -->
```console
$ one
1
```
<!-- file: a.md -->
````md
```
inside
```
````
| `no such …` | 2 | cause | remedy |
"""


def test_blocks_and_messages_are_copied_and_prose_stays():
    page = "文字\n```\n旧\n```\n更多\n```\n```\n| `no such old …` | 3 | 原因 | 对策 |\n"
    made = chinese.in_step(ENGLISH, page, "a.md")
    assert made.startswith("文字\n<!-- run: shown -->\n```console\n$ one\n1\n```\n更多\n<!-- file: a.md -->\n````md\n")
    assert made.endswith("| `no such …` | 2 | 原因 | 对策 |\n") and chinese.in_step(ENGLISH, made, "a.md") == made


def test_a_message_that_changed_its_words_is_copied_and_one_that_is_another_is_named():
    english = "| `no such file` | 2 | a | b |\n| `this one is too large` | 3 | a | b |\n"
    reworded = "| `no such files` | 2 | 甲 | 乙 |\n| `this is too large` | 2 | 丙 | 丁 |\n"
    made = chinese.in_step(english, reworded, "a.md")
    assert made == "| `no such file` | 2 | 甲 | 乙 |\n| `this one is too large` | 3 | 丙 | 丁 |\n"
    for moved in (
        "| `this one is too large` | 3 | 丙 | 丁 |\n| `the sentence went` | 2 | 甲 | 乙 |\n",
        "| `this one is too large` | 3 | 丙 | 丁 |\n| `no such file` | 2 | 甲 | 乙 |\n",
        "| `no such file` | 2 | 甲 | 乙 |\n| `port is taken` | 3 | 丙 | 丁 |\n",
    ):
        with pytest.raises(ValueError, match=r"^a\.md: 2 messages"):
            chinese.in_step(english, moved, "a.md")


def test_a_block_or_a_message_too_few_is_named():
    with pytest.raises(ValueError, match=r"zh/a\.md: 1 blocks, but the English page has 2"):
        chinese.in_step(ENGLISH, "```\n```\n| `no such …` | 2 | 原因 | 对策 |\n", "zh/a.md")
    missing = r"0 messages, but the English page has 1; missing here: `no such …` \| 2; not there"
    with pytest.raises(ValueError, match=missing):
        chinese.in_step(ENGLISH, "```\n```\n```\n```\n", "zh/a.md")
