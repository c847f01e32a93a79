"""Readers of the four Chinese benchmarks, and of CMMLU, in the layouts in which they are published.

DATA_DIR/cmrc/dev.json                    SQuAD layout: data > paragraphs > context, qas > question, answers > text
DATA_DIR/c3/m-dev.json, d-dev.json        [[lines, [{question, choice, answer}], id], …]; or dev_0.json, CLUE's name
DATA_DIR/ocnli/dev.json(l)                {sentence1, sentence2, label}, one object per line; label "-" has no majority
DATA_DIR/ceval/val/SUBJECT_val.csv, dev/SUBJECT_dev.csv    id,question,A,B,C,D,answer[,explanation]
          and subject_mapping.json {SUBJECT: [English, Chinese, …]} for the names in the prompt
DATA_DIR/cmmlu/test/SUBJECT.csv, dev/SUBJECT.csv           ,Question,A,B,C,D,Answer

Prompts are those of TigerBot's OpenCompass configurations (its repository's evaluation section; OpenCompass
configs/datasets). What is not known of them is marked [our choice].
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tigerjax.errors import DataError
from tigerjax.evaluate.items import (
    Item,
    Missing,
    Turn,
    among,
    csv_rows,
    find,
    json_file,
    json_lines,
    letter,
    need,
    objects,
    of_kind,
    text_list,
    texts,
)

LETTERS = "ABCD"
SHOTS = 5
RELATIONS = {"contradiction": "矛盾", "entailment": "蕴含", "neutral": "无关"}


def cmrc(folder: Path) -> Iterator[Item]:
    ask = "根据文章回答问题。你的答案应该尽可能简练，请以 ‘答案是’ 开头的句式作答。"
    for r in cmrc_records(folder):
        prompt = f"{ask}\n文章：{r['context']}\n问：{r['question']}\n答："
        yield Item(id=r["id"], group="", prompt=prompt, gold=tuple(r["answers"]))


def cmrc_records(folder: Path) -> Iterator[dict[str, Any]]:
    """{id, context, question, answers}, one question each. DataError for a question without answers."""
    path = find(folder, "dev.json", "cmrc2018_dev.json")
    for n, article in enumerate(objects(json_file(path), str(path), "data")):
        for m, paragraph in enumerate(objects(article, f"{path}: data {n}", "paragraphs")):
            where = f"{path}: data {n}, paragraph {m}"
            (context,) = texts(paragraph, where, "context")
            for qa in objects(paragraph, where, "qas"):
                (question,), answers = texts(qa, where, "question"), objects(qa, where, "answers")
                accepted = list(dict.fromkeys(texts(a, f"{where}: answers", "text")[0] for a in answers))
                if not accepted:
                    raise DataError(
                        f"{where}: question {qa.get('id', question)!r} has no answers; download the file again"
                    )
                identity = str(qa.get("id", f"{n}-{m}-{question}"))
                yield {"id": identity, "context": context, "question": question, "answers": accepted}


def c3(folder: Path) -> Iterator[Item]:
    """Both halves, mixed texts and dialogues, as one set of questions."""
    for r in c3_records(folder):
        user = f"文章：{r['content']}\n问题：{r['question']}"
        options = tuple(Turn(user, f"答案：{choice}") for choice in r["choices"])
        yield Item(id=r["id"], group="", options=options, gold=r["gold"])


def c3_records(folder: Path) -> Iterator[dict[str, Any]]:
    """{id, content, question, choices, gold}; gold is the right choice's index.

    DataError where the answer is none of the choices.
    """
    paths = [folder / "dev_0.json"] if (folder / "dev_0.json").is_file() else []
    paths = paths or [find(folder, "m-dev.json", "c3-m-dev.json"), find(folder, "d-dev.json", "c3-d-dev.json")]
    for path in paths:
        entries = json_file(path)
        of_kind(entries, list, str(path), "this")
        for n, entry in enumerate(entries):
            where = f"{path}: entry {n}"
            if not isinstance(entry, list) or len(entry) < 2:
                raise DataError(f"{where}: needs [lines, questions, id]")
            whole = {"lines": entry[0], "questions": entry[1]}
            content = "".join(text_list(whole, where, "lines", 0))
            for m, q in enumerate(objects(whole, where, "questions")):
                (question, answer), choices = texts(q, where, "question", "answer"), text_list(q, where, "choice")
                if answer not in choices:
                    raise DataError(
                        f"{where}: answer {answer!r} of question {m} is not among its choices; download the file again"
                    )
                one = {"id": f"{path.stem}-{n}-{m}", "content": content, "question": question}
                yield one | {"choices": choices, "gold": choices.index(answer)}


def ocnli(folder: Path) -> Iterator[Item]:
    for r in ocnli_records(folder):
        user = f"语句一：“{r['sentence1']}”\n语句二：“{r['sentence2']}”\n请问这两句话是什么关系？"
        options = tuple(Turn(user, word) for word in RELATIONS.values())
        yield Item(id=r["id"], group="", options=options, gold=r["gold"])


def ocnli_records(folder: Path) -> Iterator[dict[str, Any]]:
    """{id, sentence1, sentence2, gold}; gold is the relation's place in RELATIONS. DataError for another relation."""
    for n, (where, r) in enumerate(json_lines(find(folder, "dev.json", "dev.jsonl"))):
        one, two, label = texts(r, where, "sentence1", "sentence2", "label")
        if label == "-":  # annotators found no majority: the data's authors leave these out too
            continue
        if label not in RELATIONS:
            raise DataError(
                f"{where}: label {label!r} is not one of {', '.join(RELATIONS)} or '-'; download the file again"
            )
        yield {"id": str(n), "sentence1": one, "sentence2": two, "gold": list(RELATIONS).index(label)}


def ceval(folder: Path) -> Iterator[Item]:
    """The val part, five examples of the subject's dev part; the score is the mean of the subjects'."""
    names: dict[str, Any] = {}
    if (folder / "subject_mapping.json").is_file():
        names = json_file(folder / "subject_mapping.json")

        of_kind(names, dict, str(folder / "subject_mapping.json"), "this")
        for subject in names:
            text_list(names, str(folder / "subject_mapping.json"), subject, 2)

    def ask(subject: str) -> str:
        name = names[subject][1] if subject in names else subject.replace("_", " ")
        return f"以下是中国关于{name}考试的单项选择题，请选出其中的正确答案。"

    yield from _exams(folder, "val", "{}_val.csv", "{}_dev.csv", ("question", *LETTERS, "answer"), ask, "答案: ")


def cmmlu(folder: Path) -> Iterator[Item]:
    """The test part, as C-Eval; not one of the thirteen."""

    def ask(subject: str) -> str:
        return f"以下是关于{subject.replace('_', ' ')}的单项选择题，请直接给出正确答案的选项。"

    yield from _exams(folder, "test", "{}.csv", "{}.csv", ("Question", *LETTERS, "Answer"), ask, "答案是: ")


def _exams(
    folder: Path, part: str, name: str, dev_name: str, columns: tuple[str, ...], ask: Any, ending: str
) -> Iterator[Item]:
    after = name.removeprefix("{}")
    files = among(folder / part, after)
    if not files:
        raise Missing(str(folder / part / name.format("SUBJECT")))
    for path in files:
        subject = path.name.removesuffix(after)

        def read(path: Path, subject: str = subject) -> Iterator[tuple[str, int]]:
            for where, r in csv_rows(path):
                question, a, b, c, d, answer = need(r, where, *columns)
                lines = [ask(subject), question, f"A. {a}", f"B. {b}", f"C. {c}", f"D. {d}", ending]
                yield "\n".join(lines), letter(answer, LETTERS, where)

        dev = list(read(find(folder / "dev", dev_name.format(subject))))
        if len(dev) < SHOTS:
            raise DataError(f"{folder / 'dev' / dev_name.format(subject)}: {len(dev)} examples, needs {SHOTS}")
        shots = tuple(Turn(user, LETTERS[gold] + "\n") for user, gold in dev[:SHOTS])
        for n, (user, gold) in enumerate(read(path)):
            options = tuple(Turn(user, x) for x in LETTERS)
            yield Item(id=f"{subject}-{n}", group=subject, shots=shots, options=options, gold=gold)
