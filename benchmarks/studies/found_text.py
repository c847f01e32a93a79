"""Recall on planted text and false hits on natural text, of `dedup against-sft` and `decontaminate`.

    python benchmarks/studies/found_text.py [--real runs/real_text] [--json FILE]

Units are taken from one part of the documents and planted in the other part: as they are, and with 2% of their
characters replaced, left out or doubled. *Natural* is the other part without anything planted: what is found there is
false, save for what both parts really share. *Mentions* are answers that are a few words out of the middle of a
sentence of the very documents that are searched; none of them is a copy.

Without --real the text is the embedded one: units are taken from its books, and its facts are the natural text. With
--real it is halves of the newspaper, the reviews, LibreOffice's help and the manual pages, which
`benchmarks/data/real_sources.py` fetches by package name.
"""

import argparse
import json
import random
import re
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from tigerjax import records
from tigerjax.files import jsonl
from tigerjax.text.decontaminate import decontaminate_files
from tigerjax.text.dedup import against_sft_files
from tigerjax.text.grams import key
from tigerjax.text.short_units import SHORTEST

EMBEDDED = Path(__file__).resolve().parents[2] / "data_mixtures" / "embedded"
NOISE = 0.02
REAL = {"zh": ("newspaper_zh", "reviews_bad_zh", "libreoffice_zh"), "en": ("libreoffice_en", "manpages_en")}
SIZES = {"zh": {"short": (9, 40), "long": (60, 400)}, "en": {"short": (26, 140), "long": (200, 2_000)}}
"""Characters of the key of short and long units."""
UNITS, HOSTS = 200, 2_000
OPTION_SIZES = {"zh": (4, 16), "en": (10, 60)}

Texts = list[str]


def noisy(text: str, rng: random.Random) -> str:
    """The text with NOISE of its characters replaced, left out or doubled."""
    out = []
    for character in text:
        kind = rng.randrange(3) if rng.random() < NOISE else -1
        out.append(rng.choice(text) if kind == 0 else "" if kind == 1 else character * 2 if kind == 2 else character)
    return "".join(out)


def sentences(texts: Sequence[str]) -> Texts:
    """Whole sentences of texts, each once."""
    parts = (part.strip() for text in texts for part in re.split(r"(?<=[。！？!?])|(?<=\.)(?=\s)|\n", text))
    return list({key(part): part for part in parts if re.search(r"[。！？!?.]$", part)}.values())


def units_of(texts: Sequence[str], lang: str, size: str, rng: random.Random) -> Texts:
    """UNITS answers of one size: one sentence, or some that follow each other."""
    low, high = SIZES[lang][size]
    if size == "short":
        found = [s for s in sentences(texts) if low <= len(key(s)) <= high]
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
    return rng.sample(found, min(UNITS, len(found)))


def mentions_of(texts: Sequence[str], lang: str, rng: random.Random) -> Texts:
    """A few words out of the middle of a sentence, with a full stop, as a factual answer has it."""
    out = []
    for text in rng.sample(list(texts), min(len(texts), UNITS)):
        for part in sentences([text]):
            if lang == "zh":
                found = re.search(r"(?<=[\u4e00-\u9fff]{4})[\u4e00-\u9fff]{8,12}(?=[\u4e00-\u9fff]{4})", part)
            else:
                found = re.search(r"(?<=\w\w )(?:\w+ ){4,5}\w+(?= \w+ \w)", part)
            if found and SHORTEST["characters" if lang == "zh" else "letters"] <= len(key(found[0])) < 60:
                out.append(found[0] + ("。" if lang == "zh" else "."))
                break
    return out


def planted(units: Sequence[str], hosts: Sequence[str], change: Callable[[str], str]) -> list[records.Record]:
    """A document for each unit, in which it stands between two others."""
    pairs = zip(units, hosts, [*hosts[1:], hosts[0]], strict=False)
    return [{"id": f"u{i}", "text": f"{a}\n{change(u)}\n{b}"} for i, (u, a, b) in enumerate(pairs)]


def found_answers(answers: Sequence[str], documents: list[records.Record]) -> list[tuple[str, str]]:
    """(document, answer u<i>) of the hits of against-sft."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        jsonl.write_jsonl(folder / "docs.jsonl", documents)
        turns = ([{"role": "user", "content": "?"}, {"role": "assistant", "content": a}] for a in answers)
        jsonl.write_jsonl(folder / "sft.jsonl", ({"id": f"u{i}", "messages": t} for i, t in enumerate(turns)))
        against_sft_files([folder / "docs.jsonl"], [folder / "sft.jsonl"], folder / "out", action="report")
        return [(h["doc"], h["sft_id"]) for _, h in jsonl.read_jsonl(folder / "out" / "hits" / "hits.jsonl")]


def found_questions(questions: list[records.Record], documents: list[records.Record]) -> list[tuple[str, str]]:
    """(document, question u<i>) of the hits of decontaminate."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        jsonl.write_jsonl(folder / "docs.jsonl", documents)
        jsonl.write_jsonl(folder / "set.jsonl", questions)
        decontaminate_files([folder / "docs.jsonl"], [folder / "set.jsonl"], folder / "out", action="report")
        hits = [hit for _, hit in jsonl.read_jsonl(folder / "out" / "hits" / "hits.jsonl")]
        return [(h["doc"], f"u{int(h['eval_id'].split(':')[1]) - 1}") for h in hits]


def questions_of(texts: Sequence[str], lang: str, rng: random.Random) -> tuple[list[records.Record], Texts]:
    """(questions with four options, how an exam prints them): a sentence, and parts of others."""
    low, high = OPTION_SIZES[lang]
    every = sentences(texts)
    stems = units_of(texts, lang, "short", rng)
    options = [s[:-1] for s in every if low <= len(key(s)) <= high] or [s[:high] for s in every]
    out, printed = [], []
    for stem in stems:
        chosen = rng.choices(options, k=4)
        out.append({"question": stem, **dict(zip("ABCD", chosen, strict=True))})
        lines = [f"{letter}. {option}" for letter, option in zip("ABCD", chosen, strict=True)]
        printed.append("\n".join([stem, *lines]))
    return out, printed


def corpus(real: Path | None, lang: str) -> tuple[Texts, Texts]:
    """(documents that units are taken from, others), each once, shuffled; long ones are cut."""
    files = [EMBEDDED / f"corpus_{lang}.jsonl"]
    if real is not None:
        files = [real / "text" / f"{name}.jsonl" for name in REAL[lang]]
    by_key = {key(d["text"])[:80]: d for path in files for d in records.documents(path)}
    found = list(by_key.values())
    random.Random(0).shuffle(found)
    if real is None:
        parts = [[d for d in found if (d["source"] == "facts") == facts] for facts in (False, True)]
    else:
        parts = [found[::2], found[1::2]]
    taken, others = ([d["text"][:3_000] for d in part] for part in parts)
    return taken, others[:HOSTS]


def measured(real: Path | None, lang: str) -> dict[str, float]:
    """The shares of one language: recall of what was planted, and documents with a false hit."""
    rng = random.Random(1)
    taken, hosts = corpus(real, lang)
    natural = [{"id": f"n{i}", "text": text} for i, text in enumerate(hosts)]
    out: dict[str, float] = {}

    def recall(hits: list[tuple[str, str]], count: int) -> float:
        return sum(doc == unit for doc, unit in set(hits)) / count

    for size in ("short", "long"):
        units = units_of(taken, lang, size, rng)
        units = [u for u in units if not any(key(u) in key(h) for h in hosts)]  # both parts really have it
        for name, change in (("verbatim", str), ("noisy", lambda text: noisy(text, rng))):
            out[f"{size} answers, {name}"] = recall(found_answers(units, planted(units, hosts, change)), len(units))
        out[f"{size} answers, natural"] = len({doc for doc, _ in found_answers(units, natural)}) / len(natural)
    given, printed = questions_of(taken, lang, rng)
    for name, change in (("verbatim", str), ("noisy", lambda text: noisy(text, rng))):
        out[f"questions, {name}"] = recall(found_questions(given, planted(printed, hosts, change)), len(given))
    out["questions, natural"] = len({doc for doc, _ in found_questions(given, natural)}) / len(natural)
    mentions = mentions_of(hosts, lang, rng)
    out["mentions"] = len({doc for doc, _ in found_answers(mentions, natural)}) / len(natural)
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--real", type=Path)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    made = {lang: measured(args.real, lang) for lang in ("zh", "en")}
    print("| figure | zh | en |\n|---|---|---|")
    for name in made["zh"]:
        print(f"| {name} | {made['zh'][name]:.2%} | {made['en'][name]:.2%} |")
    if args.json:
        args.json.write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
