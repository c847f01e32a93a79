"""`tigerjax serve` beside the server of llama.cpp: tokens per second that 1 and 16 clients get, in float32 on a CPU.

    python benchmarks/speed/server_peer.py runs/smollm2 --json server_peer.json

The folder is one of Hugging Face. Both servers are started on this machine with 16 slots and two threads, and one waits
while the other works. A client sends a prompt, reads the whole answer, and sends the next one; answers are greedy and
have up to 128 tokens. They are timed in turns, after a round that is not counted. `equal` is how many answers of the
last round are the same text.

llama.cpp is that of `llama_cpp_peer.py`; its server is built beside it, which takes some minutes once.
"""

import argparse
import contextlib
import functools
import json
import os
import queue
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import llama_cpp_peer
from turns import Row, finish, medians, peer, turns

CLIENTS = (1, 16)
SLOTS, CONTEXT, NEW_TOKENS, THREADS = 16, 512, 128, 2
SUBJECTS = (
    "the capital of France", "how bread is made", "the moons of Jupiter", "a walk in the rain", "why leaves are green",
    "the first railway", "two friends and a dog", "how a clock works", "the sea in winter", "a recipe for soup",
    "the history of paper", "a letter to a teacher", "what clouds are", "the oldest bridge", "a day at a market",
    "how glass is made",
)  # fmt: skip
PROMPTS = [f"Here is a short text about {subject}, written for children:\n\n" for subject in SUBJECTS]
SERVER_OPTIONS = ("LLAMA_BUILD_TESTS=OFF", "LLAMA_BUILD_EXAMPLES=OFF", "LLAMA_BUILD_SERVER=ON", "LLAMA_OPENSSL=OFF")


def server(place: Path) -> Path:
    """llama.cpp's server in the folder of `llama_cpp_peer.built`; built where it is not."""
    binary = place / "server" / "bin" / "llama-server"
    if not binary.is_file():
        options = [f"-D{option}" for option in ("CMAKE_BUILD_TYPE=Release", "GGML_NATIVE=ON", *SERVER_OPTIONS)]
        for words in (["-S", place / "source", "-B", place / "server", *options], ["--build", place / "server"]):
            target = ["--target", "llama-server", "-j", os.cpu_count()] if words[0] == "--build" else []
            done = subprocess.run(["cmake", *map(str, words + target)], capture_output=True, text=True)
            if done.returncode:
                raise SystemExit(f"llama.cpp's server was not built: {(done.stderr or done.stdout)[-1500:]}")
    return binary


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port


@contextlib.contextmanager
def running(words: list[Any], port: int) -> Iterator[tuple[str, int]]:
    """A server for as long as the block lasts: (its address, the id of its process), once it answers /health."""
    address = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(list(map(str, words)), stdout=log, stderr=log)
        try:
            for _ in range(1200):
                with contextlib.suppress(OSError), urllib.request.urlopen(f"{address}/health", timeout=5):
                    break
                if process.poll() is not None:
                    log.seek(0)
                    raise SystemExit(f"{words[0]} ended: {log.read()[-1500:]}")
                time.sleep(0.25)
            yield address, process.pid
        finally:
            process.terminate()
            process.wait(60)


def answer(address: str, prompt: str) -> tuple[str, int]:
    """(text, tokens) of a greedy answer."""
    body = {"prompt": prompt, "max_tokens": NEW_TOKENS, "temperature": 0}
    request = urllib.request.Request(
        f"{address}/v1/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=600) as got:
        said = json.load(got)
    return said["choices"][0]["text"], said["usage"]["completion_tokens"]


def asked(address: str, clients: int, prompts: list[str]) -> tuple[float, list[str]]:
    """(tokens per second, the answers) of so many clients that share the prompts."""
    left: queue.SimpleQueue[int] = queue.SimpleQueue()
    for number in range(len(prompts)):
        left.put(number)
    got: dict[int, tuple[str, int]] = {}

    def client() -> None:
        with contextlib.suppress(queue.Empty):
            while True:
                number = left.get_nowait()
                got[number] = answer(address, prompts[number])

    threads = [threading.Thread(target=client) for _ in range(clients)]
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - started
    if len(got) < len(prompts):
        raise SystemExit(f"{address}: {len(prompts) - len(got)} of {len(prompts)} requests were not answered")
    return sum(tokens for _, tokens in got.values()) / seconds, [got[n][0] for n in range(len(prompts))]


def timed_side(name: str, address: str, clients: int, prompts: list[str], last: dict[str, list[str]]) -> float:
    """Tokens per second; `last` keeps the answers."""
    rate, last[name] = asked(address, clients, prompts)
    return rate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="a folder of Hugging Face")
    parser.add_argument("--llama-cpp", type=Path, default=llama_cpp_peer.cache(), help="where it is, or is built")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    peer("torch")
    peer("transformers")
    place = llama_cpp_peer.built(args.llama_cpp)
    binary = server(place)
    rows, raw = [], {}
    with tempfile.TemporaryDirectory() as scratch, contextlib.ExitStack() as servers:
        gguf = Path(scratch) / "model.gguf"
        llama_cpp_peer.to_gguf(place, args.folder, gguf)
        ports = free_port(), free_port()
        theirs = [binary, "-m", gguf, "--port", ports[0], "-np", SLOTS, "-c", SLOTS * CONTEXT, "-t", THREADS]
        theirs += ["-tb", THREADS, "-ctk", "f32", "-ctv", "f32", "--no-webui"]
        ours = [sys.executable, "-m", "tigerjax", "serve", args.folder, "--port", ports[1], "--slots", SLOTS]
        ours += ["--context", CONTEXT, "--dtype", "float32"]
        addresses = {"llama.cpp": servers.enter_context(running(theirs, ports[0]))[0]}
        addresses["ours"] = servers.enter_context(running(ours, ports[1]))[0]
        for clients in CLIENTS:
            prompts = PROMPTS * (2 if clients > 1 else 1)
            prompts = prompts if clients > 1 else prompts[:4]
            last: dict[str, list[str]] = {}

            sides = {
                name: functools.partial(timed_side, name, addresses[name], clients, prompts, last) for name in addresses
            }
            for side in sides.values():
                side()
            timed = turns(args.repeats, sides)
            found = medians(timed)
            rows.append(Row(f"{clients} clients, decode", "tokens/s", found["ours"], found["llama.cpp"], "llama.cpp"))
            same = sum(a == b for a, b in zip(last["ours"], last["llama.cpp"], strict=True))
            rows.append(Row(f"{clients} clients, equal answers of {len(prompts)}", "", same, better="as is"))
            raw[f"{clients}"] = {"repeats": timed, "equal": same}
    finish(rows, raw | {"llama-cpp-python": llama_cpp_peer.VERSION}, args.json)


if __name__ == "__main__":
    main()
