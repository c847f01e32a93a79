import json
import shutil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tigerjax.errors import DataError
from tigerjax.tokenizer.added import SPECIALS_FILE
from tigerjax.tokenizer.load import Tokenizer

TEXT = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\u2581"), max_size=60)
MIXED = st.text(st.sampled_from("天地人首都是。，“” \n\tab1<>#s/0x\u3000\u200b😀"), max_size=60)


@settings(max_examples=400, deadline=None, database=None, derandomize=True)
@given(text=TEXT | MIXED)
def test_decode_undoes_encode_for_any_unicode_text(tok, base, text):
    assert tok.decode(tok.encode(text)) == text
    assert base.decode(base.encode(text)) == text


@settings(max_examples=200, deadline=None, database=None, derandomize=True)
@given(text=TEXT | MIXED)
def test_spans_cover_the_text_and_have_the_ids_of_encode(tok, text):
    spans = tok.encode_spans(text)
    assert [i for i, _, _ in spans] == tok.encode(text)
    assert all(begin <= end for _, begin, end in spans)
    assert not text or spans[-1][2] == len(text)


def test_the_space_mark_itself_becomes_a_space(tok):
    assert tok.decode(tok.encode("a\u2581b")) == "a b"


def test_encode_batch_equals_encode(tok, hard_lines):
    assert tok.encode_batch(hard_lines) == [tok.encode(line) for line in hard_lines]


def test_decode_treats_each_segment_between_specials_by_itself(tok):
    ids = [tok.bos, tok.ins, *tok.encode("Hi"), tok.res, *tok.encode(" Hello"), tok.eos, tok.pad, *tok.encode("x")]
    assert tok.decode(ids) == "Hi Hellox"


def test_a_base_tokenizer_has_no_specials(base):
    assert (base.ins, base.res, base.pad, base.size, base.bos, base.eos) == (None, None, None, 1500, 1, 2)


def test_an_id_outside_the_vocabulary_and_a_lone_surrogate_are_refused(tok):
    with pytest.raises(DataError, match="id 3003 is outside"):
        tok.decode([3003])
    with pytest.raises(DataError, match="not valid Unicode at character 2"):
        tok.encode("ab\ud800")


def test_the_hash_depends_on_the_model_and_the_specials(folder, tok, base, tmp_path):
    shutil.copytree(folder, tmp_path / "copy")
    assert Tokenizer(tmp_path / "copy").sha256 == tok.sha256 != base.sha256
    specials = json.loads((folder / SPECIALS_FILE).read_text())
    specials["pad"]["text"] = "<PAD>"
    (tmp_path / "copy" / SPECIALS_FILE).write_text(json.dumps(specials))
    assert Tokenizer(tmp_path / "copy").sha256 != tok.sha256


def test_specials_that_do_not_follow_the_pieces_are_refused(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "copy")
    specials = json.loads((folder / SPECIALS_FILE).read_text())
    specials["pad"]["id"] = 7
    (tmp_path / "copy" / SPECIALS_FILE).write_text(json.dumps(specials))
    with pytest.raises(DataError, match="must be the 3 after the 3000 pieces"):
        Tokenizer(tmp_path / "copy")
