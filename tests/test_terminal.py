"""What foreign text can do to a terminal: nothing. One file prints, and every command's output is read here."""

import ast
import json
import re
from pathlib import Path

import tigerjax
from tigerjax import terminal
from tigerjax.command import cli

PACKAGE = Path(tigerjax.__file__).parent
HOSTILE = "\x1b[2J\x1b]0;owned\x07\u202eevil\u2066\x9b31m\r<script>alert(1)</script>[bold]"
HARMFUL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
PRINTS = {
    "terminal.py": "the one place",
    "__main__.py": "one line of our own, before anything is imported",
    "files/log.py": "writes a file",
    "command/table.py": "a shell script, made of our own words",
    "evaluate/jail.py": "the child, whose parent reads what it says",
    "train/metrics.py": "Rich's console beside a bar: printable, no markup",
    "plan/ranking.py": "the same",
    "plan/kernels.py": "the child, whose parent reads what it says",
    "pages/tables.py": "Rich's table of cells that are Text",
    "command/align.py": "the same",
    "command/people.py": "the same",
    "quickstart/state.py": "our own words, with markup",
    "quickstart/parity.py": "our own words",
}
"""The files that print by themselves, and why they may."""


def printers() -> set[str]:
    """The files of the package that call print, or write to a stream or a console."""
    found = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            written = ast.unparse(node) if isinstance(node, ast.Name | ast.Attribute) else ""
            called = written == "print" or written.endswith(("console.print", "stdout.write", "stderr.write"))
            if called or (isinstance(node, ast.Call) and ast.unparse(node.func) == "Console().print"):
                found.add(path.relative_to(PACKAGE).as_posix())
    return found


def test_one_file_prints_and_the_few_others_are_known():
    assert printers() == set(PRINTS)


def test_text_for_a_terminal_moves_no_cursor_and_turns_no_writing_round(capsys):
    terminal.show(f"a\tb\n{HOSTILE} 中文 עברית 😀")
    terminal.tell(f"first\ntigerjax: done {HOSTILE}")
    terminal.overwrite(f"x\n{HOSTILE}\u2028y", "\n")
    out, err = capsys.readouterr()
    assert not HARMFUL.search(out + err)
    assert out.startswith("a\tb\n\ufffd[2J\ufffd]0;owned\ufffd\ufffdevil") and out.endswith("[bold] 中文 עברית 😀\n")
    first, second, third = err.splitlines()
    assert (
        first == "first" and second.startswith("  tigerjax: done") and third.startswith("x ") and third.endswith(" y")
    )


def test_a_file_name_in_progress_is_printable(capsys, monkeypatch):
    from tigerjax.command import progress

    monkeypatch.setattr(progress, "SHORT_SECONDS", 0)
    monkeypatch.setattr(progress, "PLAIN_SECONDS", 0)
    progress.show_progress(HOSTILE, "rows")(1, 2)
    with progress.show_elapsed(HOSTILE):
        pass
    err = capsys.readouterr().err
    assert "1/2 rows" in err and not HARMFUL.search(err)


def records(folder: Path, name: str, *values: object) -> str:
    path = folder / name
    path.write_text("".join(json.dumps(value) + "\n" for value in values), encoding="utf-8")
    return str(path)


def commands(folder: Path) -> dict[str, list[str]]:
    """A command for each kind of place where hostile text comes from."""
    name = HOSTILE.replace("/", "-")
    run = folder / f"run {name}"
    run.mkdir()
    step = {
        "step": 1,
        "loss_nats": 2.0,
        "tokens_per_s": 3.0,
        "spent_s": {HOSTILE: 4.0},
        "shares": {HOSTILE: 1.0},
        "note": HOSTILE,
    }
    records(run, "metrics.jsonl", step)
    (run / "config.txt").write_text(f"name = {HOSTILE!r}\nbatch_rows = 1\n", encoding="utf-8")
    reported = folder / "reported"
    reported.mkdir()
    (reported / "report.json").write_text(json.dumps({"version": HOSTILE, "seed": HOSTILE}), encoding="utf-8")
    config = folder / "config.py"
    config.write_text(f'"""{HOSTILE!r}"""\nraise ValueError({HOSTILE!r})\n', encoding="utf-8")
    same = {"id": HOSTILE, "text": "one text that is long enough"}, {"id": HOSTILE, "text": "another text, long enough"}
    out = ["--out", str(folder / "out")]
    clean = ["data", "clean", *out, "--input"]
    return {
        "command": [HOSTILE],
        "option": ["data", "clean", f"--{HOSTILE}", "x"],
        "choice": [*clean, "x", "--ids", HOSTILE],
        "absent file": [*clean, str(folder / name)],
        "file name": [*clean, records(folder, f"{name}.jsonl", 7)],
        "rehearsed name": [*clean, str(folder / f"{name}.jsonl"), "--dry-run"],
        "id": [*clean, records(folder, "same.jsonl", *same), "--ids", "keep"],
        "field": [*clean, records(folder, "fields.jsonl", {"text": 1, HOSTILE: HOSTILE, "id": HOSTILE})],
        "source": [*clean, records(folder, "source.jsonl", {"id": "a", "text": "x" * 40, "source": HOSTILE})],
        "config": ["train", str(config), "--dry-run"],
        "checkpoints": ["checkpoint", "ls", str(run)],
        "metrics": ["report", str(run)],
        "report": ["report", str(reported)],
        "scores": ["evaluate", "compare", str(run), str(reported)],
        "folder without a project": [
            "align",
            "import",
            str(run),
            "--labels",
            records(folder, "l.jsonl", {"batch_sha256": HOSTILE}),
        ],
        "preferences": ["align", "status", str(run)],
    }


def test_no_input_reaches_the_terminal_or_a_page_raw(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for place, words in commands(tmp_path).items():
        cli.main(words)
        out, err = capsys.readouterr()
        assert out or err, place
        assert not HARMFUL.search(out + err), (place, out, err)
    pages = [
        path for path in tmp_path.rglob("*") if path.is_file() and path.suffix in (".html", ".md", ".prom", ".svg")
    ]
    assert any(path.suffix == ".html" for path in pages), pages
    for path in pages:
        text = path.read_text(encoding="utf-8")
        assert not HARMFUL.search(text) and "<script>alert" not in text, path


def test_labels_of_metrics_prom_are_escaped_whatever_the_run_and_its_sources_are_called(tmp_path):
    from tigerjax.train import metrics

    run = tmp_path / 'a"b\\c\nd\x1b'
    run.mkdir()
    record = {"step": 1, "loss}": 2.0, "shares": {f'x"}}\n{HOSTILE}': 0.5}}
    metrics._prometheus(run / "metrics.prom", record, {f'y"}}\n{HOSTILE}': 1.5})
    text = (run / "metrics.prom").read_text(encoding="utf-8")
    assert not HARMFUL.search(text) and len(text.splitlines()) == 4
    for line in text.splitlines():
        assert re.fullmatch(r'[a-zA-Z_]+\{(?:[a-z]+="(?:[^"\\\n]|\\.)*",?)+\} [0-9.]+', line), line


def test_a_model_card_shows_foreign_lines_in_a_block_that_they_cannot_end():
    from tigerjax import config
    from tigerjax.convert import card

    model = config.load(PACKAGE.parent / "configs" / "llama2_tiny.py").model
    text = card.text(model, "llama", {}, {"run": f"`{HOSTILE}` x", "config": ["a", "```", f"</details>{HOSTILE}"]})
    assert not HARMFUL.search(text)
    fence = re.search(r"^(`{4,})\n(.*)^\1$", text, re.S | re.M)
    assert fence and "</details>" in fence[2] and "```" in fence[2] and "- run: `` `" in text


def test_no_message_shows_a_value_of_any_type_as_a_text():
    """`{str(value)!r}` shows 3 as '3'; `{value!r:.40}` says what was given, and no more than 40 characters of it."""
    found = [
        str(path.relative_to(PACKAGE))
        for path in sorted(PACKAGE.rglob("*.py"))
        if re.search(r"\{str\([^{}]*!r[:}]", path.read_text(encoding="utf-8"))
    ]
    assert found == []
