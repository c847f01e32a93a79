"""What README.md tells a reader to type works.

A block fenced as ```console and preceded by the comment `<!-- run -->` is executed: its lines that start with `$ ` (and
their continuations after a backslash), in order, in one temporary folder that all blocks share, from which `configs/`,
`data_mixtures/` and `launch/` are reachable as they are in a checkout. Other lines are output, not compared.
"""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
BLOCK = re.compile(r"^<!-- run -->[ \t]*\n+```console\n(.*?)^```[ \t]*$", re.MULTILINE | re.DOTALL)


class Block(NamedTuple):
    line: int  # of the fence, from 1
    script: str


def runnable(text: str) -> list[Block]:
    """The commands of every marked block; a marked block without a command is a mistake."""
    blocks = []
    for match in BLOCK.finditer(text):
        line = text.count("\n", 0, match.start(1))
        commands, continued = [], False
        for row in match.group(1).splitlines():
            if row.startswith("$ ") or continued:
                commands.append(row.removeprefix("$ ").removeprefix("> "))
                continued = row.endswith("\\")
        if not commands:
            raise ValueError(f"line {line}: a block marked to run has no line that starts with '$ '")
        blocks.append(Block(line, "\n".join(commands) + "\n"))
    marks = len(re.findall(r"^<!-- run -->", text, re.MULTILINE))
    if marks != len(blocks):
        raise ValueError(f"{marks} marks <!-- run -->, but {len(blocks)} of them stand before a ```console block")
    return blocks


def run(text: str, work: Path) -> list[str]:
    """Runs the marked blocks of `text` in `work`; one line of complaint a failed block, with its output's end."""
    for name in ("configs", "data_mixtures", "launch"):
        (work / name).symlink_to(ROOT / name)
    env = {k: v for k, v in os.environ.items() if k not in ("XLA_FLAGS", "JAX_DEFAULT_MATMUL_PRECISION")}
    env["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{env['PATH']}"  # as after `source .venv/bin/activate`
    failed = []
    for block in runnable(text):
        command = ["bash", "-euxo", "pipefail", "-c", block.script]
        done = subprocess.run(command, cwd=work, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        if done.returncode:
            failed.append(f"block at line {block.line} exits {done.returncode}:\n{done.stdout[-3000:]}")
    return failed


def test_the_commands_of_the_readme_work(tmp_path: Path):
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert runnable(text), "README.md marks no ```console block with <!-- run -->"
    failed = run(text, tmp_path)
    assert not failed, "\n".join(failed)


PLANTED = """# A title
```console
$ false   # not marked, so not run
```
<!-- run -->
```console
$ echo one \\
    two > said.txt
one two, which is output
$ test -f configs/../said.txt || test -f said.txt
```
<!-- run -->

```console
$ cat said.txt | grep three | cat
$ echo never
```
"""


def test_marked_blocks_run_in_order_and_a_failing_command_stops_its_block(tmp_path: Path):
    assert [b.line for b in runnable(PLANTED)] == [6, 14]
    (failed,) = run(PLANTED, tmp_path)
    assert (tmp_path / "said.txt").read_text() == "one two\n"
    assert failed.startswith("block at line 14 exits 1") and "never" not in failed


def test_a_mark_that_marks_nothing_is_an_error():
    for text in ("<!-- run -->\nprose\n", "<!-- run -->\n```console\nonly output\n```\n"):
        try:
            found = runnable(text)
        except ValueError:
            continue
        raise AssertionError(f"{text!r} gave {found}")
