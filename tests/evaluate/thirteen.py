"""The thirteen benchmarks as small files in their published layouts."""

import csv
import json

N = 9
"""Questions of each."""


def jsonl(path, records):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in records), encoding="utf-8")


def write_all(data):
    """N questions of each of the thirteen in its published layout; subjects and subsets of unequal sizes."""
    code = {"prompt": 'def double(x):\n    """Twice."""\n', "entry_point": "double"}
    tests = [f"def check(f):\n    assert f({n}) == {2 * n + (n == 1)}\n" for n in range(3)]
    jsonl(data / "humaneval/HumanEval.jsonl", [{"task_id": f"T/{n}", "test": t} | code for n, t in enumerate(tests)])
    jsonl(data / "piqa/dev.jsonl", [{"goal": f"open {n}", "sol1": "push", "sol2": "pull it"} for n in range(N)])
    (data / "piqa/dev-labels.lst").write_text("".join(f"{n % 2}\n" for n in range(N)))
    answers = {"answerA": "go", "answerB": "stay", "answerC": "ask why"}
    jsonl(data / "siqa/dev.jsonl", [{"context": f"C{n}.", "question": "What next?"} | answers for n in range(N)])
    (data / "siqa/dev-labels.lst").write_text("".join(f"{n % 3 + 1}\n" for n in range(N)))
    ends = ["runs.", "sleeps.", "sings a song."]
    rows = [{"ctx": f"A man {n}", "endings": ends, "label": n % 3} for n in range(N)]
    jsonl(data / "hellaswag/hellaswag_val.jsonl", rows)
    gaps = [{"sentence": f"{n}: the _ fell.", "option1": "cup", "option2": "table", "answer": "1"} for n in range(N)]
    jsonl(data / "winogrande/dev.jsonl", gaps)
    choices = [{"text": f"t{x}", "label": x} for x in "ABCD"]
    books = [
        {"id": str(n), "question": {"stem": f"stem {n}", "choices": choices}, "answerKey": "ABCD"[n % 4], "fact1": "f"}
        for n in range(N)
    ]
    jsonl(data / "openbookqa/test.jsonl", books)
    jsonl(data / "openbookqa/test_complete.jsonl", books[:2])
    jsonl(data / "boolq/dev.jsonl", [{"passage": f"P{n}.", "question": f"is {n}", "answer": n < 5} for n in range(N)])
    sums = [{"question": f"Q{n}?", "answer": f"So.\n#### {n % 3}"} for n in range(N)]
    jsonl(data / "gsm8k/train.jsonl", sums)
    jsonl(data / "gsm8k/test.jsonl", sums)
    exams = [
        {"question": f"What is {n}?", "choices": [*"wxyz"], "answer": n % 4, "subject": "law" if n < 6 else "art"}
        for n in range(15)
    ]
    jsonl(data / "mmlu/dev.jsonl", exams)
    jsonl(data / "mmlu/test.jsonl", exams[:8])
    qas = [{"id": f"q{n}", "question": f"在哪{n}？", "answers": [{"text": "北京市" * (n % 2 + 1)}]} for n in range(N)]
    (data / "cmrc").mkdir()
    (data / "cmrc/dev.json").write_text(json.dumps({"data": [{"paragraphs": [{"context": "他在北京。", "qas": qas}]}]}))
    (data / "c3").mkdir()
    for half, most in (("m", 5), ("d", 4)):
        colours = [
            [["甲：你好。", f"乙：{n}。"], [{"question": "颜色？", "choice": ["红", "蓝色"], "answer": "红"}], str(n)]
            for n in range(most)
        ]
        (data / f"c3/{half}-dev.json").write_text(json.dumps(colours, ensure_ascii=False))
    labels = ["neutral", "contradiction", "entailment"]
    jsonl(
        data / "ocnli/dev.json", [{"sentence1": f"甲{n}", "sentence2": "乙", "label": labels[n % 3]} for n in range(N)]
    )
    for subject, count in (("art", 3), ("law", 6)):
        for part, start, many in (("dev", 100, 5), ("val", 0, count)):
            table = [[n, f"问{start + n}", *"甲乙丙丁", "ABCD"[n % 4]] for n in range(many)]
            _write_csv(data / f"ceval/{part}/{subject}_{part}.csv", [["id", "question", *"ABCD", "answer"], *table])


RENAMED = {
    "humaneval": {"HumanEval.jsonl": "human-eval-v2-20210705.jsonl"},
    "hellaswag": {"hellaswag_val.jsonl": "hellaswag.jsonl"},
    "winogrande": {"dev.jsonl": "dev_xs.jsonl"},
    "cmrc": {"dev.json": "cmrc2018_dev.json"},
    "ocnli": {"dev.json": "dev.jsonl"},
    "c3": {"m-dev.json": "dev_0.json"},
}
"""The other names under which files are published."""


def write_others(data):
    """The same questions in the other layouts that are read: MMLU as CSV, C-Eval with its names, CMMLU, other names."""
    write_all(data)
    for name, files in RENAMED.items():
        for old, new in files.items():
            (data / name / old).rename(data / name / new)
    (data / "c3/d-dev.json").unlink()
    rows = [json.loads(line) for line in (data / "boolq/dev.jsonl").read_text().splitlines()]
    jsonl(data / "boolq/val.jsonl", [{**row, "label": str(row.pop("answer")).lower()} for row in rows])
    (data / "boolq/dev.jsonl").unlink()
    for part in ("dev", "test"):
        rows = [json.loads(line) for line in (data / f"mmlu/{part}.jsonl").read_text().splitlines()]
        (data / f"mmlu/{part}.jsonl").unlink()
        for subject in ("law", "art"):
            table = [[r["question"], *r["choices"], "ABCD"[r["answer"]]] for r in rows if r["subject"] == subject]
            _write_csv(data / f"mmlu/{part}/{subject}_{part}.csv", table)
        table = [[n, f"问{n}", *"甲乙丙丁", "ABCD"[n % 4]] for n in range(5)]
        _write_csv(data / f"cmmlu/{part}/law.csv", [["", "Question", *"ABCD", "Answer"], *table])
    names = {"law": ["Law", "法律"], "art": ["Art", "艺术"]}
    (data / "ceval/subject_mapping.json").write_text(json.dumps(names, ensure_ascii=False))


def _write_csv(path, table):
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(table)
