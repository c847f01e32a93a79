"""Runs the commands that a Markdown page shows, and keeps the output that it pastes true.

    <!-- run -->          before a ```console block: its commands are executed; output below them is not compared
    <!-- run: shown -->   the same, and the output below each command is what it printed
    <!-- run: varies -->  the same, but what it prints depends on the processor (text drawn from a model): not compared
    <!-- file: NAME -->   before any fenced block: the reader saves it as NAME

A command is a line that starts with `$ `, with its continuations after a backslash; each must exit 0. `cd FOLDER` alone
holds for what follows. Everything runs in order in one folder, in which `configs/`, `data_mixtures/` and `launch/` are
those of the checkout.

    python docs/scripts/pages.py [PAGE …]           writes the output into the tutorials (all of them by default) and
                                                    into their Chinese pages (chinese.py)
    python docs/scripts/pages.py --check [PAGE …]   exits 1 and shows the difference where a page is out of step

Two outputs are in step when they differ only in what `steady` takes out: spaces, hashes, figures with a unit of time or
speed or under a key that measures the machine (MACHINE), progress lines, the
example that a message names; and in decimals by at most NEAR.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import chinese

ROOT = Path(__file__).resolve().parents[2]
TUTORIALS = ROOT / "docs" / "tutorials"
FOLDERS = ("configs", "data_mixtures", "launch")
NEAR = 0.02
"""Relative: last digits depend on the processor, and after some steps of training more than the last ones."""
SECONDS = 900  # for one command

BLOCK = re.compile(
    r"^<!-- (?P<mark>run|run: shown|run: varies|file: (?P<name>[\w./-]+)) -->[ \t]*\n+"
    r"(?P<fence>`{3,})(?P<kind>\w*)\n(?P<body>.*?)^(?P=fence)[ \t]*$",
    re.MULTILINE | re.DOTALL,
)
MACHINE = r"seconds|mb_per_s_per_core|peak_rss_gb|tokens_per_s|compile_s|goodput|probe_max_abs_logit_diff"
VOLATILE = [
    # A line of progress, which shows on a slow machine: of an amount that is known, of one that is not, or of the time.
    (
        re.compile(
            r"^.*(\d+/[\d.,]+ ?\w* \(\d+%\).*|\w\.\w+ [\d,]+ rows( [\d.,]+/s)?|… (done in )?\d+ s)$\n?", re.MULTILINE
        ),
        "",
    ),
    (re.compile(r"\b[0-9a-f]{12,64}\b"), "#"),
    (re.compile(r"(first step after ).*"), r"\1#"),  # what the start was spent on
    (re.compile(rf"((?:{MACHINE})['\"]?:?\s+)[\d.e+-]+"), r"\1#"),
    (re.compile(r"[\d.,]+k?M? ?(ms|s|min|h|tok/s|tokens/s|MB/s)\b"), r"# \1"),
    (re.compile(r"(data )[\d.]+%"), r"\1#"),
    (re.compile(r"(such as )[\w-]+"), r"\1#"),  # which of the examples is named
    (re.compile(r"[ \t]+"), " "),
    (re.compile(r" ?$", re.MULTILINE), ""),
]
DECIMAL = re.compile(r"-?\d[\d,]*\.\d+(?:e[+-]?\d+)?|-?\d+e[+-]?\d+")


class Step(NamedTuple):
    """A command with the span of the output below it, or a file to save."""

    line: int  # in the page, from 1
    mark: str
    text: str  # the command, or the file's name
    start: int
    end: int
    fence: str = "```"  # of its block


def steps(page: str) -> list[Step]:
    """Commands and files of a page in order; a mark before something else is a mistake."""
    found: list[Step] = []
    for block in BLOCK.finditer(page):
        line, at = page.count("\n", 0, block.start("fence")) + 1, block.start("body")
        if block["name"]:
            found.append(Step(line, "file", block["name"], at, block.end("body")))
            continue
        if block["kind"] != "console":
            raise ValueError(f"line {line}: <!-- {block['mark']} --> stands before a block that is not ```console")
        own = list(_commands(block["body"], at, block["mark"], page, block["fence"]))
        if not own:
            raise ValueError(f"line {line}: a block marked to run has no line that starts with '$ '")
        found += own
    marks = len(re.findall(r"^<!-- (?:run\b|file: )", page, re.MULTILINE))
    blocks = len(BLOCK.findall(page))
    if marks != blocks:
        raise ValueError(f"{marks} marks, but {blocks} of them stand before a fenced block")
    return found


def _commands(body: str, at: int, mark: str, page: str, fence: str) -> Iterator[Step]:
    command: list[str] = []
    start = first = at
    for row in [*body.splitlines(keepends=True), None]:
        continues = bool(command) and command[-1].endswith("\\") and start == at
        if row is None or (row.startswith("$ ") and not continues):
            if command:
                yield Step(page.count("\n", 0, first) + 1, mark, "\n".join(command), start, at, fence)
            if row is None:
                return
            command, first = [row.rstrip("\n").removeprefix("$ ")], at
            start = at + len(row)
        elif continues:
            command.append(row.rstrip("\n").removeprefix("> "))
            start = at + len(row)
        at += len(row)


def run(page: str, work: Path) -> tuple[str, list[str]]:
    """The page with the output that its commands print now, and one complaint per command that fails or differs."""
    for name in FOLDERS:
        if not (work / name).exists():
            (work / name).symlink_to(ROOT / name)
    kept = {k: v for k, v in os.environ.items() if k not in ("XLA_FLAGS", "JAX_DEFAULT_MATMUL_PRECISION", "COLUMNS")}
    env = kept | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{kept['PATH']}", "COLUMNS": "120"}
    env["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [kept.get("PYTHONPATH")])])
    made, end, wrong = "", 0, []
    here = work
    for step in steps(page):
        pasted = page[step.start : step.end]
        if step.mark != "file" and (into := re.fullmatch(r"cd ([\w./-]+)", step.text)):
            here = here / into[1]
            if not here.is_dir():
                wrong.append(f"line {step.line}: $ {step.text}\nexits 1: no such folder")
                break
            continue
        if step.mark == "file":
            path = work / step.text
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(pasted, encoding="utf-8")
            continue
        done = subprocess.run(
            ["bash", "-uo", "pipefail", "-c", step.text],
            cwd=here,
            env=env,
            text=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=SECONDS,
        )
        head = f"line {step.line}: $ {step.text}\n"
        if done.returncode:
            wrong.append(f"{head}exits {done.returncode}:\n{done.stdout[-3000:]}")
            break  # what follows needs what this did not make
        if step.mark != "run" and any(line.startswith(step.fence) for line in done.stdout.splitlines()):
            wrong.append(f"{head}exits 0, but prints {step.fence}, which ends its block: give the block a longer fence")
            break
        if step.mark == "run" or not (difference := differs(pasted, done.stdout)):
            continue  # in step: what measures the machine stays as it was pasted
        if step.mark == "run: shown":
            wrong.append(head + difference)
        made, end = made + page[end : step.start] + _whole_lines(done.stdout), step.end
    return made + page[end:], wrong


def _whole_lines(text: str) -> str:
    text = VOLATILE[0][0].sub("", text)  # a page shows no progress
    return text if not text or text.endswith("\n") else text + "\n"


def steady(text: str) -> list[str]:
    """The lines of an output without what differs from machine to machine and from run to run."""
    for pattern, instead in VOLATILE:
        text = pattern.sub(instead, text)
    return [line for line in text.splitlines() if line]


def differs(pasted: str, printed: str) -> str:
    """The first line in which two outputs are out of step; empty when they agree."""
    old, new = steady(pasted), steady(printed)
    for i in range(max(len(old), len(new))):
        one, other = (lines[i] if i < len(lines) else "(nothing)" for lines in (old, new))
        if not _near(one, other):
            return f"  the page says  {one}\n  it prints now  {other}"
    return ""


def _near(one: str, other: str) -> bool:
    if DECIMAL.sub("#", one) != DECIMAL.sub("#", other):
        return False
    pairs = zip(DECIMAL.findall(one), DECIMAL.findall(other), strict=True)
    return all(abs(a - b) <= max(NEAR * max(abs(a), abs(b)), _last_digit(x)) for x, y in pairs for a, b in [_two(x, y)])


def _two(x: str, y: str) -> tuple[float, float]:
    return float(x.replace(",", "")), float(y.replace(",", ""))


def _last_digit(x: str) -> float:
    """One unit of the last decimal that is written: 0.01 for 3.14."""
    number, _, power = x.replace(",", "").partition("e")
    return 10.0 ** (int(power or 0) - len(number.partition(".")[2])) * 1.000001


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pages", type=Path, nargs="*", default=sorted(TUTORIALS.glob("*.md")))
    parser.add_argument("--check", action="store_true", help="compare, write nothing")
    args = parser.parse_args()
    failed = False
    for path in args.pages:
        text = path.read_text(encoding="utf-8")
        with tempfile.TemporaryDirectory() as work:
            made, wrong = run(text, Path(work))
        stopped = [w for w in wrong if "\nexits " in w]
        for line in wrong if args.check else stopped:
            print(f"{path.name}: {line}")
        failed |= bool(wrong if args.check else stopped)
        if not args.check and not stopped and made != text:
            path.write_text(made, encoding="utf-8")
            print(f"wrote {path.name}")
            if line := chinese.follow(path):
                print(line)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
