import json
import re
import shutil

import pytest

from tigerjax.errors import ConfigError, DataError
from tigerjax.files import manifest
from tigerjax.tokenizer.added import MODEL_FILE
from tigerjax.tokenizer.extend import dead_pieces, extend, is_cjk, select
from tigerjax.tokenizer.load import Tokenizer
from tigerjax.tokenizer.model_file import NORMAL, read_proto
from tigerjax.tokenizer.stats import stats
from tigerjax.tokenizer.train import train_model
from tigerjax.tokenizer.verify import PROPERTIES, failures, property_table, verify


@pytest.fixture(scope="module")
def figures(folder, base_folder, embedded):
    return verify(folder, base=base_folder, texts=[embedded / "corpus_en.jsonl", embedded / "corpus_zh.jsonl"])


def test_an_extended_tokenizer_has_all_properties_on_the_embedded_text(figures):
    assert failures(figures) == []
    assert figures["vocab_size"] == 3003
    assert figures["plain_lines"] > 2000 and figures["mixed_lines"] > 2000
    before, after = figures["chars_per_token"]["before"], figures["chars_per_token"]["after"]
    assert after["en"] == before["en"]
    assert after["zh"] > 2 * before["zh"]
    table = property_table(figures)
    assert [line.split()[0] for line in table[1:8]] == list("1234567")
    assert all(" holds " in line for line in table[1:7]) and "zh" in table[-1]
    assert set().union(*(names for _, names in PROPERTIES)) <= set(figures)


@pytest.mark.peers
def test_an_extended_tokenizer_gives_the_same_ids_in_transformers(figures):
    assert figures["hf_mismatches"] == 0
    assert property_table(figures)[7].startswith("7  Hugging Face") and " holds " in property_table(figures)[7]


def test_the_32000_piece_base_extends_to_exactly_the_size_and_keeps_every_old_piece(embedded, zh_folder, tmp_path):
    base = embedded / "base_32000.model"
    figures = extend(base, zh_folder, 33_003, tmp_path / "big")["figures"]
    assert (figures["vocab_size"], figures["new_pieces"], figures["base_minimum"]) == (33_003, 1_000, -31_740.0)
    old, new = read_proto(base), read_proto(tmp_path / "big")
    assert list(new.pieces[:32_000]) == list(old.pieces)
    assert [piece.score for piece in new.pieces[32_000:]] == [-31_741.0 - k for k in range(1_000)]
    assert new.trainer_spec.vocab_size == 33_000
    tok = Tokenizer(tmp_path / "big")
    assert (tok.ins, tok.res, tok.pad, tok.size) == (33_000, 33_001, 33_002, 33_003)
    english = [json.loads(line)["text"] for line in open(embedded / "corpus_en.jsonl", encoding="utf-8")]
    assert tok.encode_batch(english) == Tokenizer(base).encode_batch(english)


def test_new_pieces_are_cjk_only_distinct_normal_and_live(folder):
    proto = read_proto(folder)
    added = proto.pieces[1500:]
    assert len(added) == 1500
    assert all(piece.type == NORMAL and all(map(is_cjk, piece.piece)) for piece in added)
    assert len({piece.score for piece in added}) == len(added)
    assert dead_pieces(proto, 1500) == []


def test_inside_a_run_of_han_the_merges_are_those_of_the_chinese_model(base_folder, zh_folder, embedded, tmp_path):
    zh = Tokenizer(zh_folder)
    usable = extend(base_folder, zh_folder, 1503 + 100, tmp_path / "probe")["figures"]["survivors"]
    extend(base_folder, zh_folder, 1503 + usable, tmp_path / "whole")
    whole = Tokenizer(tmp_path / "whole")
    records = [json.loads(line) for line in open(embedded / "corpus_zh.jsonl", encoding="utf-8")]
    runs = {run for record in records for run in record["text"].replace("。", "，").split("，") if run.isalpha()}
    runs = {run for run in runs if all(map(is_cjk, run))}
    assert len(runs) > 1000
    for run in runs:
        assert [whole.piece(i) for i in whole.encode_bare(run)] == [zh.piece(i) for i in zh.encode_bare(run)]


def test_a_plain_cut_by_rank_would_leave_dead_rows_and_the_selection_does_not():
    ranked = ["天地", "天地人", "地", "人", "天", "大"]
    assert select(ranked, have=[], count=3) == ["天地", "地", "天"]
    assert select(["天地", "天地人", "人"], have=["天", "地"], count=2) == ["天地", "人"]
    assert select(ranked, have=[], count=6) == ranked
    assert select(ranked, have=[], count=7) == ranked


def test_curly_quotes_and_dashes_are_not_cjk_but_full_width_marks_are():
    assert [c for c in "中。，《！〇々𠮷“”—…·aＡｚ０￥ \u3000▁あア" if is_cjk(c)] == list("中。，《！〇々𠮷Ａｚ０￥")


def test_marker_strings_in_text_never_give_specials(tok):
    for text in ("\n\n### Instruction:\n", "x\n\n### Response:\ny", "<pad>", "</s>", "<s>", "<unk>", "<0x41>"):
        ids = tok.encode(text)
        assert not set(ids) & {0, tok.bos, tok.eos, tok.ins, tok.res, tok.pad}
        assert tok.decode(ids) == text


@pytest.fixture
def altered(zh_folder, tmp_path):
    """A copy of the Chinese model with one thing changed."""

    def make(change):
        proto = read_proto(zh_folder)
        change(proto)
        (tmp_path / "altered.model").write_bytes(proto.SerializeToString())
        return tmp_path / "altered.model"

    return make


def _unigram(proto):
    proto.trainer_spec.model_type = 1


def _nfkc(proto):
    proto.normalizer_spec.name = "nfkc"


def _twice(proto):
    last = proto.pieces[-1]
    proto.pieces.add(piece=last.piece, score=last.score - 1, type=last.type)


@pytest.mark.parametrize(
    ("change", "message"),
    [(_unigram, "unigram scores are not merge priorities"), (_nfkc, "normaliser 'nfkc'"), (_twice, "1 duplicate")],
)
def test_models_that_the_rule_does_not_hold_for_are_refused(altered, base_folder, tmp_path, change, message):
    with pytest.raises(ConfigError, match=message):
        extend(base_folder, altered(change), 1600, tmp_path / "out")
    with pytest.raises(ConfigError, match=message):
        extend(altered(change), base_folder, 4100, tmp_path / "out")


def test_too_few_survivors_are_counted_and_nothing_is_written(base_folder, zh_folder, tmp_path):
    with pytest.raises(
        ConfigError, match=r"only \d+ of 4001 pieces .* survive the merge rule, 8497 are needed"
    ) as told:
        extend(base_folder, zh_folder, 10_000, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    size = int(re.search(r"ask for (\d+) at most$", str(told.value))[1])
    with pytest.raises(ConfigError, match=f"ask for {size} at most"):
        extend(base_folder, zh_folder, size + 1, tmp_path / "out")
    assert extend(base_folder, zh_folder, size, tmp_path / "out")["figures"]["vocab_size"] == size


def test_no_smaller_size_is_advised_where_none_is_possible(base_folder, tmp_path):
    with pytest.raises(ConfigError, match=r"only 0 of .* on other text: none of its pieces is new$"):
        extend(base_folder, base_folder, 1600, tmp_path / "out")


def test_a_size_below_the_base_and_an_extended_base_are_refused(base_folder, folder, zh_folder, tmp_path):
    with pytest.raises(ConfigError, match="give at least 1504"):
        extend(base_folder, zh_folder, 1503, tmp_path / "out")
    with pytest.raises(ConfigError, match="extended already"):
        extend(folder, zh_folder, 4000, tmp_path / "out")


def test_a_file_that_is_no_model_and_a_missing_one_are_refused(zh_folder, tmp_path):
    (tmp_path / "text.model").write_text("this is not a model")
    with pytest.raises(DataError, match="not a SentencePiece model"):
        extend(tmp_path / "text.model", zh_folder, 4000, tmp_path / "out")
    with pytest.raises(ConfigError, match="does not exist"):
        extend(tmp_path / "none", zh_folder, 4000, tmp_path / "out")


def test_the_comparison_rules_fail_verification(base_folder, zh_folder, embedded, tmp_path):
    extend(base_folder, zh_folder, 3003, tmp_path / "zero", script_filter="none", score_rule="base_style_zero")
    figures = verify(tmp_path / "zero", base=base_folder, texts=[embedded / "corpus_en.jsonl"])
    assert figures["plain_lines_changed"] > 0
    assert figures["misranked_scores"] > 0
    assert failures(figures)


def test_verify_sees_a_changed_old_piece_and_a_dead_row(folder, base_folder, tmp_path):
    shutil.copytree(folder, tmp_path / "bad", ignore=shutil.ignore_patterns(manifest.FILE))
    proto = read_proto(folder)
    proto.pieces[700].score -= 0.5
    proto.pieces[2000].piece = "中X文"
    (tmp_path / "bad" / MODEL_FILE).write_bytes(proto.SerializeToString())
    (tmp_path / "line.txt").write_text("Hello\n")
    figures = verify(tmp_path / "bad", base=base_folder, texts=[tmp_path / "line.txt"])
    assert figures["old_ids_changed"] == 1
    assert figures["dead_rows"] >= 1
    table = property_table(figures)
    assert "FAILS" in table[1] and "FAILS" in table[3] and "holds" in table[4]


def test_without_transformers_the_comparison_is_none_and_no_failure(folder, base_folder, tmp_path, monkeypatch):
    (tmp_path / "line.txt").write_text("Hello\n")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    figures = verify(folder, base=base_folder, texts=[tmp_path / "line.txt"])
    assert figures["hf_mismatches"] is None
    assert failures(figures) == []


def test_a_common_character_that_is_merged_with_nothing_is_left_out_of_a_cut_and_counted(
    base_folder, zh_folder, embedded, tmp_path
):
    """The trainer ranks single characters last: cut short, the merged tokenizer spells some in bytes."""
    small = extend(base_folder, zh_folder, 1600, tmp_path / "small")["figures"]
    assert small["characters_left_out"] > 0
    whole = extend(base_folder, zh_folder, 1503 + small["survivors"], tmp_path / "whole")["figures"]
    assert whole["characters_left_out"] == 0 and whole["most_common_left_out"] == ""
    texts = [embedded / "corpus_zh.jsonl"]
    cut, full = (stats(tmp_path / name, texts) for name in ("small", "whole"))
    missing = set(cut["in_bytes"]) & set(small["most_common_left_out"])
    assert missing and not missing & set(full["in_bytes"])
    assert cut["languages"]["zh"]["byte_share"] > full["languages"]["zh"]["byte_share"]
    assert cut["languages"]["zh"]["chars_per_token"] < full["languages"]["zh"]["chars_per_token"]


def test_statistics_of_no_text_are_refused(folder, tmp_path):
    (tmp_path / "empty.txt").write_text("\n")
    with pytest.raises(DataError, match=r"empty\.txt: is empty"):
        stats(folder, [tmp_path / "empty.txt"])


def test_a_new_model_of_the_size_that_is_said_to_fit_leaves_no_character_out(
    base_folder, zh_folder, embedded, tmp_path
):
    whole = extend(base_folder, zh_folder, 1600, tmp_path / "whole")["figures"]
    size = 1503 + whole["survivors"] - 200
    large = extend(base_folder, zh_folder, size, tmp_path / "large")["figures"]
    train_model([embedded / "corpus_zh.jsonl"], large["fitting_size"], tmp_path / "zh")
    fitting = extend(base_folder, tmp_path / "zh", size, tmp_path / "fitting")["figures"]
    assert large["characters_left_out"] > 0 == fitting["characters_left_out"]
    assert fitting["survivors"] == fitting["new_pieces"] == large["new_pieces"]
    assert fitting["fitting_size"] == large["fitting_size"] and "fitting_vocab_size" not in large
    train_model([embedded / "corpus_zh.jsonl"], whole["fitting_size"], tmp_path / "few")  # characters alone
    few = extend(base_folder, tmp_path / "few", whole["fitting_vocab_size"], tmp_path / "larger")["figures"]
    assert whole["characters_left_out"] > 0 == few["characters_left_out"]
