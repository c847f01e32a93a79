"""Tokenizer folders of other libraries: added tokens, and a tokenizer.model that is damaged."""

import json
import random

import pytest
from hand_tokenizer import INS, PAD, PIECES, RES, model_bytes, write_added

from tigerjax.errors import ConfigError, DataError
from tigerjax.tokenizer.chat import encode_chat
from tigerjax.tokenizer.export import files_of
from tigerjax.tokenizer.load import Tokenizer

DECODER = {str(PIECES + n): {"content": text, "special": True} for n, text in enumerate((INS, RES, PAD))}


def test_the_added_tokens_of_a_folder_become_the_specials(tmp_path):
    tok = Tokenizer(write_added(tmp_path, INS, RES, PAD))
    assert (tok.size, tok.ins, tok.res, tok.pad) == (PIECES + 3, PIECES, PIECES + 1, PIECES + 2)
    ids, _ = encode_chat(tok, [{"role": "user", "content": "ab"}, {"role": "assistant", "content": "cd"}])
    assert ids == [tok.ins, *tok.encode("ab"), tok.res, *tok.encode("cd"), tok.eos]
    assert tok.decode(ids) == "abcd" and max(tok.encode(INS)) < PIECES


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("tokenizer_config.json", {"added_tokens_decoder": DECODER}),
        ("tokenizer.json", {"added_tokens": [{"id": int(i), "content": t["content"]} for i, t in DECODER.items()]}),
    ],
)
def test_every_form_of_added_tokens_gives_the_same_tokenizer(tmp_path, name, content):
    ours = tmp_path / "ours"
    ours.mkdir()
    specials = {
        name: {"text": text, "id": PIECES + n}
        for n, (name, text) in enumerate(zip(("ins", "res", "pad"), (INS, RES, PAD), strict=True))
    }
    (ours / "tokenizer.model").write_bytes(model_bytes())
    (ours / "specials.json").write_text(json.dumps(specials))
    theirs = write_added(tmp_path / "theirs", INS, RES, PAD)
    other = write_added(tmp_path / "other")
    (other / name).write_text(json.dumps(content))
    (other / "added_tokens.json").unlink()
    assert Tokenizer(ours).sha256 == Tokenizer(theirs).sha256 == Tokenizer(other).sha256


def test_added_tokens_that_are_no_markers_are_entries_without_a_role(tmp_path):
    tok = Tokenizer(write_added(tmp_path, "[PAD]", "<|im_start|>"))
    assert (tok.size, tok.ins, tok.pad, tok.piece(PIECES + 1)) == (PIECES + 2, None, PIECES, "<|im_start|>")
    assert tok.decode([*tok.encode("ab"), PIECES + 1, *tok.encode("cd")]) == "abcd"
    assert tok.sha256 != Tokenizer(tmp_path / "tokenizer.model").sha256
    with pytest.raises(ConfigError, match="without chat markers"):
        encode_chat(tok, [{"role": "user", "content": "a"}])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (f'{{"<pad>": {PIECES + 1}}}', "without a gap"),
        (f'{{"<pad>": {PIECES}.0}}', "needs a text and a number"),
        ('{"<pad>": true}', "needs a text and a number"),
        ('{"<pad>": null}', "needs a text and a number"),
        ('{"": 300}', "needs a text and a number"),
        ('{"<pad>": -1}', "added token '<pad>' has id -1, needs a text and a number from 0"),
        (f'{{"<pad>": {PIECES}, "<x>": 1000000}}', "without a gap"),
        (f'{{"<pad>": {PIECES}, "<x>": {PIECES}}}', f"two added tokens have the id {PIECES}"),
        ('{"<pad>": 1, "<x>": 1}', "two added tokens have the id 1"),
        ('["<pad>"]', "needs a JSON object"),
        ('{"<pad>": 300', "not JSON"),
        ('{"\\ud83d": 300}', "half of a surrogate pair"),
        ("[" * 100_000, "too deep"),
        ('{"a": ' * 100_000, "too deep"),
        ('{"<pad>": ' + "9" * 5000 + "}", "digits"),
    ],
)
def test_added_tokens_that_cannot_be_are_refused_with_the_file(tmp_path, content, message):
    folder = write_added(tmp_path)
    (folder / "added_tokens.json").write_text(content)
    with pytest.raises(DataError, match=message) as error:
        Tokenizer(folder)
    assert str(tmp_path) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "content",
    [
        "[]x",
        '["ins"]',
        '{"ins": 1}',
        '{"ins": 1, "res": 2, "pad": 3}',
        '{"ins": {"text": "a", "id": 1e400}, "res": {"text": "b", "id": 1}, "pad": {"text": "c", "id": 2}}',
        '{"ins": {"text": "\\ud800", "id": 0}, "res": {"text": "b", "id": 1}, "pad": {"text": "c", "id": 2}}',
        '{"a": ' * 100_000,
    ],
)
def test_a_file_of_specials_that_is_none_is_refused(tmp_path, content):
    folder = write_added(tmp_path)
    (folder / "specials.json").write_text(content)
    with pytest.raises(DataError, match=r"specials\.json") as error:
        Tokenizer(folder)
    assert "\n" not in str(error.value)


def test_two_files_that_name_one_id_differently_are_refused(tmp_path):
    folder = write_added(tmp_path, "<pad>")
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"added_tokens_decoder": {str(PIECES): {"content": "<x>"}}})
    )
    with pytest.raises(DataError, match=rf"tokenizer_config.json: id {PIECES} is '<x>', and '<pad>' in another file"):
        Tokenizer(folder)


def test_the_exported_config_names_the_markers_as_control_tokens_for_llama_cpp(tmp_path):
    """As llama.cpp's converter does it: pieces of tokenizer.model, then added_tokens_decoder, all else is unused."""
    files = files_of(write_added(tmp_path, INS, RES, PAD))
    tokens = {i: f"[PAD{i}]" for i in range(PIECES + 3)}
    for i, entry in json.loads(files["tokenizer_config.json"])["added_tokens_decoder"].items():
        assert entry["special"]
        tokens[int(i)] = entry["content"]
    assert [tokens[PIECES + n] for n in range(3)] == [INS, RES, PAD]
    assert [tokens[n] for n in range(3)] == ["<unk>", "<s>", "</s>"]


def test_a_flipped_or_cut_tokenizer_model_is_refused_or_is_another_tokenizer(tmp_path):
    whole, rng, refused = model_bytes(), random.Random(0), 0
    path = tmp_path / "tokenizer.model"
    path.write_bytes(whole)
    sha256 = Tokenizer(path).sha256
    for n in range(120):
        damaged = bytearray(whole)
        if n % 4:
            damaged[rng.randrange(len(whole))] ^= 1 << rng.randrange(8)
        else:
            del damaged[rng.randrange(len(whole)) :]
        path.write_bytes(damaged)
        try:
            assert Tokenizer(path).sha256 != sha256
        except (DataError, ConfigError) as error:
            refused += 1
            assert "tokenizer.model" in str(error) and "\n" not in str(error)
    assert refused > 40
