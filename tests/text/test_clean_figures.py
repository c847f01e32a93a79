"""The design's figures of cleaning: idempotence on 5,000 fuzzed documents, recall on planted defects, no false drop."""

import random
from pathlib import Path

import pytest

from tigerjax import records
from tigerjax.files import jsonl
from tigerjax.text.clean import clean_files
from tigerjax.text.grams import key
from tigerjax.text.rules import MAX_SFT_CHARACTERS, MIN_CHARACTERS, rule_set

EMBEDDED = Path(__file__).resolve().parents[2] / "data_mixtures" / "embedded"
FUZZED, CLEAN, OF_A_KIND = 5_000, 2_000, 50
ALL = rule_set(["all"])
DIRT = (
    *("&lt;b&gt;", "&amp;lt;", "&#8203;", "<p>", "</p>", "<br/>", "<", ">", "&", "Ã©", "â€™", "å¤©", "\x00", "\x85"),
    *("\r", "\r\n", "\n\n\n\n\n", "\u200b", "\ufeff", "\ue000", "\u200d", "### Response:", "<pad>", "漢語", "é"),
    *(
        "\n\n### Instruction:\n",
        "All rights reserved.\n",
        "版权所有",
        " ",
        "\t",
        "\u3000",
        "👨\u200d👩\u200d👧",
        "天",
        "a",
        "．",
    ),
)


REPEATS = ["repeated_sentences"]
"""Off here: documents that are put together, and texts that are repeated to be dropped for it, say things twice."""


@pytest.fixture(scope="module")
def clean():
    """2,000 documents, half Chinese, that no rewrite would touch, each long enough to be one."""
    out = []
    for lang in ("zh", "en"):
        texts = [d["text"] for d in records.documents(EMBEDDED / f"corpus_{lang}.jsonl")]
        texts = [ALL.rewritten(t, sft=False, code=False, zh=lang == "zh") for t in texts]
        texts = sorted({key(t): t for t in texts}.values())
        random.Random(1).shuffle(texts)
        long = [t for t in texts if len(key(t)) >= MIN_CHARACTERS]
        short = [t for t in texts if len(key(t)) < MIN_CHARACTERS]
        third = len(short) // 3
        long += ["\n".join(three) for three in zip(short[:third], short[third:], short[2 * third :], strict=False)]
        for n in range(CLEAN // 2):  # fewer than 1,000 of their own: the rest are two of them, one after the other
            again = n // len(long)
            text = long[n % len(long)] if not again else f"{long[n % len(long)]}\n{long[(n + again) % len(long)]}"
            out.append({"id": f"{lang}{n}", "text": text, "source": "s", "lang": lang, "meta": {}})
    return out


def test_cleaning_5000_fuzzed_documents_twice_is_cleaning_them_once(clean):
    rng = random.Random(2)
    changed = 0
    for _ in range(FUZZED):
        host = rng.choice(clean)
        text = host["text"][: rng.randint(0, 120)]
        for _ in range(rng.randint(1, 8)):
            at = rng.randint(0, len(text))
            text = text[:at] + "".join(rng.choices(DIRT, k=rng.randint(1, 3))) + text[at:]
        sft, zh = rng.random() < 0.5, host["lang"] == "zh"
        once = ALL.rewritten(text, sft=sft, code=False, zh=zh)
        assert ALL.rewritten(once, sft=sft, code=False, zh=zh) == once, repr(text)
        changed += once != text
    assert changed > 0.9 * FUZZED


def inside(given):
    """A defect put between two characters, not into a blank, and what shall be left."""

    def plant(text, rng):
        at = rng.randint(1, len(text) - 1)
        return text[:at] + given + text[at:]

    return plant


REWRITTEN = {  # kind: (language or None for any, what makes the fault); the clean text must come back
    "crlf": (None, lambda t, rng: t.replace("\n", "\r\n") + "\r\n"),
    "C0": (None, inside("\x07")),
    "C1": (None, inside("\x9b")),
    "zero width": (None, inside("\u200b")),
    "byte order mark": (None, lambda t, rng: "\ufeff" + t),
    "private use": (None, inside("\ue123")),
    "soft hyphen": (None, inside("\u00ad")),
    "tag": (None, inside("<b>")),
    "tag with attributes": (None, inside('<span class="x" id=y>')),
    "blank lines": (None, lambda t, rng: f"{t}\n\n\n\n\n\n"),
    "edges": (None, lambda t, rng: f"\u3000 {t}\t\n"),
    "copyright line": (None, lambda t, rng: f"{t}\n© 2020 Some Press, Inc."),
    "navigation line": ("zh", lambda t, rng: f"下一篇：别的文章\n{t}"),
    "entity": (None, inside("&#8203;")),  # of a zero-width space
}
DROPPED = {  # kind: (reason, what makes a record of a clean one)
    "empty": ("empty", lambda d: {**d, "text": " \u200b\n"}),
    "mislabelled": ("language", lambda d: {**d, "lang": "en" if d["lang"] == "zh" else "zh"}),
    "short": ("short", lambda d: {**d, "text": d["text"][:20]}),
    "symbols": ("letters", lambda d: {**d, "text": d["text"] + "\n" + "-+*/|" * len(d["text"])}),
    "lines again": ("repetition", lambda d: {**d, "text": f"{d['text']}\n" * 5}),
    "sensitive": ("sensitive", lambda d: {**d, "text": d["text"] + "\n" + "赌博 " * (2 + len(d["text"]) // 100)}),
}
TALK = {  # the same of SFT examples: reason, question, answer of a clean text
    "placeholder": ("placeholder", lambda t: ("q", f"{t} <noinput>")),
    "picture": ("placeholder", lambda t: (f"{t} [图片]", t[::-1])),
    "echo": ("echo", lambda t: (t, t)),
    "link only": ("url_only", lambda t: (t, "https://example.org/a?b=c")),
    "too long": ("overlong", lambda t: ("q", t * (MAX_SFT_CHARACTERS // len(t) + 1))),
}


def test_2000_clean_documents_pass_all_rules_unchanged(clean, tmp_path):
    assert len(clean) == CLEAN
    jsonl.write_jsonl(tmp_path / "x.jsonl", clean)
    made = clean_files([tmp_path / "x.jsonl"], tmp_path / "out", on=["all"], off=REPEATS)
    assert made["counts"] == {"in": CLEAN, "out": CLEAN, "dropped": {}}
    assert [r["text"] for _, r in jsonl.read_jsonl(tmp_path / "out" / "x.jsonl")] == [d["text"] for d in clean]


def test_every_planted_defect_of_25_kinds_is_mended_or_dropped_with_its_reason(clean, tmp_path):
    rng = random.Random(3)
    (tmp_path / "words.txt").write_text("赌博\n", encoding="utf-8")
    dirty, wanted, reasons = [], {}, {}
    assert len(REWRITTEN) + len(DROPPED) + len(TALK) >= 20
    for kind, (lang, plant) in REWRITTEN.items():
        for n, host in enumerate(rng.sample([d for d in clean if lang in (None, d["lang"])], OF_A_KIND)):
            dirty.append({**host, "id": f"{kind}{n}", "text": plant(host["text"], rng)})
            wanted[f"{kind}{n}"] = host["text"]
            assert dirty[-1]["text"] != host["text"]
    for kind, (reason, make) in DROPPED.items():
        dirty += [{**make(host), "id": f"{kind}{n}"} for n, host in enumerate(rng.sample(clean, OF_A_KIND))]
        reasons[reason] = reasons.get(reason, 0) + OF_A_KIND
    talk = []
    for kind, (reason, make) in TALK.items():
        for n, host in enumerate(rng.sample(clean, OF_A_KIND)):
            said = dict(zip(("instruction", "output"), make(host["text"]), strict=True))
            talk.append(said | {"id": f"{kind}{n}", "input": ""})
        reasons[reason] = reasons.get(reason, 0) + OF_A_KIND
    jsonl.write_jsonl(tmp_path / "x.jsonl", dirty)
    jsonl.write_jsonl(tmp_path / "talk.jsonl", talk)
    given = [tmp_path / "x.jsonl", tmp_path / "talk.jsonl"]
    made = clean_files(given, tmp_path / "out", on=["all"], off=REPEATS, sensitive=tmp_path / "words.txt")
    assert made["counts"]["dropped"] == dict(sorted(reasons.items()))
    left = {r["id"]: r["text"] for _, r in jsonl.read_jsonl(tmp_path / "out" / "x.jsonl")}
    assert left == wanted
