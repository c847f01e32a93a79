"""Folders as they are published: more rows than tokens, added tokens, other bos and eos. What came in goes out."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
from hand_tokenizer import INS, PAD, PIECES, RES, WORDS, write_added

from tigerjax.checkpoint.loaded import check_fits
from tigerjax.checkpoint.model import load_model, save_model
from tigerjax.checkpoint.stored import open_model
from tigerjax.command.cli import main
from tigerjax.config import ModelConfig
from tigerjax.convert import hf
from tigerjax.errors import ConfigError
from tigerjax.model.hf_config import SOURCE, trained_length
from tigerjax.model.hf_weights import hf_rows
from tigerjax.model.weights import put
from tigerjax.tokenizer.load import Tokenizer

ROWS, SIZE = 320, PIECES + 3
CONFIG = ModelConfig(
    num_layers=2,
    model_dim=6,
    mlp_dim=10,
    num_heads=2,
    num_kv_heads=1,
    head_dim=4,
    vocab_size=ROWS,
    padded_vocab_size=ROWS,
    rope_base=731.0,
    norm_eps=3e-3,
)


def model_folder(path, *, reward=False, **fields):
    """A folder as another program would write it: without our own key, and every row random, padding too."""
    rng, weights = np.random.default_rng(2), {}
    for row in hf_rows(CONFIG, rows=ROWS, reward=reward):
        put(weights, row.ours, rng.normal(size=row.stacked_shape(CONFIG)).astype(np.float32))
    hf.to_hf(weights, CONFIG, path, hf.Export(tokenizer=None))
    for name in ("generation_config.json", "manifest.json", "checksums.json", "README.md"):
        (path / name).unlink(missing_ok=True)
    read = json.loads((path / "config.json").read_text())
    del read["tigerjax"], read["bos_token_id"], read["eos_token_id"]
    (path / "config.json").write_text(json.dumps(read | fields))
    return path, weights


@pytest.fixture
def tigerbot(tmp_path):
    """The layout of a released TigerBot: rows padded, the markers in added_tokens.json, no specials.json."""
    folder, weights = model_folder(tmp_path / "tigerbot")
    write_added(folder, INS, RES, PAD)
    return folder, weights


def run(*words):
    assert main([str(word) for word in words]) == 0


def test_rows_beyond_the_tokenizer_are_padding_and_its_added_tokens_are_the_specials(tigerbot, tmp_path, capsys):
    folder, weights = tigerbot
    run("convert", "from-hf", folder, tmp_path / "run")
    model, tokenizer = load_model(tmp_path / "run"), Tokenizer(folder)
    assert f"{ROWS} rows for the {SIZE} entries of its tokenizer; the other {ROWS - SIZE} are padding" in (
        capsys.readouterr().err
    )
    assert (model.config.vocab_size, model.config.padded_vocab_size) == (SIZE, ROWS) == (tokenizer.size, ROWS)
    assert model.tokenizer_sha256 == tokenizer.sha256 and tokenizer.res == SIZE - 2
    check_fits(model, tokenizer, where="run")  # as training, sampling and evaluation ask it
    np.testing.assert_array_equal(model.weights["embed"], weights["embed"])


def test_such_a_folder_goes_out_with_everything_that_loaders_read(tigerbot, tmp_path, capsys):
    folder, weights = tigerbot
    run("convert", "from-hf", folder, tmp_path / "run")
    for padding, rows in (("--no-keep-padding", SIZE), ("--keep-padding", ROWS)):
        out = tmp_path / padding
        run("convert", "to-hf", tmp_path / "run", out, "--tokenizer", folder, padding)
        read = json.loads((out / "config.json").read_text())
        assert (read["vocab_size"], read["pad_token_id"], read["eos_token_id"]) == (rows, SIZE - 1, 2)
        stops = json.loads((out / "generation_config.json").read_text())["eos_token_id"]
        assert stops == [2, SIZE - 3, SIZE - 2, SIZE - 1]
        assert Tokenizer(out).sha256 == Tokenizer(folder).sha256
        named = json.loads((out / "tokenizer_config.json").read_text())
        assert named["added_tokens_decoder"][str(SIZE - 2)]["content"] == RES and INS.strip() in named["chat_template"]
        assert [token["id"] for token in json.loads((out / "tokenizer.json").read_text())["added_tokens"]] == [
            0,
            1,
            2,
            SIZE - 3,
            SIZE - 2,
            SIZE - 1,
        ]
        back = hf.from_hf(out)[1]["embed"]
        np.testing.assert_array_equal(back[:SIZE], weights["embed"][:SIZE])
    # Its config.json and its weights are not a tokenizer's files, and must not replace those of the export.
    assert "2 files are not a tokenizer's and are not copied, such as config.json" in capsys.readouterr().err


def test_such_a_folder_grows_and_its_specials_move_behind_the_new_pieces(tigerbot, tmp_path):
    folder, weights = tigerbot
    ids = {"eos_token_id": [2, SIZE - 3], "pad_token_id": SIZE - 1}
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | ids))
    (folder / "generation_config.json").write_text(json.dumps({"bad_words_ids": [[5, SIZE - 2]], "top_k": SIZE - 2}))
    run("convert", "from-hf", folder, tmp_path / "run")
    new = write_added(tmp_path / "new", INS, RES, PAD, words=[*WORDS, "abc", "dcba"])
    words = ["--tokenizer", new, "--pad-to-multiple-of", 96]
    run("convert", "resize", tmp_path / "run", tmp_path / "big", "--base", folder, *words)
    run("convert", "from-hf", folder, tmp_path / "grown", *words)
    base = Tokenizer(folder)
    for name in ("big", "grown"):
        model = load_model(tmp_path / name)
        assert (model.config.vocab_size, model.config.padded_vocab_size) == (SIZE + 2, 288)
        for ours, was in ((model.weights["embed"], weights["embed"]), (model.weights["head"].T, weights["head"].T)):
            np.testing.assert_array_equal(ours[:PIECES], was[:PIECES])
            np.testing.assert_array_equal(ours[PIECES + 2 : SIZE + 2], was[PIECES:SIZE])
            np.testing.assert_array_equal(ours[PIECES], was[base.encode_bare("abc")].mean(axis=0, dtype=np.float32))
            assert not ours[SIZE + 2 :].any()
        source = model.extra[SOURCE]
        assert (source["eos_token_id"], source["pad_token_id"]) == ([2, SIZE - 1], SIZE + 1)
        assert source["generation_config.json"] == {"bad_words_ids": [[5, SIZE]], "top_k": SIZE - 2}


def test_growing_does_not_lose_an_added_token_that_the_new_tokenizer_lacks(tmp_path, capsys):
    folder, _ = model_folder(tmp_path / "hf")
    write_added(folder, "<|im_start|>", "[PAD]")
    new = write_added(tmp_path / "new", INS, RES, PAD)
    assert main(["convert", "from-hf", str(folder), str(tmp_path / "run"), "--tokenizer", str(new)]) == 2
    assert f"lacks 1 added tokens of {folder}, such as '<|im_start|>'" in capsys.readouterr().err
    write_added(folder, "[PAD]")
    run("convert", "from-hf", folder, tmp_path / "run", "--tokenizer", new)
    assert load_model(tmp_path / "run").config.vocab_size == SIZE


def test_a_base_that_is_padded_has_the_size_of_its_tokenizer_or_of_the_option(tmp_path, capsys):
    folder, _ = model_folder(tmp_path / "hf")
    run("convert", "from-hf", folder, tmp_path / "all")
    assert load_model(tmp_path / "all").config.vocab_size == ROWS
    run("convert", "from-hf", folder, tmp_path / "said", "--vocab-size", PIECES)
    assert open_model(tmp_path / "said").config == dataclasses.replace(CONFIG, vocab_size=PIECES)
    write_added(folder)
    run("convert", "from-hf", folder, tmp_path / "found")
    assert open_model(tmp_path / "found").config == dataclasses.replace(CONFIG, vocab_size=PIECES)
    for words, message in (
        (["--vocab-size", ROWS + 1], f"--vocab-size {ROWS + 1}, but the tokenizer of"),
        (["--vocab-size", 0], "--vocab-size 0 must be at least 1"),
        (["--vocab-size", PIECES + 1], f"the tokenizer of {folder} has {PIECES} entries"),
    ):
        assert main(["convert", "from-hf", str(folder), str(tmp_path / "no"), *map(str, words)]) == 2
        assert message in capsys.readouterr().err
    with pytest.raises(ConfigError, match=f"import it again with --vocab-size {PIECES}"):
        check_fits(load_model(tmp_path / "all"), Tokenizer(folder), where="all")


def test_added_tokens_without_a_row_are_left_out_and_said(tmp_path, capsys):
    """The first Llama-2-7b-hf: 32,000 rows, and <pad> as id 32,000."""
    folder, _ = model_folder(tmp_path / "hf")
    write_added(folder, PAD, words=[*WORDS, *(f"w{n}" for n in range(ROWS - PIECES))])
    run("convert", "from-hf", folder, tmp_path / "run")
    assert f"1 added tokens have no row and are left out: {ROWS} '<pad>'" in capsys.readouterr().err
    model = open_model(tmp_path / "run")
    assert model.config == CONFIG and model.tokenizer_sha256 == Tokenizer(folder / "tokenizer.model").sha256


@pytest.mark.parametrize("i", [-5, 10**30, True, 1.0, "7"])
def test_an_id_of_a_tokenizer_json_has_a_range(tmp_path, capsys, i):
    folder, _ = model_folder(tmp_path / "hf")
    (folder / "tokenizer.json").write_text(json.dumps({"added_tokens": [], "model": {"vocab": {"a": i}}}))
    assert main(["convert", "from-hf", str(folder), str(tmp_path / "run")]) == 3
    assert f"tokenizer.json: not a tokenizer.json (TypeError: an id is {i!r})" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([("<x>", -1)], "an id is -1"),
        ([("<x>", 9), ("<y>", 9)], "two added tokens have the id 9"),
        ([("<x>", 9), ("<x>", 10)], "two added tokens have the text '<x>'"),
        (
            [("<x>", 9), ("<y>", 11)],
            "an added token has id 11, but added tokens follow the 9 of the vocabulary without",
        ),
    ],
)
def test_an_added_token_has_an_id_of_its_own_behind_the_vocabulary(tmp_path, capsys, ids, message):
    folder, _ = model_folder(tmp_path / "hf")
    added = [{"id": i, "content": text} for text, i in [("a0", 0), *ids]]  # the first one names a piece
    vocab = {f"a{i}": i for i in range(9)}
    (folder / "tokenizer.json").write_text(json.dumps({"added_tokens": added, "model": {"vocab": vocab}}))
    assert main(["convert", "from-hf", str(folder), str(tmp_path / "run")]) == 3
    assert message in capsys.readouterr().err and not (tmp_path / "run").exists()


def test_a_tokenizer_json_with_more_entries_than_rows_is_said(tmp_path, capsys):
    folder, _ = model_folder(tmp_path / "hf")
    vocab = {str(i): i for i in range(ROWS + 7)}
    (folder / "tokenizer.json").write_text(json.dumps({"added_tokens": [], "model": {"vocab": vocab}}))
    run("convert", "from-hf", folder, tmp_path / "run")
    assert f"has {ROWS + 7} entries, but the embedding {ROWS} rows" in capsys.readouterr().err


def test_padding_that_no_growing_vocabulary_gets_is_refused_and_not_passed_over(tmp_path, capsys):
    folder, _ = model_folder(tmp_path / "hf")
    assert main(["convert", "from-hf", str(folder), str(tmp_path / "run"), "--pad-to-multiple-of", "7"]) == 2
    assert "--pad-to-multiple-of is for a vocabulary that grows; give --tokenizer" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


LLAMA_3 = {
    "max_position_embeddings": 4096,
    "bos_token_id": 300,
    "eos_token_id": [301, 309],
    "rope_theta": 500_000.0,
}


@pytest.mark.parametrize(
    ("fields", "generation"),
    [
        (LLAMA_3, {"bos_token_id": 300, "eos_token_id": [301, 309], "temperature": 0.6, "top_p": 0.9}),
        (LLAMA_3, None),
        ({"bos_token_id": 7, "eos_token_id": 9, "pad_token_id": -1}, {"eos_token_id": 9, "do_sample": True}),
        ({}, None),
        ({"eos_token_id": None, "max_position_embeddings": None}, None),
    ],
)
def test_context_length_and_token_ids_go_out_as_they_came(tmp_path, fields, generation):
    folder, _ = model_folder(tmp_path / "hf", **fields)
    if generation is not None:
        (folder / "generation_config.json").write_text(json.dumps(generation))
    run("convert", "from-hf", folder, tmp_path / "run")
    run("convert", "to-hf", tmp_path / "run", tmp_path / "back", "--keep-padding")
    came, went = (json.loads((place / "config.json").read_text()) for place in (folder, tmp_path / "back"))
    came = {"bos_token_id": 1, "eos_token_id": 2} | came  # what transformers takes where they are absent
    for name in ("max_position_embeddings", "bos_token_id", "eos_token_id", "pad_token_id", "rope_theta"):
        assert went.get(name) == came.get(name), name
    written = json.loads((tmp_path / "back/generation_config.json").read_text())
    if generation is not None:
        assert written == generation
    else:
        assert all(written[name] == came[name] for name in ("bos_token_id", "eos_token_id"))
    again = tmp_path / "again"
    run("convert", "from-hf", tmp_path / "back", again)
    assert open_model(again).extra[SOURCE].get("max_position_embeddings") == came.get("max_position_embeddings")


def test_a_trained_model_goes_out_with_the_longest_rows_that_it_or_its_source_reads(tmp_path):
    folder, weights = model_folder(tmp_path / "hf", **LLAMA_3)
    run("convert", "from-hf", folder, tmp_path / "run")
    extra = open_model(tmp_path / "run").extra
    for name, seq_len, kept, read in (
        ("run", 5000, extra, 5000),
        ("reward", None, extra | {"seq_len": 5000}, 5000),
        ("shorter", 1536, extra, 4096),
        ("own", 1536, {}, 1536),
    ):
        hf.to_hf(weights, CONFIG, tmp_path / f"out_{name}", hf.Export(tokenizer=None, seq_len=seq_len, extra=kept))
        written = json.loads((tmp_path / f"out_{name}/config.json").read_text())
        assert written["max_position_embeddings"] == read and "seq_len" not in written["tigerjax"]["extra"]


def test_a_run_tells_an_export_its_seq_len():
    assert trained_length(["data.mixture = 'm'", "data.seq_len = 2048", "name = 'n'"]) == 2048
    assert trained_length([]) is None and trained_length(["data.seq_len = two", 7]) is None


def test_a_tokenizer_config_without_its_added_tokens_gets_them(tmp_path):
    _, weights = model_folder(tmp_path / "hf")
    tok = write_added(tmp_path / "tok", INS, RES, PAD)
    small = dataclasses.replace(CONFIG, vocab_size=SIZE)
    hf.to_hf(weights, small, tmp_path / "first", hf.Export(tokenizer=tok))
    shutil.copytree(tmp_path / "first", tmp_path / "old")  # as an older version wrote it
    config = json.loads((tmp_path / "old/tokenizer_config.json").read_text())
    del config["added_tokens_decoder"]
    (tmp_path / "old/tokenizer_config.json").write_text(json.dumps(config | {"mine": 1}))
    hf.to_hf(weights, small, tmp_path / "second", hf.Export(tokenizer=tmp_path / "old"))
    first, second = (json.loads((tmp_path / n / "tokenizer_config.json").read_text()) for n in ("first", "second"))
    assert second["added_tokens_decoder"] == first["added_tokens_decoder"] and second["mine"] == 1


def test_a_resized_checkpoint_keeps_what_an_export_must_write_again(tmp_path):
    folder, _ = model_folder(tmp_path / "hf", max_position_embeddings=4096)
    write_added(folder)
    run("convert", "from-hf", folder, tmp_path / "run")
    new = write_added(tmp_path / "new", INS, RES, PAD)
    run("convert", "resize", tmp_path / "run", tmp_path / "big", "--base", folder, "--tokenizer", new)
    run("convert", "to-hf", tmp_path / "big", tmp_path / "out", "--tokenizer", new)
    assert json.loads((tmp_path / "out/config.json").read_text())["max_position_embeddings"] == 4096


def test_a_vocabulary_that_is_not_the_tokenizers_is_refused_wherever_a_model_is_used(tmp_path):
    _, weights = model_folder(tmp_path / "hf", reward=True)
    tok = Tokenizer(write_added(tmp_path / "tok", INS, RES, PAD))
    save_model(tmp_path / "rm", weights, CONFIG, kind="reward")
    with pytest.raises(ConfigError, match=f"has {ROWS} vocabulary entries, but tokenizer .* has {SIZE}"):
        check_fits(load_model(tmp_path / "rm"), tok, where="rm", reward=True)
    save_model(tmp_path / "fits", weights, dataclasses.replace(CONFIG, vocab_size=SIZE), kind="reward")
    check_fits(load_model(tmp_path / "fits"), tok, where="fits", reward=True)
