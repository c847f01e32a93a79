"""Whether a generated text is right: one function (text, gold) for each benchmark."""

import re
from typing import Any

from tigerjax.evaluate import numbers

ARTICLES = re.compile(r"\b(a|an|the)\b", re.IGNORECASE)


def first_capital(text: str, gold: str) -> bool:
    """The first capital letter is the answer, as OpenCompass takes it for OpenBookQA."""
    return next((c for c in text if "A" <= c <= "Z"), "") == gold


def gsm8k(text: str, gold: str) -> bool:
    r"""The number after "The answer is", else the last number of the text, equals the gold number.

    The text ends where the model goes on with another question. $9{,}500 and 9,500.00 are 9500; a number in \boxed{…}
    is the answer, and behind the marker "12 + 5 = 17" is 17."""
    text = text.split("Question:")[0]
    _, marker, after = text.rpartition("The answer is")
    given = numbers.answer(after if marker else text, marked=bool(marker))
    return given is not None and numbers.same(given, numbers.only(gold))


def cmrc(text: str, golds: tuple[str, ...]) -> bool:
    """The text after 答案是 equals one of the answers: exactly, or without punctuation, articles and extra spaces.

    For the second comparison the text ends at the first line end, full stop or comma. This is OpenCompass's
    EMEvaluator."""
    if "答案是" in text:
        text = text.split("答案是")[1]
    answer = _bare(text)
    return answer in {_bare(gold) for gold in golds} or answer in golds


def _bare(text: str) -> str:
    text = re.sub(r"[^\w\s]", "", re.split(r"[\n.,]", text, maxsplit=1)[0])
    return " ".join(ARTICLES.sub("", text).split())


def code_of(prompt: str, text: str) -> str:
    """The program of a completion: the prompt, and the text up to the first line that is outside the function."""
    end = re.search(r"\n(?=[^\s#)\]}])", text)
    return prompt + (text[: end.start()] if end else text) + "\n"


def never(text: str, gold: Any) -> bool:
    """Is never called: it stands for the judge of a benchmark whose answers are judged without one."""
    raise AssertionError("judged by running the code, or by options")
