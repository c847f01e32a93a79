"""Commands as a user types them, in this process, and a project for them."""

import os
import re
import resource
import shlex
from contextlib import contextmanager
from pathlib import Path

import jax

from tigerjax.command import cli

SMALL_FILE = 20_000  # bytes that a file may grow to where a full disk is played; rows and weights are larger

MIXTURE = """
from tigerjax.data.mixture import Source, holistic
for name, zh in {"whole": "zh.jsonl", "broken": "broken.jsonl", "latin": "latin.jsonl", "empty": "empty.jsonl",
                 "missing": "missing.jsonl"}.items():
    holistic(name, tokenizer="tok", zh={"a": Source(zh)}, en={"b": Source("en.jsonl")},
             instruct=Source("sft.jsonl"), instruct_fraction=0.1)
"""

CONFIG = """
from tigerjax.config import *

def config():
    return RunConfig(
        name="tiny",
        model=ModelConfig(num_layers=1, model_dim=32, mlp_dim=48, num_heads=4, num_kv_heads=2, head_dim=8,
                          vocab_size=1200, padded_vocab_size=1280, rope_base=10000.0, norm_eps=1e-5),
        compute=ComputeConfig(attention="reference", remat="none", dtype="float32", loss_chunk_tokens=512),
        mesh=MeshConfig(),
        optim=OptimConfig(peak_lr=3e-3, final_lr_fraction=0.1, warmup_steps=2, total_steps=4, beta1=0.9, beta2=0.95,
                          eps=1e-8, weight_decay=0.1, clip_norm=1.0),
        data=DataConfig(mixture="whole", modules=("cli_mixture",), tokenizer="tok", cache_dir="cache", seq_len=64),
        checkpoint=CheckpointConfig(every_steps=2, keep=2), global_batch_size=4, seed=0, log_every_steps=1)
"""


@contextmanager
def at(folder: Path):
    before = os.getcwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


@contextmanager
def full_disk():
    """No file of this process grows past SMALL_FILE: the system refuses as it does on a full disk (EFBIG)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    jax.config.update("jax_enable_compilation_cache", False)  # the suite's own files must not be cut short
    resource.setrlimit(resource.RLIMIT_FSIZE, (SMALL_FILE, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        jax.config.update("jax_enable_compilation_cache", True)


def run(command: str, capfd) -> tuple[int, str, str]:
    """(exit code, stdout, stderr) of a command in this process."""
    capfd.readouterr()
    try:
        code = cli.main(shlex.split(command))
    except SystemExit as done:  # help
        code = int(done.code or 0)
    said = capfd.readouterr()
    return code, said.out, said.err


def refused(command: str, code: int, words: str, capfd) -> None:
    """Exit code and exactly one line on stderr that holds `words`."""
    got, _, err = run(command, capfd)
    lines = err.splitlines()
    assert got == code and len(lines) == 1 and lines[0].startswith("tigerjax: "), (got, err)
    assert re.search(words, lines[0]), lines[0]


def refused_last(command: str, code: int, words: str, capfd) -> None:
    """As `refused`, of a command that also tells of its progress."""
    got, _, err = run(command, capfd)
    last = err.splitlines()[-1]
    assert got == code and last.startswith("tigerjax: ") and re.search(words, last), (got, err)
