"""Readers of the stages that look at a whole corpus, of a quality model, of weights and of SeqIO tasks."""

import json
from pathlib import Path
from typing import Any

from ending import ONCE_SECONDS, run
from file_formats import save_pages
from reader import Reader
from text_readers import INS, PAD, RES, TEXTS, documents, lines, near, stats, write_added, written

from tigerjax.data import mixture
from tigerjax.records.tf import start

PAGES = [
    {"id": f"p{n}", "url": f"https://tiger.org/{n}", "text": f"Home | News\nThe tiger walks {n} times.", "weight": 0.5}
    for n in range(7)
]
GOOD = [{"id": f"g{n}", "text": f"The energy of orbit {n} follows from the theorem."} for n in range(120)]
BAD = [{"id": f"b{n}", "text": f"lol buy now {n} click wow 包邮 亲"} for n in range(120)]
IN = {"files": ("in/*",), "json": ("in/*.jsonl",)}
CORPUS = written(docs=lines(TEXTS + PAGES))
TASK = "fuzzed_lines"


def scored(folder: Path) -> None:
    """Documents, and a model that scores them."""
    written(docs=lines(TEXTS + PAGES), good=lines(GOOD), bad=lines(BAD))(folder)
    words = ["data", "quality", "train", "--good", folder / "in/good.jsonl", "--bad", folder / "in/bad.jsonl"]
    assert run(list(map(str, [*words, "--out", folder / "model"])), seconds=ONCE_SECONDS).code == 0


def score(folder: Path) -> list[object]:
    more = ["--model", folder / "model", "--least-of", "books=0.1", "--power", 1]
    return near("quality score")(folder) + more


def archive(folder: Path) -> None:
    (folder / "in").mkdir()
    save_pages(folder / "in/docs.warc")


def weighted(folder: Path) -> None:
    """Documents whose weights say how often they are read."""
    written(docs=lines(PAGES))(folder)
    write_added(folder / "tok", INS, RES, PAD)
    docs = mixture.Source(str(folder / "in/docs.jsonl"), passes=2)
    mixture.pretraining("weighted", tokenizer=str(folder / "tok"), sources={"docs": docs})


def task(folder: Path) -> None:
    """A file that names a SeqIO task, and the text that the task reads."""
    tf, seqio = start()
    (folder / "in").mkdir()
    text = folder / "in/lines.txt"
    text.write_text("The tiger walks.\n老虎在山里走。\n", encoding="utf-8")
    seqio.TaskRegistry.remove(TASK)
    seqio.TaskRegistry.add(
        TASK,
        source=seqio.TextLineDataSource({"train": str(text)}),
        preprocessors=[lambda dataset: dataset.map(lambda line: {"text": tf.strings.join([line])})],
        output_features={"text": seqio.Feature(seqio.ByteVocabulary())},
    )
    (folder / "in/docs.seqio").write_text(json.dumps({"task": TASK, "modules": ["json"], "split": "train"}))


def of_corpus(what: str, *more: object, make: Any = CORPUS) -> Reader:
    return Reader(make=make, words=near(what, *more), **IN)


READERS: dict[str, Reader] = {
    "dedup soft": of_corpus("dedup soft", "--shards", 2),
    "dedup substrings": of_corpus("dedup substrings", "--characters", 50, "--shards", 2),
    "dedup site-lines": of_corpus("dedup site-lines", "--pages", 3, "--shards", 2),
    "archive site-lines": Reader(
        make=archive,
        words=lambda f: ["data", "dedup", "site-lines", "--input", f / "in/docs.warc", "--out", f / "out"],
        files=("in/*",),
    ),
    "language": of_corpus("language", "--replace"),
    "quality train": Reader(
        make=written(good=lines(GOOD), bad=lines(BAD)),
        words=lambda f: [
            *("data", "quality", "train", "--good", f / "in/good.jsonl", "--bad", f / "in/bad.jsonl"),
            *("--out", f / "out"),
        ],
        **IN,
    ),
    "quality score": Reader(make=scored, words=score, **IN),
    "quality model": Reader(make=scored, words=score, files=("model/model.npy",), reads=documents),
    "weights": Reader(
        make=weighted,
        words=lambda f: stats(f, "weighted", 16),
        files=("in/docs.jsonl",),
        json=("in/docs.jsonl",),
        may_change=("rows/*/*",),
    ),
    "seqio task": Reader(
        make=task,
        words=lambda f: ["data", "dedup", "exact", "--input", f / "in/docs.seqio", "--out", f / "out"],
        files=("in/docs.seqio",),
        json=("in/docs.seqio",),
    ),
}
