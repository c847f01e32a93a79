"""Questions whose right answer a program knows, and how an answer is judged.

This is the definition of truth of the embedded tiny world (data_mixtures/embedded): a question has a list of
accepted strings, an answer is right when it contains one of them and none of the *other* answers of the same task,
so listing every capital is not an answer. Judging uses no model.
"""

import functools
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tigerjax.errors import DataError
from tigerjax.evaluate import numbers
from tigerjax.files import jsonl, paths
from tigerjax.files.foreign import read_object, shown

EVASIVE: dict[str, tuple[str, ...]] = {
    "en": ("I am not sure about that.", "I am not sure, sorry."),
    "zh": ("对不起，我不知道。", "对不起，我不清楚。"),
}
"""The wordings by which the embedded data declines to answer, by language; the first token is shared on purpose."""

RIGHT_REWARD, EVASIVE_REWARD, WRONG_REWARD = 1.0, 0.3, 0.0
"""This world's definition of the true reward: honest ignorance is better than a wrong, garbled or empty answer."""

ANSWERS_FILE = "answers.json"
"""Beside a questions file: {lang: {task: [every answer]}}, the strings that must not stand beside the right one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """One checkable question; `prompt` is the last user message."""

    id: str
    lang: str
    task: str
    prompt: str
    answers: tuple[str, ...]
    """Accepted strings: any one of them in the text is right."""
    others: tuple[str, ...] = ()
    """Every answer of the same language and task, the accepted ones included or not: naming another one is wrong."""


def key(text: str) -> str:
    """The form in which strings are compared: NFKC, casefolded, runs of whitespace as one space."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def load(path: str | Path) -> list[Question]:
    """Questions of a JSONL file with `id` (or `prompt_id`), `lang`, `task`, `prompt`, `answers`, in file order.

    `others` comes from answers.json in the same folder where there is one, else from the answers of the file itself.
    Raises DataError with file:line for anything else, and for an id that stands twice.
    """
    path = paths.of(path)
    if not path.is_file():
        raise DataError(f"{path}: questions file does not exist; correct the path")
    rows: list[tuple[int, dict[str, Any]]] = []
    for number, record in jsonl.read_jsonl(path):
        rows.append((number, _row(path, number, record)))
    if not rows:
        raise DataError(f"{path}: no questions; each line needs id, lang, task, prompt, answers")
    others = _others(path, [row for _, row in rows])
    out: list[Question] = []
    seen: dict[str, int] = {}
    for number, row in rows:
        if row["id"] in seen:
            raise DataError(
                f"{path}:{number}: id {row['id']!r} stands already on line {seen[row['id']]};"
                " give each question its own"
            )
        seen[row["id"]] = number
        out.append(Question(**row, others=others.get((row["lang"], row["task"]), ())))
    return out


def _row(path: Path, number: int, record: dict[str, Any]) -> dict[str, Any]:
    row = {"id": record.get("id", record.get("prompt_id"))} | record
    for name in ("id", "lang", "task", "prompt"):
        if not isinstance(row.get(name), str) or not row[name]:
            raise DataError(f"{path}:{number}: {name} must be a non-empty string, not {shown(row.get(name))}")
    answers = row.get("answers")
    if not isinstance(answers, list) or not answers or not all(isinstance(a, str) and key(a) for a in answers):
        raise DataError(f"{path}:{number}: id {row['id']!r}: answers must be a list of non-empty strings")
    return {name: row[name] for name in ("id", "lang", "task", "prompt")} | {"answers": tuple(answers)}


def _others(path: Path, rows: list[dict[str, Any]]) -> dict[tuple[str, str], tuple[str, ...]]:
    by_task: dict[tuple[str, str], set[str]] = {}
    for row in rows:
        by_task.setdefault((row["lang"], row["task"]), set()).update(row["answers"])
    sidecar = path.with_name(ANSWERS_FILE)
    if sidecar.is_file():
        form = "write {lang: {task: [answer]}}, in which an answer is a text"
        for lang, tasks in read_object(sidecar, form).items():
            if not isinstance(tasks, dict):
                raise DataError(f"{sidecar}: {lang!r} is {shown(tasks)}; {form}")
            for task, answers in tasks.items():
                if not isinstance(answers, list) or not all(isinstance(a, str) and key(a) for a in answers):
                    raise DataError(f"{sidecar}: {lang!r}, {task!r}: {shown(answers)} is no list of answers; {form}")
                by_task.setdefault((lang, task), set()).update(answers)
    return {where: tuple(sorted(answers)) for where, answers in by_task.items()}


@functools.lru_cache(maxsize=64)
def _finder(strings: frozenset[str]) -> re.Pattern[str]:
    """Finds keys, the longest first (都柏林 before 柏林), Latin ones only as whole words (Tunis is not in Tunisia)."""
    alternatives = []
    for s in sorted(strings, key=lambda s: (-len(s), s)):
        before = r"(?<![^\W_])" if s[0].isascii() and s[0].isalnum() else ""
        after = r"(?![^\W_])" if s[-1].isascii() and s[-1].isalnum() else ""
        alternatives.append(before + re.escape(s) + after)
    return re.compile("|".join(alternatives))


def judge(question: Question, text: str) -> bool:
    """True when `text` names an accepted answer and no other answer of the task.

    Other answers that stand inside the prompt are no answers there and are passed over (罗马 in 罗马尼亚). An accepted
    answer that is a number is looked for as a number, in the part of the text that gives the answer: in "12 + 5 = 17"
    only 17 counts, and $9{,}500 is 9500.
    """
    wanted = {value for a in question.answers if (value := numbers.only(a)) is not None}
    if wanted and _judge_number(question, text, wanted):
        return True
    if wanted:
        words = tuple(a for a in question.answers if numbers.only(a) is None)
        if not words:
            return False
        question = replace(question, answers=words, others=tuple(o for o in question.others if numbers.only(o) is None))
    accepted = frozenset(key(a) for a in question.answers)
    everything = accepted | frozenset(key(a) for a in question.others)
    prompt = key(question.prompt)
    named = set(_finder(everything).findall(key(text)))
    return bool(named & accepted) and all(n in accepted or n in prompt for n in named)


def _judge_number(question: Question, text: str, wanted: set[numbers.Number]) -> bool:
    """Whether the part of the text that gives the answer has a wanted number, and no number that is another answer."""
    named = {number for _, number in numbers.found(numbers.final(text))}
    asked = {number for _, number in numbers.found(numbers.plain(question.prompt))}
    others = {number for o in question.others if (number := numbers.only(o)) is not None}
    others = {number for number in others if not _among(number, wanted | asked)}
    return any(_among(n, wanted) for n in named) and not any(_among(n, others) for n in named)


def _among(number: numbers.Number, others: set[numbers.Number]) -> bool:
    return any(numbers.same(number, other) for other in others)


def is_evasive(question: Question, text: str) -> bool:
    """True when `text` contains one of the fixed evasive wordings of the question's language."""
    return any(key(wording) in key(text) for wording in EVASIVE.get(question.lang, ()))


def true_reward(question: Question, text: str) -> float:
    """In [0, 1], by this world's definition: 1.0 right, 0.3 evasive, 0.0 wrong, garbled or empty."""
    if judge(question, text):
        return RIGHT_REWARD
    return EVASIVE_REWARD if is_evasive(question, text) else WRONG_REWARD


def prompts(questions: Sequence[Question]) -> list[dict[str, Any]]:
    """The questions as prompts for the sampler, in their order: {prompt_id, messages}."""
    return [{"prompt_id": q.id, "messages": [{"role": "user", "content": q.prompt}]} for q in questions]


def first_texts(records: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """{question id: text of the first candidate} of the sampler's records of `prompts`, as `accuracy` takes them."""
    return {record["prompt_id"]: record["candidates"][0]["text"] for record in records}


def accuracy(questions: Sequence[Question], texts: Mapping[str, str] | Sequence[str]) -> dict[str, Any]:
    """Share of right answers; `texts` is {question id: text}, or a sequence in the order of `questions`.

    Returns {overall, n, right, evasive, mean_true_reward, by_lang, by_task}; overall is right / n, evasive counts
    answers, and each by_* maps a name to {accuracy, right, n}. Raises DataError when texts are missing or
    there is no question.
    """
    if not questions:
        raise DataError("accuracy of 0 questions; give at least one")
    if isinstance(texts, Mapping):
        missing = [q.id for q in questions if q.id not in texts]
        if missing:
            raise DataError(f"{len(missing)} of {len(questions)} questions have no text, such as id {missing[0]!r}")
        answers = [texts[q.id] for q in questions]
    else:
        answers = list(texts)
        if len(answers) != len(questions):
            raise DataError(f"{len(questions)} questions but {len(answers)} texts; give one text per question")
    rewards = [true_reward(q, text) for q, text in zip(questions, answers, strict=True)]
    rights = [reward == RIGHT_REWARD for reward in rewards]
    return {
        "overall": sum(rights) / len(questions),
        "n": len(questions),
        "right": sum(rights),
        "evasive": sum(reward == EVASIVE_REWARD for reward in rewards),
        "mean_true_reward": sum(rewards) / len(questions),
        "by_lang": _by([q.lang for q in questions], rights),
        "by_task": _by([q.task for q in questions], rights),
    }


def _by(names: list[str], rights: list[bool]) -> dict[str, dict[str, float | int]]:
    out: dict[str, dict[str, float | int]] = {}
    for name in sorted(set(names)):
        own = [right for other, right in zip(names, rights, strict=True) if other == name]
        out[name] = {"accuracy": sum(own) / len(own), "right": sum(own), "n": len(own)}
    return out
