"""A real model goes in and out: SmolLM2-135M-Instruct, which `benchmarks/data/smollm2.py` writes.

    JAX_PLATFORMS=cpu python benchmarks/speed/converted.py --model runs/smollm2 --json converted.json

tensors    `convert from-hf --verify`, then `convert to-hf --verify`: those of the second folder that are not, bit for
           bit, those of the first
logits     of a text, by our layers and by `transformers`, in float32: the largest difference
greedy     answers to three questions, by our sampler and by `generate`: those with other ids
template   dialogues whose ids are not those of `apply_chat_template`
questions  forty simple ones with four choices (four_choices.jsonl), asked by lm-evaluation-harness as MMLU is, with
           five worked examples: the answers that differ between our adapter and the harness's own `hf` model

The time of the questions is measured in turns, and that of the first turn of ours, which compiles, apart. Both sides
compute in float32. --timed cpu takes CPU seconds in place of the clock's. Needs the extras `hf` and `eval`.
"""

import argparse
import contextlib
import dataclasses
import functools
import io
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from lettered import ROWS, asked, fastest
from turns import Row, clocked, cpu, finish, medians, peer, show, turns

CONTEXT, NEW_TOKENS, EXAMPLES = 2048, 32, 5
CHOICES = "".join(f"\\n{letter}. {{{{choices[{n}]}}}}" for n, letter in enumerate("ABCD"))
QUESTIONS = Path(__file__).resolve().parents[1] / "data" / "four_choices.jsonl"
TASK = """\
task: four_choices
dataset_path: json
dataset_kwargs: {{data_files: {{dev: {folder}/dev.jsonl, test: {folder}/test.jsonl}}}}
test_split: test
fewshot_split: dev
fewshot_config: {{sampler: first_n}}
num_fewshot: {examples}
description: "The following are multiple choice questions (with answers) about everyday knowledge.\\n\\n"
output_type: multiple_choice
doc_to_text: "{{{{question}}}}{choices}\\nAnswer:"
doc_to_choice: ["A", "B", "C", "D"]
doc_to_target: answer
metric_list: [{{metric: acc}}]
"""
ASKED = (
    "What is the capital of France?",
    "Write one sentence about the sea.",
    "Give three names of colours.",
)
DIALOGUES: tuple[list[dict[str, str]], ...] = (
    [{"role": "user", "content": "Hello!"}],
    [{"role": "user", "content": "1 + 1 = ?"}, {"role": "assistant", "content": "2"}],
    [
        {"role": "system", "content": "You answer in one word."},
        {"role": "user", "content": "Which animal barks?\n"},
        {"role": "assistant", "content": "Dogs."},
        {"role": "user", "content": "和猫呢？ It's 12345 metres away…"},
    ],
)
TEXT = "The quick brown fox jumps over the lazy dog. In 1492, Columbus sailed the ocean blue; 他不知道那里是美洲。\n"


def tensors(folder: Path) -> dict[str, np.ndarray]:
    from safetensors.numpy import load_file

    found: dict[str, np.ndarray] = {}
    for path in sorted(folder.glob("*.safetensors")):
        found |= load_file(path)
    return found


def other_tensors(before: Path, after: Path) -> tuple[int, int]:
    """(tensors that are not the same in both folders, all of the first)."""
    old, new = tensors(before), tensors(after)
    return len([n for n in {*old, *new} if n not in old or n not in new or not np.array_equal(old[n], new[n])]), len(
        old
    )


def logits_apart(ours: Any, theirs: Any, ids: list[int]) -> tuple[float, float]:
    """(largest difference of the logits of a text, largest logit)."""
    import jax.numpy as jnp
    import torch

    from tigerjax.model import families

    tokens_BT = jnp.asarray([ids])
    module = families.of(ours.config).language_model(ours.config, ours.compute)
    positions_BT, segments_BT = jnp.arange(len(ids))[None], jnp.ones_like(tokens_BT)
    mine = np.asarray(module.apply({"params": ours.weights}, tokens_BT, positions_BT, segments_BT))[0]
    with torch.no_grad():
        wanted = theirs(torch.tensor([ids])).logits[0].numpy()
    return float(np.abs(mine[:, : wanted.shape[1]] - wanted).max()), float(np.abs(wanted).max())


def greedy(ours: Any, theirs: Any, auto: Any) -> list[dict[str, Any]]:
    """Each question with both answers."""
    from tigerjax.sample.engine import SamplingConfig, generate

    sampling = SamplingConfig(n=1, max_new_tokens=NEW_TOKENS, temperature=0.0, seed=0, context=CONTEXT)
    prompts = [{"prompt_id": str(n), "messages": [{"role": "user", "content": text}]} for n, text in enumerate(ASKED)]
    out = []
    for text, record in zip(ASKED, generate(ours, prompts, sampling), strict=True):
        given = template_ids(auto, [{"role": "user", "content": text}], prompt=True)
        import torch

        ids = torch.tensor([given])
        answer = theirs.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=NEW_TOKENS)
        stop = {auto.eos_token_id}
        wanted = [i for i in answer[0, len(given) :].tolist() if i not in stop]
        mine = [i for i in record["candidates"][0]["token_ids"] if i not in stop]
        out.append({"question": text, "ours": record["candidates"][0]["text"], "theirs": auto.decode(wanted)})
        out[-1]["same"] = mine == wanted
    return out


def template_ids(auto: Any, messages: Sequence[dict[str, str]], *, prompt: bool) -> list[int]:
    found = auto.apply_chat_template(list(messages), add_generation_prompt=prompt, tokenize=True, return_dict=True)
    return list(found["input_ids"])


def other_dialogues(tokenizer: Any, auto: Any) -> int:
    """Dialogues whose ids are not those of apply_chat_template."""
    from tigerjax.tokenizer.chat import encode_chat, encode_prompt

    apart = 0
    for messages in DIALOGUES:
        prompt = messages[-1]["role"] == "user"
        ours = encode_prompt(tokenizer, messages) if prompt else encode_chat(tokenizer, messages)[0]
        wanted = template_ids(auto, messages, prompt=prompt)
        # What a template writes behind the last turn's end is no token of the dialogue for us.
        apart += list(ours) != wanted[: len(ours)] or len(wanted) - len(ours) > (0 if prompt else 1)
    return apart


def requests_of(folder: Path) -> tuple[list[Any], list[int]]:
    """(what the harness asks a model, the right answers)."""
    from lm_eval.tasks import TaskManager

    lines = QUESTIONS.read_text(encoding="utf-8").splitlines(keepends=True)
    (folder / "dev.jsonl").write_text("".join(lines[:EXAMPLES]), encoding="utf-8")
    (folder / "test.jsonl").write_text("".join(lines[EXAMPLES:]), encoding="utf-8")
    (folder / "four_choices.yaml").write_text(
        TASK.format(folder=folder, examples=EXAMPLES, choices=CHOICES), encoding="utf-8"
    )
    manager = TaskManager(include_path=str(folder), include_defaults=False)
    (task,) = manager.load("four_choices")["tasks"].values()
    task.build_all_requests()
    return task.instances, [json.loads(line)["answer"] for line in lines[EXAMPLES:]]


def chosen(scores: list[tuple[float, bool]]) -> list[int]:
    """The letter of each question, by its log-likelihood."""
    return np.asarray([score for score, _ in scores]).reshape(-1, 4).argmax(1).tolist()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True, help="what benchmarks/data/smollm2.py wrote")
    parser.add_argument("--repeats", type=int, default=3, help="1: the peer's threads and batch are not tuned")
    parser.add_argument("--timed", choices=("clock", "cpu"), default="clock", help="cpu: on a machine with other work")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    for package in ("lm_eval", "torch", "transformers"):
        peer(package)
    from lm_eval.models.huggingface import HFLM
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from tigerjax.checkpoint.loaded import load
    from tigerjax.command.convert import from_hf, to_hf
    from tigerjax.config import FLOAT32
    from tigerjax.evaluate.answerer import Answerer
    from tigerjax.evaluate.harness import TigerLM
    from tigerjax.tokenizer.load import Tokenizer

    rows: list[Row] = []
    raw: dict[str, Any] = {}

    def add(row: Row) -> None:
        rows.append(row)
        print(show(row), file=sys.stderr, flush=True)  # the whole takes minutes

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with contextlib.redirect_stdout(io.StringIO()):  # their tables; the figures are in the files
            from_hf(args.model, folder / "run", verify=True, json=folder / "in.json")
            to_hf(folder / "run", folder / "hf", tokenizer=args.model, verify=True, json=folder / "out.json")
        raw |= {way: json.loads((folder / f"{way}.json").read_text()) for way in ("in", "out")}
        apart, count = other_tensors(args.model, folder / "hf")
        add(Row(f"tensors of {count} that a round trip changes", "", apart, 0.0, "exact", "as is"))

        compute = dataclasses.replace(FLOAT32, loss_chunk_tokens=CONTEXT)
        tokenizer = Tokenizer(args.model)
        ours = load(folder / "run", tokenizer, compute=compute)
        auto = AutoTokenizer.from_pretrained(args.model)
        theirs: Any = AutoModelForCausalLM.from_pretrained(folder / "hf", dtype="float32")
        apart_logits, largest = logits_apart(ours, theirs, tokenizer.encode(TEXT))
        add(Row(f"logits apart (the largest is {largest:.1f})", "", apart_logits, beside="transformers"))
        raw["greedy"] = greedy(ours, theirs, auto)
        differ = sum(not one["same"] for one in raw["greedy"])
        add(Row(f"greedy answers of {len(ASKED)} that differ", "", differ, 0.0, "generate", "as is"))
        other = other_dialogues(tokenizer, auto)
        what = f"dialogues of {len(DIALOGUES)} with other ids"
        add(Row(what, "", other, 0.0, "apply_chat_template", "as is"))

        requests, right = requests_of(folder)
        mine = TigerLM(Answerer(ours, context=CONTEXT, rows=ROWS))
        harness = HFLM(
            pretrained=theirs, tokenizer=auto, device="cpu", batch_size=ROWS, max_length=CONTEXT, add_bos_token=False
        )
        sides = {"ours": mine, "hf": harness}
        scores: dict[str, Any] = {}

        def ask(side: str) -> None:
            scores[side] = asked(sides[side], requests)

        timer = cpu if args.timed == "cpu" else clocked
        with_compilation = timer(lambda: ask("ours"))
        if args.repeats > 1:
            raw["threads"], raw["batch"] = fastest(harness, requests[:24])
        timed = turns(args.repeats, {side: functools.partial(timer, functools.partial(ask, side)) for side in sides})
        letters = {side: chosen(scores[side]) for side in sides}
        beside = "the harness's hf model"
        differ = sum(a != b for a, b in zip(letters["ours"], letters["hf"], strict=True))
        add(Row(f"answers of {len(right)} that differ", "", differ, 0.0, beside, "as is"))
        correct = {side: sum(a == b for a, b in zip(given, right, strict=True)) for side, given in letters.items()}
        add(Row("right answers", "", correct["ours"], correct["hf"], beside, "as is"))
        middle = medians(timed)
        rates = {side: len(requests) / seconds for side, seconds in middle.items()}
        second = "CPU s" if args.timed == "cpu" else "s"
        add(Row(f"harness, {len(requests)} requests", f"requests per {second}", rates["ours"], rates["hf"], beside))
        add(Row("the same, with compilation", second, with_compilation, middle["hf"], beside, better="less"))
        apart_scores = max(abs(a[0] - b[0]) for a, b in zip(scores["ours"], scores["hf"], strict=True))
        raw |= {"questions": timed, "scores apart": apart_scores, "letters": letters}
    finish(rows, raw, args.json)


if __name__ == "__main__":
    main()
