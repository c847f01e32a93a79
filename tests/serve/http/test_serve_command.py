"""`tigerjax serve` as a process: what it refuses before it reads a model, how it starts, and how it ends."""

import json
import signal
import socket
import subprocess
import sys
from pathlib import Path

import flax.linen as nn
import httpx2
import jax
import numpy as np
import pytest
from hand_tokenizer import INS, PAD, RES, write_added
from tiny_model import COMPUTE

from tigerjax.checkpoint.model import save_model
from tigerjax.command import cli
from tigerjax.config import ModelConfig
from tigerjax.errors import ConfigError
from tigerjax.model import decoder
from tigerjax.model.layers import init
from tigerjax.model.reward import RewardModel
from tigerjax.serve import keys
from tigerjax.tokenizer.load import Tokenizer

LONG_S = 120  # a wait that ends only when something is wrong
KEY = "0123456789abcdef" * 2


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A chat model, a reward model, and their tokenizer."""
    place = tmp_path_factory.mktemp("to_serve")
    tokenizer = Tokenizer(write_added(place / "tokenizer", INS, RES, PAD))
    sizes = {"num_layers": 1, "model_dim": 24, "mlp_dim": 40, "num_heads": 3, "num_kv_heads": 1, "head_dim": 8}
    config = ModelConfig(**sizes, vocab_size=tokenizer.size, padded_vocab_size=272, rope_base=777.0, norm_eps=1e-5)
    extra = {"calibration": {"mean": 0.0, "std": 1.0, "n": 9}, "truncation_penalty": 1.0, "seq_len": 96}
    rng = np.random.default_rng(0)
    for name, made, kind in (
        ("chat", decoder.LanguageModel(config, COMPUTE), "llama"),
        ("reward", RewardModel(config, COMPUTE), "reward"),
    ):
        shapes = jax.eval_shape(lambda key, made=made: nn.unbox(init(made, key)), jax.random.key(0))
        weights = jax.tree.map(lambda leaf: rng.normal(0, 0.05, leaf.shape).astype(np.float32), shapes)
        save_model(place / name, weights, config, kind=kind, tokenizer_sha256=tokenizer.sha256, extra=extra)
    (place / "keys").write_text(f"{KEY}\n\n", encoding="utf-8")
    return place


@pytest.fixture(scope="module")
def server(folder):
    """(its process, its address), with a key, labels and a reward model; it logs no prompts."""
    words = ["serve", folder / "chat", "--tokenizer", folder / "tokenizer", "--port", "0", "--context", "512"]
    words += ["--api-key-file", folder / "keys", "--labels", folder / "labels", "--reward-model", folder / "reward"]
    words += ["--slots", "2", "--max-new-tokens", "400", "--drain-s", "60", "--json", folder / "figures"]
    running = subprocess.Popen(
        [sys.executable, "-m", "tigerjax", *map(str, words)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    line = running.stdout.readline()
    if "answers at" not in line:
        running.kill()
        raise AssertionError((line, running.communicate()))
    yield running, line.split()[3].removesuffix(",").removesuffix("/v1")
    if running.poll() is None:
        running.kill()
    running.communicate()


def test_it_answers_scores_and_labels_and_ends_in_order_with_what_runs(server, folder):
    running, url = server
    with httpx2.Client(
        base_url=url, headers={"authorization": f"Bearer {KEY}"}, timeout=LONG_S, verify=False
    ) as client:
        assert httpx2.get(f"{url}/v1/models").status_code == 401
        assert client.get("/health").json() == {"status": "ok", "model": "chat"}
        assert "'sha256-" in client.get("/").headers["content-security-policy"]
        messages = [{"role": "user", "content": "a secret 秘密"}]
        scored = client.post("/v1/score", json={"messages": messages, "answers": ["yes", "no", "x " * 600]})
        assert scored.status_code == 400 and "answer 2 and its conversation are too long" in scored.text
        scored = client.post("/v1/score", json={"messages": messages, "answers": ["yes", "no"]}).json()
        assert len(scored["data"]) == 2 and sorted(scored["ranking"]) == [0, 1]
        label = {"annotator": "ann", "messages": messages, "candidates": [{"text": "yes"}, {"text": "no"}]}
        assert client.post("/v1/labels", json=label | {"ranking": [[1]]}).status_code == 200
        (line,) = (folder / "labels" / "labels.jsonl").read_text(encoding="utf-8").splitlines()
        assert json.loads(line)["ranking"] == [["B"]]
        body = {"messages": messages, "max_tokens": 400, "stream": True, "seed": 1}
        with client.stream("POST", "/v1/chat/completions", json=body) as stream:
            lines = stream.iter_lines()
            next(lines)
            running.send_signal(signal.SIGTERM)
            rest = [text for text in lines if text]
        assert rest[-1] == "data: [DONE]"
        ended = json.loads(rest[-2].removeprefix("data: "))["choices"][0]
        assert ended["finish_reason"] in ("stop", "length")
    out, err = running.communicate(timeout=LONG_S)
    assert running.returncode == 0, err
    assert "secret" not in out + err and "秘密" not in out + err and "Traceback" not in err
    assert "POST /v1/chat/completions 200 " in err and " tokens in, " in err
    assert "POST /v1/labels 200 " in err and "the server has ended" in err
    figures = json.loads((folder / "figures").read_text(encoding="utf-8"))
    assert figures["labels"] == 1 and figures["by_code"] == {"200": 5, "400": 1, "401": 1}
    assert figures["answer_tokens"] > 0 and figures["requests"] == 7
    with pytest.raises(httpx2.ConnectError):
        httpx2.get(f"{url}/health")


def refused(words: list[str], capsys, monkeypatch, code: int) -> str:
    monkeypatch.delenv("TIGERJAX_API_KEY", raising=False)
    assert cli.main(["serve", *map(str, words)]) == code
    said = capsys.readouterr()
    (line,) = said.err.splitlines()[-1:]
    assert said.out == "" and line.startswith("tigerjax: ")
    return line


def test_what_cannot_be_served_is_refused_in_a_line_before_a_model_is_read(folder, tmp_path, capsys, monkeypatch):
    (tmp_path / "short").write_text("abc\n")
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "umlaut").write_text("ä" * 20 + "\n", encoding="utf-8")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        for words, code, said in [
            (["--port", port], 2, f"port {port} of 127.0.0.1 is taken by another program; give another --port"),
            (["--port", "70000"], 2, "--port 70000 must be at least 0 and at most 65,535"),
            (["--port", "http"], 2, "--port http"),
            (["--host", "300.1.1.1"], 2, "--host 300.1.1.1 is no address of this machine"),
            (["--host", "192.0.2.1"], 2, "cannot listen at port 0 of 192.0.2.1"),
            (["--api-key-file", tmp_path / "absent"], 2, "absent: No such file or directory; give a file with a key"),
            (["--api-key-file", tmp_path / "short"], 2, "short:1: a key has at least 16 characters"),
            (["--api-key-file", tmp_path / "empty"], 2, "empty holds no key; write one on each line"),
            (
                ["--api-key-file", tmp_path / "umlaut"],
                2,
                "umlaut:1: a key has at least 16 characters, all of them ASCII",
            ),
            (["--labels", tmp_path / "empty"], 2, f"--labels {tmp_path / 'empty'} is a file; give a folder"),
            (["--labels", tmp_path / "empty", "--dry-run"], 2, "is a file; give a folder"),
            (["--tokenizer", tmp_path / "absent", "--dry-run"], 3, "absent: no such file or folder"),
            (["--mesh.fsdp", "64"], 2, "64 devices"),
            (["--mesh.fsdp", "64", "--dry-run"], 2, "64 devices"),
            (["--served-name", " ", "--dry-run"], 2, "--served-name is empty; give the model's id"),
            (["--reward-model", folder / "chat", "--dry-run"], 2, "reward"),
        ]:
            assert said in refused([folder / "chat", "--port", "0", *words], capsys, monkeypatch, code), words
    for words in (["absent"], ["absent", "--dry-run"]):
        assert "absent" in refused([*words, "--port", "0"], capsys, monkeypatch, 3)
    word = ["--tokenizer", folder / "tokenizer", "--port", "0"]
    assert "reward" in refused([folder / "reward", *word], capsys, monkeypatch, 2)


def test_a_key_file_of_another_system_holds_its_keys_and_a_blank_variable_is_no_key(tmp_path):
    file = tmp_path / "keys"
    file.write_bytes(b"\xef\xbb\xbf" + KEY.encode() + b"\r\n\r\n" + KEY.upper().encode())
    assert keys.read(file, {keys.VARIABLE: ""}) == (KEY, KEY.upper())
    with pytest.raises(ConfigError, match=f"{keys.VARIABLE}: a key has at least 16 characters"):
        keys.read(None, {keys.VARIABLE: " "})


def test_a_dry_run_says_what_would_be_served_and_keeps_no_port(folder, capsys, monkeypatch):
    monkeypatch.setenv("TIGERJAX_API_KEY", KEY)
    words = ["serve", folder / "chat", "--dry-run", "--port", "0", "--labels", folder / "none", "--host", "0.0.0.0"]
    assert cli.main(list(map(str, words))) == 0
    said = capsys.readouterr()
    assert "would serve chat at http://0.0.0.0:0" in said.out and "keys    1" in said.out and said.err == ""
    assert not (folder / "none").exists() and KEY not in said.out
    monkeypatch.delenv("TIGERJAX_API_KEY")
    assert cli.main(list(map(str, words))) == 0
    assert "warning: everybody who reaches 0.0.0.0 can use this server" in capsys.readouterr().err
