"""Meta's own form, written here from what is known of it, against the same model as a Hugging Face folder."""

import base64
import json
import os
import sys

import numpy as np
import pytest
from hand_tokenizer import PIECES, model_bytes
from meta_files import SHARDS
from meta_files import write_meta as write
from safetensors.numpy import load_file
from test_hf import assert_same

from tigerjax.checkpoint.model import load_model
from tigerjax.command import convert
from tigerjax.command.cli import main
from tigerjax.config import ModelConfig, RopeConfig
from tigerjax.convert import hf, read
from tigerjax.errors import ConfigError, DataError
from tigerjax.model import weights as rows_of_weights
from tigerjax.model.hf_weights import hf_rows
from tigerjax.model.weights import put

pytestmark = pytest.mark.peers

ROWS = PIECES + 4
PARAMS = {
    "dim": 48,
    "n_layers": 3,
    "n_heads": 8,
    "n_kv_heads": 4,
    "vocab_size": ROWS,
    "multiple_of": 12,
    "ffn_dim_multiplier": 1.3,
    "norm_eps": 3e-3,
    "rope_theta": 731.0,
    "max_seq_len": 77,
}
CONFIG = ModelConfig(
    num_layers=3, model_dim=48, mlp_dim=168, num_heads=8, num_kv_heads=4, head_dim=6, vocab_size=ROWS,
    padded_vocab_size=ROWS, rope_base=731.0, norm_eps=3e-3,
)  # fmt: skip
WQ = "layers.1.attention.wq.weight"


def random_weights():
    rng, out = np.random.default_rng(3), {}
    for row in hf_rows(CONFIG, rows=ROWS):
        put(out, row.ours, rng.normal(size=row.stacked_shape(CONFIG)).astype(np.float32))
    return out


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """(the model as Hugging Face tensors, in memory and in a folder)."""
    folder = tmp_path_factory.mktemp("meta") / "hf"
    hf.to_hf(random_weights(), CONFIG, folder, hf.Export(tokenizer=None))
    return load_file(folder / "model.safetensors"), folder


def write_meta(folder, tensors, *, shards, params=PARAMS, by_vocabulary=False):
    write(folder, tensors, shards=shards, params=PARAMS, by_vocabulary=by_vocabulary)
    (folder / "params.json").write_text(json.dumps(params))
    return folder


def change(path, **tensors):
    """A shard with other tensors; None takes one away."""
    import torch

    state = torch.load(path, weights_only=True) | tensors
    torch.save({k: v for k, v in state.items() if v is not None}, path)


@pytest.mark.parametrize("by_vocabulary", [False, True])
@pytest.mark.parametrize("shards", [1, 2, 4])
def test_metas_form_is_read_as_the_hugging_face_folder_of_the_same_model(
    whole, tmp_path, monkeypatch, shards, by_vocabulary
):
    monkeypatch.setattr(rows_of_weights, "BLOCK_BYTES", 4 * 48 * 18)  # three heads, so that a block spans shards
    tensors, folder = whole
    meta = write_meta(tmp_path / "meta", tensors, shards=shards, by_vocabulary=by_vocabulary)
    (config, got), (theirs, want) = hf.from_hf(meta), hf.from_hf(folder)
    assert config == theirs == CONFIG
    assert_same(got, want)


def test_a_checkpoint_of_metas_form_is_verified_and_goes_out_as_the_same_tensors(whole, tmp_path, capsys):
    tensors, folder = whole
    meta = write_meta(tmp_path / "meta", tensors, shards=2)
    (meta / "tokenizer.model").write_bytes(model_bytes())
    convert.from_hf(meta, tmp_path / "run", verify=True)
    assert f"{ROWS} rows for the {PIECES} entries of its tokenizer; the other 4 are padding" in capsys.readouterr().err
    model = load_model(tmp_path / "run")
    assert model.config.vocab_size == PIECES and model.extra["source"]["folder"] == "meta"
    convert.to_hf(tmp_path / "run", tmp_path / "out", keep_padding=True)
    assert (tmp_path / "out" / read.CHECKSUMS).read_text() == (folder / read.CHECKSUMS).read_text()
    written = json.loads((tmp_path / "out/config.json").read_text())
    assert written["max_position_embeddings"] == 77 and written["rope_theta"] == 731.0
    assert (written["bos_token_id"], written["eos_token_id"]) == (1, 2)


def test_an_import_of_metas_form_that_was_interrupted_resumes(whole, tmp_path, monkeypatch):
    meta = write_meta(tmp_path / "meta", whole[0], shards=2)
    true, asked = read.meta_form.MetaFiles.rows, []

    def rows(self, name, *part):
        asked.append(name)
        if len(asked) == 9:
            raise KeyboardInterrupt
        return true(self, name, *part)

    monkeypatch.setattr(read.meta_form.MetaFiles, "rows", rows)
    with pytest.raises(KeyboardInterrupt):
        convert.from_hf(meta, tmp_path / "run")
    convert.from_hf(meta, tmp_path / "run")
    assert len(asked) == 9 + (3 + 9 * 3 - 8)  # the eight finished ones are not read again
    assert_same(load_model(tmp_path / "run").weights, random_weights())


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ({}, {"rope_base": 731.0, "rope": RopeConfig()}),
        ({"rope_theta": None}, {"rope_base": 10_000.0}),
        ({"n_kv_heads": None}, "self_attn.k_proj.weight has shape"),
        ({"vocab_size": -1}, {"vocab_size": ROWS}),
        ({"vocab_size": ROWS + 1}, "model.embed_tokens.weight has shape"),
        ({"multiple_of": 64, "ffn_dim_multiplier": 1.0}, "mlp.gate_proj.weight has shape"),
        ({"max_seq_len": None}, {"model_dim": 48}),
        (
            {"use_scaled_rope": True},
            {
                "rope": RopeConfig(
                    kind="llama3", factor=8.0, original_max_position_embeddings=8192, low_freq_factor=1.0,
                    high_freq_factor=4.0,
                ),
            },
        ),
    ],
)  # fmt: skip
def test_every_field_of_params_counts(whole, tmp_path, params, expected):
    given = {k: v for k, v in (PARAMS | params).items() if v is not None}
    meta = write_meta(tmp_path / "meta", whole[0], shards=1, params=given)
    if isinstance(expected, str):
        with pytest.raises(DataError, match=expected):
            hf.from_hf(meta)
    else:
        config = read.open_hf(meta).config
        assert {name: getattr(config, name) for name in expected} == expected


def test_the_mlp_of_the_published_llamas_comes_out_as_published():
    published = {  # (dim, multiple_of, ffn_dim_multiplier): intermediate_size of the -hf repository
        (4096, 256, None): 11008,
        (5120, 256, None): 13824,
        (8192, 4096, 1.3): 28672,
        (4096, 1024, 1.3): 14336,
        (2048, 256, 1.5): 8192,
    }
    for (dim, multiple, factor), width in published.items():
        fields = {"multiple_of": multiple, "ffn_dim_multiplier": factor}
        assert read.meta_form._mlp_dim(read.meta_form.Fields(fields, "params.json"), dim, 10**6) == width


def test_a_head_that_is_the_embedding_is_tied(whole, tmp_path):
    meta = write_meta(tmp_path / "meta", whole[0], shards=1)
    change(meta / SHARDS.format(0), **{"output.weight": None})
    _, weights = hf.from_hf(meta)
    np.testing.assert_array_equal(weights.get("head", weights["embed"].T), random_weights()["embed"].T)


def test_a_tokenizer_of_llama_3s_own_form_is_said_and_all_rows_are_the_vocabulary(whole, tmp_path, capsys):
    meta = write_meta(tmp_path / "meta", whole[0], shards=1)
    (meta / "tokenizer.model").write_bytes(b"".join(base64.b64encode(bytes([i])) + b" %d\n" % i for i in range(256)))
    convert.from_hf(meta, tmp_path / "run")
    assert "tokenizer.model: holds ranks of byte pairs and no SentencePiece model" in capsys.readouterr().err
    assert load_model(tmp_path / "run").config.vocab_size == ROWS


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"vision_chunk_size": 448}, "vision_chunk_size=448 is of another model than a Llama"),
        ({"quantization_args": {"scheme": "int4"}}, "quantization_args=.* is of another model"),
        ({"sliding_window": 4096, "hidden_dim": 14336}, "is of another model than a Llama"),
        ({"dim": "48"}, r"params\.json: dim='48', needs a whole number"),
        ({"dim": 47}, r"dim=47 must be a multiple of 2 x n_heads=8"),
        ({"norm_eps": float("nan")}, r"norm_eps=nan, needs"),
        ({"n_layers": 10**4}, "num_hidden_layers=10000, but the tensors are of 3 layers"),
        ({"n_layers": 10**9}, "n_layers=1000000000, needs a whole number"),
        ({"multiple_of": 0}, "multiple_of=0, needs"),
        ({"use_scaled_rope": "yes"}, "use_scaled_rope='yes', needs true or false"),
    ],
)
def test_wrong_params_are_named(whole, tmp_path, params, message):
    meta = write_meta(tmp_path / "meta", whole[0], shards=1, params=PARAMS | params)
    with pytest.raises((ConfigError, DataError), match=message) as error:
        hf.from_hf(meta)
    assert "\n" not in str(error.value)


def test_missing_and_mixed_shards_are_named(whole, tmp_path):
    import torch

    meta = write_meta(tmp_path / "meta", whole[0], shards=4)
    (meta / SHARDS.format(3)).rename(tmp_path / "kept")
    with pytest.raises(DataError, match=r"3 of the 4 consolidated\.\*\.pth files are there; copy the others"):
        hf.from_hf(meta)
    (tmp_path / "kept").rename(meta / SHARDS.format(3))
    (meta / SHARDS.format(1)).rename(tmp_path / "kept")
    with pytest.raises(DataError, match=r"consolidated\.01\.pth: not there, but consolidated\.02\.pth is"):
        hf.from_hf(meta)
    (tmp_path / "kept").rename(meta / SHARDS.format(1))
    change(meta / SHARDS.format(2), **{WQ: torch.ones(12, 47)})
    with pytest.raises(DataError, match=rf"consolidated\.02\.pth: {WQ} has shape \(12, 47\), but \(12, 48\) in cons"):
        hf.from_hf(meta)
    change(meta / SHARDS.format(2), **{WQ: torch.ones(12, 48), "norm.weight": torch.ones(48)})
    with pytest.raises(DataError, match=r"consolidated\.02\.pth: norm\.weight is not that of consolidated\.00\.pth"):
        hf.from_hf(meta)
    change(meta / SHARDS.format(2), **{WQ: None})
    with pytest.raises(DataError, match=rf"consolidated\.02\.pth: {WQ} has shape None"):
        hf.from_hf(meta)


def test_what_is_no_models_file_is_one_line(whole, tmp_path, monkeypatch, capsys):
    import torch

    meta = write_meta(tmp_path / "meta", whole[0], shards=1)
    state = torch.load(meta / SHARDS.format(0), weights_only=True)

    class Evil:
        def __reduce__(self):
            return os.system, ("touch " + str(tmp_path / "ran"),)

    for content, message in (
        (state | {"x": Evil()}, r"consolidated\.00\.pth: torch\.load\(weights_only=True\) refuses it"),
        (state | {WQ: torch.ones(48, 48, dtype=torch.int8)}, rf"{WQ} is torch\.int8: a quantised"),
        (state | {WQ: "x"}, f"{WQ} is no tensor"),
        (state | {7: state[WQ]}, "a tensor is named 7"),
        ([state], "holds a list; give the state dict"),
        (state | {"layers.0.attention.wq.bias": torch.ones(48)}, r"1 tensors are left over .*wq\.bias"),
        ({}, r"num_hidden_layers=3, but the tensors are of 0 layers"),
        ({n: t for n, t in state.items() if "layers" not in n}, "num_hidden_layers=3, but the tensors are of 0 layers"),
    ):
        torch.save(content, meta / SHARDS.format(0))
        with pytest.raises((ConfigError, DataError), match=message) as error:
            hf.from_hf(meta)
        assert "\n" not in str(error.value)
    assert not (tmp_path / "ran").exists()
    (meta / "params.json").rename(tmp_path / "params.json")
    with pytest.raises(DataError, match=r"params\.json: not there; copy it"):
        hf.from_hf(meta)
    (tmp_path / "params.json").rename(meta / "params.json")
    monkeypatch.setitem(sys.modules, "torch", None)
    assert main(["convert", "from-hf", str(meta), str(tmp_path / "out")]) == 2
    assert "needs torch to be read, which is not installed; install it" in capsys.readouterr().err
    assert not list(tmp_path.glob("out*"))
