"""Cleaning leaves what a text is about: HTML in code and answers, borders of words and lines; and it ends in time."""

import pytest
from linear import assert_linear

from tigerjax.text.markup import tags
from tigerjax.text.rules import FILTERS, REWRITES, rule_set

ALL, DEFAULT = rule_set(["all"]), rule_set()
FENCED = "```html\n<ul>\n  <li>Apple &amp; pear</li>\n</ul>\n```"
LENGTH = 20_000


def document(text, rules=DEFAULT):
    return rules.rewritten(text, sft=False, code=False, zh=False)


@pytest.mark.parametrize(
    "answer",
    [
        FENCED,
        "Write &lt; for it, and &amp; for an ampersand.",
        '<p class="note">A whole page</p>',
        'Use <img src="a.png"> or <br>.',
    ],
)
def test_html_of_sft_answers_stays_unless_its_rules_are_asked_for(answer):
    example = {"messages": [{"role": "user", "content": "How?"}, {"role": "assistant", "content": answer}]}
    assert DEFAULT.cleaned(example) == (example, "")
    asked = rule_set(["tags", "entities"])
    assert ("Apple" in answer) == (asked.cleaned(example)[0] == example)


@pytest.mark.parametrize(
    "code",
    [
        FENCED,
        '~~~vue\n<div class="box">\n  <p>{{ text }}</p>\n</div>\n~~~',
        "1. First:\n   ````md\n   ```\n   <b>bold</b>\n   ```\n   ````",
        "> ```\n> <br>\n> ```",
        "The element `<b>bold</b>` and ``a ` <i>``.",
        "In one line: ```<td>&lt;</td>``` and on.",
        "It begins here: ```html\n<li>one</li>\n```",
        "<pre>\n<b>raw</b> &amp;\n</pre>",
        "Press <kbd>&lt;</kbd> or <code><br/></code>.",
        "```\n<p>never closed</p>",
        "```\ncafÃ© is what mojibake looks like\n© 2020 Some Press\n```",
    ],
)
def test_code_in_a_document_stays_as_it_is(code):
    assert document(code, ALL) == code
    dirty = f"<b>Before</b> &amp; with.\n\n{code}"
    assert document(dirty, ALL) == f"Before & with.\n\n{code}"


@pytest.mark.parametrize(
    ("dirty", "clean"),
    [
        ("&notit; &nosuch; &copyright; &#xD800;", "&notit; &nosuch; &copyright; &#xD800;"),  # no entities by prefix
        ("&copy; 5 &lt; 6 &#65; &hellip;", "© 5 < 6 A …"),
        ("Write &lt;b&gt; for bold &lt;br/&gt;.", "Write &lt;b&gt; for bold &lt;br/&gt;."),  # not a tag afterwards
        ("Write &amp;lt; for it.", "Write &amp;lt; for it."),  # not an entity afterwards
        ("&#60;b&#62; &lt;b&#8203;&gt;", "&#60;b&#62; &lt;b&#8203;&gt;"),
        ('The <br> tag, the "<b>" and （<i>）; <u>this</u> goes.', 'The <br> tag, the "<b>" and （<i>）; this goes.'),
        ("用 <td> 标签。<p>段落</p>", "用 <td> 标签。\n段落"),
        ("<<b>b>twice</b>", "twice"),
    ],
)
def test_what_entities_produce_is_text_and_a_tag_that_is_spoken_of_stays(dirty, clean):
    assert document(dirty) == clean == document(clean)


KEPT = [
    "<p> begins a paragraph, and <br> breaks a line.",
    "a <b> c </b>",
    "To leave a line, write <br>; nothing else.",
    "Find the index of <p> in S_5.",
    "段落以 <p> 开始。",
    "Write &lt;script src=a.js&gt; or &lt;/form&gt; there.",
    "In HTML a <b>bold</b> word, a<br>break and &amp;, an ampersand, are written so.",
    '在HTML里，<a href="x">链接</a>这样写，空格是&nbsp;。',
    "The XML of it: <a><b>1</b></a>",
    "In `<b>x</b>` the <b> stands for bold.",
]
CLEANED = {
    "A film.<br /><br />See it.": "A film.\n\nSee it.",
    "Denied. <i>A v. B</i>, 8 F. 2d; <li> and so <li> on": "Denied. A v. B, 8 F. 2d;  and so  on",
    "one <br> two <br> three <br> four <br>": "one \n two \n three \n four",
    'See <a href="a.html">here</a> &lt;and&gt; there': "See here <and> there",
    "Of text/html and index.html:<br>a": "Of text/html and index.html:\na",
    "<!DOCTYPE html>a<br>b": "<!DOCTYPE html>a\nb",
    "The case is ongoing. <hr>\n\nAnother one": "The case is ongoing. \n\nAnother one",
    "a\n<br>\nb": "a\n\n\nb",
    "版权所有<br>第二行": "版权所有\n第二行",
    "```html\n<b>x</b>\n```\nThen<br>this": "```html\n<b>x</b>\n```\nThen\nthis",
}


@pytest.mark.parametrize("text", KEPT)
def test_a_text_about_markup_keeps_it(text):
    assert document(text) == text


@pytest.mark.parametrize(("dirty", "clean"), CLEANED.items())
def test_what_is_left_over_of_a_page_goes(dirty, clean):
    assert document(dirty) == clean == document(clean)


@pytest.mark.parametrize(
    ("dirty", "clean"),
    [
        ("page one.\fpage two", "page one.\npage two"),
        ("name:\x0bvalue", "name:\nvalue"),
        ("first\x85second\u2028third\u2029fourth", "first\nsecond\nthird\nfourth"),
        ("a\x1cb\x1db\x1ec\x1fd", "a\nb\nb\nc d"),
        ("a\r\n\fb\rc", "a\n\nb\nc"),
        ("\x1b[31mred\x1b[0m and \x1b[1;32mgreen\x1b[K", "red and green"),
        ("N\x08NA\x08AM\x08ME\x08E _\x08x", "NAME x"),
        ("ภาษา\u200bไทย\u200bง่าย", "ภาษา\u200bไทย\u200bง่าย"),
        ("ខ្មែរ\u200b\u200bភាសា en\u200bglish 天\u200b地", "ខ្មែរ\u200bភាសា english 天地"),
    ],
)
def test_a_character_that_parts_words_or_lines_never_goes_without_leaving_a_border(dirty, clean):
    assert document(dirty) == clean == document(clean)


def test_a_placeholder_in_code_or_as_the_name_of_a_picture_is_none():
    def reason(answer):
        turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": answer}]
        return DEFAULT.cleaned({"messages": turns})[1]

    assert reason("See ![image](cat.png) and [image](cat.html).") == ""
    assert reason("Alpaca writes `<noinput>` there.") == ""
    assert reason("See [image].") == reason("<noinput>") == "placeholder"


SLOW = {  # texts that rules are slow on when a rule is quadratic; each about LENGTH characters
    "newlines": "\n" * LENGTH,
    "newlines and spaces": "\n \t" * (LENGTH // 3),
    "spaces": " " * LENGTH + "x",
    "open tags": "<b" * (LENGTH // 2),
    "nested tags": "<" * (LENGTH // 3) + "b>" * (LENGTH // 3),
    "attributes": "<a" + " x=1" * (LENGTH // 4),
    "quotes": "<a x='" * (LENGTH // 6),
    "ampersands": "&" + "amp;" * (LENGTH // 4),
    "escaped tags": "&lt;b&gt;" * (LENGTH // 9),
    "backticks": "".join("`" * (i % 60 + 1) + "a" for i in range(LENGTH // 31)),
    "open code": "<code>" * (LENGTH // 6),
    "fences": "```\n" * (LENGTH // 4),
    "escapes": "\x1b[0" * (LENGTH // 3),
    "zero width": "ก" + "\u200b" * LENGTH,
    "markers": "\n\n### Response:\n" * (LENGTH // 16),
    "mojibake": "â€™ Ã©" * (LENGTH // 6),
    "links": "http://" * (LENGTH // 7),
    "copyright": "(c) " * (LENGTH // 4),
    "notices": "icp备 \n" * (LENGTH // 6),
    "one character": "漢" * LENGTH,
    "placeholders": "[image]`" * (LENGTH // 8),
    "addresses": "a.b-c@d.e-f." * (LENGTH // 12),
    "at signs": "a" * (LENGTH // 2) + "@a" * (LENGTH // 4),
    "digits": "1" * LENGTH,
    "numbers": "+86 138-0013 (0" * (LENGTH // 15),
    "cards": "11010519491231002X" * (LENGTH // 18),
    "tokens": "eyJabcdefghijk." * (LENGTH // 15),
    "keys": "-----BEGIN PRIVATE KEY-----\nAAAAAAAAAAAAAAAA\n" * (LENGTH // 45),
    "sentences": "The same again, and again. " * (LENGTH // 27),
}


@pytest.mark.parametrize("name", SLOW)
def test_no_rule_is_quadratic(name):
    def clean(quarters):
        text = (SLOW[name] * 4)[: len(SLOW[name]) * quarters // 100]
        messages = [{"role": "user", "content": text}, {"role": "assistant", "content": f"{text}!"}]
        for record in ({"text": text, "lang": "zh"}, {"messages": messages}):
            ALL.cleaned(record)
            for rule in FILTERS:
                rule.drops(record)

    assert_linear(clean, 400)  # from the text itself to four of it
    assert len(REWRITES) == 16  # a new rewrite needs its slow text here


@pytest.mark.parametrize(
    ("dirty", "clean"),
    [
        ("<tr><td>1</td><td>2</td></tr><tr><td>3</td><td>4</td></tr>", "1 2\n3 4"),
        ("<tr><th>Name</th><th>Age</th></tr>", "Name Age"),
        ("<ul><li>one<li>two</ul>three", "one\ntwo\nthree"),
        ("<h2>Title</h2>Text<div>more</div>end", "Title\nText\nmore\nend"),
        ("one<p>two<hr>three", "one\ntwo\nthree"),
        ("<option value=1>red</option><option>blue</option>", "red blue"),
        ("one <li> two\n<li>three", "one  two\nthree"),  # spaces stand there already
        ("un<b>believ</b>able H<sub>2</sub>O x<sup>2</sup> <span>a</span>b", "unbelievable H2O x2 ab"),
        ("<td>一</td><td>二</td>", "一\n二"),
        ("中<b>文</b>，<span>没</span>有空格<p>新段</p>", "中文，没有空格\n新段"),
        ("git log <option> and <td>a</td>", "git log <option> and a"),  # a placeholder, as nothing closes it
        ("<a<td>href=x>link</a>", "link"),
    ],
)
def test_tags_of_blocks_keep_words_apart_and_tags_inside_of_words_do_not(dirty, clean):
    made = tags(dirty)
    assert made.strip() == clean
    assert tags(made) == made
