"""Each benchmark on files made here in its published layout, beside scores computed from literal prompts."""

import csv
import json

import pytest
from text_model import likelihood

from tigerjax.errors import ConfigError, DataError
from tigerjax.evaluate import benchmarks, execute, suite
from tigerjax.evaluate.items import Missing
from tigerjax.evaluate.suite import EvaluationConfig

N = 12  # questions; enough that a stand-in of chance gets some right and some wrong


def jsonl(path, records):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in records), encoding="utf-8")


def table(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(rows)


def read(name, data):
    """The questions of a benchmark."""
    return list(benchmarks.BENCHMARKS[name].read(data / name))


def likeliest(texts):
    """By log-probability a byte, the stand-in's token: the independent computation."""
    scores = [likelihood(t) / len(t.encode()) for t in texts]
    return scores.index(max(scores))


def check(stand_in, data, name, alternatives, golds, *, chat=False):
    """The benchmark's score equals the share of questions whose likeliest literal text is the right one."""
    model = stand_in()
    items = list(benchmarks.BENCHMARKS[name].read(data / name))
    asked = suite.ask(model, benchmarks.BENCHMARKS[name], items, EvaluationConfig(chat=chat))
    assert model.asked == [text for texts in alternatives for text in texts]
    want = [likeliest(texts) == gold for texts, gold in zip(alternatives, golds, strict=True)]
    assert [a["right"] for a in asked] == want
    assert 0 < sum(want) < len(want), "a stand-in of chance must be right and wrong"
    assert suite.count(asked)["score"] == sum(want) / len(want)


def test_piqa(stand_in, tmp_path):
    golds = [n % 2 for n in range(N)]
    jsonl(tmp_path / "piqa/dev.jsonl", [{"goal": f"open {n}", "sol1": "push", "sol2": "pull it"} for n in range(N)])
    (tmp_path / "piqa/dev-labels.lst").write_text("".join(f"{g}\n" for g in golds))
    texts = [[f"The following makes sense: \nQ: open {n}\nA: {s}\n" for s in ("push", "pull it")] for n in range(N)]
    check(stand_in, tmp_path, "piqa", texts, golds)


def test_siqa_labels_count_from_one(stand_in, tmp_path):
    record = {"answerA": "go", "answerB": "stay", "answerC": "ask why"}
    jsonl(tmp_path / "siqa/dev.jsonl", [{"context": f"C{n}.", "question": "What next?"} | record for n in range(N)])
    (tmp_path / "siqa/dev-labels.lst").write_text("".join(f"{n % 3 + 1}\n" for n in range(N)))
    texts = [[f"C{n}.\nQuestion: What next?\nAnswer:\n{a}" for a in record.values()] for n in range(N)]
    check(stand_in, tmp_path, "siqa", texts, [n % 3 for n in range(N)])


def test_hellaswag(stand_in, tmp_path):
    ends = ["runs.", "sleeps.", "sings a song.", "eats."]
    rows = [{"ctx": f"A man {n}", "endings": ends, "label": n % 4} for n in range(N)]
    jsonl(tmp_path / "hellaswag/hellaswag_val.jsonl", rows)
    texts = [[f"A man {n}\n{e}" for e in ends] for n in range(N)]
    check(stand_in, tmp_path, "hellaswag", texts, [n % 4 for n in range(N)], chat=True)  # without template even so


def test_winogrande_fills_the_gap(stand_in, tmp_path):
    rows = [
        {"sentence": f"{n}: the _ fell.", "option1": "cup", "option2": "table", "answer": str(n % 2 + 1)}
        for n in range(N)
    ]
    jsonl(tmp_path / "winogrande/dev.jsonl", rows)
    texts = [[f"Good sentence: {n}: the {o} fell." for o in ("cup", "table")] for n in range(N)]
    check(stand_in, tmp_path, "winogrande", texts, [n % 2 for n in range(N)])


@pytest.mark.parametrize("field", ["answer", "label"])
def test_boolq_plain_and_by_template(stand_in, tmp_path, field):
    rows = [{"passage": f"P{n}.", "question": f"is it {n}", field: n % 3 == 0} for n in range(N)]
    jsonl(tmp_path / "boolq/dev.jsonl", rows)
    golds = [0 if n % 3 == 0 else 1 for n in range(N)]
    texts = [[f"P{n}.\nQuestion: is it {n}?\n{a}" for a in ("Yes", "No")] for n in range(N)]
    check(stand_in, tmp_path, "boolq", texts, golds)
    texts = [[f"[I]P{n}.\nQuestion: is it {n}?[R]{a}" for a in ("Yes", "No")] for n in range(N)]
    model = stand_in()
    items = read("boolq", tmp_path)
    suite.ask(model, benchmarks.BENCHMARKS["boolq"], items, EvaluationConfig(chat=True))
    assert model.asked == [t for ts in texts for t in ts]


def exam(n, hint, ending):
    return f'{hint}\nWhat is {n}, "really"?\nA. a{n}\nB. b\nC. c,c\nD. d\n{ending}'


def shots(hint, ending):
    return "".join(f"{exam(100 + n, hint, ending)}\n{'ABCD'[n % 4]}\n\n" for n in range(5))


def columns(n):
    return [f'What is {n}, "really"?', f"a{n}", "b", "c,c", "d"]


@pytest.mark.parametrize("layout", ["jsonl", "csv"])
def test_mmlu_five_shots_and_the_mean_of_subjects(stand_in, tmp_path, layout):
    sizes = {"world_history": 4, "law": 8}
    for part, count in (("dev", dict.fromkeys(sizes, 6)), ("test", sizes)):
        start = 100 if part == "dev" else 0
        if layout == "jsonl":
            rows = [
                {"question": columns(start + n)[0], "choices": columns(start + n)[1:], "answer": n % 4, "subject": s}
                for s in sorted(sizes)
                for n in range(count[s])
            ]
            jsonl(tmp_path / f"mmlu/{part}.jsonl", rows)
        else:
            for s in sizes:
                rows = [[*columns(start + n), "ABCD"[n % 4]] for n in range(count[s])]
                table(tmp_path / f"mmlu/{part}/{s}_{part}.csv", rows)
    model = stand_in()
    asked = suite.ask(
        model,
        benchmarks.BENCHMARKS["mmlu"],
        read("mmlu", tmp_path),
        EvaluationConfig(chat=False),
    )
    shares, texts = {}, []
    for s in sorted(sizes):
        hint = f"The following are multiple choice questions (with answers) about {s.replace('_', ' ')}.\n"
        own = [[f"{shots(hint, 'Answer: ')}{exam(n, hint, 'Answer: ')}\n{x}" for x in "ABCD"] for n in range(sizes[s])]
        shares[s] = sum(likeliest(t) == n % 4 for n, t in enumerate(own)) / sizes[s]
        texts += [t for ts in own for t in ts]
    assert model.asked == texts
    assert suite.count(asked)["groups"] == shares
    assert suite.count(asked)["score"] == pytest.approx(sum(shares.values()) / 2, abs=1e-12)
    assert len(set(shares.values())) == 2 and suite.count(asked)["n"] == 12


@pytest.mark.parametrize(("name", "part"), [("ceval", "val"), ("cmmlu", "test")])
def test_chinese_exams_as_csv(stand_in, tmp_path, name, part):
    cased = (lambda s: s.capitalize()) if name == "cmmlu" else (lambda s: s)
    header = ["id", cased("question"), "A", "B", "C", "D", cased("answer")]
    file = {"ceval": "{}_{}.csv", "cmmlu": "{}.csv"}[name]
    for p, start, count in (("dev", 100, 5), (part, 0, N)):
        rows = [[n, *columns(start + n), "ABCD"[(n + (p != "dev")) % 4]] for n in range(count)]
        table(tmp_path / name / p / file.format("art_studies", p), [header, *rows])
    hint, ending = "以下是关于art studies的单项选择题，请直接给出正确答案的选项。", "答案是: "
    if name == "ceval":
        (tmp_path / "ceval/subject_mapping.json").write_text(json.dumps({"art_studies": ["Art", "艺术学"]}))
        hint, ending = "以下是中国关于艺术学考试的单项选择题，请选出其中的正确答案。", "答案: "
    texts = [[f"{shots(hint, ending)}{exam(n, hint, ending)}\n{x}" for x in "ABCD"] for n in range(N)]
    check(stand_in, tmp_path, name, texts, [(n + 1) % 4 for n in range(N)])


def test_c3_both_halves_and_fewer_than_four_choices(stand_in, tmp_path):
    choices = ["红色", "蓝色", "绿色"]

    def entry(n):
        q = {"question": f"什么颜色{n}？", "choice": choices, "answer": choices[n % 3]}
        return [["甲：你好。", f"乙：{n}。"], [q], str(n)]

    (tmp_path / "c3").mkdir()
    for half, ids in (("m", range(5)), ("d", range(5, N))):
        (tmp_path / f"c3/{half}-dev.json").write_text(json.dumps([entry(n) for n in ids], ensure_ascii=False))
    texts = [[f"文章：甲：你好。乙：{n}。\n问题：什么颜色{n}？\n答案：{c}" for c in choices] for n in range(N)]
    check(stand_in, tmp_path, "c3", texts, [n % 3 for n in range(N)])


def test_ocnli_leaves_out_what_has_no_majority(stand_in, tmp_path):
    labels = ["neutral", "contradiction", "entailment"]
    rows = [{"sentence1": f"甲{n}", "sentence2": "乙", "label": labels[n % 3]} for n in range(N)]
    jsonl(tmp_path / "ocnli/dev.json", [rows[0], {"sentence1": "x", "sentence2": "y", "label": "-"}, *rows[1:]])
    texts = [
        [f"语句一：“甲{n}”\n语句二：“乙”\n请问这两句话是什么关系？\n{w}" for w in ("矛盾", "蕴含", "无关")]
        for n in range(N)
    ]
    check(stand_in, tmp_path, "ocnli", texts, [(2, 0, 1)[n % 3] for n in range(N)])


def test_openbookqa_is_the_mean_of_both_subsets(stand_in, tmp_path):
    def record(n):
        choices = [{"text": f"t{x}{n}", "label": x} for x in "ABCD"]
        return {"id": str(n), "question": {"stem": f"stem {n}", "choices": choices}, "answerKey": "ABCD"[n % 4]}

    jsonl(tmp_path / "openbookqa/test.jsonl", [record(n) for n in range(8)])
    jsonl(tmp_path / "openbookqa/test_complete.jsonl", [record(n) | {"fact1": "water is wet"} for n in range(4)])
    body = "Question: stem {0}\nA. tA{0}\nB. tB{0}\nC. tC{0}\nD. tD{0}\nAnswer:\n"
    plain = [body.format(n) for n in range(8)]
    model = stand_in(lambda text: " (b) C is it, not A" if text.startswith("Given the fact: water is wet\n") else "A.")
    asked = suite.ask(
        model,
        benchmarks.BENCHMARKS["openbookqa"],
        read("openbookqa", tmp_path),
        EvaluationConfig(chat=True),
    )
    assert model.asked == plain + ["Given the fact: water is wet\n" + p for p in plain[:4]]
    assert suite.count(asked)["groups"] == {"plain": 2 / 8, "fact": 1 / 4}


def test_gsm8k_four_worked_examples(stand_in, tmp_path):
    train = [{"question": f"T{n}?", "answer": f"One <<1+{n}={n}>>and {n}.\n#### {n},000"} for n in range(6)]
    test = [{"question": f"Q{n}?", "answer": f"So {n}.\n#### {n * 1000:,}"} for n in range(4)]
    jsonl(tmp_path / "gsm8k/train.jsonl", train)
    jsonl(tmp_path / "gsm8k/test.jsonl", test)
    said = {0: "The answer is 0.", 1: "1,000 it is", 2: "The answer is 2,000\n\nQuestion: x\nThe answer is 7", 3: "3"}
    model = stand_in(lambda text: said[int(text.rsplit("Q", 1)[1].split("?")[0].removeprefix("uestion: "))])
    asked = suite.ask(
        model,
        benchmarks.BENCHMARKS["gsm8k"],
        read("gsm8k", tmp_path),
        EvaluationConfig(chat=False),
    )
    ask = "Question: {}?\nLet's think step by step\nAnswer:"
    worked = "".join(f"{ask.format(f'T{n}')}\nOne and {n}.\nThe answer is {n}000\n\n" for n in range(4))
    assert model.asked == [worked + ask.format(f"Q{n}") for n in range(4)]
    assert [a["right"] for a in asked] == [True, True, True, False]
    model = stand_in(lambda text: "0")
    suite.ask(
        model,
        benchmarks.BENCHMARKS["gsm8k"],
        read("gsm8k", tmp_path),
        EvaluationConfig(chat=True),
    )
    assert model.asked[0].startswith(f"[I]{ask.format('T0')}[R]One and 0.\nThe answer is 0000\n[E][I]")
    assert model.asked[0].endswith(f"[I]{ask.format('Q0')}[R]")


def test_cmrc_exact_match(stand_in, tmp_path):
    answers = [{"text": "北京"}, {"text": "北京"}, {"text": "首都北京市"}]
    qas = [{"id": f"q{n}", "question": f"在哪{n}？", "answers": answers} for n in range(4)]
    (tmp_path / "cmrc").mkdir()
    data = {"data": [{"paragraphs": [{"context": "他在北京。", "qas": qas}]}]}
    (tmp_path / "cmrc/dev.json").write_text(json.dumps(data))
    said = ["答案是北京。", "答案是 首都北京市\n还有", "北京", "答案是上海"]
    model = stand_in(lambda text: said[int(text.rsplit("在哪", 1)[1][0])])
    asked = suite.ask(
        model,
        benchmarks.BENCHMARKS["cmrc"],
        read("cmrc", tmp_path),
        EvaluationConfig(chat=False),
    )
    ask = (
        "根据文章回答问题。你的答案应该尽可能简练，请以 ‘答案是’ 开头的句式作答。\n文章：他在北京。\n问：在哪{}？\n答："
    )
    assert model.asked == [ask.format(n) for n in range(4)]
    assert [a["right"] for a in asked] == [True, True, True, False]


def human_eval(path):
    record = {
        "task_id": "T/0",
        "prompt": 'def double(x):\n    """Twice x."""\n',
        "entry_point": "double",
        "test": "def check(f):\n    assert f(2) == 4\n",
    }
    jsonl(path / "humaneval/HumanEval.jsonl", [record])


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("    return x * 2\n\nprint(undefined)\n", True),
        ("    return x\n", False),
        ("    while True: pass\n", False),
        ("    import os; os._exit(1)\n", False),
    ],
)
def test_humaneval_runs_the_function_and_nothing_after_it(stand_in, tmp_path, monkeypatch, text, right):
    monkeypatch.setattr(execute, "CPU_SECONDS", 1)
    human_eval(tmp_path)
    config = suite.EvaluationConfig(data_dir=tmp_path, allow_code=True)
    found = suite.evaluate(stand_in(lambda _: text), ["humaneval"], tmp_path / "out", config)
    assert found["tasks"]["humaneval"]["score"] == float(right) and found["complete"]


def test_humaneval_runs_nothing_unless_it_is_allowed(stand_in, tmp_path, monkeypatch):
    human_eval(tmp_path)
    monkeypatch.setattr(execute, "passes", lambda program, **_: pytest.fail("a program was run"))
    model = stand_in()
    found = suite.evaluate(model, ["humaneval"], tmp_path / "out", suite.EvaluationConfig(data_dir=tmp_path))
    assert not found["complete"] and "--allow-code-execution" in found["missing"]["humaneval"] and not model.asked


def test_missing_data_is_incomplete_and_has_no_average(stand_in, tmp_path):
    rows = [{"ctx": "A", "endings": ["b", "c"], "label": 0}]
    jsonl(tmp_path / "hellaswag/hellaswag_val.jsonl", rows)
    config = suite.EvaluationConfig(data_dir=tmp_path)
    found = suite.evaluate(stand_in(), benchmarks.chosen(["all"]), tmp_path / "out", config)
    assert found["mean_en"] is found["mean_zh"] is None and not found["complete"]
    assert list(found["tasks"]) == ["hellaswag"] and len(found["missing"]) == 12
    assert found["missing"]["piqa"].endswith("dev.jsonl is not there")


def test_the_means_are_plain_means_of_nine_and_four():
    names = [n for n, b in benchmarks.BENCHMARKS.items() if b.counted]
    assert len(names) == 13
    scores = {name: {"score": 0.01 * n} for n, name in enumerate(names)}
    found = suite.means(scores | {"cmmlu": {"score": 9.0}})
    assert found["mean_en"] == pytest.approx(0.04) and found["mean_zh"] == pytest.approx(0.105)
    assert suite.means({n: s for n, s in scores.items() if n != "c3"})["mean_zh"] is None


@pytest.mark.parametrize(
    ("name", "record", "message"),
    [
        (
            "hellaswag",
            {"ctx": "A", "endings": ["b"], "label": 1},
            r"hellaswag_val\.jsonl:1: label 1 is not one of 0\.\.0",
        ),
        ("hellaswag", {"ctx": "A", "label": 1}, "lacks endings"),
        ("winogrande", {"sentence": "a", "option1": "b", "option2": "c", "answer": "1"}, "needs one gap"),
        ("boolq", {"passage": "p", "question": "q", "answer": "maybe"}, "answer 'maybe' is not true or false"),
        ("ocnli", {"sentence1": "p", "sentence2": "q", "label": "x"}, "label 'x' is not one of"),
    ],
)
def test_bad_data_is_named_with_file_and_line(stand_in, tmp_path, name, record, message):
    file = {"hellaswag": "hellaswag_val.jsonl", "ocnli": "dev.json"}.get(name, "dev.jsonl")
    jsonl(tmp_path / name / file, [record])
    with pytest.raises(DataError, match=message):
        suite.evaluate(stand_in(), [name], tmp_path / "out", suite.EvaluationConfig(data_dir=tmp_path))


def test_a_reader_without_its_file_says_which(tmp_path):
    for name, benchmark in benchmarks.BENCHMARKS.items():
        with pytest.raises(Missing, match=name):
            list(benchmark.read(tmp_path / name))


def test_an_unknown_benchmark_is_refused():
    with pytest.raises(ConfigError, match="no benchmark 'glue'"):
        benchmarks.chosen(["piqa", "glue"])
    assert benchmarks.chosen(["zh", "piqa"]) == ["piqa", "cmrc", "c3", "ocnli", "ceval"]
