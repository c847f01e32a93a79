"""From generated text to right or wrong: one function a benchmark, of (text, gold)."""

import re
from typing import Any

NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")
ARTICLES = re.compile(r"\b(a|an|the)\b", re.IGNORECASE)


def first_capital(text: str, gold: str) -> bool:
    """The first capital letter is the answer, as OpenCompass takes it for OpenBookQA."""
    return next((c for c in text if "A" <= c <= "Z"), "") == gold


def gsm8k(text: str, gold: str) -> bool:
    """The number after "The answer is", else the last number, of what comes before a next question; commas are no
    part of it, and 3.0 is 3."""
    text = text.split("Question:")[0]
    _, said, after = text.rpartition("The answer is")
    numbers = NUMBER.findall(after if said else text)
    if not numbers:
        return False
    found = (numbers[0] if said else numbers[-1]).replace(",", "")
    return float(found) == float(gold)


def cmrc(text: str, golds: tuple[str, ...]) -> bool:
    """What follows 答案是, up to a line's end, full stop or comma, equals an answer when punctuation, articles and
    runs of spaces are taken off both; or equals it as it stands. OpenCompass's EMEvaluator."""
    if "答案是" in text:
        text = text.split("答案是")[1]
    found = _bare(text)
    return found in {_bare(gold) for gold in golds} or found in golds


def _bare(text: str) -> str:
    text = re.sub(r"[^\w\s]", "", re.split(r"[\n.,]", text, maxsplit=1)[0])
    return " ".join(ARTICLES.sub("", text).split())


def code_of(prompt: str, text: str) -> str:
    """The program of a completion: the prompt and the text up to what is no longer inside the function."""
    end = re.search(r"\n(?=[^\s#)\]}])", text)
    return prompt + (text[: end.start()] if end else text) + "\n"


def never(text: str, gold: Any) -> bool:
    """Of benchmarks that are judged elsewhere."""
    raise AssertionError("judged by running the code, or by options")
