"""The engine that answers requests beside `tigerjax sample`, and a model in 8 bits beside itself.

    JAX_PLATFORMS=cpu python benchmarks/speed/serving.py --json serving.json
    JAX_PLATFORMS=cpu python benchmarks/speed/serving.py --model runs/smollm2 --slots 16 --json serving.json

throughput   tokens per second of the sampler and of the engine, in turns, each with the same slots: the same prompts,
             answers and settings. The engine gets every answer as a request of its own, all at once. `equal` says
             whether all answers were the same. Then the engine with keys and values in int8, and their bytes.
first token  seconds from a request to its first token, where requests come one after another in a random rhythm that
             fills two thirds of the slots: the median and the 99th of a hundred
int8         with --model: the share of the tokens of a text whose most probable next token is the same as in float32,
             and the two perplexities: of weights in bfloat16, in int8 rounded to nearest and rounded for other
             passages of the text, and of keys and values in int8, read token by token; and the bytes of the weights

Without --model the weights are random (28 million, as in sampler.py). Everything is compiled before it is timed.
"""

import argparse
import dataclasses
import json
import random
import threading
import time
from pathlib import Path
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from sampler import CONFIG, NumberTokenizer
from turns import Row, finish, medians, turns

from tigerjax.checkpoint.loaded import ROUNDING_ROWS, ROUNDING_TOKENS, Loaded, quantised
from tigerjax.config import FLOAT32
from tigerjax.model import cache as kv
from tigerjax.model import decoder, families
from tigerjax.model.layers import init
from tigerjax.sample.engine import Batching, SamplingConfig, generate
from tigerjax.serve.asked import AnswerPiece, Ask, ServeBatching
from tigerjax.serve.engine import Engine
from tigerjax.serve.opened import open_to_talk
from tigerjax.tokenizer.chat import encode_prompt

TEXT = Path(__file__).resolve().parents[2] / "data_mixtures" / "embedded" / "corpus_en.jsonl"
HOW: dict[str, Any] = {"temperature": 0.9, "top_p": 0.95, "top_k": 0, "seed": 0}
ROW = ROUNDING_TOKENS
"""Tokens of a row of the text that float32 and int8 are compared on."""
NARROW: tuple[Literal["int8"] | None, ...] = ("int8", None)
"""Types of keys and values: in 8 bits, and that of the products."""
TOGETHER = 4
"""Rows that are read at a time."""
LOAD = 2 / 3


class Waiting:
    """Counts the tokens of answers, and knows when each began and when all are whole."""

    def __init__(self, answers: int):
        self.ids: dict[int, list[int]] = {number: [] for number in range(answers)}
        self.first: dict[int, float] = {}
        self.left, self.done = answers, threading.Event()

    def receiver(self, number: int) -> Any:
        started = time.monotonic()

        def deliver(piece: AnswerPiece) -> None:
            self.first.setdefault(number, time.monotonic() - started)
            self.ids[number] += piece.ids
            if piece.finish is not None:
                self.left -= 1
                if not self.left:
                    self.done.set()

        return deliver


def one_of(receivers: list[Any]) -> Any:
    """Gives each piece to the receiver of its answer."""
    return lambda piece: receivers[piece.answer](piece)


def prompts_of(model: Loaded, count: int) -> list[tuple[str, list[int]]]:
    """(prompt_id, ids) of short prompts of different lengths."""
    rng = np.random.default_rng(0)
    words = (
        [str(i) for i in range(5, 1000)] if isinstance(model.tokenizer, NumberTokenizer) else ["tiger", "moon", "why"]
    )
    texts = [" ".join(rng.choice(words, 10 + 7 * n % 50)) for n in range(count)]
    return [(str(n), encode_prompt(model.tokenizer, [{"role": "user", "content": t}])) for n, t in enumerate(texts)]


def sampled(model: Loaded, prompts: Any, n: int, new: int, slots: int, context: int) -> tuple[float, list[list[int]]]:
    """(seconds, ids of every answer) of the sampler."""
    sampling = SamplingConfig(n=n, max_new_tokens=new, context=context, **HOW)
    asked = [{"prompt_id": prompt_id, "ids": ids} for prompt_id, ids in prompts]
    started = time.monotonic()
    records = list(generate(model, asked, sampling, batching=Batching(prompts=min(8, slots), rows=slots)))
    return time.monotonic() - started, [c["token_ids"] for r in records for c in r["candidates"]]


def served(engine: Engine, prompts: Any, n: int, new: int) -> tuple[float, list[list[int]]]:
    """The same of the engine, a request for each prompt."""
    waiting = Waiting(len(prompts) * n)
    started = time.monotonic()
    for at, (prompt_id, ids) in enumerate(prompts):
        ask = Ask(ids=tuple(ids), prompt_id=prompt_id, n=n, max_new_tokens=new, **HOW)
        engine.submit(ask, one_of([waiting.receiver(at * n + k) for k in range(n)]))
    waiting.done.wait()
    return time.monotonic() - started, [waiting.ids[number] for number in range(len(prompts) * n)]


def first_tokens(engine: Engine, prompts: Any, new: int, rate: float) -> list[float]:
    """Seconds to the first token of requests that come at `rate` per second, as a Poisson process."""
    waiting, rhythm = Waiting(len(prompts)), random.Random(0)
    for number, (prompt_id, ids) in enumerate(prompts):
        ask = Ask(ids=tuple(ids), prompt_id=prompt_id, max_new_tokens=new, **HOW)
        engine.submit(ask, waiting.receiver(number))
        time.sleep(rhythm.expovariate(rate))
    waiting.done.wait()
    return sorted(waiting.first.values())


def reader(model: Loaded) -> Any:
    """A function from a row of ids to (the most probable next token at each place, mean loss in nats)."""
    family, weights = families.of(model.config), jax.tree.map(jnp.asarray, model.weights)
    module: Any = family.language_model(model.config, model.compute)

    def whole(weights: Any, ids_BT: jax.Array) -> Any:
        places_BT = jnp.arange(ids_BT.shape[1])[None]
        return module.apply({"params": weights}, ids_BT, places_BT, jnp.ones_like(ids_BT))

    def by_token(weights: Any, ids_BT: jax.Array) -> Any:
        (B, T), c = ids_BT.shape, model.config
        shape = c.num_layers, B, c.num_kv_heads, c.head_dim, T
        cache = kv.empty(shape, model.compute.dtype, kv.Form(1, model.cache_dtype))

        def step(cache: kv.Cache, id_B: jax.Array) -> Any:
            logits_BV, cache = family.decode_step(weights, model.config, model.compute, cache, id_B, cache.lengths_B)
            return cache, logits_BV

        return jax.lax.scan(step, cache, ids_BT.T)[1].swapaxes(0, 1)

    @jax.jit
    def read(weights: Any, ids_BT: jax.Array) -> tuple[jax.Array, jax.Array]:
        logits_BTV = (whole if model.cache_dtype is None else by_token)(weights, ids_BT)
        logprobs_BTV = jax.nn.log_softmax(logits_BTV[:, :-1])
        nats = -jnp.take_along_axis(logprobs_BTV, ids_BT[:, 1:, None], axis=-1).mean()
        return logits_BTV.argmax(-1), nats

    return lambda ids_BT: read(weights, ids_BT)


def in_8_bits(model: Loaded, rows: int) -> dict[str, dict[str, float]]:
    """How far the model is from itself where weights or keys and values are in 8 bits, on rows of a text."""
    texts = [json.loads(line)["text"] for line in TEXT.read_text(encoding="utf-8").splitlines()]
    ids = np.array([i for text in texts for i in model.tokenizer.encode(text)], np.int32)
    firsts = [len(ids) * at // rows for at in range(rows)]  # from all of the text
    others = [at for at in range(0, len(ids) - ROW, ROW) if all(abs(at - first) >= ROW for first in firsts)]
    others = others[:: max(1, len(others) // ROUNDING_ROWS)][:ROUNDING_ROWS]
    sides = {
        "float32": lambda: model,
        "bfloat16 weights": lambda: dataclasses.replace(model, weights=rounded_to_bfloat16(model.weights)),
        "int8": lambda: quantised(model, "int8"),
        "int8, rounded for a text": lambda: quantised(
            model, "int8", None, np.stack([ids[at : at + ROW] for at in others])
        ),
        "int8 cache": lambda: quantised(model, None, "int8"),
    }
    found: dict[str, dict[str, float]] = {}
    best: list[Any] = []
    for name, side in sides.items():
        made = side()
        read, same, nats = reader(made), 0, 0.0
        for at in range(0, rows, TOGETHER):
            rows_BT = np.stack([ids[first : first + ROW] for first in firsts[at : at + TOGETHER]])
            most_probable_BT, loss = read(rows_BT)
            if name == "float32":
                best.append(most_probable_BT)
            same += int((most_probable_BT == best[at // TOGETHER]).sum())
            nats += float(loss) * len(rows_BT) / rows
        size = sum(leaf.nbytes for leaf in jax.tree.leaves(made.weights))
        found[name] = {"top_1_agreement": same / (rows * ROW), "perplexity": float(np.exp(nats)), "bytes": size}
    return found


def rounded_to_bfloat16(weights: Any) -> Any:
    """The weights as bfloat16 holds them, in float32."""
    return jax.tree.map(lambda w: jnp.asarray(w).astype(jnp.bfloat16).astype(jnp.float32), weights)


def cache_bytes(model: Loaded, form: kv.Form, slots: int, length: int) -> int:
    """Bytes of the keys and values of so many rows."""
    c = model.config
    shape = c.num_layers, slots, c.num_kv_heads, c.head_dim, length
    made = jax.eval_shape(lambda: kv.empty(shape, model.compute.dtype, form))
    return sum(one.size * one.dtype.itemsize for one in jax.tree.leaves((made.keys, made.values)))


def beside_sample(model: Loaded, args: argparse.Namespace) -> tuple[list[Row], dict[str, Any]]:
    """Throughput and time to the first token."""
    prompts = prompts_of(model, args.prompts)
    batching = ServeBatching(slots=args.slots, queue=1000, context=args.context)
    engine, int8_cache = (Engine(one, batching=batching) for one in (model, quantised(model, None, "int8")))
    engine.warm()
    int8_cache.warm()
    equal: list[bool] = []

    def both() -> None:
        answers = [
            sampled(model, prompts, args.n, args.new_tokens, args.slots, args.context)[1],
            served(engine, prompts, args.n, args.new_tokens)[1],
        ]
        equal.append(answers[0] == answers[1])

    both()  # compiles, and compares
    tokens = 0

    def rate(side: Any) -> float:
        nonlocal tokens
        seconds, answers = side()
        tokens = sum(map(len, answers))
        return tokens / seconds

    timed = turns(
        args.repeats,
        {
            "sample": lambda: rate(lambda: sampled(model, prompts, args.n, args.new_tokens, args.slots, args.context)),
            "engine": lambda: rate(lambda: served(engine, prompts, args.n, args.new_tokens)),
            "int8 cache": lambda: rate(lambda: served(int8_cache, prompts, args.n, args.new_tokens)),
        },
    )
    found = medians(timed)
    a_second = LOAD * found["engine"] / (tokens / (len(prompts) * args.n))
    waits = first_tokens(engine, prompts_of(model, args.requests), args.new_tokens, a_second)
    engine.close()
    int8_cache.close()
    narrow, wide = (cache_bytes(model, kv.Form(1, dtype), args.slots, args.context) / 1e6 for dtype in NARROW)
    what = f"engine, {args.slots} slots, {args.prompts} prompts x {args.n}"
    rows = [
        Row(what, "tokens/s", found["engine"], found["sample"], "tigerjax sample, the same slots"),
        Row("engine, keys and values in int8", "tokens/s", found["int8 cache"], found["engine"], "in float"),
        Row("keys and values of all slots, in int8", "MB", narrow, wide, "in float", "less"),
        Row("engine, answers that equal those of sample", "", float(all(equal)), better="as is"),
        Row(f"first token at {LOAD:.0%} of that load, median", "s", waits[len(waits) // 2], better="less"),
        Row("first token at that load, 99th of 100", "s", waits[int(len(waits) * 0.99) - 1], better="less"),
    ]
    return rows, {"timed": timed, "first_token_s": waits}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--model", type=Path, help="a model that `tigerjax chat` opens")
    parser.add_argument("--slots", type=int, default=80)
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--n", type=int, default=10)
    parser.add_argument("--new-tokens", type=int, default=128)
    parser.add_argument("--context", type=int, default=256)
    parser.add_argument("--requests", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--rows", type=int, default=64, help="rows of text for --model's int8")
    parser.add_argument("--only", choices=("speed", "int8"), help="leave the other part out")
    parser.add_argument("--tiny", action="store_true", help="a few tokens of a few answers: does it run?")
    args = parser.parse_args()
    if args.tiny:
        args.slots, args.prompts, args.n, args.new_tokens, args.requests, args.repeats = 4, 2, 2, 4, 4, 1
    if args.model is not None:
        model = open_to_talk(args.model)
    else:
        weights = nn.unbox(init(decoder.LanguageModel(CONFIG, FLOAT32), jax.random.key(0)))
        weights["head"] = weights["head"] * 12  # as in sampler.py: between a narrow and a uniform nucleus
        model = Loaded(config=CONFIG, weights=weights, tokenizer=NumberTokenizer(), compute=FLOAT32, sha256="b")
    rows: list[Row] = []
    raw: dict[str, Any] = {}
    if args.only != "int8":
        rows, raw = beside_sample(model, args)
    if args.model is not None and args.only != "speed":
        raw["int8"] = found = in_8_bits(model, args.rows)
        whole = found.pop("float32")
        for name, own in found.items():
            rows += [
                Row(f"{name}, share of equal top-1 tokens", "", own["top_1_agreement"], better="as is"),
                Row(f"{name}, perplexity", "", own["perplexity"], whole["perplexity"], "float32", "less"),
            ]
        narrow, wide = (side["bytes"] / 1e9 for side in (found["int8"], whole))
        rows.append(Row("int8, bytes of the weights", "GB", narrow, wide, "float32", "less"))
    finish(rows, raw, args.json)


if __name__ == "__main__":
    main()
