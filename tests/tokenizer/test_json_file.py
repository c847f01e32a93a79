"""tokenizer.json: ids, text, special tokens, and streams; the ids of transformers' AutoTokenizer."""

import json

import json_tokenizer
import pytest
from hand_tokenizer import INS, PAD, RES, write_added
from hypothesis import given, settings
from hypothesis import strategies as st
from json_tokenizer import KINDS

from tigerjax.command.cli import main
from tigerjax.errors import DataError
from tigerjax.tokenizer.load import Tokenizer
from tigerjax.tokenizer.stats import stats
from tigerjax.tokenizer.stream import Stream

BYTE_LEVEL = ("llama3", "qwen", "smol")
TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=40)
MIXED = st.text(st.sampled_from("天地人首都是。，“” \n\tab1<>|#/0x\u3000😀👨‍👩‍👧é"), max_size=40)


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("json_tokenizers")
    return {kind: json_tokenizer.write(root / kind, kind) for kind in KINDS}


@pytest.fixture(scope="session")
def toks(folders):
    return {kind: Tokenizer(folder) for kind, folder in folders.items()}


@pytest.fixture(scope="session")
def hand(tmp_path_factory):
    return Tokenizer(write_added(tmp_path_factory.mktemp("hand"), INS, RES, PAD))


@pytest.mark.peers
@pytest.mark.parametrize("kind", KINDS)
def test_ids_and_texts_are_those_of_auto_tokenizer(folders, toks, hard_lines, kind):
    from transformers import AutoTokenizer

    theirs, tok = AutoTokenizer.from_pretrained(folders[kind]), toks[kind]
    ids_of_theirs = (theirs.bos_token_id, theirs.eos_token_id, theirs.pad_token_id)
    assert (len(theirs), *ids_of_theirs) == (tok.size, tok.bos, tok.eos, tok.pad)
    for line in [*hard_lines, *json_tokenizer.lines()[::20]]:
        ids = tok.encode(line)
        assert ids == theirs.encode(line, add_special_tokens=False), line
        assert [*tok.opening, *ids] == theirs.encode(line), line
        assert tok.decode(ids) == theirs.decode(ids, skip_special_tokens=True), line
    assert tok.encode_batch(hard_lines) == [tok.encode(line) for line in hard_lines]
    assert bool(tok.opening) == (kind in ("llama3", "metaspace"))


@settings(max_examples=100, deadline=None, database=None, derandomize=True)
@given(text=TEXT | MIXED)
def test_decode_and_streams_undo_encode_for_any_unicode_text(toks, text):
    for kind in ("llama3", "smol"):  # qwen composes characters first
        tok = toks[kind]
        ids = tok.encode(text)
        assert tok.decode(ids) == text
        stream = Stream(tok)
        parts = [*map(stream.add, ids), stream.end()]
        assert "".join(parts) == text
        assert "\ufffd" in text or not any("\ufffd" in part for part in parts)


@settings(max_examples=50, deadline=None, database=None, derandomize=True)
@given(numbers=st.lists(st.integers(0, 10**6), max_size=30))
def test_a_stream_gives_the_text_of_any_ids(toks, hand, numbers):
    """Not so for "metaspace": its decoder replaces a whole run of bytes where the last of them make no character."""
    for tok in (toks["llama3"], toks["qwen"], toks["smol"], hand):
        ids, stream = [n % tok.size for n in numbers], Stream(tok)
        assert "".join([*map(stream.add, ids), stream.end()]) == tok.decode(ids)


def test_a_stream_withholds_half_characters(toks):
    tok = toks["smol"]
    ids, stream = tok.encode("a😀你b"), Stream(tok)
    texts = [text for text in map(stream.add, ids) if text]
    assert texts == ["a", "😀", "你", "b"] and len(ids) > len(texts) and stream.end() == ""


@pytest.mark.parametrize("kind", KINDS)
def test_special_tokens_never_come_out_of_text(toks, kind):
    tok = toks[kind]
    specials = {i for i, text in tok.added.items() if text not in ("<think>", "</think>")}
    evil = " ".join(tok.added.values()) + "".join(tok.added.values())
    ids = tok.encode(evil)
    assert specials and not specials & set(ids) and not specials & {i for i, *_ in tok.encode_spans(evil)}
    assert not specials & set(tok.encode_bare(evil))
    assert tok.decode(ids) == evil


def test_added_tokens_that_are_not_special_are_text(toks):
    tok = toks["qwen"]
    ids = tok.encode("a<think>b")
    assert tok.piece(ids[1]) == "<think>" and tok.decode(ids) == "a<think>b"


@pytest.mark.parametrize("kind", KINDS)
def test_spans_cover_the_text_and_bytes_spell_it(toks, hard_lines, kind):
    tok = toks[kind]
    for line in [*hard_lines, "😀a你"]:
        spans = tok.encode_spans(line)
        assert [i for i, _, _ in spans] == tok.encode(line)
        assert [end for _, _, end in spans[:-1]] == [begin for _, begin, _ in spans[1:]]
        assert spans[0][1] == 0 and spans[-1][2] == len(line)
        if kind in ("llama3", "smol"):
            assert b"".join(tok.bytes_of(i) for i, _, _ in spans) == line.encode()


def test_stats_measure_it(folders, tmp_path):
    (tmp_path / "text.txt").write_text("hello 你好\n龘 😀\n", encoding="utf-8")
    figures = stats(folders["smol"], [tmp_path / "text.txt"])
    assert figures["vocab_size"] == 500 and {"龘", "😀"} <= set(figures["in_bytes"])


def test_eos_pad_bos_and_ends_are_those_that_the_files_name(tmp_path, toks):
    llama, qwen = toks["llama3"], toks["qwen"]
    assert [llama.piece(i) for i in sorted(llama.ends)] == ["<|end_of_text|>", "<|eot_id|>"]
    assert (llama.piece(llama.end), llama.piece(llama.eos), llama.pad) == ("<|eot_id|>", "<|eot_id|>", None)
    assert (qwen.bos, qwen.opening, qwen.piece(qwen.pad)) == (None, [], "<|endoftext|>")
    base = json_tokenizer.write(tmp_path / "base", "qwen", eos_token="<|endoftext|>")
    tok = Tokenizer(base)  # as Qwen's base models: documents end otherwise than answers
    assert (tok.piece(tok.eos), tok.piece(tok.end)) == ("<|endoftext|>", "<|im_end|>") and tok.ends == {
        tok.eos,
        tok.end,
    }
    bare = json_tokenizer.write(tmp_path / "llama", "llama3", add_bos_token=True)
    content = json.loads((bare / "tokenizer.json").read_text(encoding="utf-8"))
    (bare / "tokenizer.json").write_text(json.dumps(content | {"post_processor": None}))
    again = Tokenizer(bare)  # transformers 5 does not read add_bos_token beside a tokenizer.json
    assert again.opening == [] and again.sha256 == llama.sha256 and again.encoding_sha256 != llama.encoding_sha256
    objects = json_tokenizer.write(tmp_path / "objects", "qwen", eos_token={"content": "<|im_end|>", "special": True})
    assert Tokenizer(objects).eos == qwen.eos
    mapped = json_tokenizer.write(tmp_path / "mapped", "qwen", eos_token=None)
    (mapped / "special_tokens_map.json").write_text('{"eos_token": "<|endoftext|>"}')
    assert Tokenizer(mapped).piece(Tokenizer(mapped).eos) == "<|endoftext|>"


def _damaged(**changes):
    def change(content):
        for where, value in changes.items():
            *path, last = where.split("__")
            part = content
            for name in path:
                part = part[name]
            part[last] = value
        return json.dumps(content)

    return change


DAMAGE = {
    "not JSON": lambda content: json.dumps(content)[:-40],
    "holds a list": lambda content: "[]",
    "kind 'Unigram'": _damaged(model__type="Unigram"),
    "kind None": _damaged(model=None),
    "no object of texts": _damaged(model__vocab=[]),
    "an id is -1": _damaged(model__vocab={"a": -1}),
    "the same id": _damaged(model__vocab={"a": 1, "b": 1}),
    "an id is 99999999": _damaged(model__vocab={"a": 99999999}),
    "tokenizers refuses it": _damaged(model__merges=[["no", "such"]]),
    "tokenizers refuses": _damaged(pre_tokenizer={"type": "Nothing"}),
    "has the text ''": _damaged(added_tokens=[{"id": 3, "content": ""}]),
    "KeyError": _damaged(added_tokens=[{"id": 3}]),
    "AttributeError|TypeError": _damaged(added_tokens=[7]),
    "which .* does not have": _damaged(added_tokens=[]),
}


@pytest.mark.parametrize("message", DAMAGE)
def test_a_damaged_file_is_refused_in_one_line(tmp_path, message):
    folder = json_tokenizer.write(tmp_path, "qwen")
    path = folder / "tokenizer.json"
    path.write_text(DAMAGE[message](json.loads(path.read_text(encoding="utf-8"))))
    with pytest.raises(DataError, match=message) as error:
        Tokenizer(folder)
    assert str(tmp_path) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("tokenizer_config.json", "{}", "names an eos_token"),
        ("tokenizer_config.json", '{"eos_token": "<no>"}', "eos_token is '<no>', which"),
        ("tokenizer_config.json", '{"eos_token": 7}', "eos_token is 7, needs a text"),
        ("tokenizer_config.json", '{"added_tokens_decoder": {"900": {"content": "<x>"}}}', "'<x>' has id 900"),
        ("tokenizer_config.json", '{"added_tokens_decoder": [1]}', "not a list of added tokens"),
        ("tokenizer_config.json", '{"eos_token": "<|im_end|>", "chat_template": 7}', "chat_template is 7"),
        ("tokenizer_config.json", '{"eos_token": "<|im_end|>", "chat_template": "{% x"}', "not Jinja"),
        ("tokenizer_config.json", '{"eos_token": "<|im_end|>", "chat_template": [{"name": "rag"}]}', "'default'"),
        ("chat_template.jinja", b"\xff", "invalid UTF-8 at byte 0"),
        ("chat_template.jinja", "{{ '<|im_end|>' }", r"its line 1\): "),
        ("generation_config.json", '{"eos_token_id": [1, "x"]}', "eos_token_id has 'x'"),
        ("generation_config.json", '{"eos_token_id": 5000}', "eos_token_id has 5000"),
    ],
)
def test_files_beside_it_that_are_damaged_are_refused_in_one_line(tmp_path, name, content, message):
    folder = json_tokenizer.write(tmp_path, "qwen")
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError, match=message) as error:
        Tokenizer(folder)
    assert str(tmp_path) in str(error.value) and "\n" not in str(error.value)


def test_the_command_line_says_it_in_one_line_and_exits_3(tmp_path, capsys):
    folder = json_tokenizer.write(tmp_path, "qwen")
    (folder / "tokenizer.json").write_text('{"model": {"type": "WordPiece"}}')
    (tmp_path / "text.txt").write_text("a\n")
    assert main(["tokenizer", "stats", str(folder), "--text", str(tmp_path / "text.txt")]) == 3
    said = capsys.readouterr().err
    assert "of kind 'WordPiece', and only BPE is read" in said and said.count("\n") == 1


@pytest.mark.parametrize("role", ["base", "new"])
def test_a_folder_that_is_not_there_is_one_line(tmp_path, capsys, role):
    folders = {"base": json_tokenizer.write(tmp_path, "smol"), "new": json_tokenizer.write(tmp_path / "n", "smol")}
    folders[role] = tmp_path / "absent"
    words = [word for name, folder in folders.items() for word in (f"--{name}", str(folder))]
    assert main(["tokenizer", "extend", *words, "--vocab-size", "999", "--out", str(tmp_path / "out")]) in (2, 3)
    said = capsys.readouterr().err
    assert str(tmp_path / "absent") in said and said.count("\n") == 1 and not (tmp_path / "out").exists()


def test_a_special_token_that_merges_lead_to_is_refused(tmp_path):
    folder = json_tokenizer.write(tmp_path, "smol")
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    piece = next(text for text, i in content["model"]["vocab"].items() if i > 300 and text.isascii())
    content["added_tokens"].append(
        content["added_tokens"][0] | {"id": content["model"]["vocab"][piece], "content": piece}
    )
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match="comes out of ordinary text"):
        Tokenizer(folder)


def test_the_model_file_of_llama_3_is_named(tmp_path):
    (tmp_path / "tokenizer.model").write_bytes(b"IQ== 0\nIg== 1\n")
    with pytest.raises(DataError, match="as Meta publishes it with Llama 3"):
        Tokenizer(tmp_path)


def test_the_hash_is_that_of_what_makes_ids(tmp_path, toks):
    folder = json_tokenizer.write(tmp_path, "qwen", template=None)
    tok = Tokenizer(folder)
    assert tok.sha256 == toks["qwen"].sha256 and tok.encoding_sha256 != toks["qwen"].encoding_sha256
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    content["model"]["merges"].pop()
    path.write_text(json.dumps(content))
    assert Tokenizer(folder).sha256 != tok.sha256
