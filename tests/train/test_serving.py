"""Sampling, evaluation and scoring on a mesh and across processes give what one device gives; one process writes."""

import json
import shutil

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import serving
from child_processes import run
from tiny_model import COMPUTE, CONFIG, ByteTokenizer

from tigerjax.checkpoint.model import load_model, save_model
from tigerjax.checkpoint.stored import load_placed, open_whole
from tigerjax.errors import DataError
from tigerjax.mesh import make_mesh
from tigerjax.model import decoder
from tigerjax.model.layers import init
from tigerjax.model.reward import RewardModel
from tigerjax.sample.folder import CANDIDATES

CLOSE = 2e-5  # nats: sums over split rows of products, in another order


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Folders of a language model and a reward model; weights large enough that answers differ."""
    folder = tmp_path_factory.mktemp("models")
    for kind, model in (("llama", decoder.LanguageModel), ("reward", RewardModel)):
        weights = nn.unbox(init(model(CONFIG, COMPUTE), jax.random.key(5)))
        weights = jax.tree.map(lambda w: np.asarray(w) * (4 if w.ndim > 2 else 1), weights)
        save_model(folder / kind, weights, CONFIG, kind=kind, tokenizer_sha256=ByteTokenizer.sha256)
    return folder / "llama", folder / "reward"


@pytest.fixture(scope="module")
def alone(models, tmp_path_factory):
    """What one device gives: (figures, the bytes of its samples)."""
    out = tmp_path_factory.mktemp("alone")
    found = serving.use(*models, out, None)
    assert found["sha256"] == load_model(models[0]).sha256 and found["tokens"] > 20
    return found, (out / "samples" / CANDIDATES).read_bytes()


def check(models, alone, out, processes: int) -> None:
    ended = run([serving.__file__, *models, out], out / "process", processes)
    assert ended.codes == [0] * processes, ended.errors
    figures, samples = alone
    wrote = [json.loads((out / f"{p}.json").read_text()) for p in range(processes)]
    assert all(found == wrote[0] for found in wrote)
    for name in ("sha256", "prompts", "tokens", "continuations"):
        assert wrote[0][name] == figures[name]
    found, wanted = (np.array(f["loglikelihoods"], float) for f in (wrote[0], figures))
    np.testing.assert_allclose(found, wanted, atol=CLOSE, rtol=CLOSE)
    np.testing.assert_allclose(wrote[0]["rewards"], figures["rewards"], atol=CLOSE, rtol=CLOSE)
    assert tokens_of((out / "samples" / CANDIDATES).read_bytes()) == tokens_of(samples)
    assert len((out / "cache.jsonl").read_text().splitlines()) == 25  # one writer


def tokens_of(samples: bytes) -> list[object]:
    records = map(json.loads, samples.splitlines())
    return [(r["prompt_id"], c["cid"], c["token_ids"]) for r in records for c in r["candidates"]]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_checkpoint_is_read_onto_a_mesh_as_it_is_read_whole(models, dtype):
    mesh = make_mesh(serving.MESH, jax.devices()[:4])
    for path in models:
        whole, placed = load_model(path), load_placed(path, mesh, dtype)
        assert placed._replace(weights=None) == whole._replace(weights=None)
        for name, weights in whole.weights.items():
            kind = jnp.dtype("float32" if name == "score" else dtype)
            for want, got in zip(jax.tree.leaves(weights), jax.tree.leaves(placed.weights[name]), strict=True):
                assert got.dtype == kind
                np.testing.assert_array_equal(np.asarray(got), want.astype(kind))
        assert len({str(s.index) for s in placed.weights["layers"]["attn"]["q"].addressable_shards}) == 4


def test_a_damaged_checkpoint_is_not_placed_and_of_a_run_the_one_before_is(models, tmp_path, capfd):
    shutil.copytree(models[0], tmp_path / "damaged")
    files = [path for path in (tmp_path / "damaged" / "weights").rglob("*") if path.is_file()]
    largest = max(files, key=lambda path: path.stat().st_size)
    data = bytearray(largest.read_bytes())
    data[len(data) // 2] ^= 1
    largest.write_bytes(data)
    with pytest.raises(DataError, match="xxh3 is"):
        load_placed(tmp_path / "damaged", make_mesh(serving.MESH, jax.devices()[:4]), "float32")
    run = tmp_path / "run" / "checkpoints"
    shutil.copytree(tmp_path / "damaged", run / "2")
    shutil.copytree(models[0], run / "1")
    assert open_whole(tmp_path / "run").path == run / "1"
    assert "checkpoints/2" in capfd.readouterr().err


def test_two_processes_sample_evaluate_and_score_as_one_device_does(models, alone, tmp_path):
    check(models, alone, tmp_path, processes=2)


@pytest.mark.slow
def test_four_processes_sample_evaluate_and_score_as_one_device_does(models, alone, tmp_path):
    check(models, alone, tmp_path, processes=4)
