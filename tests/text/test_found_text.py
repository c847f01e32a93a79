"""Units are found in documents in spite of slips of the pen, and what only mentions or resembles them is left alone."""

import random
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tigerjax.files import jsonl
from tigerjax.records import block
from tigerjax.text.decontaminate import decontaminate_files, options
from tigerjax.text.dedup import against_sft_files, dedup_files
from tigerjax.text.grams import keys
from tigerjax.text.short_units import SEED, SHORT_BELOW, SHORTEST, ShortIndex, edits_allowed

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks" / "studies"))


def turns(question, answer):
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def searched(folder, documents, examples, **how):
    """(hits, manifest) of `dedup against-sft`; documents {id: text}, examples {id: (question, answer)}."""
    jsonl.write_jsonl(folder / "docs.jsonl", ({"id": i, "text": t} for i, t in documents.items()))
    jsonl.write_jsonl(folder / "sft.jsonl", ({"id": i, "messages": turns(*qa)} for i, qa in examples.items()))
    made = against_sft_files([folder / "docs.jsonl"], [folder / "sft.jsonl"], folder / "out", action="report", **how)
    return [hit for _, hit in jsonl.read_jsonl(folder / "out" / "hits" / "hits.jsonl")], made


@pytest.mark.parametrize("part", [0, 1])
@pytest.mark.parametrize("lang", ["zh", "en"])
def test_recall_and_false_hits_hold_on_the_embedded_text(lang, part):
    from found_text import measured, parts

    two = parts(None, lang)
    figures, hits = measured(two[part], two[1 - part], lang)
    assert all(share == 1 for name, share in figures.items() if name.endswith("verbatim")), figures
    assert all(share >= 0.95 for name, share in figures.items() if name.endswith("noisy")), figures
    assert all(share <= 0.001 for name, share in figures.items() if name.endswith("false")), (figures, hits)
    assert figures["mentions"] == 0, hits


ALIKE = {
    "entries of a menu": (
        "Select Key\nSelect the key that you want to seal the present letter with.\nTo reach this command...\n"
        "Choose File - Letter Seals - Seals of Letters.\n"
        "Choose File - Properties - General page, press the Letter Seals button, then click the Seal Letter button.",
        "Ways to the commands of this menu\nChoose File - Properties.\nChoose File - Letter Seals - Seals of Letters.\n"
        "Choose Tools - Scripts - Script Seals.\nChoose File - Properties - General page.\n"
        "Choose File - Properties - General page, press the Letter Seals button, then click the Seal Letter button.\n"
        "Choose File - Properties - Fonts page.\nChoose File - Print.",
    ),
    "another function of the same kind": (
        "MEANIFALL function\nReturns the arithmetic mean of all places in a field that satisfy many given conditions."
        " The MEANIFALL function adds up all figures that match the logical tests and divides this sum by the number"
        " of chosen figures.",
        "MEANIF function\nReturns the arithmetic mean of all places in a field that satisfy a certain rule. The MEANIF"
        " function adds up all figures that match the logical test and divides this sum by the number of chosen"
        " figures.\nIt may be used in every place of a field.",
    ),
}


@pytest.mark.parametrize("name", ALIKE)
def test_texts_that_are_alike_for_another_reason_are_no_copies(tmp_path, name):
    unit, document = ALIKE[name]
    documents = {"alike": document, "copy": f"Before it stands this.\n{unit}\nBehind it stands that."}
    hits, _ = searched(tmp_path, documents, {"x": ("?", unit)})
    assert [hit["doc"] for hit in hits] == ["copy"]


BOILERPLATE = (
    "This function is part of the open document format for office applications, standard version 1.2, and may be used"
    " in every cell of a sheet."
)
PAGES = {
    "MINUTE": "MINUTE\nCalculates the minute for an internal time value, as a number between 0 and 59, which is what"
    " clocks show.\n",
    "PRICE": "PRICE\nReturns what a security costs that pays interest at regular times, for each hundred of its face"
    " value.\n",
}


def test_the_half_of_a_text_that_many_documents_share_is_no_copy_of_it(tmp_path):
    documents = {f"d{i}": f"Function {i} counts the letters of cell {i}.\n{BOILERPLATE}" for i in range(5)}
    documents["copy"] = f"Page 7.\n{PAGES['MINUTE']}{BOILERPLATE}\nPage 8."
    examples = {name: ("?", text + BOILERPLATE) for name, text in PAGES.items()}
    hits, _ = searched(tmp_path, documents, examples)
    assert [(hit["doc"], hit["sft_id"]) for hit in hits] == [("copy", "MINUTE")]


def test_a_slip_that_all_copies_of_a_long_answer_share_hides_none_of_them(tmp_path):
    answer = PAGES["PRICE"].replace("\n", " ") + PAGES["MINUTE"].replace("\n", " ")
    copy = answer.replace("interest", "intrest").replace("internal", "inernal")
    documents = {f"d{i}": f"Page {i}. {copy} That was page {i}." for i in range(9)}
    assert len(searched(tmp_path, documents, {"s": ("?", answer)})[0]) == 9


SINE = (
    "Returns the hyperbolic {0} of a complex number. The hyperbolic {0} of a complex number can be expressed by a sum"
    " of powers, and the {0} is then given in the string format with a letter as its imaginary unit."
)


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ("在要绘制正方形一角的位置点击，然后拖成所需的大小。", "在要绘制矩形一角的位置点击，然后拖成所需的大小。"),
        ("宾馆反馈2008年3月11日：尊敬的客户您好！", "宾馆反馈2008年3月13日：尊敬的客户您好！"),
        ("宾馆反馈2008年3月19日：尊敬的客户您好！", "宾馆反馈2008年3月190日：尊敬的客户您好！"),
        ("Moves the chosen heading to the left of the page that is shown now.",
         "Moves the chosen heading to the right of the page that is shown now."),
        ("回当前文档中的工作表。", "列出当前文档中的工作表。"),
        (SINE.format("cosine"), SINE.format("tangent")),
    ],
)  # fmt: skip
def test_another_word_or_another_number_is_no_slip_of_the_pen(tmp_path, answer, text):
    assert searched(tmp_path, {"d": f"{text}\n随后还有一句。", "e": "nothing"}, {"s": ("?", answer)})[0] == []


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ("２、瞧，京九线通了，我们现在可以坐火车回家了。", "２２、瞧，京九线通了，我们现在可以坐火车回家了。"),
        ("计算 6 年每月 1,000 元的年金的当前价值。", "计算 6 年每月 1,000 元的年金的当前价值值。"),
        ("居民１９９１年搬了家，后来当了上访户，走很多路。", "居民１９９９１年搬了家家，后来当了上访户，走很多路。"),
        ("The harbour was built by monks who came from afar.", "The harbbour was built by mnks who came from afar."),
        (SINE.format("cosine"), SINE.format("cosine").replace("complex", "compelx").replace("powers", "powrs")),
    ],
)  # fmt: skip
def test_slips_of_the_pen_are_none_of_another_word(tmp_path, answer, text):
    assert searched(tmp_path, {"d": f"前面有一句。\n{text}\n随后还有一句。"}, {"s": ("?", answer)})[0]


def test_whole_sentences_that_make_up_half_of_an_answer_are_found(tmp_path):
    whole = " ".join(page.split("\n")[1] for page in PAGES.values())
    answer = whole + " Nobody else has said what follows here: it was made up."
    hits, _ = searched(tmp_path, {"d": f"Page 1. {whole} That was page 1."}, {"s": ("?", answer)})
    assert len(hits) == 1


MENTIONS = {
    "en": (
        "The United States of America.",
        "The United States of America declared its independence in 1776. It has fifty states today.",
        "He moved to the United States of America in 1923. They opened a bakery, which lasted for forty years.",
        "Coffee grows in many countries. The largest importer is the United States of America. Prices rose.",
    ),
    "zh": (
        "全国人民代表大会常务委员会。",
        "会议由全国人民代表大会常务委员会召集，下个月在北京举行。",
        "全国人民代表大会常务委员会昨天通过了这项决定。代表们随后离开了会场。",
        "向他报告的是全国人民代表大会常务委员会。会议到此结束。",
    ),
}


@pytest.mark.parametrize("lang", MENTIONS)
def test_a_short_answer_that_is_only_mentioned_is_not_found(tmp_path, lang):
    answer, *texts = MENTIONS[lang]
    documents = {f"d{i}": text for i, text in enumerate(texts)}
    assert searched(tmp_path, documents, {"q": ("Which one?", answer)})[0] == []


def test_a_short_answer_is_found_after_its_question_whatever_number_of_documents_hold_it(tmp_path):
    question, answer = "哪一个机关在大会闭会期间行使职权？", "全国人民代表大会常务委员会。"
    documents = {f"d{i}": f"第{i}篇报道说，全国人民代表大会常务委员会昨天开会。" for i in range(9)}
    documents["copy"] = f"常识问答。{question}答案是{answer}下一题。"
    hits, _ = searched(tmp_path, documents, {"q": (question, answer)})
    assert [hit["doc"] for hit in hits] == ["copy"]


def test_a_short_sentence_of_its_own_is_found_in_more_documents_than_a_phrase(tmp_path):
    documents = {f"d{i}": f"Page {i} begins. The capital of Malta is Valletta. Page {i} ends." for i in range(9)}
    hits, _ = searched(tmp_path, documents, {"q": ("?", "The capital of Malta is Valletta.")})
    assert len(hits) == 9
    start, end = hits[0]["spans"][0]
    assert documents["d0"][start:end].strip() == "The capital of Malta is Valletta."


def test_equal_answers_are_one_unit_in_whatever_part_they_stand(tmp_path, monkeypatch):
    refusal = "I am sorry, but I am not able to help with that request, because I do not know enough about it."
    examples = {f"s{i:04}": (f"Question number {i}?", refusal) for i in range(300)}
    documents = {f"d{i}": f"Forum page {i}. {refusal} So it goes on." for i in range(40)}
    hits, made = searched(tmp_path, documents, examples)
    assert [(h["sft_id"], h["examples"]) for h in hits] == [("s0000", 300)] * 40
    assert made["figures"]["units"] == 300 and made["figures"]["units_equal"] == 299
    monkeypatch.setattr(block, "BLOCK_BYTES", 3_000)
    monkeypatch.setattr(block, "SCAN_BYTES", 1_000)
    (tmp_path / "parts").mkdir()
    assert searched(tmp_path / "parts", documents, examples, shards=3)[0] == hits


STEM = "下列说法正确的是"
OF_EXAM = ["牛顿第一定律又称惯性定律", "力是维持物体运动的原因", "质量越大惯性越小", "速度越大惯性越大"]


def test_a_question_is_found_with_its_options_and_not_by_a_stem_that_others_have(tmp_path):
    printed = STEM + "（　）" + "　".join(f"{letter}．{o}" for letter, o in zip("ABCD", OF_EXAM, strict=True))
    texts = {
        "syllabus": "考试大纲要求学生能够判断下列说法正确的是哪一项，并说明理由。教师可以用课本第三章的例题。",
        "other": f"模拟题一：{STEM}（　）A. 光速不变 B. 声速不变 C. 两者都变 D. 两者都不变",
        "copy": f"期末试卷。{printed}。第二题。",
    }
    jsonl.write_jsonl(tmp_path / "docs.jsonl", ({"id": i, "text": t} for i, t in texts.items()))
    row = {"question": STEM, **dict(zip("ABCD", OF_EXAM, strict=True)), "answer": "A"}
    jsonl.write_jsonl(tmp_path / "exam.jsonl", [row])
    decontaminate_files([tmp_path / "docs.jsonl"], [tmp_path / "exam.jsonl"], tmp_path / "out")
    left = {record["id"] for _, record in jsonl.read_jsonl(tmp_path / "out" / "docs.jsonl")}
    assert left == {"syllabus", "other"}


def test_a_long_stem_that_several_questions_of_a_set_share_is_found_with_its_options_only(tmp_path):
    stem = "Which choice completes the text with the most logical and precise word or phrase?"
    texts = {
        "guide": f"How to read a test.\n{stem}\nTake your time.",
        "copy": f"Page 3.\n{stem}\nA. a scarcity of rain\nB. an abundance of snow\nPage 4.",
        "only": "Page 9. How many years did the old harbour of the town lie open to the storms of the north? Page 10.",
    }
    jsonl.write_jsonl(tmp_path / "docs.jsonl", ({"id": i, "text": t} for i, t in texts.items()))
    options = [("a scarcity of rain", "an abundance of snow"), ("the praise of critics", "the doubt of readers")]
    rows = [{"question": stem, "A": a, "B": b} for a, b in options]
    rows.append({"question": texts["only"][9:-9], "A": "two hundred years", "B": "never, as it was built inland"})
    jsonl.write_jsonl(tmp_path / "exam.jsonl", rows)
    decontaminate_files([tmp_path / "docs.jsonl"], [tmp_path / "exam.jsonl"], tmp_path / "out")
    assert {record["id"] for _, record in jsonl.read_jsonl(tmp_path / "out" / "docs.jsonl")} == {"guide"}


@pytest.mark.parametrize(
    "row",
    [
        {"A": "one", "B": "two"},
        {"choices": ["one", "two"]},
        {"choices": {"text": ["one", "two"], "label": ["A", "B"]}},
        {"choices": [{"label": "A", "text": "one"}, {"label": "B", "text": "two"}]},
        {"options": {"A": "one", "B": "two"}},
        {"endings": ["one", "two"]},
        {"sol1": "one", "sol2": "two"},
        {"option1": "one", "option2": "two"},
        {"answerA": "one", "answerB": "two"},
    ],
)
def test_the_options_of_a_question_are_read_in_every_usual_form(row):
    assert options({"question": "q", **row}) == ["one", "two"]
    assert options({"question": "q", "answer": "one"}) == []


def distance(unit, text):
    """The fewest edits that turn the unit into some part of the text: the textbook's table."""
    row = [0] * (len(text) + 1)
    for i, c in enumerate(unit, 1):
        new = [i]
        for j, d in enumerate(text, 1):
            new.append(min(row[j - 1] + (c != d), row[j] + 1, new[j - 1] + 1))
        row = new
    return min(row)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(["characters", "letters"]), st.integers(0, 2**32 - 1))
def test_a_short_unit_is_found_exactly_where_it_differs_in_few_enough_places(kind, seed):
    rng = random.Random(seed)
    letters = "天地玄黄宇宙洪荒日月盈昃辰宿列张" if kind == "characters" else "abcdefghijklmnopqrstuvwxyz"
    size = rng.randrange(SHORTEST[kind], SHORT_BELOW[kind])
    unit, host = ("".join(rng.choices(letters, k=n)) for n in (size, 60))
    changed = list(unit)
    for _ in range(rng.randrange(edits_allowed(size, kind) + 3)):
        at = rng.randrange(len(changed))
        changed[at] = rng.choice(["", rng.choice(letters), changed[at] * 2])
    text = host + "".join(changed) + host[::-1]
    batch = keys([text])
    places = [(i, n) for n in SEED.values() for i in range(len(text) - n + 1)]
    hashes = np.array([_hash(text[i : i + n]) for i, n in places], np.uint64)
    at = np.array([i for i, _ in places])
    index = ShortIndex([(unit, kind)])
    found = index.find(np.zeros(len(at), np.int64), hashes, at, batch.codes, batch.starts)
    true = distance(unit, text)
    assert bool(len(found.edits)) == (true <= edits_allowed(size, kind))
    if len(found.edits):
        assert found.edits.min() == true
        if true == 0:
            exact = found.edits == 0
            assert {text[s:e] for s, e in zip(found.starts[exact], found.ends[exact], strict=True)} == {unit}


def _hash(gram):
    from tigerjax.text.grams import gram_hashes

    return int(gram_hashes(np.array([ord(c) for c in gram], np.uint64), len(gram))[0])


DIFFERENT = [  # pairs that are no copies
    ("这瓶酱油的价格是1.5元。", "这瓶酱油的价格是15元。"),
    ("def f(a, b): return a + b", "def f(a, b): return a - b"),
    ("x = a[0] if a != b", "x = a(0) if a = b"),
    ("😀😀😀 🎉🎉", "∑ ≥ ∫ ≤ √ ∞"),
    ("......", "?!"),
    ("It is -5 degrees, 50% of it.", "It is 5 degrees, 50 of it."),
    ("x² + y²", "x2 + y2"),
    ("C# and C++", "C and C"),
    ("a therapist", "at her apist"),
    ("on 1/2 of the day", "on 12 of the day"),
]
SAME = [
    ("Hello, World! 123", "hello   world １２３"),
    ("天地。玄黄", "天地玄黄"),
    ("“Quoted,” he said.", "Quoted he said"),
    ("Ｆｕｌｌ　ｗｉｄｔｈ ｶﾅ", "full width カナ"),
    ("cafe\u0301 Straße", "CAFÉ STRASSE"),
    ("天\u200b地 玄黄", "天地玄黄"),
]


def test_exact_duplicates_say_the_same_and_signs_that_mean_something_count(tmp_path):
    pairs = [*DIFFERENT, *SAME]
    texts = {f"{i}{side}": text for i, pair in enumerate(pairs) for side, text in zip("ab", pair, strict=True)}
    jsonl.write_jsonl(tmp_path / "x.jsonl", ({"id": i, "text": t} for i, t in texts.items()))
    dedup_files("exact", [tmp_path / "x.jsonl"], tmp_path / "out")
    clusters = [r["all"] for _, r in jsonl.read_jsonl(tmp_path / "out" / "clusters" / "clusters.jsonl")]
    joined = {i for cluster in clusters for i in cluster}
    assert not joined & {f"{i}{side}" for i in range(len(DIFFERENT)) for side in "ab"}
    for i in range(len(DIFFERENT), len(pairs)):
        assert any({f"{i}a", f"{i}b"} <= set(cluster) for cluster in clusters), pairs[i]


def test_code_is_a_copy_only_to_the_letter(tmp_path):
    texts = ["if a:\n    b()\nc()\n", "if a:\n    b()\n    c()\n", "if A:\n    b()\nc()\n", "if a:\n    b()\nc()"]
    jsonl.write_jsonl(tmp_path / "x.jsonl", ({"id": str(i), "text": t, "lang": "code"} for i, t in enumerate(texts)))
    made = dedup_files("exact", [tmp_path / "x.jsonl"], tmp_path / "out")
    assert made["counts"]["dropped"] == {"exact": 1}
