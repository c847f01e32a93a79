"""Prompts whose answers a rule in code judges, for `real_model.py`: instructions about form, and short facts.

The instructions are of the kind that IFEval has (Zhou et al. 2023, arXiv 2311.07911, section 2): words, sentences and
lines that an answer must have. Ours are shorter, and most rules also want a word of the topic, so that an answer of the
right form that says nothing is wrong. Every prompt is a function of its family and number. `number % 4` says what it is
for (SPLITS). No two splits share a topic, a kind of thing, a country, a word whose opposite is asked, or two figures.

Left out, because SmolLM2-135M-Instruct gave no right answer in 120 draws or more, and rejection sampling can teach only
what is drawn: capital or small letters only, exactly two sentences, an exclamation mark at the end.
"""

import csv
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import xxhash

EMBEDDED = Path(__file__).resolve().parents[2] / "data_mixtures" / "embedded"
TOPICS = (
    "the sea", "a dog", "the moon", "a garden", "the rain", "a train", "an old house", "coffee", "a school",
    "the sun", "a mountain", "a book", "the winter", "a river", "a market", "the wind", "a cat", "a bridge",
    "the night", "an apple", "a teacher", "a horse", "the desert", "a song", "a kitchen", "the forest", "a letter",
    "an island", "the snow", "a doctor", "a clock", "the summer", "a farmer", "a window", "a bird", "the city",
    "a bicycle", "an airport", "the spring", "a museum", "a fish", "a storm", "a lamp", "the harvest", "a sailor",
    "a violin", "the library", "a village", "a candle", "an elephant", "the autumn", "a baker", "a door", "the stars",
    "a ship", "a painter", "the beach", "a flower", "a road", "an ocean",
)  # fmt: skip
WORDS = (
    "always", "bright", "quiet", "friend", "morning", "slowly", "green", "together", "small", "heart", "water",
    "light", "home", "never", "dream", "golden", "story", "warm", "gentle", "world",
)  # fmt: skip
KINDS = {
    "fruits": "Apple Banana Orange Grape", "animals": "Dog Cat Horse Cow", "colours": "Red Blue Green Yellow",
    "countries": "France Japan Brazil Kenya", "cities": "Paris London Tokyo Rome",
    "sports": "Football Tennis Golf Rugby", "birds": "Eagle Owl Robin Crow", "drinks": "Water Tea Coffee Milk",
    "vegetables": "Carrot Onion Potato Cabbage", "flowers": "Rose Tulip Daisy Lily", "trees": "Oak Pine Maple Birch",
    "languages": "English French Spanish Chinese", "rivers": "Nile Amazon Danube Thames",
    "planets": "Mars Venus Earth Jupiter", "metals": "Iron Gold Copper Silver", "months": "January March May July",
    "tools": "Hammer Saw Drill Wrench", "insects": "Ant Bee Fly Moth", "fish": "Salmon Tuna Cod Trout",
    "clothes": "Shirt Coat Hat Scarf", "jobs": "Teacher Doctor Baker Farmer", "vehicles": "Car Bus Train Bicycle",
    "desserts": "Cake Pie Pudding Sorbet", "shapes": "Circle Square Triangle Star",
    "musical instruments": "Piano Violin Guitar Flute", "school subjects": "Math History Art Music",
    "kinds of weather": "Rain Snow Wind Fog", "parts of the body": "Hand Foot Head Knee",
    "toys": "Ball Doll Kite Top", "kitchen tools": "Knife Spoon Pan Whisk",
    "pieces of furniture": "Chair Table Bed Sofa", "board games": "Chess Checkers Go Monopoly",
    "hobbies": "Reading Painting Cooking Fishing", "emotions": "Joy Anger Fear Sadness",
    "materials": "Wood Glass Steel Cotton", "spices": "Pepper Cinnamon Ginger Saffron",
    "cheeses": "Cheddar Brie Gouda Feta", "dances": "Waltz Tango Salsa Polka",
    "buildings": "House School Church Castle", "shops": "Bakery Bookshop Pharmacy Florist",
}  # fmt: skip
COUNTED = {2: "two", 3: "three", 4: "four"}
NAMES = (
    "Anna", "Ben", "Carla", "David", "Emma", "Felix", "Grace", "Hugo", "Ines", "Jack", "Karin", "Leo", "Maria", "Noah",
    "Olga", "Paul", "Rosa", "Sam", "Tina", "Victor",
)  # fmt: skip
OPPOSITES = (
    ("hot", "cold"), ("big", "small|little"), ("up", "down"), ("fast", "slow"), ("happy", "sad|unhappy"),
    ("light", "dark|heavy"), ("old", "new|young"), ("open", "closed|close|shut"), ("full", "empty"), ("rich", "poor"),
    ("hard", "soft|easy"), ("wet", "dry"), ("early", "late"), ("strong", "weak"), ("high", "low"), ("clean", "dirty"),
    ("loud", "quiet|silent"), ("near", "far"), ("wide", "narrow"), ("true", "false"), ("day", "night"),
    ("left", "right"), ("begin", "end|finish|stop"), ("win", "lose"), ("push", "pull"), ("love", "hate"),
    ("black", "white"), ("safe", "dangerous|unsafe"), ("thick", "thin"), ("alive", "dead"), ("sweet", "sour|bitter"),
    ("buy", "sell"), ("deep", "shallow"), ("brave", "cowardly|afraid|timid"), ("cheap", "expensive"),
    ("sharp", "dull|blunt"), ("smooth", "rough"), ("tall", "short"), ("war", "peace"), ("inside", "outside"),
)  # fmt: skip
OPENINGS = {
    "When": "it is late I think of", "Every": "morning I think of", "In": "my mind I see",
    "My": "brother told me about", "Sometimes": "I think of", "If": "I could I would paint", "Today": "I thought of",
    "Once": "I dreamt of", "Many": "people like", "After": "lunch we talked about",
}  # fmt: skip
LEAST_WORDS, MOST_WORDS, MOST_OF_A_NAME = 3, 12, 3
CAPITALS = tuple(
    (row["en_country"], row["en_capital"])
    for row in csv.DictReader(EMBEDDED.joinpath("capitals.tsv").open(encoding="utf-8"), delimiter="\t")
)


SPLITS = ("train", "rankings", "dev", "test")
"""By number % 4: prompts of the rounds, those that the reward model learns from, those of the gate, those reported."""


class Checkable(NamedTuple):
    """One prompt and the rule for its answers."""

    prompt_id: str
    family: str
    prompt: str
    right: Callable[[str], bool]
    answer: str
    """A right answer, written by code."""


Made = tuple[str, Callable[[str], bool], str]


def _hash(name: str) -> int:
    return xxhash.xxh3_64_intdigest(name.encode())


def _pick(items: Sequence[Any], number: int, salt: str) -> Any:
    return items[_hash(f"{salt}/{number}") % len(items)]


def _item(items: Sequence[Any], number: int) -> tuple[Any, int]:
    """The item of a number, and how often the list was gone through before; items of one split stay in it."""
    whole = len(items) // len(SPLITS) * len(SPLITS)
    return items[number % whole], number // whole


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z0-9'-]+", text.lower())


def _sentences(text: str) -> int:
    """How many sentences a text of one line has; 0 where the last is not finished, or where there are more lines."""
    if not re.search(r"[.!?][\"']?$", text) or "\n" in text:
        return 0
    return len(re.findall(r"[.!?]+[\"']?(?=\s|$)", text))


def _speaks(topic: str, text: str) -> bool:
    """Whether a word begins as the topic's last word does: "gardens" speaks of "a garden"."""
    stem = topic.split()[-1]
    return len(_words(text)) >= LEAST_WORDS and any(w.startswith(stem[: max(4, len(stem) - 1)]) for w in _words(text))


def _short(number: int) -> Made:
    topic, again = _item(TOPICS, number)
    most = 9 + 2 * again + number // len(SPLITS) % 2
    return (
        f"Write a sentence about {topic} in at most {most} words.",
        lambda text: _speaks(topic, text) and _sentences(text) == 1 and len(_words(text)) <= most,
        f"I often think of {topic}.",
    )


def _include(number: int) -> Made:
    (topic, _), word = _item(TOPICS, number), _pick(WORDS, number, "include")
    return (
        f'Write a sentence about {topic} with the word "{word}" in it.',
        lambda text: _speaks(topic, text) and word in _words(text) and _sentences(text) == 1,
        f"For me {topic} goes with the word {word}.",
    )


def _begins(number: int) -> Made:
    (topic, _), word = _item(TOPICS, number), _pick(tuple(OPENINGS), number, "begins")
    return (
        f'Write a sentence about {topic} that begins with the word "{word}".',
        lambda text: _speaks(topic, text) and text.startswith(word + " ") and _sentences(text) == 1,
        f"{word} {OPENINGS[word]} {topic}.",
    )


def _question(number: int) -> Made:
    topic, again = _item(TOPICS, number)
    return (
        ("Write a question about {}.", "Ask me a question about {}.", "Write one short question about {}.")[
            again % 3
        ].format(topic),
        lambda text: _speaks(topic, text) and text.endswith("?") and _sentences(text) == 1,
        f"What do you think of {topic}?",
    )


def _names(parts: Sequence[str], count: int) -> bool:
    found = {re.sub(r"^and ", "", part.strip(" .").lower()) for part in parts}
    return len(parts) == len(found) == count and all(1 <= len(_words(name)) <= MOST_OF_A_NAME for name in found)


def _commas(number: int) -> Made:
    kind, again = _item(tuple(KINDS), number)
    count = 2 + again % 3
    return (
        f"Name {COUNTED[count]} {kind}, with commas between them and nothing else.",
        lambda text: "\n" not in text and _names(text.split(","), count),
        ", ".join(KINDS[kind].split(" ")[:count]),
    )


def _numbered(number: int) -> Made:
    kind, again = _item(tuple(KINDS), number)
    count = 2 + again % 3

    def right(text: str) -> bool:
        lines = text.split("\n")
        fine = all(line.startswith(f"{place}.") for place, line in enumerate(lines, 1))
        return fine and _names([line[2:] for line in lines], count)

    return (
        f"List {COUNTED[count]} {kind}, numbered from 1 to {count}, and write nothing else.",
        right,
        "\n".join(f"{place}. {name}" for place, name in enumerate(KINDS[kind].split(" ")[:count], 1)),
    )


def _json(number: int) -> Made:
    name, age = _pick(NAMES, number, "name"), 8 + 4 * (_hash(f"age/{number}") % 20) + number % len(SPLITS)

    def right(text: str) -> bool:
        try:
            found = json.loads(text)
        except ValueError:
            return False
        return found in ({"name": name, "age": age}, {"name": name, "age": str(age)})

    return (
        f'{name} is {age} years old. Write this as a JSON object with the keys "name" and "age".',
        right,
        json.dumps({"name": name, "age": age}),
    )


def _sum(number: int) -> Made:
    a = 2 + _hash(f"a/{number}") % 18
    b = 4 + 4 * (_hash(f"b/{number}") % 4) + (number - 3 * a) % len(SPLITS)  # so that (3 a + b) % 4 is the split
    return f"What is {a} + {b}?", lambda text: re.findall(r"\d+", text)[-1:] == [str(a + b)], f"{a} + {b} = {a + b}."


def _opposite(number: int) -> Made:
    (word, fine), again = _item(OPPOSITES, number)
    asked = ('What is the opposite of "{}"?', 'Which word is the opposite of "{}"?', 'Give the opposite of "{}".')
    return (
        asked[again % 3].format(word),
        lambda text: bool({*fine.split("|")} & {*_words(text)}) and len(_words(text)) <= MOST_WORDS,
        f'The opposite of "{word}" is "{fine.split("|")[0]}".',
    )


def _capital(number: int) -> Made:
    (country, city), _ = _item(CAPITALS, number)
    return (
        f"What is the capital of {country}?",
        lambda text: city.lower() in text.lower() and len(_words(text)) <= MOST_WORDS,
        f"The capital of {country} is {city}.",
    )


FAMILIES: dict[str, Callable[[int], Made]] = {
    "short": _short, "include": _include, "begins": _begins, "question": _question, "commas": _commas,
    "numbered": _numbered, "json": _json, "sum": _sum, "opposite": _opposite, "capital": _capital,
}  # fmt: skip


def made(family: str, number: int) -> Checkable:
    """The prompt of a family with that number; the rule sees the answer without blanks around it."""
    prompt, right, answer = FAMILIES[family](number)
    prompt_id = f"{family}-{number:04}"
    return Checkable(prompt_id, family, prompt, lambda text: bool(text.strip()) and right(text.strip()), answer)


def by_id(prompt_id: str) -> Checkable:
    """The prompt of an id, or of the id that a round gave its winner: rs01-sum-0004-0f3c…"""
    found = re.search(r"([a-z]+)-(\d{4})(?:-|$)", prompt_id)
    assert found is not None, prompt_id
    return made(found[1], int(found[2]))


def split(name: str, each: int, *, start: int = 0) -> list[Checkable]:
    """Those of `each` prompts of every family in a split that are different; `start` of each family are left out."""
    place = SPLITS.index(name)
    found = [made(family, len(SPLITS) * k + place) for k in range(start, start + each) for family in FAMILIES]
    return list({one.prompt: one for one in reversed(found)}.values())[::-1]
