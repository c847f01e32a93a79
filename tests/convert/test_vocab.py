"""Growing a checkpoint's vocabulary: old rows, new rows, padding, and what is refused."""

import dataclasses
import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from bucket import served
from json_tokenizer import write_plain
from safetensors.numpy import load_file

from tigerjax.checkpoint.model import load_model
from tigerjax.command.cli import main
from tigerjax.config import ModelConfig
from tigerjax.convert import journal, read
from tigerjax.convert.hf import Export, to_hf
from tigerjax.convert.vocab import resize, sub_tokens
from tigerjax.errors import ConfigError
from tigerjax.files import manifest, paths
from tigerjax.model.hf_weights import hf_rows
from tigerjax.model.weights import put
from tigerjax.tokenizer import bpe
from tigerjax.tokenizer.added import MODEL_FILE
from tigerjax.tokenizer.bpe_extend import train_on
from tigerjax.tokenizer.extend import extend
from tigerjax.tokenizer.load import Tokenizer
from tigerjax.tokenizer.model_file import read_proto
from tigerjax.tokenizer.train import train_model

EMBEDDED = Path(__file__).resolve().parents[2] / "data_mixtures" / "embedded"
D = 6


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory):
    at = tmp_path_factory.mktemp("vocab")
    train_model([EMBEDDED / "corpus_en.jsonl"], 700, at / "base")
    train_model([EMBEDDED / "corpus_zh.jsonl"], 3600, at / "zh")
    extend(at / "base", at / "zh", 1201, at / "new")
    return Tokenizer(at / "base"), Tokenizer(at / "new")


@pytest.fixture
def config():
    return ModelConfig(
        num_layers=1,
        model_dim=D,
        mlp_dim=10,
        num_heads=2,
        num_kv_heads=1,
        head_dim=4,
        vocab_size=700,
        padded_vocab_size=768,
        rope_base=10_000.0,
        norm_eps=1e-5,
    )


@pytest.fixture
def weights():
    rng = np.random.default_rng(3)
    return {
        "embed": rng.normal(size=(768, D)).astype(np.float32),
        "head": rng.normal(size=(D, 768)).astype(np.float32),
        "final_norm": {"scale": np.ones(D, np.float32)},
    }


def test_old_rows_keep_every_bit_and_padding_is_zero(tokenizers, config, weights):
    weights["embed"][5, 2] = -0.0
    resized, new_config = resize(weights, config, *tokenizers)
    assert (new_config.vocab_size, new_config.padded_vocab_size) == (1201, 1280)
    assert resized["embed"].shape == (1280, D) and resized["head"].shape == (D, 1280)
    assert resized["embed"][:700].tobytes() == weights["embed"][:700].tobytes()
    assert resized["head"][:, :700].tobytes() == np.ascontiguousarray(weights["head"][:, :700]).tobytes()
    assert not resized["embed"][1200:].any() and not resized["head"][:, 1200:].any()
    assert resized["final_norm"] is weights["final_norm"]
    assert dataclasses.replace(new_config, vocab_size=700, padded_vocab_size=768) == config


def test_a_tied_vocabulary_grows_in_its_one_table(tokenizers, config, weights):
    want, apart = resize(weights, config, *tokenizers)
    del weights["head"]
    got, tied = resize(weights, dataclasses.replace(config, tied=True), *tokenizers)
    assert "head" not in got and tied == dataclasses.replace(apart, tied=True)
    np.testing.assert_array_equal(got["embed"], want["embed"])


def test_a_new_row_is_the_mean_of_its_bytes_without_the_dummy_prefix(tokenizers, config, weights):
    base, new = tokenizers
    resized, _ = resize(weights, config, base, new)
    pieces = {piece.piece: i for i, piece in enumerate(read_proto(base.folder).pieces)}
    for i in range(700, 1198):
        # The base is English: a Chinese character is its UTF-8 bytes there, whose ids are known by name.
        ids = [pieces.get(c) for c in new.piece(i)]
        if any(found is not None for found in ids):
            continue
        ids = [pieces[f"<0x{byte:02X}>"] for byte in new.piece(i).encode()]
        np.testing.assert_array_equal(resized["embed"][i], weights["embed"][ids].mean(axis=0, dtype=np.float32))
        np.testing.assert_array_equal(resized["head"][:, i], weights["head"].T[ids].mean(axis=0, dtype=np.float32))


def test_the_markers_are_the_mean_of_their_text_and_the_pad_is_zero(tokenizers, config, weights):
    base, new = tokenizers
    resized, _ = resize(weights, config, base, new)
    ids = base.encode_bare("\n\n### Instruction:\n")
    assert base.piece(ids[0]) == "<0x0A>"
    np.testing.assert_array_equal(resized["embed"][1198], weights["embed"][ids].mean(axis=0, dtype=np.float32))
    assert resized["embed"][1199].any() and not resized["embed"][1200].any()


def test_bfloat16_weights_are_averaged_in_float32(tokenizers, config, weights):
    import jax.numpy as jnp

    half = {name: jnp.asarray(weights[name], jnp.bfloat16) for name in ("embed", "head")}
    resized, _ = resize(weights | half, config, *tokenizers, multiple=512)
    assert resized["embed"].shape == (1536, D) and resized["embed"].dtype == jnp.bfloat16
    exact = {name: np.asarray(value, np.float32) for name, value in half.items()}
    expected, _ = resize(weights | exact, config, *tokenizers, multiple=512)
    np.testing.assert_array_equal(resized["embed"], expected["embed"].astype(jnp.bfloat16))


def test_a_checkpoint_with_another_vocabulary_is_refused(tokenizers, config, weights):
    with pytest.raises(ConfigError, match=r"checkpoint has vocab_size=699, base tokenizer .* has 700"):
        resize(weights, dataclasses.replace(config, vocab_size=699), *tokenizers)
    resized, new_config = resize(weights, config, *tokenizers)
    with pytest.raises(ConfigError, match="vocab_size=1201"):
        resize(resized, new_config, *tokenizers)
    with pytest.raises(ConfigError, match=r"weight embed is \(700, 6\)"):
        resize(weights | {"embed": weights["embed"][:700]}, config, *tokenizers)


def test_a_tokenizer_that_is_no_extension_of_the_base_is_refused(tokenizers, config, weights, tmp_path):
    base, new = tokenizers
    shutil.copytree(new.folder, tmp_path / "other", ignore=shutil.ignore_patterns(manifest.FILE))
    proto = read_proto(new.folder)
    proto.pieces[650].piece = "other"
    (tmp_path / "other" / MODEL_FILE).write_bytes(proto.SerializeToString())
    with pytest.raises(ConfigError, match="1 entries differ, the first is id 650"):
        resize(weights, config, base, Tokenizer(tmp_path / "other"))
    with pytest.raises(ConfigError, match="must not be without special tokens"):
        resize(weights, config, base, base)


@pytest.fixture
def folder(tokenizers, config, weights, tmp_path):
    """A Hugging Face folder of the base's vocabulary with its tokenizer.model beside it, no two sizes equal."""
    rng, config = np.random.default_rng(5), dataclasses.replace(config, padded_vocab_size=700)
    whole = {}
    for row in hf_rows(config, rows=700):
        put(whole, row.ours, rng.normal(size=row.stacked_shape(config)).astype(np.float32))
    to_hf(whole, config, tmp_path / "hf", Export(tokenizer=None))
    shutil.copy(tokenizers[0].folder / MODEL_FILE, tmp_path / "hf" / MODEL_FILE)
    return tmp_path / "hf", whole


def test_from_hf_grows_the_vocabulary_on_the_way_in_and_trims_it_on_the_way_out(tokenizers, folder, tmp_path):
    (hf, old), (base, new), run = folder, tokenizers, tmp_path / "run"
    words = ["--tokenizer", str(new.folder), "--pad-to-multiple-of", "96", "--verify"]
    assert main(["convert", "from-hf", str(hf), str(run), *words]) == 0
    model = load_model(run)
    assert (model.config.vocab_size, model.config.padded_vocab_size) == (1201, 1248)
    assert model.tokenizer_sha256 == new.sha256
    want, _ = resize(old, dataclasses.replace(model.config, vocab_size=700, padded_vocab_size=700), base, new)
    for name in ("embed", "head"):
        rows, before, mean = (w[name] if name == "embed" else w[name].T for w in (model.weights, old, want))
        assert rows.shape[0] == 1248 and rows[:700].tobytes() == before.tobytes()
        np.testing.assert_array_equal(rows[700:1201], mean[700:1201])
        assert rows[700:1200].any(axis=1).all() and not rows[1200:].any()
    q = model.weights["layers"]["attn"]["q"]
    assert q.tobytes() == old["layers"]["attn"]["q"].tobytes()

    for padding, count in (("--no-keep-padding", 1201), ("--keep-padding", 1248)):
        out = tmp_path / padding
        words = ["--tokenizer", str(new.folder), padding, "--verify"]
        assert main(["convert", "to-hf", str(run), str(out), *words]) == 0
        written = json.loads((out / "config.json").read_text())
        assert written["vocab_size"] == count and written["pad_token_id"] == new.pad == 1200
        assert load_file(out / "model.safetensors")["lm_head.weight"].shape == (count, D)
        assert "step" in (out / "README.md").read_text() and (out / MODEL_FILE).is_file()
        assert main(["convert", "from-hf", str(out), str(tmp_path / f"back_{count}")]) == 0
        jax.tree.map(np.testing.assert_array_equal, load_model(tmp_path / f"back_{count}").weights, model.weights)


def test_a_growing_import_that_is_killed_goes_on_and_ends_alike(tokenizers, folder, tmp_path, monkeypatch):
    hf, (base, new) = folder[0], tokenizers
    opened = read.grow(read.open_hf(hf), 700, sub_tokens(700, base, new), multiple=96)
    read.stream_in(opened, tmp_path / "whole")
    add = journal.Journal.add

    def dies(journal, *entry):
        add(journal, *entry)
        if len(journal.done) == 4:
            raise KeyboardInterrupt

    monkeypatch.setattr(journal.Journal, "add", dies)
    with pytest.raises(KeyboardInterrupt):
        read.stream_in(opened, tmp_path / "run")
    monkeypatch.undo()
    other = read.grow(read.open_hf(hf), 700, [[5]] * 501, multiple=96)
    shutil.copytree(tmp_path / "run", tmp_path / "other")
    for name, how in (("run", opened), ("other", other)):  # another rule of growth begins again
        read.stream_in(how, tmp_path / name)
    sums = {name: json.loads((tmp_path / name / read.CHECKSUMS).read_text()) for name in ("whole", "run", "other")}
    assert sums["run"] == sums["whole"] != sums["other"]


def test_vocabularies_grow_in_a_bucket_as_on_a_disk(tokenizers, folder, tmp_path):
    (hf, _), (base, new), far = folder, tokenizers, "gs://bucket/vocab"
    with served():
        for place, name in ((hf, "hf"), (base.folder, "base"), (new.folder, "new")):
            paths.upload(place, paths.of(f"{far}/{name}"))
        grown = {}
        for root, words in (
            (tmp_path, [hf, base.folder, new.folder]),
            (far, [f"{far}/{n}" for n in ("hf", "base", "new")]),
        ):
            old, first, second = map(str, words)
            assert main(["convert", "from-hf", old, f"{root}/plain"]) == 0
            words = ["--tokenizer", second, "--pad-to-multiple-of", "128"]
            assert main(["convert", "resize", f"{root}/plain", f"{root}/run", "--base", first, *words]) == 0
            assert main(["convert", "from-hf", old, f"{root}/grown", *words]) == 0
            grown[root] = [load_model(f"{root}/{name}") for name in ("run", "grown")]
        for one in grown[tmp_path] + grown[far]:
            assert one.sha256 == grown[far][0].sha256 and one.tokenizer_sha256 == new.sha256


def test_growing_what_is_not_of_the_base_vocabulary_is_refused(tokenizers, folder, tmp_path, capsys):
    hf, (_, new) = folder[0], tokenizers
    command = ["convert", "from-hf", str(hf), str(tmp_path / "run"), "--tokenizer", str(new.folder)]
    shutil.copy(new.folder / MODEL_FILE, hf / MODEL_FILE)
    assert main(command) == 2 and "vocab_size=700" in capsys.readouterr().err
    (hf / MODEL_FILE).unlink()
    assert main(command) == 2 and "has no tokenizer that is read, from which it could grow" in capsys.readouterr().err
    write_plain(tmp_path / "other", ["the road was long"], 262)
    shutil.copy(tmp_path / "other/tokenizer.json", hf)
    shutil.copy(tmp_path / "other/tokenizer_config.json", hf)
    assert main(command) == 2 and f"{new.folder} is a tokenizer.model, and {hf} a tok" in capsys.readouterr().err
    assert not (tmp_path / "run").exists() and not list(tmp_path.glob("*.partial"))


def test_random_rows_are_drawn_by_the_seed_and_old_rows_stay(tokenizers, config, weights):
    base, new = tokenizers
    grown = [resize(weights, config, base, new, rows="random", seed=seed)[0] for seed in (0, 0, 1)]
    mean = resize(weights, config, base, new)[0]
    for name, axis in (("embed", 0), ("head", 1)):
        first, again, other, by_mean = (np.moveaxis(one[name], axis, 0) for one in (*grown, mean))
        np.testing.assert_array_equal(first, again)
        np.testing.assert_array_equal(first[: base.pieces], by_mean[: base.pieces])
        drawn = first[base.pieces : new.size - 1]
        assert (drawn != other[base.pieces : new.size - 1]).all() and 0.015 < drawn.std() < 0.025
        assert not first[new.size - 1 :].any(), "the pad's row and the padding stay zero"


def test_rows_of_an_extended_tokenizer_json_are_means_of_the_tokens_they_are_merged_from(tmp_path, weights, config):
    write_plain(tmp_path / "base", ["the road was long"] * 3, 262)
    train_on(tmp_path / "base", [EMBEDDED / "corpus_zh.jsonl"], 300, tmp_path / "new")
    base, new = Tokenizer(tmp_path / "base"), Tokenizer(tmp_path / "new")
    small = {"embed": weights["embed"][:264], "head": weights["head"][:, :264]}
    sized = dataclasses.replace(config, vocab_size=264, padded_vocab_size=264)
    grown, bigger = resize(small, sized, base, new, multiple=4)
    assert bigger.vocab_size == 300 and (grown["embed"][:264] == small["embed"]).all()
    by_byte = {bpe.bytes_of(base.piece(i)): i for i in range(262) if len(base.piece(i)) == 1}
    for i in range(264, 300):
        parts = [by_byte[bytes([byte])] for byte in bpe.bytes_of(new.piece(i))]
        np.testing.assert_allclose(grown["embed"][i], small["embed"][parts].mean(axis=0), rtol=1e-5)
