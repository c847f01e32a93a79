"""An export served by llama.cpp: its greedy tokens beside ours, for the same prompts.

    python benchmarks/speed/llama_cpp_peer.py hf_model --json llama_cpp.json

`hf_model` is what `tigerjax convert to-hf` wrote, or any folder of Hugging Face that we read. llama.cpp is built from
the source package of llama-cpp-python, which also holds its converter: once, for some minutes, into the user's cache.
The folder becomes a GGUF file in float32. Both sides get the same prompts as text, encode them, and draw greedily; the
ids of the prompts and those of the answers are compared.

The converter needs torch, transformers and the package gguf, of which the source package has its own copy.
"""

import argparse
import json
import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

from turns import Row, finish, peer

VERSION = "0.3.36"
BUILT_FOR = "-DLLAMA_BUILD_TOOLS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_SERVER=OFF"
PROMPTS = (
    "What is the capital of France?", "Which continent is Japan in?", "Name three colours.", "法国的首都是哪里？",
    "请说出日本所在的洲。", "12 + 5 = ?", "Write a line of a poem.", "Tiger, tiger, burning bright", "老虎在山里走。",
    "def add(a, b):", "Café, naïve – “quoted” 😀", "  two spaces before, and a tab\there",
)  # fmt: skip
NEW_TOKENS = 32
CHILD = """
import json, sys
from llama_cpp import Llama
asked = json.load(open(sys.argv[1]))
model = Llama(model_path=asked["model"], n_ctx=asked["context"], n_batch=64, logits_all=False, verbose=False, seed=0)
found = []
for text, ids in zip(asked["texts"], asked["prompts"]):
    own = model.tokenize(text.encode(), add_bos=False, special=True)
    model.reset()
    new = []
    for token in model.generate(ids, top_k=1, temp=0.0, repeat_penalty=1.0, reset=True):
        if token in asked["stops"] or len(new) == asked["new"]:
            break
        new.append(int(token))
    found.append({"prompt": list(map(int, own)), "answer": new})
json.dump(found, open(sys.argv[2], "w"))
"""


def cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tigerjax" / f"llama_cpp-{VERSION}"


def built(place: Path) -> Path:
    """A folder with `site`, the built package, and `source`, llama.cpp as the package holds it; made where it is not.

    Raises RuntimeError, with what pip said, where the package cannot be had or built."""
    if not (place / "site" / "llama_cpp").is_dir():
        place.mkdir(parents=True, exist_ok=True)
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
        source = ["--no-binary", ":all:", "--no-deps", f"llama-cpp-python=={VERSION}"]
        _run([*pip, "download", "-d", place, *source])
        (archive,) = place.glob("llama_cpp_python-*.tar.gz")
        _run([*pip, "install", "--target", place / "site", "--no-deps", archive], CMAKE_ARGS=BUILT_FOR)
        _run([*pip, "install", "--target", place / "site", "--no-deps", "diskcache"])
    if not (place / "source").is_dir():
        (archive,) = place.glob("llama_cpp_python-*.tar.gz")
        with tarfile.open(archive) as files:
            files.extractall(place / "unpacked", filter="data")
        (place / "unpacked" / f"llama_cpp_python-{VERSION}" / "vendor" / "llama.cpp").rename(place / "source")
    return place


def _run(words: list[Any], **environment: str) -> None:
    done = subprocess.run(list(map(str, words)), env=os.environ | environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, words[-3:]))}: {(done.stderr or done.stdout)[-1500:]}")


def to_gguf(llama_cpp: Path, folder: Path, out: Path) -> None:
    """`folder` as a GGUF file in float32."""
    source = llama_cpp / "source"
    script = [sys.executable, source / "convert_hf_to_gguf.py", folder, "--outtype", "f32", "--outfile", out]
    _run(script, PYTHONPATH=str(source / "gguf-py"))


def ours(folder: Path, prompts: list[str], context: int) -> tuple[list[list[int]], list[list[int]], list[int]]:
    """(ids of each prompt, greedy answer to each, the ids that end an answer) of our sampler, in float32."""
    from tigerjax.sample import encoding
    from tigerjax.sample.encoding import Prompt
    from tigerjax.sample.engine import Batching, SamplingConfig, answers
    from tigerjax.serve.opened import open_to_talk

    model = open_to_talk(folder, dtype="float32")
    ids = [[*model.tokenizer.opening, *model.tokenizer.encode(text)] for text in prompts]
    sampling = SamplingConfig(n=1, temperature=0.0, max_new_tokens=NEW_TOKENS, context=context, seed=0)
    asked = [Prompt(n, {"prompt_id": str(n)}, [], one) for n, one in enumerate(ids)]
    drawn = {
        p.place: found[0].ids for p, found in answers(model, asked, sampling, batching=Batching(prompts=4, rows=4))
    }
    return ids, [drawn[n] for n in range(len(ids))], sorted(encoding.stops(model.tokenizer, True))


def compared(folder: Path, llama_cpp: Path, *, context: int, texts: tuple[str, ...] = PROMPTS) -> list[dict[str, Any]]:
    """For each text {text, prompt, answer, theirs: {prompt, answer}}, all of them ids."""
    prompts = list(texts)
    ids, drawn, stops = ours(folder, prompts, context)
    with tempfile.TemporaryDirectory() as scratch:
        gguf, asked, answered = (Path(scratch) / name for name in ("model.gguf", "asked.json", "answered.json"))
        to_gguf(llama_cpp, folder, gguf)
        question = {"model": str(gguf), "context": context, "texts": prompts, "prompts": ids, "stops": stops}
        asked.write_text(json.dumps(question | {"new": NEW_TOKENS}), encoding="utf-8")
        _run([sys.executable, "-c", CHILD, asked, answered], PYTHONPATH=str(llama_cpp / "site"))
        theirs = json.loads(answered.read_text(encoding="utf-8"))
    return [
        {"text": text, "prompt": mine, "answer": answer, "theirs": other}
        for text, mine, answer, other in zip(prompts, ids, drawn, theirs, strict=True)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="a folder of Hugging Face, such as `tigerjax convert to-hf` writes")
    parser.add_argument("--llama-cpp", type=Path, default=cache(), help="where llama.cpp is, or is built")
    parser.add_argument("--context", type=int, default=64, help="tokens of a prompt and its answer (default: 64)")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    peer("torch")
    peer("transformers")
    found = compared(args.folder, built(args.llama_cpp), context=args.context)
    for one in found:
        same = one["answer"] == one["theirs"]["answer"]
        print(f"{'same' if same else 'DIFFERS':8} {len(one['answer']):3} tokens after {one['text']!r}")
    rows = []
    for what in ("prompt", "answer"):
        differ = sum(one[what] != one["theirs"][what] for one in found)
        rows.append(Row(f"{what}s of {len(found)} with other ids", "", differ, 0.0, "llama.cpp", "as is"))
    finish(rows, {"compared": found, "llama-cpp-python": VERSION}, args.json)


if __name__ == "__main__":
    main()
