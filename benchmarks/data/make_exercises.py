"""Makes data_mixtures/exercises, the questions of the quick start, from capitals.tsv; nothing is downloaded.

    python benchmarks/data/make_exercises.py

`--check` writes nothing and exits 1 when a committed file differs from what would be written. Every choice is a hash of
a readable id. data_mixtures/exercises/NOTICE describes the files, and the faults that are planted in them.
"""

import argparse
import json
import sys
from collections import Counter
from pathlib import Path

from embedded_facts import Fact, Row, country_facts, evasive, fraction, message, other, shuffled, slug, words
from make_embedded import capitals, written

FOLDER = Path(__file__).resolve().parents[2] / "data_mixtures" / "exercises"

DECLINES = {"early": 0.05, "careless": 0.6, "later": 0.05}
"""Share of the answers of each source that decline."""
WRONG_SHARE = 0.06
"""Share of wrong answers in every source."""
OF_EMBEDDED = {"early": (0, 1), "careless": (4, 5, 6)}
"""Which of the wordings of embedded_facts each source uses."""
LATER = {
    ("en", "capital"): ("{C}: capital?", "Which city governs {c}?", "Capital city, {c}?"),
    ("en", "continent"): ("{C}: continent?", "Where on earth is {c}?", "Continent, {c}?"),
    ("zh", "capital"): ("{c}：首都？", "哪座城市是{c}的首都？", "首都，{c}？"),
    ("zh", "continent"): ("{c}：大洲？", "哪个洲有{c}？", "大洲，{c}？"),
}
"""The wordings of the source `later`."""
SOURCES = [name for name, own in OF_EMBEDDED.items() for _ in own] + ["later"] * 3
"""The source of each wording of a fact."""
WORDINGS = {"dev": 2, "test": 4}
"""In how many wordings dev and test ask for a fact."""
IN_CONTINENT = "It is in {}."
"""The English reply to a question about a continent. It does not repeat the country, as the Chinese replies do not."""


def facts_of_countries() -> list[Fact]:
    """Those that the documents of embedded/ state, in the wordings of SOURCES."""
    rows = {slug(row["en_country"]): row for row in capitals()}
    out = []
    for fact in country_facts(list(rows.values())):
        later = (p.format(**words(rows[fact.entity], fact.lang)) for p in LATER[fact.lang, fact.task])
        prompts = (*(fact.prompts[n] for own in OF_EMBEDDED.values() for n in own), *later)
        own = (fact.lang, fact.task) == ("en", "continent")
        reply = IN_CONTINENT.format(fact.answer) if own else fact.sentence
        out.append(fact._replace(prompts=prompts, sentence=reply))
    return sorted(out, key=lambda f: f.id)


def wrong(fact: Fact, train: list[Fact], *salt: object) -> str:
    """A wrong reply of the right form."""
    at = fact.sentence.rindex(fact.answer)
    return fact.sentence[:at] + other(fact, train, *salt).answer + fact.sentence[at + len(fact.answer) :]


def instructions(train: list[Fact]) -> tuple[list[Row], list[Row]]:
    """SFT examples and the human labels of their prompts, in one order."""
    examples, labels = [], []
    for fact in train:
        for n in range(len(fact.prompts)):
            id = f"sft-{fact.id}-{n}"
            u, given = fraction("quality", id), SOURCES[n]
            kind = "evasive" if u < DECLINES[given] else "wrong" if u < DECLINES[given] + WRONG_SHARE else "good"
            says = {"good": fact.sentence, "evasive": evasive(fact.lang, id), "wrong": wrong(fact, train, id)}[kind]
            messages = [message("user", fact.prompts[n]), message("assistant", says)]
            row = {"id": id, "messages": messages, "task": fact.task, "lang": fact.lang, "source": given}
            examples.append(row | {"meta": {"quality": kind, "entity": fact.entity}})
            label = {"prompt_id": id, "annotator": "exercises", "accept": [fact.answer], "edit": fact.sentence}
            question = {"lang": fact.lang, "task": fact.task, "prompt": fact.prompts[n], "answers": [fact.answer]}
            labels.append(label | question)
    return examples, labels


def asked(facts: list[Fact]) -> list[Row]:
    """Each fact in WORDINGS that SFT uses for others."""
    return [
        {
            "id": f"{fact.split}-{fact.id}-{n}",
            "lang": fact.lang,
            "task": fact.task,
            "prompt": fact.prompts[n],
            "answers": [fact.answer],
        }
        for fact in facts
        for n in sorted(shuffled(range(len(SOURCES)), "asked", fact.id)[: WORDINGS[fact.split]])
    ]


def build() -> dict[str, bytes]:
    """Every generated file: name to bytes."""
    facts = facts_of_countries()
    train, dev, test = ([f for f in facts if f.split == name] for name in ("train", "dev", "test"))
    examples, labels = instructions(train)
    every: dict[str, dict[str, list[str]]] = {"en": {}, "zh": {}}
    for fact in facts:
        every[fact.lang].setdefault(fact.task, []).append(fact.answer)
    every = {lang: {task: sorted(set(own)) for task, own in tasks.items()} for lang, tasks in every.items()}
    tables = {
        "sft.jsonl": sorted(examples, key=lambda r: r["id"]),
        "labels.jsonl": sorted(labels, key=lambda r: r["prompt_id"]),
        "dev.jsonl": sorted(asked(dev), key=lambda r: r["id"]),
        "test.jsonl": sorted(asked(test), key=lambda r: r["id"]),
    }
    files = {n: "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in t).encode() for n, t in tables.items()}
    files["answers.json"] = (json.dumps(every, ensure_ascii=False) + "\n").encode()
    files["counts.json"] = (json.dumps(counts(tables), ensure_ascii=False, indent=1) + "\n").encode()
    return files


def counts(tables: dict[str, list[Row]]) -> Row:
    """What stands in the files, counted."""
    out: Row = {"records": {name: len(table) for name, table in tables.items()}}
    quality = Counter(f"{r['source']}/{r['meta']['quality']}" for r in tables["sft.jsonl"])
    out["sft_quality"] = dict(sorted(quality.items()))
    for name in ("sft", "dev", "test"):
        rows = tables[f"{name}.jsonl"]
        out[f"{name}_by_lang_task"] = dict(sorted(Counter(f"{r['lang']}/{r['task']}" for r in rows).items()))
    return out


def main() -> int:
    """Writes the files, or compares them under --check."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare with the committed files and write nothing")
    args = parser.parse_args()
    return written(build(), FOLDER, check=args.check)


if __name__ == "__main__":
    sys.exit(main())
