"""Five samples of what `dedup against-sft` and `decontaminate` once got wrong, and the memory of many units.

    python benchmarks/studies/found_samples.py [--real runs/real_text] [--json FILE]

- Ten factual answers, which a newspaper mentions: documents that are found. Without --real the answers are words out of
  the middle of a sentence.
- Stems of exam questions in running text: documents that are dropped, beside ten that hold the whole question.
- One refusal that 5,000 examples give and 313 documents hold. What more than 100 documents hold is boilerplate, and no
  hit; so the same with 90.
- 60 English answers, 45 short Chinese ones and 100 exam questions with 2% of their characters wrong: those found.
- The peak memory of a process that looks for 50 and for 5,000 different answers.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import found_text
from found_text import found_answers, found_questions, noisy, parts, planted

from tigerjax import records
from tigerjax.files import jsonl
from tigerjax.text.dedup import against_sft_files
from tigerjax.text.grams import key

FACTS = (
    "全国人民代表大会常务委员会。", "中国人民政治协商会议。", "中国共产党中央委员会。", "香港特别行政区政府。",
    "建设有中国特色社会主义。", "社会主义市场经济体制。", "社会主义精神文明建设。", "联合国安全理事会。",
    "中华人民共和国国务院。", "改革开放和现代化建设。",
)  # fmt: skip
STEMS = ("下列说法正确的是", "以下叙述中错误的是", "下列各项中不属于该范围的是", "根据上文可以推断出")
RUNNING = "考试大纲要求学生能够判断{stem}哪一项，并说明理由。教师可以用课本的例题讲解。"
REFUSAL = "I am sorry, but I am not able to help with that request, because I do not know enough about it."
BEFORE = {
    "factual answers: documents found": "134 of 2,187",
    "bare stems: documents dropped": "158 of 158",
    "one refusal of 5,000 examples in 313 documents": "5,000 units, 1,565,000 hits",
    "English answers, noisy: found": "10 of 60",
    "short Chinese answers, noisy: found": "32 of 45",
    "exam questions, noisy: found": "50 of 100",
}
"""What was measured when the samples were reported, on text like this."""


def factual(real: Path | None) -> str:
    if real is None:
        hosts = parts(None, "en")[0]
        answers = found_text.mentions_of(hosts, "en", random.Random(0))[:10]
    else:
        hosts = [d["text"] for d in records.documents(real / "text" / "newspaper_zh.jsonl")]
        answers = list(FACTS)
    documents = [{"id": f"n{i}", "text": text} for i, text in enumerate(hosts)]
    hits = found_answers({f"u{i}": a for i, a in enumerate(answers)}, documents)
    keys = [key(answer) for answer in answers]
    mentioned = sum(any(one in there for one in keys) for there in map(key, hosts))
    return f"{len({hit.doc for hit in hits}):,} of {len(documents):,} ({mentioned:,} mention one)"


def bare_stems(hosts: list[str]) -> tuple[str, str]:
    """(documents with a bare stem that are dropped, documents with a whole question that are dropped)."""
    rng = random.Random(0)
    printed = {}
    questions: dict[str, records.Record] = {}
    options = [s[:12] for text in hosts for s in found_text.sentences([text]) if len(s) > 12]
    for i, stem in enumerate(STEMS):
        chosen = dict(zip("ABCD", rng.sample(options, 4), strict=True))
        questions[f"q{i}"] = {"question": stem, **chosen}
        printed[i] = stem + "（　）" + "　".join(f"{letter}．{option}" for letter, option in chosen.items())
    running = [RUNNING.format(stem=stem) for stem in STEMS]
    bare = [{"id": f"s{i}", "text": f"{hosts[i % len(hosts)]}\n{running[i % 4]}"} for i in range(158)]
    whole = [{"id": f"w{i}", "text": f"{hosts[i]}\n{printed[i % 4]}"} for i in range(10)]
    found = {hit.doc for hit in found_questions(questions, [*bare, *whole])}
    return f"{sum(i[0] == 's' for i in found)} of 158", f"{sum(i[0] == 'w' for i in found)} of 10"


def one_refusal(documents: int) -> str:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        texts = ({"id": f"d{i}", "text": f"Forum page {i}. {REFUSAL} So it goes on."} for i in range(documents))
        jsonl.write_jsonl(folder / "docs.jsonl", texts)
        turns = [{"role": "user", "content": "?"}, {"role": "assistant", "content": REFUSAL}]
        jsonl.write_jsonl(folder / "sft.jsonl", ({"id": f"u{i}", "messages": turns} for i in range(5_000)))
        given = (folder / "docs.jsonl", folder / "sft.jsonl")
        made = against_sft_files([given[0]], [given[1]], folder / "out", action="report")["figures"]
    return f"{made['units'] - made['units_equal']} unit, {made['hits']:,} hits"


def noisy_answers(lang: str, sizes: Sequence[str], count: int, real: Path | None) -> str:
    """Of so many answers, as many of each size."""
    rng = random.Random(2)
    taken, hosts = parts(real, lang)
    each = count // len(sizes)
    chosen = [unit for size in sizes for unit in found_text.units_of(taken, lang, size, rng)[:each]]
    units = {f"u{i}": unit for i, unit in enumerate(chosen)}
    hits = found_answers(units, planted(units, hosts, lambda text: noisy(text, rng)))
    return f"{len({hit.doc for hit in hits if hit.doc == hit.unit})} of {len(units)}"


def noisy_questions(count: int, real: Path | None) -> str:
    rng = random.Random(2)
    taken, hosts = parts(real, "zh")
    every, printed = found_text.questions_of(taken, "zh", rng)
    given = every[:count]
    documents = planted({f"u{i}": text for i, text in enumerate(printed[:count])}, hosts, lambda text: noisy(text, rng))
    hits = found_questions({f"u{i}": question for i, question in enumerate(given)}, documents)
    return f"{len({hit.doc for hit in hits if hit.doc == hit.unit})} of {len(given)}"


def memory(units: int, real: Path | None) -> str:
    """The peak memory of a process that looks for so many different answers in all documents."""
    documents = [text for lang in ("zh", "en") for part in parts(real, lang) for text in part]
    every = found_text.sentences(documents)
    rng = random.Random(3)
    answers = ["".join(rng.choices(every, k=3)) for _ in range(units)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        jsonl.write_jsonl(folder / "docs.jsonl", ({"id": f"d{i}", "text": text} for i, text in enumerate(documents)))
        turns = ([{"role": "user", "content": "?"}, {"role": "assistant", "content": answer}] for answer in answers)
        jsonl.write_jsonl(folder / "sft.jsonl", ({"id": f"u{i}", "messages": given} for i, given in enumerate(turns)))
        process = subprocess.Popen([sys.executable, __file__, "--search", name])
        _, status, used = os.wait4(process.pid, 0)
        if status:
            raise SystemExit("the search of the memory row failed")
        text = sum(len(document.encode()) for document in documents)
    return f"{used.ru_maxrss / 1024:,.0f} MB, of {text / 1e6:.1f} MB of text"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--real", type=Path)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--search", type=Path, help="only search FOLDER/docs.jsonl for FOLDER/sft.jsonl")
    args = parser.parse_args()
    if args.search:
        given = (args.search / "docs.jsonl", args.search / "sft.jsonl")
        against_sft_files([given[0]], [given[1]], args.search / "out", action="report")
        return
    bare, whole = bare_stems(parts(args.real, "zh")[0])
    made = {
        "factual answers: documents found": factual(args.real),
        "bare stems: documents dropped": bare,
        "whole questions: documents dropped": whole,
        "one refusal of 5,000 examples in 313 documents": one_refusal(313),
        "the same in 90 documents": one_refusal(90),
        "English answers, noisy: found": noisy_answers("en", ("short", "long"), 60, args.real),
        "short Chinese answers, noisy: found": noisy_answers("zh", ("short",), 45, args.real),
        "exam questions, noisy: found": noisy_questions(100, args.real),
        "memory with 50 different answers": memory(50, args.real),
        "memory with 5,000 different answers": memory(5_000, args.real),
    }
    print("| sample | before | now |\n|---|---|---|")
    for name, figure in made.items():
        print(f"| {name} | {BEFORE.get(name, '')} | {figure} |")
    if args.json:
        args.json.write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
