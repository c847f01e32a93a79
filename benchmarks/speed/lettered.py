"""Questions with given answers, as lm-evaluation-harness asks them: our adapter beside the harness's own `hf` model.

    JAX_PLATFORMS=cpu python benchmarks/speed/lettered.py --json lettered.json

Two tasks of made text, described to the harness in local YAML files:

letters    like MMLU: subjects with five worked examples each, questions with four choices, answered by a letter
endings    like PIQA: two endings of some 10 to 40 tokens after a short context, without examples

Both sides run the same random weights (11 million in the layers, exported by `convert to-hf`) in float32 on the CPU, in
turns; a turn is everything from the texts of all requests to their log-likelihoods. Both have one core, with which each
takes the least CPU seconds. The first turn of ours, which compiles, is timed apart. `hf` gets the batch size that is
fastest in a short trial; its `logits_cache` is on, as by default, so it reads the four letters from one row. The scores
of all requests are compared. Needs the extras `hf` and `eval`.
"""

import argparse
import dataclasses
import functools
import json
import os
import random
import tempfile
import time
from pathlib import Path
from typing import Any

from sampler import CONFIG
from turns import Row, cpu, finish, medians, peer, turns

CONTEXT, ROWS, EXACT = 2048, 8, 2e-3
SUBJECTS, QUESTIONS, CONTEXTS = 2, 16, 160
TRIAL = 24
LETTERS = "ABCD"
MMLU = """\
task: letters_{name}
dataset_path: json
dataset_kwargs: {{data_files: {{dev: {folder}/{name}_dev.jsonl, test: {folder}/{name}.jsonl}}}}
test_split: test
fewshot_split: dev
fewshot_config: {{sampler: first_n}}
num_fewshot: 5
description: "The following are multiple choice questions (with answers) about {name}.\\n\\n"
output_type: multiple_choice
doc_to_text: "{{{{question}}}}\\nA. {{{{a}}}}\\nB. {{{{b}}}}\\nC. {{{{c}}}}\\nD. {{{{d}}}}\\nAnswer:"
doc_to_choice: ["A", "B", "C", "D"]
doc_to_target: gold
metric_list: [{{metric: acc}}]
"""
PIQA = """\
task: endings
dataset_path: json
dataset_kwargs: {{data_files: {{test: {folder}/endings.jsonl}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "Question: {{{{question}}}}\\nAnswer:"
doc_to_choice: "{{{{[one, two]}}}}"
doc_to_target: gold
metric_list: [{{metric: acc}}, {{metric: acc_norm}}]
"""


def write_tasks(folder: Path, words: list[str], subjects: int, questions: int, contexts: int) -> list[str]:
    """The names of the tasks, whose files are in `folder`."""
    rng = random.Random(0)

    def text(least: int, most: int) -> str:
        return " ".join(rng.choices(words, k=rng.randint(least, most)))

    def write(name: str, rows: list[dict[str, Any]]) -> None:
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")

    def question() -> dict[str, Any]:
        return {"question": text(12, 40), "gold": rng.randrange(4)} | {letter: text(2, 9) for letter in "abcd"}

    names = []
    for n in range(subjects):
        name = f"subject {n}".replace(" ", "_")
        write(f"{name}_dev", [question() for _ in range(5)])
        write(name, [question() for _ in range(questions)])
        (folder / f"{name}.yaml").write_text(MMLU.format(name=name, folder=folder), encoding="utf-8")
        names.append(f"letters_{name}")
    rows = [{"question": text(4, 16), "one": text(6, 26), "two": text(6, 26), "gold": n % 2} for n in range(contexts)]
    write("endings", rows)
    (folder / "endings.yaml").write_text(PIQA.format(folder=folder), encoding="utf-8")
    return [*names, "endings"]


def requests_of(folder: Path, names: list[str]) -> dict[str, list[Any]]:
    """By kind, the requests that the harness would send to a model."""
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=str(folder), include_defaults=False)
    found: dict[str, list[Any]] = {"letters": [], "endings": []}
    for name in names:
        for task in manager.load(name)["tasks"].values():
            task.build_all_requests()
            found[name.partition("_")[0]] += task.instances
    return found


def sides(folder: Path) -> tuple[Any, Any]:
    """(our adapter, a function from batch size to the harness's own model of the same weights)."""
    import flax.linen as nn
    import jax
    import numpy as np
    from data_throughput import tokenizer
    from lm_eval.models.huggingface import HFLM

    from tigerjax.checkpoint.loaded import Loaded
    from tigerjax.config import FLOAT32
    from tigerjax.convert.hf import Export, to_hf
    from tigerjax.evaluate.answerer import Answerer
    from tigerjax.evaluate.harness import TigerLM
    from tigerjax.model import decoder
    from tigerjax.model.layers import init
    from tigerjax.tokenizer.load import Tokenizer

    made = Tokenizer(tokenizer(folder))
    config = dataclasses.replace(CONFIG, vocab_size=made.size, padded_vocab_size=-(-made.size // 128) * 128)
    compute = dataclasses.replace(FLOAT32, loss_chunk_tokens=2048)
    weights = jax.tree.map(np.asarray, nn.unbox(init(decoder.LanguageModel(config, compute), jax.random.key(0))))
    to_hf(weights, config, folder / "hf", Export(tokenizer=made.folder))
    model = Loaded(config=config, weights=weights, tokenizer=made, compute=compute, sha256="b")
    theirs = HFLM(
        pretrained=str(folder / "hf"),
        device="cpu",
        dtype="float32",
        batch_size=ROWS,
        max_length=CONTEXT,
        add_bos_token=False,
        prefix_token_id=made.bos,
    )
    return TigerLM(Answerer(model, context=CONTEXT, rows=ROWS)), theirs


def asked(model: Any, requests: list[Any]) -> list[tuple[float, bool]]:
    """The scores, computed anew."""
    if hasattr(model, "answerer"):
        model.answerer.cache.results.clear()
    return model.loglikelihood(requests, disable_tqdm=True)


def fastest(theirs: Any, requests: list[Any]) -> tuple[int, int]:
    """(threads, batch size) with which the peer is fastest on the cores of this process; it keeps them."""
    import torch

    def seconds(threads: int, batch: int) -> float:
        torch.set_num_threads(threads)
        theirs.batch_size_per_gpu = batch
        return cpu(lambda: asked(theirs, requests))

    threads = min(sorted({1, len(os.sched_getaffinity(0))}), key=lambda n: seconds(n, ROWS))
    batch = min((1, 4, ROWS, 2 * ROWS, 4 * ROWS), key=lambda n: seconds(threads, n))
    torch.set_num_threads(threads)
    theirs.batch_size_per_gpu = batch
    return threads, batch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--tiny", action="store_true", help="a few questions: does it run?")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    peer("lm_eval")
    peer("torch")
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # before either makes its threads
    from data_throughput import EMBEDDED

    text = (EMBEDDED / "corpus_en.jsonl").read_text(encoding="utf-8")
    words = sorted({word for word in text.replace('"', " ").split() if word.isalpha()})
    rows: list[Row] = []
    raw: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sizes = (2, 4, 8) if args.tiny else (SUBJECTS, QUESTIONS, CONTEXTS)
        found = requests_of(folder, write_tasks(folder, words, *sizes))
        mine, theirs = sides(folder)
        for kind, requests in found.items():
            threads, batch = fastest(theirs, requests[: 4 if args.tiny else TRIAL])
            started = time.process_time()
            ours = asked(mine, requests)
            first = time.process_time() - started
            wanted = asked(theirs, requests)
            apart = max(abs(a[0] - b[0]) for a, b in zip(ours, wanted, strict=True))
            assert apart < EXACT and [a[1] for a in ours] == [b[1] for b in wanted], f"other scores: {apart}"
            both = {"ours": mine, "hf": theirs}
            asking = {side: functools.partial(asked, model, requests) for side, model in both.items()}
            timed = turns(args.repeats, {side: functools.partial(cpu, work) for side, work in asking.items()})
            middle = medians(timed)
            rates = {side: len(requests) / seconds for side, seconds in middle.items()}
            what = f"harness, {len(requests)} {kind}"
            rows.append(Row(what, "requests per CPU s", rates["ours"], rates["hf"], "the harness's hf model"))
            rows.append(
                Row(f"{what}, with compilation", "CPU s", first, middle["hf"], "the harness's hf model", better="less")
            )
            raw[kind] = timed | {"first": first, "threads": threads, "batch": batch, "apart": apart}
    finish(rows, raw, args.json)


if __name__ == "__main__":
    main()
