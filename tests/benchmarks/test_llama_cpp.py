"""An export in llama.cpp, which is built from its Python package: it draws the tokens that we draw."""

import os
from pathlib import Path

import numpy as np
import pytest
from hand_tokenizer import INS, PAD, PIECES, RES, write_added

from tigerjax.config import ModelConfig
from tigerjax.convert import hf
from tigerjax.model.hf_weights import hf_rows
from tigerjax.model.weights import put

ROOT = Path(__file__).resolve().parents[2]
SIZE = PIECES + 3
MODEL = ModelConfig(
    num_layers=2, model_dim=64, mlp_dim=96, num_heads=4, num_kv_heads=2, head_dim=16, vocab_size=SIZE,
    padded_vocab_size=SIZE + 5, rope_base=731.0, norm_eps=3e-3,
)  # fmt: skip
SMOLLM2 = Path(os.environ.get("TIGERJAX_SMOLLM2", ROOT / "runs" / "smollm2"))

pytestmark = [pytest.mark.slow, pytest.mark.peers]


@pytest.fixture
def peer(monkeypatch):
    """(the benchmark, llama.cpp), built in the folder that TIGERJAX_LLAMA_CPP names, or in the user's cache."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks" / "speed"))
    import llama_cpp_peer

    place = Path(os.environ.get("TIGERJAX_LLAMA_CPP") or llama_cpp_peer.cache())
    try:
        return llama_cpp_peer, llama_cpp_peer.built(place)
    except RuntimeError as error:
        if "from versions: none" in str(error):
            pytest.skip(f"pip cannot reach a registry: {error}")
        raise


@pytest.fixture
def exported(tmp_path):
    """A model of random weights with the tokenizer and the markers of a chat model."""
    from tigerjax.tokenizer.export import export

    rng, weights = np.random.default_rng(2), {}
    for row in hf_rows(MODEL, rows=SIZE, reward=False):
        put(weights, row.ours, (0.3 * rng.normal(size=row.stacked_shape(MODEL))).astype(np.float32))
    write_added(tmp_path / "tok", INS, RES, PAD)
    export(tmp_path / "tok")
    hf.to_hf(weights, MODEL, tmp_path / "hf", hf.Export(tokenizer=tmp_path / "tok", seq_len=64))
    return tmp_path / "hf"


def test_an_export_in_llama_cpp_draws_the_same_greedy_tokens(peer, exported):
    bench, llama_cpp = peer
    found = bench.compared(exported, llama_cpp, context=64)
    assert [one["theirs"]["prompt"] for one in found] == [one["prompt"] for one in found]
    assert [one["theirs"]["answer"] for one in found] == [one["answer"] for one in found]
    assert sum(len(one["answer"]) for one in found) > 60


@pytest.mark.skipif(not SMOLLM2.is_dir(), reason="benchmarks/data/smollm2.py --out runs/smollm2 makes the model")
def test_smollm2_in_llama_cpp_draws_the_same_greedy_tokens(peer):
    bench, llama_cpp = peer
    found = bench.compared(SMOLLM2, llama_cpp, context=256)
    assert [one["theirs"]["answer"] for one in found] == [one["answer"] for one in found]
