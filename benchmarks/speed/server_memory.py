"""The memory of `tigerjax serve` over ten thousand requests.

    JAX_PLATFORMS=cpu python benchmarks/speed/server_memory.py --json server_memory.json

A tiny random model is served by a process of its own, and 8 clients ask it at the same time: answers at once and as
streams, several to a prompt, with stop strings and log-probabilities. A tenth are streams that the client leaves in
their midst, and four tenths are refused (no JSON, an unknown field, a wrong type, a prompt that is too long). Every
text is another one, so that the blocks of read prompts fill up. The memory is what the process holds in RAM (VmRSS of
Linux), after every tenth of the requests.
"""

import argparse
import collections
import concurrent.futures
import json
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np
from server_peer import free_port, running
from turns import Row, finish, peer

from tigerjax.checkpoint.model import save_model
from tigerjax.config import FLOAT32, ModelConfig
from tigerjax.model import decoder
from tigerjax.model.layers import init
from tigerjax.tokenizer.load import Tokenizer
from tigerjax.tokenizer.model_file import SPECIAL_TEXTS

BASE = Path(__file__).resolve().parents[2] / "data_mixtures" / "embedded" / "base_32000.model"
CLIENTS, TENTHS = 8, 10
CONTEXT, KEPT_MB = 256, 4
CONFIG = ModelConfig(
    num_layers=2,
    model_dim=48,
    mlp_dim=96,
    num_heads=4,
    num_kv_heads=2,
    head_dim=12,
    vocab_size=32_003,
    padded_vocab_size=32_128,
    rope_base=10_000.0,
    norm_eps=1e-5,
)


class Watched(NamedTuple):
    """What was seen of the server."""

    rss_bytes: list[int]
    """Before the first request and after each tenth of them."""
    statuses: dict[str, int]
    """How many requests had each HTTP status; "left" are streams that the client left."""
    seconds: float


def write_model(folder: Path) -> tuple[Path, Path]:
    """A tiny random chat model and its tokenizer: (model, tokenizer)."""
    place = folder / "tokenizer"
    place.mkdir()
    shutil.copy(BASE, place / "tokenizer.model")
    added = {text: 32_000 + n for n, text in enumerate(SPECIAL_TEXTS.values())}
    (place / "added_tokens.json").write_text(json.dumps(added), encoding="utf-8")
    tokenizer = Tokenizer(place)
    weights = nn.unbox(init(decoder.LanguageModel(CONFIG, FLOAT32), jax.random.key(0)))
    save_model(
        folder / "model",
        jax.tree.map(np.asarray, weights),
        CONFIG,
        kind="llama",
        tokenizer_sha256=tokenizer.sha256,
        extra={},
    )
    return folder / "model", place


def body_of(k: int) -> tuple[str, Any]:
    """(path, body) of request k. A body of bytes is sent as it is."""
    text = f"{k:06d} " + "tiger moon river " * (k % 7)
    chat = {"messages": [{"role": "user", "content": text}], "max_tokens": 1 + k % 5}
    path = "/v1/chat/completions"
    kinds: list[tuple[str, Any]] = [
        (path, chat | {"stream": True, "max_tokens": 60}),  # left after the first event
        (path, chat | {"stream": True, "stop": ["a", "the"]}),
        (path, chat | {"n": 3, "seed": k}),
        (path, chat | {"logprobs": True, "top_logprobs": 5}),
        ("/v1/completions", {"prompt": [text, text + "?"], "max_tokens": 3, "stop": "."}),
        (path, chat),
        (path, b'{"messages": [' + text.encode()),
        (path, chat | {f"field_{k}": 1}),
        (path, chat | {"temperature": text}),
        (path, chat | {"messages": [{"role": "user", "content": text + " tiger" * 400}]}),
    ]
    return kinds[k % len(kinds)]


def ask(http: Any, k: int) -> str:
    """Sends request k; its status."""
    path, body = body_of(k)
    if isinstance(body, bytes):
        return str(http.post(path, content=body, headers={"content-type": "application/json"}).status_code)
    if k % 10 == 0:
        with http.stream("POST", path, json=body) as stream:
            next(stream.iter_raw())
        return "left"
    return str(http.post(path, json=body).status_code)


def ask_all(http: Any, numbers: list[int]) -> list[str]:
    """Sends these requests one after the other; their statuses."""
    return [ask(http, k) for k in numbers]


def resident(pid: int) -> int:
    """Bytes of a process that lie in memory."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))


def watched(requests: int) -> Watched:
    """What becomes of a server that gets so many requests."""
    httpx2 = peer("httpx2")
    statuses: collections.Counter[str] = collections.Counter()
    with tempfile.TemporaryDirectory() as scratch:
        model, tokenizer = write_model(Path(scratch))
        port = free_port()
        words = [sys.executable, "-m", "tigerjax", "serve", model, "--tokenizer", tokenizer, "--port", port]
        words += ["--context", CONTEXT, "--slots", CLIENTS, "--kept-mb", KEPT_MB]
        with running(words, port) as (address, pid), concurrent.futures.ThreadPoolExecutor(CLIENTS) as pool:
            clients = [httpx2.Client(base_url=address, timeout=120) for _ in range(CLIENTS)]
            seen, started = [resident(pid)], time.perf_counter()
            for tenth in range(TENTHS):
                those = range(requests * tenth // TENTHS, requests * (tenth + 1) // TENTHS)
                shares = [[k for k in those if k // 10 % CLIENTS == one] for one in range(CLIENTS)]
                for answered in pool.map(ask_all, clients, shares):
                    statuses.update(answered)
                seen.append(resident(pid))
                print(f"{those.stop:,} requests: {seen[-1] / 1e6:,.1f} MB", flush=True)
            seconds = time.perf_counter() - started
            for http in clients:
                http.close()
    return Watched(seen, dict(statuses), seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--requests", type=int, default=10_000)
    args = parser.parse_args()
    found = watched(args.requests)
    half = found.rss_bytes[len(found.rss_bytes) // 2]
    rows = [
        Row("server's memory after half of the requests", "MB", half / 1e6, better="as is"),
        Row("server's memory after all of them", "MB", found.rss_bytes[-1] / 1e6, better="as is"),
        *[Row(f"requests, {status}", "", count, better="as is") for status, count in sorted(found.statuses.items())],
    ]
    finish(rows, found._asdict(), args.json)


if __name__ == "__main__":
    main()
