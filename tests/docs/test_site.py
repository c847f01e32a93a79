"""The site builds without a warning, asks nothing of other hosts, and its reference is the code's."""

import ast
import dataclasses
import html
import re
from pathlib import Path

import reference

from tigerjax import errors
from tigerjax.command import options, table
from tigerjax.config import RunConfig

ROOT = Path(__file__).resolve().parents[2]
OUTSIDE = re.compile(r"(?:https?:)?//[^\s\"')]+")
ERRORS = ROOT / "docs" / "ERRORS.md"


def test_every_page_of_docs_is_in_the_site_and_in_its_menu(site: Path):
    menu = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    pages = [p.relative_to(ROOT / "docs") for p in (ROOT / "docs").rglob("*.md")] + list(map(Path, reference.PAGES))
    assert len(pages) > 15
    for page in pages:
        assert (site / page.with_suffix(".html")).is_file() and f": {page}\n" in menu, page
    assert not list(site.rglob("*.py"))


def test_pages_have_the_names_that_a_reader_looks_for():
    menu = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    wanted = "Home Tutorials Guides Results Reference Benchmarks Replication Commands Glossary"
    for name in wanted.split():
        assert re.search(rf"^ *- {name}\b.*:", menu, re.MULTILINE), name
    home = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    assert "## Quick start" in home and "$ make quickstart" in home


def test_a_chinese_page_says_so_and_each_page_leads_to_the_other_language(site: Path):
    for path in (site / "zh").rglob("*.html"):
        other = site / path.relative_to(site / "zh")
        for page, tag, there in ((path, '<html lang="zh-Hans"', other), (other, '<html lang="en"', path)):
            text = page.read_text(encoding="utf-8")
            (address,) = re.findall(r'<a href="([^"]+)" class="nav-link" id="language"', text)
            assert tag in text and (page.parent / address).resolve() == there.resolve()
    text = (site / "DATA.html").read_text(encoding="utf-8")
    assert re.findall(r'<a href="([^"]+)" class="nav-link" id="language"', text) == ["zh/index.html"]


def test_a_page_asks_nothing_of_another_host(site: Path):
    asked = []
    for path in site.rglob("*.html"):
        for tag in re.findall(r"<(?:script|link|img|iframe|source)\b[^>]*>", path.read_text(encoding="utf-8")):
            asked += [f"{path.name}: {found}" for found in OUTSIDE.findall(tag)]
    for path in site.rglob("*.css"):
        for found in re.findall(r"(?:url\(|@import)\s*[\"']?([^\"')]+)", path.read_text(encoding="utf-8")):
            asked += [f"{path.name}: {found}"] if OUTSIDE.match(found) else []
    assert not asked, asked


def test_the_reference_has_every_command_with_its_help_and_every_exit_code(site: Path):
    text = html.unescape((site / "reference" / "commands.html").read_text(encoding="utf-8"))
    for words, command in table.COMMANDS.items():
        assert f"usage: tigerjax {' '.join(words)} " in text
        for option in options.of_command(command):
            assert option.name in text
    assert {code for code, _ in reference.exit_codes()} == {0, 1, 2, 3, 4, 5, 130}


def test_the_reference_has_every_field_and_each_has_a_meaning():
    told = {line.split("`")[1]: line for line in reference.configs().splitlines() if line.startswith("| `--")}
    configs = reference.all_configs()
    assert {config.__name__ for config, *_ in configs} >= {"RunConfig", "SplashConfig", "AlignConfig", "HostsConfig"}
    fields = [f"--{prefix}{f.name}".replace("_", "-") for c, prefix, _ in configs for f in dataclasses.fields(c)]
    assert {name.removesuffix(".…") for name in told} == set(fields)
    assert [name for name, row in told.items() if not row.split("|")[4].strip()] == []
    assert "| `1` |" in told["--mesh.fsdp"] and "| required |" in told["--model.num-layers"]
    assert {o.name for o in options.of_config(RunConfig)} <= set(fields)


def templates() -> list[tuple[str, str]]:
    """(class of the error or "", text with … for each value) of every string that the code can say."""
    found = []
    for path in (ROOT / "tigerjax").rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            name = ""
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.args:
                name, node = node.func.id, node.args[0]
            if text := said(node):
                found.append((name, text))
    return found


def said(node: ast.AST) -> str:
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else ""
    if isinstance(node, ast.JoinedStr):
        return "".join(said(v) or "…" for v in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return said(node.left) + said(node.right)
    return ""


def rows() -> list[tuple[str, int]]:
    """(message, exit code) of the rows of docs/ERRORS.md."""
    found = re.findall(r"^\| `(.+?)` \| (\d+) \|", ERRORS.read_text(encoding="utf-8"), re.MULTILINE)
    return [(message, int(code)) for message, code in found]


def as_said(message: str) -> re.Pattern[str]:
    """Matches each template that can say a quoted message, from its beginning; … stands for any value."""
    pattern = ".*".join(map(re.escape, message.removeprefix("…: ").split("…")))
    return re.compile(f"(?:…: )?{pattern}", re.DOTALL)


def alike(message: str, template: str) -> bool:
    return as_said(message).match(template) is not None


def test_every_message_of_the_faq_is_in_the_code_with_its_exit_code():
    assert len(rows()) > 40
    all_said = set(templates())
    codes = {n: c.exit_code for n, c in vars(errors).items() if isinstance(c, type) and hasattr(c, "exit_code")}
    codes["_fail"] = 3  # tigerjax.command.cli, of what is no error of ours
    for message, code in rows():
        matches = as_said(message).match
        found = {name for name, text in all_said if matches(text)}
        assert found, f"no error says {message!r}"
        raised = {codes[name] for name in found if name in codes}
        assert not raised or code in raised, (message, code, found)


def test_a_message_that_is_in_no_error_is_found():
    assert alike("no option …", "no option ……") and not alike("no such option …", "no option …")
    assert not alike("a … of …", "…")
