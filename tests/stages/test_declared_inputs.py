"""Whatever a stage opens is among the inputs of its manifest: what is read and not declared could change unnoticed.

Each command of a small recipe runs in a process of its own, with an audit hook that notes every file it opens. A file
of the user's counts as declared when its hash, or that of its folder, stands in the manifest.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import json_tokenizer
import pytest

from tigerjax.files import manifest
from tigerjax.tokenizer import load

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "tigerjax"
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
    "cleaned": "data clean --out cleaned --input raw/corpus_en.jsonl raw/corpus_zh.jsonl --sensitive words.txt"
    " --on language",
    "exact": "data dedup exact --out exact --input cleaned/corpus_en.jsonl",
    "near": "data dedup near --out near --input cleaned/corpus_en.jsonl cleaned/corpus_zh.jsonl",
    "substrings": "data dedup substrings --out substrings --input cleaned/corpus_en.jsonl",
    "languages": "data language --out languages --input raw/corpus_en.jsonl",
    "quality": "data quality train --out quality --good raw/corpus_en.jsonl --bad raw/corpus_zh.jsonl",
    "scored": "data quality score --out scored --input raw/corpus_en.jsonl --model quality",
    "against": "data dedup against-sft --out against --docs near/corpus_en.jsonl --sft sft/sft.jsonl",
    "decontaminated": "data decontaminate --out decontaminated --docs near/corpus_en.jsonl"
    " --evaluation-sets questions.jsonl --field question",
    "pieces": "tokenizer train --out pieces --input raw/corpus_zh.jsonl --vocab-size 2400",
    "dataset": "data tfds --out dataset --input raw/corpus_zh.jsonl raw/corpus_en.jsonl --name corpus",
    "sample": "tokenizer sample --out sample --input raw/corpus_zh.jsonl --fraction 0.5 --min-sample-bytes 100",
    "extended": "tokenizer extend --base base_tokenizer --new zh_bpe/tokenizer.model --vocab-size 1200 --out extended",
    "merges": "tokenizer train --base byte_level --input raw/corpus_zh.jsonl --vocab-size 700 --out merges",
    "grown": "tokenizer extend --base byte_level --new merges --vocab-size 600 --out grown",
    "rows": "data stats declared --modules recipe --seq-len 64 --cache-dir rows --max-dropped 1",
}
PLACES = {
    "text/clean.py": "cleaned",
    "text/dedup.py": "exact",
    "text/against.py": "against",
    "text/document_stage.py": "substrings",
    "text/quality.py": "quality",
    "tokenizer/train.py": "pieces",
    "tokenizer/sample.py": "sample",
    "tokenizer/extend.py": "extended",
    "tokenizer/bpe_extend.py": "grown",
    "records/tfds_builder.py": "dataset",
    "data/caching.py": "rows",
    "data/held_out.py": "rows",
}
"""Where a stage begins, by the name of one above."""
ELSEWHERE = {
    "align/project.py": "a round; tests/align/test_rounds.py changes each input, and the step is done again",
    "align/steps.py": "the same",
    "align/score.py": "reads the answers and a model, whose hash is in the settings",
    "align/reference.py": "reads no file: a model and rows, both in the settings by their hashes",
    "convert/peft.py": "reads a checkpoint, whose hash is in the settings",
    "quickstart/text.py": "reads what is embedded in the package",
    "quickstart/training.py": "its inputs are the manifests of the stages before it",
    "quickstart/answers.py": "the same",
    "quickstart/rejection.py": "the same, and the key that is embedded in the package",
    "quickstart/parity.py": "the same",
}
"""Where a stage begins that no test here runs, and why."""
RECIPE = """
from tigerjax.data.mixture import Source, pretraining
pretraining("declared", tokenizer="extended", sources={"en": Source("cleaned/corpus_en.jsonl", held_out=0.2)})
"""


def test_every_place_where_a_stage_begins_is_known():
    begins = re.compile(
        r"\bwith (?:manifest\.|shared_)?stage\(|\n        manifest\.stage\(|self\._stage = shared_stage\("
    )
    code = {path.relative_to(PACKAGE).as_posix(): path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py")}
    found = {name for name, text in code.items() if not name.startswith("files/") and begins.search(text)}
    assert found == PLACES.keys() | ELSEWHERE.keys()
    assert set(PLACES.values()) <= STAGES.keys()


@pytest.fixture(scope="module")
def folder(work, tmp_path_factory):
    here = tmp_path_factory.mktemp("declared").resolve()
    for name in ("raw", "sft", "base_tokenizer", "zh_bpe"):
        shutil.copytree(work / name, here / name)
    (here / "words.txt").write_text("badword\n")
    (here / "recipe.py").write_text(RECIPE)
    json_tokenizer.write(here / "byte_level", "smol")
    (here / "questions.jsonl").write_text(json.dumps({"question": "How many apples are left in the basket?"}) + "\n")
    return here


@pytest.mark.parametrize(("out", "words"), STAGES.items(), ids=STAGES)
def test_every_file_that_a_stage_opens_is_among_its_inputs(folder, tmp_path, out, words):
    noted = tmp_path / "opened.txt"
    command = [sys.executable, "-c", CODE, str(noted), *shlex.split(words)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)}
    ended = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    made = [manifest.read(path.parent) for path in (folder / out).rglob(manifest.FILE)]
    assert made and None not in made
    text = json.dumps(made)
    own = (f"{out}{os.sep}", f"{out}.partial{os.sep}", f"{out}.lock")
    opened = [Path(name) for name in noted.read_text().splitlines() if not name.startswith(own)]
    read = [path for path in opened if path.name not in manifest.NOT_CONTENT]
    assert read
    hashes = {path: {manifest.sha256(folder / p) for p in (path, path.parent)} for path in read}
    for path in read:
        if path.parent == Path("extended") and out == "rows":  # rows hold ids: the hash of all that decides on these
            hashes[path].add(load.Tokenizer(folder / "extended").sha256)
    hashes.pop(Path("recipe.py"), None)  # what it says of a source is in the settings of its rows
    hidden = [path for path, of_path in hashes.items() if not any(sha256 in text for sha256 in of_path)]
    assert hidden == []
