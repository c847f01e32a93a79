"""Conversion on disk: what Orbax reads back, restarts in the middle, verification that finds what was changed."""

import dataclasses
import json
import os

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from test_hf import CONFIG, Q1, assert_same, edit_config, random_weights

from tigerjax.checkpoint import arrays as store
from tigerjax.checkpoint.model import load_model, save_model
from tigerjax.checkpoint.stored import open_model
from tigerjax.command import convert
from tigerjax.command.cli import main
from tigerjax.config import ComputeConfig
from tigerjax.convert import hf, read, verify
from tigerjax.errors import ConfigError, DataError
from tigerjax.model import decoder
from tigerjax.model import weights as rows_of_weights
from tigerjax.model.hf_weights import hf_rows
from tigerjax.model.probe import layered_logits, numpy_logits

PLAIN = ComputeConfig(attention="reference", remat="none", dtype="float32", loss_chunk_tokens=8)
ROUNDING = 1e-5


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks of two heads or seven rows, so that every tensor takes several."""
    monkeypatch.setattr(rows_of_weights, "BLOCK_BYTES", 4 * 12 * 8)


@pytest.fixture
def exported(tmp_path):
    hf.to_hf(random_weights(), CONFIG, tmp_path / "hf", hf.Export(tokenizer=None, max_shard_bytes=9000))
    return tmp_path / "hf"


def spec():
    return hf_rows(CONFIG, rows=CONFIG.vocab_size)


@pytest.mark.parametrize("kind", ["llama", "reward"])
def test_both_ways_on_disk_give_back_every_bit_and_orbax_reads_it(tmp_path, small_blocks, kind):
    weights = random_weights(reward=kind == "reward")
    extra = {"calibration": {"mean": 1.5, "std": 0.25}}
    hf.to_hf(weights, CONFIG, tmp_path / "hf", hf.Export(tokenizer=None, max_shard_bytes=9000, extra=extra))
    convert.from_hf(tmp_path / "hf", tmp_path / "run", verify=True, json=tmp_path / "in.json")
    model = load_model(tmp_path / "run")
    assert model.config == CONFIG and model.kind == kind
    assert model.extra["calibration"] == extra["calibration"] and model.extra["source"]["folder"] == "hf"
    assert_same(model.weights, weights)
    convert.to_hf(tmp_path / "run", tmp_path / "again", verify=True, json=tmp_path / "out.json")
    for name in (read.CHECKSUMS, "generation_config.json"):
        if (tmp_path / "hf" / name).is_file():
            assert (tmp_path / "again" / name).read_text() == (tmp_path / "hf" / name).read_text()
    figures = json.loads((tmp_path / "out.json").read_text())
    assert figures["tensors"] == figures["verified_tensors"] == 3 + 9 * 3
    assert 0 < figures["probe_max_abs_logit_diff"] < ROUNDING * 10
    assert not list(tmp_path.glob("*.partial"))


def test_a_training_checkpoint_is_stored_a_layer_a_chunk_and_exports_alike(tmp_path, exported):
    save_model(tmp_path / "run", jax.tree.map(jnp.asarray, random_weights()), CONFIG)
    model = open_model(tmp_path / "run")
    assert model.weights["layers"]["mlp"]["gate"].chunks == (1, 12, 28)
    convert.to_hf(tmp_path / "run", tmp_path / "again")
    assert (tmp_path / "again" / read.CHECKSUMS).read_text() == (exported / read.CHECKSUMS).read_text()


def test_a_damaged_checkpoint_is_not_exported(tmp_path, capsys):
    save_model(tmp_path / "run", jax.tree.map(jnp.asarray, random_weights()), CONFIG)
    largest = max((p for p in (tmp_path / "run" / "weights").rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    raw = bytearray(largest.read_bytes())
    raw[len(raw) // 2] ^= 4
    largest.write_bytes(raw)
    assert main(["convert", "to-hf", str(tmp_path / "run"), str(tmp_path / "again")]) == 3
    assert f"{largest}: xxh3 is" in capsys.readouterr().err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["run"]


def test_bfloat16_on_both_sides_is_rounded_once(tmp_path, exported, small_blocks):
    convert.from_hf(exported, tmp_path / "run", dtype="bfloat16", verify=True)
    stored = load_model(tmp_path / "run").weights
    assert all(w.dtype == ml_dtypes.bfloat16 for w in jax.tree.leaves(stored))
    assert_same(stored, jax.tree.map(lambda w: w.astype(ml_dtypes.bfloat16), random_weights()))
    convert.to_hf(tmp_path / "run", tmp_path / "again", dtype="bfloat16", keep_padding=True, verify=True)
    tensors = load_file(tmp_path / "again/model.safetensors")
    assert tensors["lm_head.weight"].shape == (40, 12) and tensors[Q1].dtype == ml_dtypes.bfloat16


class Killed(BaseException):
    """As a signal would be: no code handles it."""


@pytest.mark.parametrize("after", [0, 1, 2, 7, 29])
def test_a_killed_import_goes_on_where_it_was(tmp_path, exported, small_blocks, monkeypatch, after):
    opened, partial, reads = read.open_hf(exported), tmp_path / "run.partial", []
    rows = opened.tensors.rows

    def dies(name, start, stop):
        reads.append(name)
        if len(set(reads)) > after and start > 0:
            raise Killed
        return rows(name, start, stop)

    monkeypatch.setattr(opened.tensors, "rows", dies)
    with pytest.raises(Killed):
        read.stream_in(opened, partial)
    done = set(reads[:-1]) - {reads[-1]}
    reads.clear()
    monkeypatch.setattr(opened.tensors, "rows", lambda *a: reads.append(a[0]) or rows(*a))
    read.stream_in(opened, partial).remove()
    assert not done & set(reads) and len(done | set(reads)) == 30
    arrays = store.open_arrays(partial)
    assert_same(jax.tree.map(lambda a: a[:], arrays), random_weights())
    assert json.loads((partial / read.CHECKSUMS).read_text()) == json.loads((exported / read.CHECKSUMS).read_text())
    assert not (partial / "progress.jsonl").exists()


@pytest.mark.parametrize("after", [0, 3, 12, 29])
def test_a_killed_export_goes_on_where_it_was(tmp_path, exported, small_blocks, monkeypatch, after):
    convert.from_hf(exported, tmp_path / "run")
    model, written = open_model(tmp_path / "run"), []
    write = hf.Shards.write

    def dies(self, block):
        write(self, block[: len(block) // 2 + 1])  # and half a block is on disk
        if len(list(model.path.parent.glob("again.partial/*.safetensors"))) and len(written) >= after:
            raise Killed
        write(self, block[len(block) // 2 + 1 :])

    monkeypatch.setattr(hf.Shards, "write", dies)
    add = hf.Journal.add
    monkeypatch.setattr(hf.Journal, "add", lambda self, *entry: written.append(1) or add(self, *entry))
    options = {"tokenizer": None, "max_shard_bytes": 5000, "lineage": {"step": 7}}
    with pytest.raises(Killed):
        hf.to_hf(model.weights, CONFIG, tmp_path / "again", hf.Export(**options))
    assert len(written) == after and not (tmp_path / "again").exists()
    monkeypatch.setattr(hf.Shards, "write", write)
    hf.to_hf(model.weights, CONFIG, tmp_path / "again", hf.Export(**options))
    assert len(written) == 30
    assert_same(hf.from_hf(tmp_path / "again")[1], random_weights())
    assert "- step: `7`" in (tmp_path / "again/README.md").read_text()


@pytest.mark.parametrize("left", [0, 40, -100])
def test_tensors_that_are_written_down_but_not_all_there_are_written_again(tmp_path, exported, monkeypatch, left):
    convert.from_hf(exported, tmp_path / "run")
    model, done = open_model(tmp_path / "run"), []
    add = hf.Journal.add

    def dies(self, *entry):
        add(self, *entry)
        done.append(entry)
        if len(done) == 20:
            raise Killed

    options = {"tokenizer": None, "max_shard_bytes": 5000, "lineage": {"step": 7}}
    monkeypatch.setattr(hf.Journal, "add", dies)
    with pytest.raises(Killed):
        hf.to_hf(model.weights, CONFIG, tmp_path / "again", hf.Export(**options))
    last = sorted((tmp_path / "again.partial").glob("*.safetensors"))[-1]
    last.write_bytes(last.read_bytes()[:left])  # as a machine that lost its power may leave it
    monkeypatch.setattr(hf.Journal, "add", lambda self, *entry: done.append(entry) or add(self, *entry))
    hf.to_hf(model.weights, CONFIG, tmp_path / "again", hf.Export(**options))
    assert 30 < len(done) < 40
    assert_same(hf.from_hf(tmp_path / "again")[1], random_weights())


def test_another_job_in_the_partial_folder_begins_again(tmp_path, exported):
    partial = tmp_path / "run.partial"
    partial.mkdir()
    (partial / "progress.jsonl").write_text('{"from": "another"}\n' + json.dumps({"name": Q1, "sha256": ""}) + "\n")
    read.stream_in(read.open_hf(exported), partial)
    assert_same(jax.tree.map(lambda a: a[:], store.open_arrays(partial)), random_weights())


def test_a_value_that_is_not_finite_leaves_nothing_behind(tmp_path, exported):
    shard = next(p for p in exported.glob("*.safetensors") if Q1 in load_file(p))
    tensors = load_file(shard)
    tensors[Q1][-1, -1] = np.inf
    save_file(tensors, shard)
    assert main(["convert", "from-hf", str(exported), str(tmp_path / "run")]) == 3
    assert sorted(p.name for p in tmp_path.iterdir()) == ["hf"]


def test_verification_finds_a_changed_tensor_on_either_side(tmp_path, exported):
    convert.from_hf(exported, tmp_path / "run")
    model, opened = open_model(tmp_path / "run"), read.open_hf(exported)
    verify.imported(model.path, model.weights, opened, "float32", None)
    model.weights["layers"]["attn"]["q"][1, 0, 0, 0:1] = np.float32([3.0])
    model.weights["layers"]["attn"]["q"].flush()
    with pytest.raises(DataError, match=f"{Q1} is not as it was written"):
        verify.imported(model.path, model.weights, opened, "float32", None)
    with pytest.raises(DataError, match="logits of the probe differ"):
        verify.exported(exported, model.weights, CONFIG, "float32", None)


def test_the_numpy_llama_has_the_logits_of_the_model(exported):
    ids_T = np.array([3, 30, 8, 8, 1])
    opened = read.open_hf(exported)
    tokens_BT, ones_BT = jnp.asarray(ids_T)[None], jnp.ones((1, 5), jnp.int32)
    weights = random_weights()
    run = jax.jit(
        lambda w: decoder.LanguageModel(CONFIG, PLAIN).apply({"params": w}, tokens_BT, jnp.arange(5)[None], ones_BT)
    )
    want = run(weights)
    want_TV = np.asarray(want)[0, :, : CONFIG.vocab_size]
    scale = np.abs(want_TV).max()
    theirs = numpy_logits(opened.tensors.rows, CONFIG, opened.spec, ids_T, "float32")
    np.testing.assert_allclose(theirs, want_TV, atol=ROUNDING * scale, rtol=0)
    ours = layered_logits(weights, CONFIG, ids_T, "float32")[:, : CONFIG.vocab_size]
    np.testing.assert_allclose(ours, want_TV, atol=ROUNDING * scale, rtol=0)


def test_tied_embeddings_stay_tied_both_ways(tmp_path):
    tied, weights = dataclasses.replace(CONFIG, tied=True), random_weights()
    del weights["head"]
    hf.to_hf(weights, tied, tmp_path / "hf", hf.Export(tokenizer=None))
    tensors = load_file(tmp_path / "hf/model.safetensors")
    assert "lm_head.weight" not in tensors
    assert json.loads((tmp_path / "hf/config.json").read_text())["tie_word_embeddings"] is True
    convert.from_hf(tmp_path / "hf", tmp_path / "run", verify=True)
    back = load_model(tmp_path / "run")
    assert back.config == tied
    assert_same(back.weights, weights)

    edit_config(tmp_path / "hf", tie_word_embeddings=False)
    with pytest.raises(DataError, match=r"lacks lm_head\.weight"):
        hf.from_hf(tmp_path / "hf")


def test_a_head_beside_tied_embeddings_must_be_the_embedding(tmp_path):
    weights = random_weights()
    weights["head"] = np.ascontiguousarray(weights["embed"].T)
    hf.to_hf(weights, CONFIG, tmp_path / "hf", hf.Export(tokenizer=None))
    edit_config(tmp_path / "hf", tie_word_embeddings=True)
    config, read_back = hf.from_hf(tmp_path / "hf")  # both readings are the same
    assert config.tied and "head" not in read_back
    assert_same(read_back | {"head": weights["head"]}, weights)
    tensors = load_file(tmp_path / "hf/model.safetensors")
    tensors["lm_head.weight"][-1, -1] += 1
    save_file(tensors, tmp_path / "hf/model.safetensors")
    with pytest.raises(
        DataError, match=r"tie_word_embeddings=true, but lm_head\.weight is there and differs"
    ) as caught:
        hf.from_hf(tmp_path / "hf")
    assert "set tie_word_embeddings to false to use lm_head.weight" in str(caught.value)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_an_export_with_a_flipped_bit_is_not_imported(tmp_path, dtype, small_blocks):
    hf.to_hf(random_weights(), CONFIG, tmp_path / "hf", hf.Export(tokenizer=None, dtype=dtype))
    convert.from_hf(tmp_path / "hf", tmp_path / "whole")
    path = tmp_path / "hf/model.safetensors"
    data = bytearray(path.read_bytes())
    data[-2] ^= 1
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"is not as it was exported .* or remove checksums\.json"):
        convert.from_hf(tmp_path / "hf", tmp_path / "run")
    assert not list(tmp_path.glob("run*"))
    (tmp_path / "hf" / read.CHECKSUMS).unlink()
    convert.from_hf(tmp_path / "hf", tmp_path / "run")


def test_lora_is_refused_by_name(exported):
    shard = sorted(exported.glob("*.safetensors"))[0]
    save_file(load_file(shard) | {"model.layers.0.self_attn.q_proj.lora_A.weight": np.ones((2, 2), np.float32)}, shard)
    with pytest.raises(ConfigError, match=r"LoRA tensors such as .*lora_A"):
        hf.from_hf(exported)
    (exported / "adapter_config.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"adapter_config\.json: a LoRA adapter is no model; .* merges it"):
        hf.from_hf(exported)


def test_a_quantised_tensor_is_refused_by_name(exported):
    shard = next(p for p in exported.glob("*.safetensors") if Q1 in load_file(p))
    save_file(load_file(shard) | {Q1: np.ones((24, 12), np.int8)}, shard)
    with pytest.raises(ConfigError, match=rf"{Q1} is I8: a quantised checkpoint is not read"):
        hf.from_hf(exported)


@pytest.mark.peers
def test_bin_files_are_read_through_torch_and_run_no_code(tmp_path, exported, small_blocks):
    import torch

    tensors = {}
    for shard in exported.glob("*.safetensors"):
        tensors |= {name: torch.from_numpy(t.copy()) for name, t in load_file(shard).items()}
        shard.unlink()
    (exported / "model.safetensors.index.json").unlink()
    torch.save(tensors, exported / "pytorch_model.bin")
    assert_same(hf.from_hf(exported)[1], random_weights())

    class Evil:
        def __reduce__(self):
            return os.system, ("touch " + str(tmp_path / "ran"),)

    for value, message in ((torch.ones(24, 12, dtype=torch.int8), "is torch.int8: a quantised"), ("x", "is no tensor")):
        torch.save(tensors | {Q1: value}, exported / "pytorch_model.bin")
        with pytest.raises((ConfigError, DataError), match=f"{Q1} {message}"):
            hf.from_hf(exported)
    torch.save(tensors | {"x": Evil()}, exported / "pytorch_model.bin")
    with pytest.raises(DataError, match=r"torch\.load\(weights_only=True\) refuses it"):
        hf.from_hf(exported)
    assert not (tmp_path / "ran").exists()
