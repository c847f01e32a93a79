"""Readers of the nine English benchmarks, in the layouts in which they are published.

DATA_DIR/humaneval/HumanEval.jsonl                {task_id, prompt, entry_point, test}
DATA_DIR/piqa/dev.jsonl, dev-labels.lst           {goal, sol1, sol2}; 0 or 1
DATA_DIR/siqa/dev.jsonl, dev-labels.lst           {context, question, answerA, answerB, answerC}; 1, 2 or 3
DATA_DIR/hellaswag/hellaswag_val.jsonl            {ctx, endings, label}
DATA_DIR/winogrande/dev.jsonl                     {sentence with _, option1, option2, answer "1" or "2"}
DATA_DIR/openbookqa/test.jsonl, test_complete.jsonl   {id, question: {stem, choices}, answerKey[, fact1]}
DATA_DIR/boolq/dev.jsonl                          {question, passage, answer (or label)}
DATA_DIR/gsm8k/test.jsonl, train.jsonl            {question, answer "… #### 42"}
DATA_DIR/mmlu/test.jsonl, dev.jsonl               {question, choices, answer 0-3 or A-D, subject}
          or test/SUBJECT_test.csv, dev/SUBJECT_dev.csv without a header

Prompts are those of TigerBot's OpenCompass configurations (its repository's evaluation section; OpenCompass
configs/datasets). What is not known of them is marked [our choice].
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tigerjax.errors import DataError
from tigerjax.evaluate import numbers
from tigerjax.evaluate.items import (
    Item,
    Missing,
    Turn,
    among,
    csv_rows,
    find,
    index,
    json_lines,
    labels,
    letter,
    need,
    of_kind,
    text_list,
    texts,
)

LETTERS = "ABCD"
MMLU_SHOTS, GSM8K_SHOTS = 5, 4


def humaneval(folder: Path) -> Iterator[Item]:
    for where, r in json_lines(find(folder, "HumanEval.jsonl", "human-eval-v2-20210705.jsonl")):
        task, prompt, entry, test = texts(r, where, "task_id", "prompt", "entry_point", "test")
        yield Item(id=str(task), group="", prompt=prompt, gold={"prompt": prompt, "entry_point": entry, "test": test})


def piqa(folder: Path) -> Iterator[Item]:
    rows = list(json_lines(find(folder, "dev.jsonl")))
    golds = labels(find(folder, "dev-labels.lst"), len(rows))
    for n, ((where, r), gold) in enumerate(zip(rows, golds, strict=True)):
        goal, *solutions = texts(r, where, "goal", "sol1", "sol2")
        options = tuple(Turn(f"The following makes sense: \nQ: {goal}\nA: {s}\n") for s in solutions)
        yield Item(id=str(n), group="", options=options, gold=index(gold, 2, where))


def siqa(folder: Path) -> Iterator[Item]:
    rows = list(json_lines(find(folder, "dev.jsonl")))
    golds = labels(find(folder, "dev-labels.lst"), len(rows))
    for n, ((where, r), gold) in enumerate(zip(rows, golds, strict=True)):
        context, question, *answers = texts(r, where, "context", "question", "answerA", "answerB", "answerC")
        user = f"{context}\nQuestion: {question}\nAnswer:"
        yield Item(id=str(n), group="", options=tuple(Turn(user, a) for a in answers), gold=index(gold, 3, where, 1))


def hellaswag(folder: Path) -> Iterator[Item]:
    for n, (where, r) in enumerate(json_lines(find(folder, "hellaswag_val.jsonl", "hellaswag.jsonl"))):
        (ctx,), endings, (label,) = texts(r, where, "ctx"), text_list(r, where, "endings"), need(r, where, "label")
        gold = index(label, len(endings), where)
        yield Item(id=str(n), group="", options=tuple(Turn(ctx, e) for e in endings), gold=gold)


def winogrande(folder: Path) -> Iterator[Item]:
    for n, (where, r) in enumerate(json_lines(find(folder, "dev.jsonl", "dev_xs.jsonl"))):
        sentence, one, two = texts(r, where, "sentence", "option1", "option2")
        (answer,) = need(r, where, "answer")
        if sentence.count("_") != 1:
            raise DataError(f"{where}: the sentence needs one gap '_', it has {sentence.count('_')}")
        options = tuple(Turn("Good sentence: " + sentence.replace("_", o)) for o in (one, two))
        yield Item(id=str(n), group="", options=options, gold=index(answer, 2, where, 1))


def openbookqa(folder: Path) -> Iterator[Item]:
    """Both subsets, plain and with its fact; the score is the mean of the two.

    Raises DataError where a question has not four choices.
    """
    files = {"plain": find(folder, "test.jsonl"), "fact": find(folder, "test_complete.jsonl")}
    for group, path in files.items():
        for where, r in json_lines(path):
            question, key = need(r, where, "question", "answerKey")
            (stem,), (choices,) = texts(question, where, "stem"), need(question, where, "choices")
            of_kind(choices, list, where, "choices")
            by_letter = dict(texts(c, f"{where}: choices", "label", "text") for c in choices)
            if sorted(by_letter) != list(LETTERS):
                raise DataError(f"{where}: choices {sorted(by_letter)}, needs {', '.join(LETTERS)}")
            lines = [f"Question: {stem}", *(f"{label}. {by_letter[label]}" for label in LETTERS), "Answer:\n"]
            if group == "fact":
                lines.insert(0, f"Given the fact: {texts(r, where, 'fact1')[0]}")
            gold = LETTERS[letter(key, LETTERS, where)]
            yield Item(id=f"{group}-{r.get('id', where)}", group=group, prompt="\n".join(lines), gold=gold)


def boolq(folder: Path) -> Iterator[Item]:
    for n, (where, r) in enumerate(json_lines(find(folder, "dev.jsonl", "val.jsonl"))):
        passage, question = texts(r, where, "passage", "question")
        answer = r.get("answer", r.get("label"))
        if str(answer).lower() not in ("true", "false"):
            raise DataError(f"{where}: answer {answer!r} is not true or false; download the file again")
        user = f"{passage}\nQuestion: {question}?"
        gold = ("true", "false").index(str(answer).lower())
        yield Item(id=str(n), group="", options=(Turn(user, "Yes"), Turn(user, "No")), gold=gold)


def gsm8k(folder: Path) -> Iterator[Item]:
    """Four worked examples: the first of train.jsonl, in OpenCompass's wording [our choice of examples]."""

    def parts(where: str, r: dict[str, Any]) -> tuple[str, str, str]:
        question, answer = texts(r, where, "question", "answer")
        steps, mark, number = answer.rpartition("####")
        if not mark:
            raise DataError(f"{where}: the answer needs '####' before its number; download the file again")
        number = number.strip().replace(",", "")
        if numbers.only(number) is None:
            raise DataError(f"{where}: answer has {number!r:.60} after its '####', needs a number")
        return f"Question: {question}\nLet's think step by step\nAnswer:", steps, number

    shots = []
    for _, (where, r) in zip(range(GSM8K_SHOTS), json_lines(find(folder, "train.jsonl")), strict=False):
        user, steps, number = parts(where, r)
        steps = re.sub(r"<<.*?>>", "", steps).strip()  # the data's own notes to a calculator
        shots.append(Turn(user, f"{steps}\nThe answer is {number}\n"))
    for n, (where, r) in enumerate(json_lines(find(folder, "test.jsonl"))):
        user, _, number = parts(where, r)
        yield Item(id=str(n), group="", shots=tuple(shots), prompt=user, gold=number)


def mmlu(folder: Path) -> Iterator[Item]:
    """Five examples of the subject's dev part; the score is the mean of the subjects'.

    Raises DataError where the dev part has fewer than five.
    """
    read = _mmlu_jsonl if (folder / "test.jsonl").is_file() else _mmlu_csv
    dev: dict[str, list[tuple[str, int]]] = {}
    for subject, _, user, gold in read(folder, "dev"):
        dev.setdefault(subject, []).append((user, gold))
    for subject, where, user, gold in read(folder, "test"):
        if len(dev.get(subject, ())) < MMLU_SHOTS:
            few = f"{len(dev.get(subject, ()))} dev examples of {subject!r:.60}, needs {MMLU_SHOTS}"
            raise DataError(f"{folder}: {few} to ask question {where} of its test part; copy the whole dev part")
        shots = tuple(Turn(u, LETTERS[g] + "\n") for u, g in dev[subject][:MMLU_SHOTS])
        yield Item(id=where, group=subject, shots=shots, options=tuple(Turn(user, x) for x in LETTERS), gold=gold)


def _mmlu_user(subject: str, question: str, choices: list[str]) -> str:
    hint = f"The following are multiple choice questions (with answers) about {subject.replace('_', ' ')}."
    lines = [f"{a}. {text}" for a, text in zip(LETTERS, choices, strict=True)]
    return "\n".join([f"{hint}\n\n{question}", *lines, "Answer: "])


def _mmlu_jsonl(folder: Path, part: str) -> Iterator[tuple[str, str, str, int]]:
    for n, (where, r) in enumerate(json_lines(find(folder, f"{part}.jsonl"))):
        (question, subject), choices = texts(r, where, "question", "subject"), text_list(r, where, "choices")
        (answer,) = need(r, where, "answer")
        if len(choices) != len(LETTERS):
            raise DataError(f"{where}: {len(choices)} choices, needs {len(LETTERS)}")
        gold = index(answer, 4, where) if str(answer).strip().isdigit() else letter(answer, LETTERS, where)
        yield subject, str(n), _mmlu_user(subject, question, choices), gold


def _mmlu_csv(folder: Path, part: str) -> Iterator[tuple[str, str, str, int]]:
    files = among(folder / part, f"_{part}.csv")
    if not files:
        raise Missing(str(folder / f"{part}.jsonl"))
    for path in files:
        subject = path.name.removesuffix(f"_{part}.csv")
        for n, (where, r) in enumerate(csv_rows(path, ("question", *LETTERS, "answer"))):
            question, *choices, answer = need(r, where, "question", *LETTERS, "answer")
            yield subject, f"{subject}-{n}", _mmlu_user(subject, question, choices), letter(answer, LETTERS, where)
