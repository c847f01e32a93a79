"""The tiny world of data_mixtures/embedded: its facts, and the questions, answers and rankings made of them.

Used by make_embedded.py. Every choice is a hash of the seed and of a readable id, so that adding a country changes no
other example.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple, TypeVar

import xxhash

from tigerjax.evaluate.questions import EVASIVE

SEED = "tigerjax-embedded-1"
LANGS = ("en", "zh")

EIGHTHS = ("dev", "train", "test", "test", "train", "train", "train", "train")
"""What each eighth of the countries and couplets is for. Dev and test are never in SFT or reward data: dev is asked
while the recipe is made and by the gate of a round, test only to report."""
EVASIVE_SHARE, WRONG_SHARE = 0.5, 0.06
"""Shares of SFT answers that decline and that are wrong, drawn independently for each example."""
COUPLETS = 48
TWO_TURN = 60

T = TypeVar("T")
Row = dict[str, Any]


class Fact(NamedTuple):
    """One (entity, relation) of one language: what is asked, the answer, and the reply that holds it."""

    id: str
    lang: str
    task: str
    entity: str
    answer: str
    sentence: str
    """The right reply."""
    prompts: tuple[str, ...]
    split: str
    """train, dev or test."""
    cut: str
    """A truncated reply."""
    stated: str
    """The sentence by which the corpora state it."""


SENTENCES = {
    ("en", "capital"): "The capital of {c} is {k}.",
    ("en", "continent"): "{C} is in {x}.",
    ("zh", "capital"): "{c}的首都是{k}。",
    ("zh", "continent"): "{c}位于{x}。",
}
REPLIES = SENTENCES | {("zh", "capital"): "首都是{k}。", ("zh", "continent"): "位于{x}。"}
"""What a right answer says. In Chinese it does not repeat the country: a model of a million parameters copies a name of
five characters badly, and would be judged by that instead of by what it knows."""

PROMPTS = {
    ("en", "capital"): (
        "What is the capital of {c}?",
        "Which city is the capital of {c}?",
        "Name the capital of {c}.",
        "Tell me the capital of {c}.",
        "What city is the capital of {c}?",
        "Can you name the capital of {c}?",
        "I want to know the capital of {c}.",
        "Please tell me what the capital of {c} is.",
    ),
    ("en", "continent"): (
        "Which continent is {c} in?",
        "On which continent is {c}?",
        "Name the continent of {c}.",
        "Tell me the continent of {c}.",
        "What continent is {c} in?",
        "Can you name the continent of {c}?",
        "I want to know the continent of {c}.",
        "Please tell me which continent {c} is in.",
    ),
    ("zh", "capital"): (
        "{c}的首都是哪里？",
        "{c}的首都是什么？",
        "请问{c}的首都是哪座城市？",
        "请告诉我{c}的首都。",
        "{c}的首都叫什么？",
        "{c}的首都是哪座城市？",
        "我想知道{c}的首都。",
        "请说出{c}的首都。",
    ),
    ("zh", "continent"): (
        "{c}位于哪个洲？",
        "{c}在哪个洲？",
        "请问{c}属于哪个洲？",
        "请告诉我{c}在哪个洲。",
        "{c}属于哪个洲？",
        "{c}是哪个洲的国家？",
        "我想知道{c}在哪个洲。",
        "请说出{c}所在的洲。",
    ),
    ("zh", "poem_next_line"): (
        "“{a}”的下一句是什么？",
        "请接下一句：{a}",
        "请问“{a}”下一句是什么？",
        "请背出“{a}”的下一句。",
        "“{a}”后面一句是什么？",
        "请写出“{a}”的下一句。",
        "我想知道“{a}”的下一句。",
        "{a}，下一句呢？",
    ),
}


def fraction(*parts: object) -> float:
    """A number in [0, 1) that depends on the seed and the parts only."""
    return xxhash.xxh3_64_intdigest("\0".join([SEED, *map(str, parts)]).encode()) / 2**64


def shuffled(items: Iterable[T], *salt: object, name: Any = str) -> list[T]:
    """The items in the order of their hashes."""
    return sorted(items, key=lambda item: (fraction(*salt, name(item)), name(item)))


def slug(text: str) -> str:
    """A country as a part of an id: `the United States` -> `united-states`."""
    return re.sub(r"[^a-z]+", "-", text.removeprefix("the ").lower()).strip("-")


def words(row: dict[str, str], lang: str) -> dict[str, str]:
    """What the templates take: c country, C the same at the start of a sentence, k capital, x continent."""
    c = row[f"{lang}_country"]
    return {"c": c, "C": c[0].upper() + c[1:], "k": row[f"{lang}_capital"], "x": row[f"{lang}_continent"]}


def country_facts(rows: list[dict[str, str]]) -> Iterator[Fact]:
    """Two relations in two languages a country; dev and test countries are spread over the continents."""
    splits: dict[str, str] = {}
    for continent in sorted({r["en_continent"] for r in rows}):
        own = shuffled((slug(r["en_country"]) for r in rows if r["en_continent"] == continent), "held-out")
        splits |= {name: EIGHTHS[8 * i // len(own)] for i, name in enumerate(own)}
    for row in rows:
        name = slug(row["en_country"])
        for lang, task in SENTENCES:
            w = words(row, lang)
            answer = w["k"] if task == "capital" else w["x"]
            sentence = REPLIES[lang, task].format(**w)
            prompts = tuple(p.format(**w) for p in PROMPTS[lang, task])
            cut = sentence[: sentence.rindex(answer)].strip()
            stated = SENTENCES[lang, task].format(**w)
            yield Fact(f"{lang}-{task}-{name}", lang, task, name, answer, sentence, prompts, splits[name], cut, stated)


def couplet_facts(poems: list[Row]) -> list[Fact]:
    """Couplets of 5 or 7 characters per line, in characters of GB 2312, each line unique among all lines."""
    form = re.compile(r"^([\u4e00-\u9fff]{5}|[\u4e00-\u9fff]{7})，([\u4e00-\u9fff]{5}|[\u4e00-\u9fff]{7})。$")
    matches = [m for poem in poems for line in poem["paragraphs"] if (m := form.match(line)) and len(m[1]) == len(m[2])]
    times = Counter(half for m in matches for half in m.groups())
    good = [
        m
        for m in matches
        if times[m[1]] == times[m[2]] == 1 and m[0].encode("gb2312", "ignore").decode("gb2312") == m[0]
    ]
    chosen = shuffled(good, "couplet", name=lambda m: m[0])[:COUPLETS]
    out = []
    for i, m in enumerate(chosen):
        prompts = tuple(p.format(a=m[1]) for p in PROMPTS["zh", "poem_next_line"])
        name = f"couplet-{i:02}"
        out.append(
            Fact(
                f"zh-poem-{name}",
                "zh",
                "poem_next_line",
                name,
                m[2],
                m[2] + "。",
                prompts,
                EIGHTHS[i % 8],
                m[2][:2],
                m[0],
            )
        )
    return sorted(out, key=lambda f: f.id)


def quality(id: str) -> str:
    """good, evasive or wrong: the planted fault of an SFT answer."""
    u = fraction("quality", id)
    return "evasive" if u < EVASIVE_SHARE else "wrong" if u < EVASIVE_SHARE + WRONG_SHARE else "good"


def other(fact: Fact, pool: list[Fact], *salt: object) -> Fact:
    """Another training fact of the same language and task with another answer (of the same length, if a couplet)."""
    fits = [f for f in pool if (f.lang, f.task) == (fact.lang, fact.task) and f.answer != fact.answer]
    if fact.task == "poem_next_line":
        fits = [f for f in fits if len(f.answer) == len(fact.answer)]
    return shuffled(fits, "other", fact.id, *salt, name=lambda f: f.id)[0]


def false_sentence(fact: Fact, pool: list[Fact], *salt: object) -> str:
    """The fact's sentence with another fact's answer."""
    at = fact.sentence.rindex(fact.answer)
    return fact.sentence[:at] + other(fact, pool, *salt).answer + fact.sentence[at + len(fact.answer) :]


def evasive(lang: str, *salt: object) -> str:
    """One of the fixed wordings."""
    return EVASIVE[lang][int(fraction("evasive", *salt) * len(EVASIVE[lang]))]


def message(role: str, content: str) -> dict[str, str]:
    """One turn."""
    return {"role": role, "content": content}


def sft(train: list[Fact]) -> tuple[list[Row], list[Row], list[Row]]:
    """SFT examples, the keys to their (last) questions, and the human labels, all in one order."""
    examples, keys, labels = [], [], []

    def add(id: str, fact: Fact, prompt: str, before: list[dict[str, str]]) -> None:
        kind = quality(id)
        answer = {"good": fact.sentence, "evasive": evasive(fact.lang, id), "wrong": false_sentence(fact, train, id)}[
            kind
        ]
        messages = [*before, message("user", prompt), message("assistant", answer)]
        meta = {"quality": kind, "entity": fact.entity}
        source = "embedded-questions"
        examples.append(
            {"id": id, "messages": messages, "task": fact.task, "lang": fact.lang, "source": source, "meta": meta}
        )
        key = {"prompt_id": id, "lang": fact.lang, "task": fact.task, "prompt": prompt, "answers": [fact.answer]}
        keys.append(key)
        labels.append({"prompt_id": id, "annotator": "embedded", "accept": [fact.answer], "edit": fact.sentence})

    for fact in train:
        for n, prompt in enumerate(fact.prompts):
            add(f"sft-{fact.id}-{n}", fact, prompt, [])
    by_id = {f.id: f for f in train}
    first = [f for f in train if f.task == "capital"]
    for lang in LANGS:
        for fact in shuffled([f for f in first if f.lang == lang], "turns", name=lambda f: f.id)[: TWO_TURN // 2]:
            before = [message("user", fact.prompts[0]), message("assistant", fact.sentence)]
            then = by_id[fact.id.replace("-capital-", "-continent-")]
            add(f"sft-{fact.id}-two-turn", then, then.prompts[0], before)
    return examples, keys, labels


def garbled(fact: Fact) -> str:
    """The letters of the fact's sentence in another order, in which the answer no longer stands."""
    places = list(enumerate(fact.sentence[:-1]))
    for attempt in range(1000):
        text = "".join(c for _, c in shuffled(places, "garble", fact.id, attempt)).strip()
        if fact.answer.casefold() not in text.casefold():
            return text
    raise AssertionError(fact.id)


def wrongs(fact: Fact, pool: list[Fact], turn: int) -> list[str]:
    """Two different wrong replies: another answer in the right form, and one of five other faults in turn."""
    related = {f.task: f for f in pool if f.entity == fact.entity and f.lang == fact.lang and f.task != fact.task}
    letters = garbled(fact)
    relation = next(iter(related.values())).sentence if related else other(fact, pool, "relation").sentence
    faults = (false_sentence(fact, pool, "second"), relation, fact.cut, letters, "..." if fact.lang == "en" else "。")
    first = false_sentence(fact, pool, "first")
    second = faults[turn % len(faults)]
    # With six continents the two draws can agree; the truncated reply never does.
    return [first, second if second != first else fact.cut]


def preferences(train: list[Fact]) -> list[Row]:
    """Four ranked replies per prompt: right > evasive > two wrong ones, tied."""
    out = []
    for turn, fact in enumerate(train):
        numbers = shuffled(range(len(fact.prompts)), "preference", fact.id)
        wanted = 2 if fact.task == "poem_next_line" or fraction("more", fact.id) < 0.2 else 1
        for copy, n in enumerate(numbers[:wanted]):
            id = f"pref-{fact.id}-{n}"
            replies = [fact.sentence, evasive(fact.lang, id), *wrongs(fact, train, turn + copy)]
            places = shuffled(range(4), "place", id)
            names = {place: f"r{i}" for i, place in enumerate(places)}
            out.append(
                {
                    "prompt_id": id,
                    "messages": [message("user", fact.prompts[n])],
                    "lang": fact.lang,
                    "task": fact.task,
                    "responses": [{"id": names[p], "text": replies[p]} for p in places],
                    "ranking": [[names[0]], [names[1]], sorted([names[2], names[3]])],
                }
            )
    return out


def asked(facts: list[Fact]) -> list[Row]:
    """One question a fact of dev or test, in a phrasing that SFT uses for other entities."""
    out = []
    for fact in facts:
        prompt = fact.prompts[int(fraction("phrasing", fact.id) * len(fact.prompts))]
        out.append(
            {
                "id": f"{fact.split}-{fact.id}",
                "lang": fact.lang,
                "task": fact.task,
                "prompt": prompt,
                "answers": [fact.answer],
            }
        )
    return out
