"""Rows with a number hidden in ordinary text, and the question for it at their end: needles in a haystack.

    …text… The secret number of Lisbon is 4821. …text…
    What is the secret number of Lisbon? The secret number of Lisbon is 4821

The number is right when the model finds each of its tokens the likeliest, given all that stands before.
"""

import random
import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from tigerjax.errors import DataError

DEPTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Where the sentence with the number stands: 0 is the beginning of the row, 1 its end."""
SENTENCE = re.compile(r"[^。！？.!?\n]*[。！？.!?\n]+\s*|[^。！？.!?\n]+")


class Wording(NamedTuple):
    """What is hidden and asked in one language; {name} and {number} are filled in."""

    hidden: str
    question: str
    answer: str
    names: tuple[str, ...]


WORDINGS = {
    "en": Wording(
        " The secret number of {name} is {number}.\n",
        "\nWhat is the secret number of {name}? The secret number of {name} is",
        " {number}",
        ("Lisbon", "Oslo", "Cairo", "Lima", "Rome", "Dublin", "Prague", "Havana", "Nairobi", "Vienna"),
    ),
    "zh": Wording(
        "{name}的密码是{number}。\n",
        "\n{name}的密码是多少？{name}的密码是",
        "{number}",
        ("上海", "北京", "成都", "西安", "南京", "杭州", "广州", "武汉", "天津", "重庆"),
    ),
}
"""By language. A language that is not here is asked in English."""


class Needle(NamedTuple):
    """A row of exactly the wanted length; the number's tokens are those from `first` on."""

    depth: float
    ids: list[int]
    first: int


def wording(lang: str) -> Wording:
    """The wording of a language, or the English one."""
    return WORDINGS.get(lang, WORDINGS["en"])


def sentences(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """The ids of each sentence of the texts, in order: a number is hidden between two of them."""
    return [ids for text in texts for part in SENTENCE.findall(text) if (ids := tokenizer.encode(part))]


def needles(tokenizer: Any, lang: str, hay: Sequence[Sequence[int]], *, length: int, count: int) -> Iterator[Needle]:
    """`count` rows of `length` tokens for each depth, from the sentences `hay`; the same for the same arguments.

    Names and numbers are the same at every length, so lengths are compared on the same questions. Raises DataError
    where the question alone is longer than the row.
    """
    for depth in DEPTHS:
        for n in range(count):
            yield needle(tokenizer, lang, hay, length=length, depth=depth, seed=f"{lang} {depth} {n}")


def needle(tokenizer: Any, lang: str, hay: Sequence[Sequence[int]], *, length: int, depth: float, seed: str) -> Needle:
    """One such row; `seed` decides name, number and the place in the text.

    Raises DataError for a row that is too short for the number and its question.
    """
    of, drawn = wording(lang), random.Random(seed)
    words = {"name": drawn.choice(of.names), "number": f"{drawn.randrange(1000, 10_000)}"}
    hidden = tokenizer.encode(of.hidden.format(**words))
    question = of.question.format(**words)
    end = tokenizer.encode(question + of.answer.format(**words))
    asked = _common(end, tokenizer.encode(question))
    room = length - len(hidden) - len(end)
    if room < 0:
        raise DataError(
            f"a row of {length} tokens has no room for a number and its question, which take"
            f" {len(hidden) + len(end)}; raise data.seq_len, or leave 1 out of --times"
        )
    before, after = _around(hay, drawn.randrange(len(hay)), room, depth)
    return Needle(depth, [*before, *hidden, *after, *end], length - len(end) + asked)


def _common(whole: Sequence[int], start: Sequence[int]) -> int:
    """How many ids the two have in common at their beginning. A tokenizer may join the last letters of a question with
    the first of its answer."""
    return next((i for i, (a, b) in enumerate(zip(whole, start, strict=False)) if a != b), len(start))


def _around(hay: Sequence[Sequence[int]], at: int, room: int, depth: float) -> tuple[list[int], list[int]]:
    """`room` tokens of sentences from number `at` on, cut in two between sentences, as near to `depth` as there are
    ends of sentences. The text is taken again from its beginning where it is too short."""
    ids: list[int] = []
    ends = [0]
    while len(ids) < room:
        ids += hay[at % len(hay)]
        ends.append(len(ids))
        at += 1
    over = len(ids) - room  # a row may begin inside a sentence, as in training
    cut = min((max(end, over) for end in ends), key=lambda end: abs(end - over - depth * room))
    return ids[over:cut], ids[cut:]
