"""Readers of records: documents in every format, SFT examples, evaluation sets, and what stages keep of them."""

import gzip
import json
import lzma
from pathlib import Path
from typing import Any

import json_tokenizer
import zstandard
from ending import ONCE_SECONDS, Ended, files_of, run
from file_formats import GIVEN, LINES, LISTED, WRITTEN, save_pages, save_warc
from hand_tokenizer import INS, PAD, RES, write_added
from reader import Reader

from tigerjax.data import mixture
from tigerjax.files import manifest

TEXTS = [
    {"id": "d1", "text": "The tiger walks in the mountains. " * 4, "lang": "en", "meta": {"quality": 0.5}},
    {"id": 7, "content": "老虎在山里走。它很大。" * 6, "lang": "zh", "source": "books"},
    {"raw_content": "<p>A page &amp; more.</p>\n" * 9, "title": "T", "id": None},
]
SFT = [
    {
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "2+2?"},
            {"role": "assistant", "content": "It is four, as every child in the mountains knows.", "weight": 0.5},
        ],
        "id": "s1",
    },
    {
        "conversations": [
            {"from": "human", "value": "Where?"},
            {"from": "gpt", "value": "Here.", "train": False},
            {"from": "human", "value": "Sure?"},
            {"from": "gpt", "value": "The tiger walks in the mountains."},
        ],
        "task": "t",
    },
    {
        "instruction": "And of Italy?",
        "input": "x",
        "output": "Rome is the capital of Italy, and a large city.",
        "weight": 1,
    }
    | {"history": [["Of France?", "Paris."]], "system": "Be kind.", "lang": "en", "source": "s"},
]
QUESTIONS = [
    {"question": "How many tigers walk in the mountains of the north every day?", "answer": "7", "id": 1},
    {"prompt": "What is the capital of Italy, and how large is that city today?"},
]


def lines(records: Any) -> bytes:
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records).encode()


def written(**content: bytes) -> Any:
    """A `make` that writes in/NAME.jsonl for each NAME."""

    def make(folder: Path) -> None:
        (folder / "in").mkdir()
        for name, data in content.items():
            (folder / "in" / f"{name}.jsonl").write_bytes(data)

    return make


def clean(name: str) -> Any:
    return lambda folder: ["data", "clean", "--input", folder / "in" / name, "--out", folder / "out"]


def documents(folder: Path, ended: Ended) -> Any:
    """The records that a stage wrote."""
    return [data for name, data in files_of(folder / "out").items() if ".jsonl" in name]


JSON_BESIDE = {
    "saved": ("in/saved/*.json",),
    "splits": ("in/splits/**/*.json",),
    "tiger/1.0.0": ("in/tiger/1.0.0/*.json",),
}
"""The JSON files of formats that are folders."""


def of_format(name: str, write: Any, *, sealed: bool) -> Reader:
    def make(folder: Path) -> None:
        path = folder / "in" / name
        path.parent.mkdir(parents=True)
        write(path)
        (folder / "in" / "tiger.lock").unlink(missing_ok=True)

    json_files = (f"in/{name}",) if name.endswith((".jsonl", ".json")) else JSON_BESIDE.get(name, ())
    return Reader(
        make=make,
        words=clean(name),
        files=("in/**/*",),
        json=json_files,
        reads=documents if sealed else None,
        no_end=".tfrecord" in name,
    )


def checked(path: Path) -> None:
    """As the program zstd writes it: with a checksum."""
    path.write_bytes(zstandard.ZstdCompressor(write_checksum=True).compress(LINES))


SEALED = {
    "docs.jsonl.zst": checked,
    "docs.jsonl.gz": lambda path: path.write_bytes(gzip.compress(LINES)),
    "docs.jsonl.xz": lambda path: path.write_bytes(lzma.compress(LINES)),
    "docs.json.gz": lambda path: path.write_bytes(gzip.compress(LISTED)),
    "docs.tfrecord-00000-of-00001": WRITTEN["docs.tfrecord-00000-of-00001"],
}
PLAIN = {
    name: write
    for name, write in WRITTEN.items()
    if name not in SEALED and name not in ("without_an_ending", "Docs.Parquet")
}
PLAIN |= {"docs.wet": save_warc, "docs.warc": save_pages}
PLAIN["docs.txt"] = lambda path: path.write_bytes("\n".join(record["text"] for record in GIVEN).encode())


def tokenizer(folder: Path) -> Path:
    return write_added(folder / "tok", INS, RES, PAD)


def near(what: str, *more: object) -> Any:
    return lambda folder: ["data", *what.split(), "--input", folder / "in/docs.jsonl", "--out", folder / "out", *more]


def with_tokenizer(**content: bytes) -> Any:
    def make(folder: Path) -> None:
        written(**content)(folder)
        tokenizer(folder)

    return make


def finished(folder: Path) -> None:
    """A stage that is done, and another that read its output."""
    written(docs=lines(TEXTS))(folder)
    assert run([*map(str, clean("docs.jsonl")(folder))], seconds=ONCE_SECONDS).code == 0
    (folder / "out").rename(folder / "cleaned")


def rows(folder: Path) -> None:
    """Cached rows of a mixture of documents and SFT examples, which are read again."""
    with_tokenizer(docs=lines(TEXTS), sft=lines(SFT))(folder)
    docs, sft = (mixture.Source(str(folder / f"in/{name}.jsonl")) for name in ("docs", "sft"))
    sources = {"zh": {"docs": docs}, "en": {"more": docs}, "instruct": sft, "instruct_fraction": 0.2}
    mixture.holistic("fuzzed", tokenizer=str(folder / "tok"), **sources)
    assert run(list(map(str, stats(folder))), seconds=ONCE_SECONDS).code == 0
    (folder / "stats.json").unlink()


def split(folder: Path) -> None:
    """Documents of which a share is held out, and clusters of them."""
    clusters = [{"kept": "d1", "all": ["7", "d1"]}, {"kept": "elsewhere", "all": ["elsewhere", "nowhere"]}]
    with_tokenizer(docs=lines(TEXTS), clusters=lines(clusters))(folder)
    docs = mixture.Source(str(folder / "in/docs.jsonl"), held_out=0.4, clusters=str(folder / "in/clusters.jsonl"))
    mixture.pretraining("split", tokenizer=str(folder / "tok"), sources={"docs": docs})


def templated(folder: Path) -> None:
    """Dialogues, and a tokenizer.json with the chat template that encodes them."""
    written(sft=lines(SFT))(folder)
    tok = json_tokenizer.write(folder / "tok", "smol")
    mixture.sft("templated", tokenizer=str(tok), examples=mixture.Source(str(folder / "in/sft.jsonl")))


def stats(folder: Path, name: str = "fuzzed", seq_len: int = 64) -> list[object]:
    words = ["data", "stats", name, "--seq-len", seq_len, "--modules", "json", "--cache-dir", folder / "rows"]
    return [*words, "--max-dropped", 1, "--json", folder / "stats.json"]


def inspect(folder: Path) -> list[object]:
    return ["data", "inspect", *stats(folder)[2:-2], "--rows", 3, "--out", folder / "rows.html"]


DOCS, EVERY = lines(TEXTS), written(docs=lines(TEXTS), sft=lines(SFT), questions=lines(QUESTIONS))
IN = {"files": ("in/*",), "json": ("in/*.jsonl",)}
READERS: dict[str, Reader] = {
    **{f"clean {name.replace('/', '-')}": of_format(name, write, sealed=True) for name, write in SEALED.items()},
    **{f"clean {name.replace('/', '-')}": of_format(name, write, sealed=False) for name, write in PLAIN.items()},
    "clean any": Reader(
        make=written(docs=lines(TEXTS + SFT)),
        words=lambda f: [
            *clean("docs.jsonl")(f),
            "--max-bad-fraction",
            1,
            "--on",
            "simplified",
            "language",
            "repetition",
        ],
        **IN,
    ),
    "clean words": Reader(
        make=lambda f: (written(docs=DOCS)(f), (f / "in/words.txt").write_text("badword\n不良\n"), None)[-1],
        words=lambda f: [*clean("docs.jsonl")(f), "--sensitive", f / "in/words.txt"],
        files=("in/words.txt",),
    ),
    "dedup exact": Reader(make=EVERY, words=near("dedup exact"), **IN),
    "dedup near": Reader(make=EVERY, words=near("dedup near", "--ids", "place"), **IN),
    "against sft": Reader(
        make=EVERY,
        words=lambda f: [
            "data",
            "dedup",
            "against-sft",
            "--docs",
            f / "in/docs.jsonl",
            "--sft",
            f / "in/sft.jsonl",
            "--out",
            f / "out",
            "--shards",
            2,
        ],
        **IN,
    ),
    "decontaminate": Reader(
        make=EVERY,
        words=lambda f: [
            "data",
            "decontaminate",
            "--docs",
            f / "in/docs.jsonl",
            "--evaluation-sets",
            f / "in/questions.jsonl",
            "--out",
            f / "out",
            "--shards",
            2,
        ],
        **IN,
    ),
    "sample": Reader(
        make=EVERY,
        words=lambda f: [
            "tokenizer",
            "sample",
            "--input",
            f / "in/docs.jsonl",
            "--out",
            f / "out",
            "--fraction",
            1,
            "--min-sample-bytes",
            1,
        ],
        **IN,
    ),
    "tokenizer stats": Reader(
        make=with_tokenizer(docs=DOCS),
        words=lambda f: ["tokenizer", "stats", f / "tok", "--text", f / "in/docs.jsonl"],
        files=("in/*", "tok/*"),
        json=("in/*.jsonl", "tok/added_tokens.json"),
    ),
    "tokenizer json": Reader(
        make=templated,
        words=lambda f: stats(f, "templated", 256),
        files=("tok/*",),
        json=("tok/*.json",),
        may_change=("rows/*/*",),
    ),
    "tokenizer extend": Reader(
        make=lambda f: (
            written(docs=DOCS)(f),
            write_added(f / "base"),
            write_added(f / "new", words=["▁", "老", "虎", "老虎"]),
            None,
        )[-1],
        words=lambda f: [
            "tokenizer",
            "extend",
            "--base",
            f / "base",
            "--new",
            f / "new",
            "--vocab-size",
            273,
            "--out",
            f / "out",
        ],
        files=("base/*", "new/*"),
        json=("base/*.json", "new/*.json"),
    ),
    "stage again": Reader(
        make=finished,
        words=lambda f: [*clean("docs.jsonl")(f)[:-1], f / "cleaned"],
        files=("cleaned/*",),
        json=("cleaned/manifest.json", "cleaned/docs.jsonl"),
        reads=lambda f, _: (f / "cleaned/docs.jsonl").read_bytes(),
    ),
    "stage after": Reader(
        make=finished,
        words=lambda f: ["data", "dedup", "exact", "--input", f / "cleaned/docs.jsonl", "--out", f / "out"],
        files=("cleaned/*",),
        json=("cleaned/manifest.json",),
    ),
    "held out": Reader(
        make=split,
        words=lambda f: stats(f, "split"),
        files=("in/clusters.jsonl",),
        json=("in/clusters.jsonl",),
        may_change=("rows/*/*",),
    ),
    "rows": Reader(
        make=rows,
        words=stats,
        files=("rows/*/*",),
        json=("rows/*/manifest.json",),
        reads=lambda f, _: (f / "stats.json").read_bytes(),
        may_change=("rows/*/*",),
    ),
    "rows shown": Reader(
        make=rows,
        words=inspect,
        files=("rows/*/*", "tok/*"),
        json=("rows/*/manifest.json", "tok/*.json"),
        may_change=("rows/*/*",),
    ),
    "tfds": Reader(
        make=EVERY,
        words=lambda f: [
            "data",
            "tfds",
            "--input",
            f / "in/sft.jsonl",
            "--name",
            "x",
            "--kind",
            "sft",
            "--out",
            f / "out",
        ],
        files=("in/sft.jsonl",),
        json=("in/sft.jsonl",),
        may_change=("tfds/*",),
    ),
}
assert manifest.FILE == "manifest.json"
