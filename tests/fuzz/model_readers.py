"""Readers of models: foreign folders, checkpoints, reward models, evaluations, and the files that runs leave."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from ending import Ended, files_of, run
from hand_tokenizer import INS, PAD, PIECES, RES, write_added
from reader import Reader
from text_model import StandIn
from text_readers import SFT, lines
from thirteen import write_all

from tigerjax.checkpoint.model import load_model, save_model
from tigerjax.config import ModelConfig, stored_fields
from tigerjax.convert import hf
from tigerjax.model.hf_weights import hf_rows
from tigerjax.model.weights import put
from tigerjax.tokenizer.load import Tokenizer

ROOT = Path(__file__).resolve().parents[2]
CONFIG_FILE = ROOT / "configs" / "quickstart_rejection_sampled.py"
SIZE = PIECES + 3
MODEL = ModelConfig(
    num_layers=2, model_dim=6, mlp_dim=10, num_heads=2, num_kv_heads=1, head_dim=4, vocab_size=SIZE,
    padded_vocab_size=SIZE + 5, rope_base=731.0, norm_eps=3e-3,
)  # fmt: skip
ORBAX = "*/*"


def weights(*, reward: bool = False) -> Any:
    rng, made = np.random.default_rng(2), {}
    for row in hf_rows(MODEL, rows=SIZE, reward=reward):
        put(made, row.ours, (0.1 * rng.normal(size=row.stacked_shape(MODEL))).astype(np.float32))
    return made


def words_of_config(folder: Path) -> list[object]:
    """The quick start's config with the sizes of MODEL, and the tokenizer of the folder."""
    sizes = {f"--model.{name.replace('_', '-')}": value for name, value in stored_fields(MODEL).items()}
    words = [word for pair in sizes.items() for word in pair]
    words += [
        "--data.tokenizer",
        folder / "tok",
        "--data.seq-len",
        96,
        "--global-batch-size",
        8,
        "--data.max-dropped",
        1,
    ]
    return [CONFIG_FILE, *words, "--optim.total-steps", 4, "--optim.warmup-steps", 1]


def models(folder: Path) -> None:
    """tok/, chat/ and reward/: the models that all commands below take."""
    sha = Tokenizer(write_added(folder / "tok", INS, RES, PAD)).sha256
    extra = {"calibration": {"mean": 0.0, "std": 1.0, "n": 9}, "truncation_penalty": 1.0}
    save_model(folder / "chat", weights(), MODEL, tokenizer_sha256=sha)
    save_model(folder / "reward", weights(reward=True), MODEL, kind="reward", tokenizer_sha256=sha, extra=extra)


def foreign(folder: Path) -> None:
    """hf/, as another program would have written it."""
    hf.to_hf(weights(), MODEL, folder / "hf", hf.Export(tokenizer=None))
    for name in ("manifest.json", "checksums.json", "README.md"):
        (folder / "hf" / name).unlink(missing_ok=True)
    config = json.loads((folder / "hf/config.json").read_text())
    del config["tigerjax"]
    (folder / "hf/config.json").write_text(json.dumps(config))
    write_added(folder / "hf", INS, RES, PAD)
    (folder / "hf/tokenizer_config.json").write_text(json.dumps({"bos_token": "<s>", "eos_token": {"content": "</s>"}}))


def sharded(folder: Path) -> None:
    foreign(folder)
    hf.to_hf(weights(), MODEL, folder / "shards", hf.Export(tokenizer=None, max_shard_bytes=3000))
    (folder / "hf/model.safetensors").unlink()
    for path in (folder / "shards").glob("*.safetensors*"):
        path.rename(folder / "hf" / path.name)


def imported(folder: Path, ended: Ended) -> Any:
    return load_model(folder / "out").sha256


def header(data: bytes) -> int:
    """The length of the header of a safetensors file."""
    return min(len(data), 8 + int.from_bytes(data[:8], "little"))


def checkpoints(folder: Path) -> None:
    """run/checkpoints with the steps 3 and 7."""
    for step in (3, 7):
        save_model(folder / f"run/checkpoints/{step}", weights(), MODEL, step=step)


def benchmarks(folder: Path) -> None:
    models(folder)
    write_all(folder / "data")


@contextlib.contextmanager
def answering() -> Iterator[None]:
    """A model whose answers are a function of the question."""
    answerer: Any = StandIn()
    answerer.model = mock.Mock(step=3, sha256="m")
    with mock.patch("tigerjax.evaluate.answerer.load_answerer", lambda *_, **__: answerer):
        yield


def asked(folder: Path) -> list[object]:
    words = ["evaluate", *words_of_config(folder), "--data-dir", folder / "data", "--out", folder / "out"]
    return [
        *words,
        "--tasks",
        *sorted(p.name for p in (folder.parent / "good/data").glob("*") if p.name != "humaneval"),
    ]


def evaluations(folder: Path) -> None:
    """first/ and second/: two evaluations to compare."""
    benchmarks(folder)
    for name in ("first", "second"):
        words = ["evaluate", *words_of_config(folder), "--data-dir", folder / "data", "--out", folder / name]
        assert run([str(word) for word in [*words, "--tasks", "boolq", "piqa", "mmlu"]]).code == 0
    for path in ("data", "chat", "reward"):
        (folder / path).rename(folder.parent / f"{path}-unused")


@contextlib.contextmanager
def sampling() -> Iterator[None]:
    """An engine that samples made-up answers."""

    def complete(model: Any, prompts: Any, sampling: Any, *, done: Any = (), **_: Any) -> Iterator[Any]:
        for place, prompt in enumerate(prompts):
            if prompt["prompt_id"] not in done:
                yield place, made_up(prompt, sampling.n)

    with mock.patch("tigerjax.sample.engine.complete", complete):
        yield


def made_up(prompt: Any, n: int) -> dict[str, Any]:
    """A record of the sampler."""
    texts = [f"answer {k} 老虎" for k in range(n)]
    answers = [
        {"cid": f"{prompt['prompt_id']}-{k}", "text": text, "finish": "stop", "ntok": 3, "empty": False, "dup_of": None}
        for k, text in enumerate(texts)
    ]
    asked = prompt.get("messages") or [{"role": "user", "content": prompt.get("text", "")}]
    return {**prompt, "messages": asked, "candidates": answers, "degenerate": 0}


class Scored:
    """A reward model whose score is a function of the answer."""

    sha256 = "r"

    def __init__(self, *_: Any, **__: Any):
        pass

    def __call__(self, answers: Any) -> list[float]:
        return [float(len(answer.text) % 7) for answer in answers]

    def raw(self, answers: Any) -> Any:
        return np.array(self(answers))


@contextlib.contextmanager
def scoring() -> Iterator[None]:
    with mock.patch("tigerjax.align.score.Scorer", Scored):
        yield


def with_models(**content: bytes) -> Any:
    def make(folder: Path) -> None:
        models(folder)
        (folder / "in").mkdir()
        for name, data in content.items():
            (folder / "in" / f"{name}.jsonl").write_bytes(data)

    return make


def logged(folder: Path) -> None:
    """run/ as `tigerjax train` leaves it, and a stage whose output it read."""
    (folder / "run").mkdir()
    steps = [
        {"step": n, "loss_nats": 2.0 / n, "tokens_per_s": 11.0, "mfu": None, "goodput": 0.5, "spent_s": {"steps": n}}
        | {"shares": {"zh": 0.5, "en": 0.5}, "grad_norm": 1.5, "lr": 1e-3}
        for n in range(1, 6)
    ]
    part = {"loss_nats": 3.0, "accuracy": 0.25, "tokens": 40}
    steps[3] |= {"validation": {"wiki": part | {"by_lang": {"zh": part}}}, "train_loss_nats": 2.5, "rising": ["wiki"]}
    (folder / "run/metrics.jsonl").write_bytes(lines(steps))
    (folder / "run/events.jsonl").write_bytes(lines([{"event": "spike", "step": 3, "loss": 9.0}]))
    config = f"data.cache_dir = '{folder / 'run/cache'}'\ndata.mixture = 'm'\ndata.tokenizer = '{folder / 'tok'}'\n"
    (folder / "run/config.txt").write_text(config + "checkpoint.init_from = None\nseed = 0\n")
    (folder / "run/cleaned").mkdir()
    made = {"stage": "clean", "config": {}, "inputs": [{"path": "raw.jsonl", "sha256": "0" * 64}], "outputs": []}
    made |= {"counts": {"in": 3, "out": 2, "dropped": {"empty": 1}}, "figures": {}}
    (folder / "run/cleaned/manifest.json").write_text(json.dumps(made))


PROMPTS = [
    {"prompt_id": "p1", "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "ab?"}]},
    {"prompt_id": "p2", "text": "abcd", "task": "t", "lang": "en"},
]
ANSWERS = [made_up(prompt, 2) | {"reference": "An old answer.", "task": "t"} for prompt in PROMPTS]
HF_JSON = ("hf/config.json", "hf/generation_config.json", "hf/*tokens.json", "hf/tokenizer_config.json")
READERS: dict[str, Reader] = {
    "from-hf": Reader(
        make=foreign, words=lambda f: ["convert", "from-hf", f / "hf", f / "out"], files=("hf/*",), json=HF_JSON
    ),
    "from-hf header": Reader(
        make=foreign,
        words=lambda f: ["convert", "from-hf", f / "hf", f / "out"],
        files=("hf/model.safetensors",),
        head=header,
        reads=imported,
    ),
    "from-hf index": Reader(
        make=sharded,
        words=lambda f: ["convert", "from-hf", f / "hf", f / "out", "--verify"],
        files=("hf/*.index.json",),
        json=("hf/*.index.json",),
        reads=imported,
    ),
    "to-hf": Reader(
        make=models,
        words=lambda f: ["convert", "to-hf", f / "chat", f / "out", "--tokenizer", f / "tok"],
        files=("chat/**/*", "chat/*", "tok/*"),
        json=("chat/meta.json", "tok/*.json"),
    ),
    "to-hf checkpoint": Reader(
        make=models,
        words=lambda f: ["convert", "to-hf", f / "chat", f / "out"],
        files=("chat/**/*", "chat/*"),
        reads=lambda f, _: (f / "out/model.safetensors").read_bytes(),
    ),
    "resize": Reader(
        make=lambda f: (
            models(f),
            write_added(f / "new", INS, RES, PAD, words=["▁", "a", "b", "c", "d", "▁a", "ab", "cd", "abcd", "老"]),
            None,
        )[-1],
        words=lambda f: ["convert", "resize", f / "chat", f / "out", "--base", f / "tok", "--tokenizer", f / "new"],
        files=("new/*", "tok/*"),
        json=("new/*.json", "tok/*.json"),
    ),
    "checkpoint ls": Reader(
        make=checkpoints,
        words=lambda f: ["checkpoint", "ls", f / "run"],
        files=("run/*/*/*",),
        json=("run/*/*/meta.json",),
    ),
    "checkpoint verify": Reader(
        make=checkpoints,
        words=lambda f: ["checkpoint", "verify", f / "run"],
        files=("run/**/*",),
        json=("run/*/*/meta.json",),
        reads=lambda f, ended: ended.out,
    ),
    "benchmarks": Reader(
        make=benchmarks,
        words=asked,
        files=("data/**/*",),
        json=("data/*/*.json*",),
        around=answering,
        may_change=("out/*", "out/*/*"),
    ),
    "compare": Reader(
        make=evaluations,
        words=lambda f: ["evaluate", "compare", f / "first", f / "second", "--out", f / "page.html"],
        files=("first/*", "first/*/*"),
        json=("first/results.json", "first/items/*"),
        around=answering,
    ),
    "prompts": Reader(
        make=with_models(prompts=lines(PROMPTS)),
        words=lambda f: [
            "sample",
            *words_of_config(f),
            "--prompts",
            f / "in/prompts.jsonl",
            "--model",
            f / "chat",
            "--out",
            f / "out",
            "--n",
            2,
        ],
        json=("in/*",),
        around=sampling,
        may_change=("out/*",),
    ),
    "sampled": Reader(
        make=with_models(answers=lines(ANSWERS)),
        words=lambda f: [
            "reward",
            "score",
            *words_of_config(f),
            "--input",
            f / "in/answers.jsonl",
            "--reward",
            f / "reward",
            "--out",
            f / "out",
        ],
        json=("in/*",),
        around=scoring,
    ),
    "metrics": Reader(
        make=logged,
        words=lambda f: ["report", f / "run"],
        files=("run/*", "run/cleaned/*"),
        json=("run/*.jsonl", "run/cleaned/*"),
        may_change=("run/report.*",),
    ),
    "report": Reader(
        make=lambda f: (logged(f), run(["report", str(f / "run")]), (f / "run/metrics.jsonl").rename(f / "m"), None)[
            -1
        ],
        words=lambda f: ["report", f / "run"],
        files=("run/*",),
        json=("run/report.json",),
        may_change=("run/report.html",),
    ),
}
assert SFT and files_of
