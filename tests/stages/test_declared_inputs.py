"""Whatever a stage opens is among the inputs of its manifest: what is read and not declared could change unnoticed.

Each command of a small recipe runs in a process of its own, with an audit hook that notes every file it opens. A file
of the user's counts as declared when its hash, or that of its folder, stands in the manifest.
"""

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tigerjax.files import manifest

ROOT = Path(__file__).resolve().parents[2]
CODE = """
import os, sys
here, opened = os.getcwd() + os.sep, set()

def note(event, arguments):
    if event == "open" and isinstance(arguments[0], (str, bytes)):
        path = os.path.realpath(os.fsdecode(arguments[0]))
        if path.startswith(here) and os.path.isfile(path):
            opened.add(path.removeprefix(here))

sys.addaudithook(note)
from tigerjax.command.cli import main
code = main(sys.argv[2:])
with open(sys.argv[1], "w", encoding="utf-8") as file:
    file.write("\\n".join(sorted(opened)))
sys.exit(code)
"""
STAGES = {
    "cleaned": "data clean --input raw/corpus_en.jsonl raw/corpus_zh.jsonl --sensitive words.txt --on language",
    "exact": "data dedup exact --input cleaned/corpus_en.jsonl",
    "near": "data dedup near --input cleaned/corpus_en.jsonl cleaned/corpus_zh.jsonl",
    "against": "data dedup against-sft --docs near/corpus_en.jsonl --sft sft/sft.jsonl",
    "decontaminated": "data decontaminate --docs near/corpus_en.jsonl --evaluation-sets questions.jsonl"
    " --field question",
    "pieces": "tokenizer train --input raw/corpus_zh.jsonl --vocab-size 2400",
    "dataset": "data tfds --input raw/corpus_zh.jsonl raw/corpus_en.jsonl --name corpus",
    "sample": "tokenizer sample --input raw/corpus_zh.jsonl --fraction 0.5 --min-sample-bytes 100",
    "extended": "tokenizer extend --base base_tokenizer --new zh_bpe/tokenizer.model --vocab-size 1200",
}


@pytest.fixture(scope="module")
def folder(work, tmp_path_factory):
    here = tmp_path_factory.mktemp("declared").resolve()
    for name in ("raw", "sft", "base_tokenizer", "zh_bpe"):
        shutil.copytree(work / name, here / name)
    (here / "words.txt").write_text("badword\n")
    (here / "questions.jsonl").write_text(json.dumps({"question": "How many apples are left in the basket?"}) + "\n")
    return here


@pytest.mark.parametrize(("out", "words"), STAGES.items(), ids=STAGES)
def test_every_file_that_a_stage_opens_is_among_its_inputs(folder, tmp_path, out, words):
    noted = tmp_path / "opened.txt"
    command = [sys.executable, "-c", CODE, str(noted), *shlex.split(words), "--out", out]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)}
    ended = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    (place,) = [path.parent for path in (folder / out).rglob("manifest.json")]  # of TFDS's below name and version
    made = manifest.read(place)
    assert made is not None
    text = json.dumps(made)
    own = (f"{out}{os.sep}", f"{out}.partial{os.sep}", f"{out}.lock")
    opened = [Path(name) for name in noted.read_text().splitlines() if not name.startswith(own)]
    read = [path for path in opened if path.name not in manifest.NOT_CONTENT]
    assert read
    hidden = [path for path in read if not any(manifest.sha256(folder / p) in text for p in (path, path.parent))]
    assert hidden == []
