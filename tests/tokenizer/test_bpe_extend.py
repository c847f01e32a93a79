"""A byte-level BPE grows for Chinese: what must stay stays, and every new row is alive."""

import json
from pathlib import Path

import pytest
from json_tokenizer import SPECIALS, write_plain

from tigerjax.command.cli import main
from tigerjax.errors import ConfigError, DataError
from tigerjax.tokenizer import bpe, bpe_extend
from tigerjax.tokenizer.bpe_extend import choose, extend, train_on
from tigerjax.tokenizer.load import Tokenizer
from tigerjax.tokenizer.verify import failures, property_table, verify

BASE, TRAINED, SIZE = 700, 1_400, 1_100


@pytest.fixture(scope="module")
def made(tmp_path_factory, embedded) -> Path:
    """base/, zh.txt and new/: merges for Chinese on top of the base, which has seen a little Chinese."""
    folder = tmp_path_factory.mktemp("byte_level")
    texts = {
        lang: [json.loads(line)["text"] for line in open(embedded / f"corpus_{lang}.jsonl", encoding="utf-8")][:120]
        for lang in ("en", "zh")
    }
    write_plain(folder / "base", [*texts["en"], *texts["zh"][:20]], BASE)
    for lang, own in texts.items():
        (folder / f"{lang}.txt").write_text("\n".join(own), encoding="utf-8")
    train_on(folder / "base", [folder / "zh.txt"], TRAINED, folder / "new")
    extend(folder / "base", folder / "new", SIZE, folder / "out")
    return folder


@pytest.fixture(scope="module")
def figures(made):
    return verify(made / "out", made / "base", [made / "en.txt", made / "zh.txt", Path(bpe_extend.__file__)])


def test_an_extended_byte_level_bpe_has_all_properties(figures):
    assert failures(figures) == []
    assert (figures["vocab_size"], figures["new_pieces"]) == (SIZE, SIZE - BASE - len(SPECIALS))
    assert figures["plain_lines"] > 300 and figures["mixed_lines"] > 300
    before, after = figures["chars_per_token"]["before"], figures["chars_per_token"]["after"]
    assert after["en"] == before["en"] and after["zh"] > 1.5 * before["zh"]
    table = property_table(figures)
    assert [line.split()[0] for line in table[1:8]] == list("1234567")
    assert all(" holds " in line for line in table[1:7])


@pytest.mark.peers
def test_an_extended_byte_level_bpe_gives_the_same_ids_in_transformers(figures):
    assert figures["hf_mismatches"] == 0


def test_old_entries_merges_and_other_files_stay_and_new_ids_follow(made):
    old, new = bpe.read(made / "base"), bpe.read(made / "out")
    assert list(new.merges[: len(old.merges)]) == old.merges
    assert [new.vocab[a + b] for a, b in bpe.new_merges(old, new)] == list(range(BASE + 2, SIZE))
    assert (made / "out/tokenizer_config.json").read_bytes() == (made / "base/tokenizer_config.json").read_bytes()
    tokenizer = Tokenizer(made / "out")
    assert [tokenizer.added[i] for i in (BASE, BASE + 1)] == list(SPECIALS) and tokenizer.eos == BASE


def test_every_first_part_of_the_merges_is_an_extension(made, tmp_path):
    old, learnt = bpe.read(made / "base"), bpe.new_merges(bpe.read(made / "base"), bpe.read(made / "new"))
    for count in (1, 2, 37, len(learnt)):
        assert choose(old, learnt, count) == learnt[:count]
    extend(made / "base", made / "new", TRAINED, tmp_path / "whole")
    whole = (tmp_path / "whole/tokenizer.json").read_bytes()
    assert whole == (made / "new/tokenizer.json").read_bytes()


def test_common_words_come_before_rare_characters(made):
    learnt = bpe.new_merges(bpe.read(made / "base"), bpe.read(made / "new"))
    kinds = [bpe.whole(a) and bpe.whole(b) for a, b in learnt]
    assert kinds.index(True) < len(kinds) - 1 - kinds[::-1].index(False)


@pytest.mark.parametrize(
    ("first", "second", "yes"),
    [
        ("中", "国", True),
        ("中", "，", True),
        (b"\xe4", b"\xb8", True),
        (b"\xe4\xb8", b"\xad", True),
        (b"\xe4", b"\xb8\xad", True),
        (b"\xe3", b"\x80", True),  # 。、《 and the ideographic space
        (b"\xf0\xa0", b"\xae", True),
        (b"\xe3", b"\x81", False),  # kana
        (b"\xe2", b"\x80", False),  # curly quotes and dashes
        (b"\xef", b"\xbd", False),  # half-width kana
        (b"\xf0", b"\x9f", False),  # emoji
        (b"\xb8", b"\xad", False),  # may stand inside characters of any script
        ("中", b"\xe5", False),
        (b"\xb8\xad", "国", False),
        ("中", "a", False),
        ("a", "b", False),
        (" ", "中", False),
        ("é", "中", False),
    ],
)
def test_a_merge_may_be_added_only_inside_cjk_characters(first, second, yes):
    pair = tuple(bpe.token_of(part if isinstance(part, bytes) else part.encode()) for part in (first, second))
    assert bpe.allowed(pair) == yes


def test_a_beginning_stands_for_all_its_characters():
    assert len(bpe.completions(b"\xe4\xb8")) == 64 and len(bpe.completions(b"\xf0\xa0")) == 4096
    assert bpe.completions(b"\xed\xa0") == [] == bpe.completions(b"\xb8") == bpe.completions(b"\xff")
    assert len(bpe.completions(b"\xe0\x80")) == 0, "longer spellings of smaller characters are none"


def test_a_merge_that_no_text_applies_is_left_out(made):
    base = bpe.read(made / "base")
    three = [bpe.token_of(character.encode()) for character in "鼹鼯鼬"]
    chains = [pair for token in three for pair in ((token[0], token[1]), (token[:2], token[2]))]
    lost = [
        (three[0], three[1]),
        (three[1], three[2]),
        (three[0] + three[1], three[2]),
        (three[0], three[1] + three[2]),
    ]
    chosen = choose(base, [*dict.fromkeys(chains), *lost], 20)
    assert lost[0] in chosen and lost[2] in chosen and lost[3] not in chosen
    tokenizer = bpe.made(bpe.with_merges(base, chosen))
    assert len(tokenizer.encode("鼹鼯鼬", add_special_tokens=False).ids) == 1


def test_a_beginning_whose_characters_all_have_tokens_keeps_one_without(made):
    base = bpe.read(made / "base")
    first, second, *_ = bpe.token_of("䶀".encode())
    assert first + second not in base.vocab
    whole = [(first + second, bpe.token_of(one.encode())[2]) for one in bpe.completions("䶀".encode()[:2])]
    chosen = choose(base, [(first, second), *whole], 65)
    assert chosen == [(first, second), *whole[:-1]]


def test_normalised_text_and_merges_of_the_old_form_are_kept(tmp_path, embedded):
    lines = (embedded / "corpus_zh.jsonl").read_text(encoding="utf-8").splitlines()[:60]
    texts = [json.loads(line)["text"] for line in lines]
    (tmp_path / "zh.txt").write_text("\n".join([*texts, "\ufa1e豈"]), encoding="utf-8")  # NFC makes others of these
    write_plain(tmp_path / "base", ["def f(x): return x"] * 9, 262, nfc=True, own_merges="text")
    train_on(tmp_path / "base", [tmp_path / "zh.txt"], 500, tmp_path / "new")
    assert isinstance(json.loads((tmp_path / "new/tokenizer.json").read_text())["model"]["merges"][-1], str)
    assert failures(verify(tmp_path / "new", tmp_path / "base", [tmp_path / "zh.txt"])) == []


def broken(made: Path, tmp_path: Path, change) -> dict:
    folder = tmp_path / "broken"
    folder.mkdir()
    content = json.loads((made / "out/tokenizer.json").read_text())
    change(content)
    (folder / "tokenizer.json").write_text(json.dumps(content))
    (folder / "tokenizer_config.json").write_bytes((made / "out/tokenizer_config.json").read_bytes())
    return verify(folder, made / "base", [made / "en.txt"])


def other_merge_of_english(content):
    merges, vocab = content["model"]["merges"], content["model"]["vocab"]
    text = "Ġ" + "q"
    vocab[text] = max(vocab.values()) + 1
    merges.append(["Ġ", "q"])


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (other_merge_of_english, "merges_not_allowed"),
        (lambda c: c["model"]["merges"].reverse(), "old_merges_changed"),
        (lambda c: c["model"]["merges"].pop(), "entry_errors"),
        (lambda c: c["model"]["merges"].pop(), "dead_rows"),
        (lambda c: c.update(normalizer={"type": "NFC"}), "header_errors"),
        (lambda c: c["model"].update(ignore_merges=True), "header_errors"),
    ],
)
def test_verify_finds_each_kind_of_fault(made, tmp_path, change, name):
    assert any(text.startswith(f"{name}=") for text in failures(broken(made, tmp_path, change)))


def test_the_commands_extend_a_tokenizer_json_and_name_what_does_not_fit(made, tmp_path, capsys):
    base, zh = str(made / "base"), str(made / "zh.txt")
    train = ["tokenizer", "train", "--base", base, "--input", zh]
    assert main([*train, "--vocab-size", "900", "--out", str(tmp_path / "new")]) == 0
    grow = ["tokenizer", "extend", "--base", base, "--new", str(tmp_path / "new"), "--out", str(tmp_path / "out")]
    assert main([*grow, "--vocab-size", "800"]) == 0
    assert main(["tokenizer", "verify", str(tmp_path / "out"), "--base", base, "--text", zh]) == 0
    capsys.readouterr()
    assert main([*grow, "--vocab-size", "901"]) == 2
    assert "only 198 of the 198 merges" in (told := capsys.readouterr().err) and "ask for 900 at most" in told
    assert main([*grow, "--vocab-size", "900"]) == 0
    assert main([*grow, "--vocab-size", str(BASE)]) == 2
    assert "leaves -2 new entries" in capsys.readouterr().err
    other = ["tokenizer", "extend", "--base", base, "--new", str(tmp_path / "other"), "--out", str(tmp_path / "no")]
    write_plain(tmp_path / "other", ["other text"], 260)
    assert main([*other, "--vocab-size", "800"]) == 2
    assert "is not made of" in capsys.readouterr().err
    assert main([*train, "--vocab-size", "90000", "--out", str(tmp_path / "big")]) == 2
    assert "is too large: this text has merges for" in capsys.readouterr().err
    english = ["tokenizer", "train", "--base", base, "--input", str(made / "en.txt")]
    assert main([*english, "--vocab-size", "900", "--out", str(tmp_path / "none")]) == 3
    assert "no Chinese text to train on" in capsys.readouterr().err


def test_a_tokenizer_json_that_is_not_byte_level_is_refused(made, tmp_path):
    content = json.loads((made / "base/tokenizer.json").read_text())
    content["pre_tokenizer"] = {"type": "Whitespace"}
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    (tmp_path / "tokenizer_config.json").write_bytes((made / "base/tokenizer_config.json").read_bytes())
    with pytest.raises(ConfigError, match="is no byte-level BPE"):
        bpe.read(tmp_path)
    content["pre_tokenizer"] = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    content["model"]["merges"][0] = ["a"]
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"model\.merges"):
        bpe.read(tmp_path)
