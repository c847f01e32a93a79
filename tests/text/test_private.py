"""Private data is masked, numbers that are none stay, and masking twice is masking once."""

import pytest

from tigerjax.files import jsonl
from tigerjax.text.clean import clean_files
from tigerjax.text.page_lines import repeated_sentences
from tigerjax.text.private import emails, identity_numbers, phones, secrets
from tigerjax.text.rules import rule_set

TOKEN = "ghp_" + "a1B2c3D4e5F6" * 3
MASKED = [
    (emails, "写信到ann.lee+x@mail.tiger.org。", "写信到[EMAIL]。"),
    (emails, "<ann@tiger.org>, bob@x.cn", "<[EMAIL]>, [EMAIL]"),
    (phones, "电话13800138000，或+86 138-0013-8000。", "电话[PHONE]，或[PHONE]。"),
    (phones, "传真：010-62345678 (021) 5234567", "传真：[PHONE] [PHONE]"),
    (phones, "Call (212) 555-0143, 212-555-0143 or +44 20 7946 0018.", "Call [PHONE], [PHONE] or [PHONE]."),
    (
        phones,
        "（010）6234-5678、０１０－６２３４５６７８、010–62345678；0755-8765 4321",
        "[PHONE]、[PHONE]、[PHONE]；[PHONE]",
    ),
    (phones, "１３８００１３８０００/13900139000/010-62345678，400-810-8888", "[PHONE]/[PHONE]/[PHONE]，[PHONE]"),
    (
        phones,
        "1-800-555-0199, +49 (0)30 901820, +65 91234567, +1 415 555 2671 20",
        "[PHONE], [PHONE], [PHONE], [PHONE] 20",
    ),
    (phones, "+86 10 6234 5678, 0086-755-87654321, 13800138000-张三", "[PHONE], [PHONE], [PHONE]-张三"),
    (emails, "zhang＠163.com（办公室），joe@tiger.com(office)", "[EMAIL]（办公室），[EMAIL](office)"),
    (identity_numbers, "身份证号11010519491231002X，", "身份证号[ID]，"),
    (identity_numbers, "110105 19491231 002x，１１０１０５１９４９１２３１００２Ｘ", "[ID]，[ID]"),
    (secrets, "sk-proj-" + "abCD1234" * 5, "[KEY]"),
    (secrets, f"key={TOKEN}; AKIAIOSFODNN7EXAMPLE", "key=[KEY]; [KEY]"),
    (secrets, "-----BEGIN RSA PRIVATE KEY-----\nMIIEowIBAAKCAQEA\n-----END RSA PRIVATE KEY-----", "[KEY]"),
    (secrets, "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3In0.dBjftJeZ4CVPmB92K27uhbUJU1p1r", "[KEY]"),
]
STAYS = [
    (emails, "@tiger and a@b, cat@2x.png1, 5 @ 3.20 each"),
    (phones, "圆周率3.14159265358979，ISBN 978-7-301-04815-3，编号138001380001，2026-05-04 10:20"),
    (phones, "x = 13800138000.5; id_13800138000 v1.212-555-0143"),
    (phones, "成交额 18612345678 元，18612345678人民币，￥18612345678，余额+1000000000元，+1 234 567，+30 20 1000"),
    (phones, "零件号:13812345678，订单号：13812345678，13812345678-AB，a/b/13812345678/c，2024/13812345678"),
    (emails, "y = x@w.sum(0) + a@b.mean.T(1); git@github.com:tiger/tiger.git"),
    (secrets, "sk-learning-a-lot-of-things-here sk-4-columns-and-a-lot-of-rows"),
    (identity_numbers, "110105194912310021 11010519491331002X 1101051949123100"),
    (secrets, "sk-learn, hf_hub, ghp_short, AKIA, a base64 eyJhbGciOiJIUzI1NiJ9 of one part"),
]


@pytest.mark.parametrize(("rule", "text", "masked"), MASKED)
def test_what_has_a_form_of_its_own_is_masked(rule, text, masked):
    assert rule(text) == masked == rule(masked)


@pytest.mark.parametrize(("rule", "text"), STAYS)
def test_other_numbers_and_words_stay(rule, text):
    assert rule(text) == text


def test_a_sentence_that_the_page_has_before_goes_and_short_ones_stay():
    text = "Buy the new book of the tiger. Yes. Buy the new book of the tiger. Yes.\n"
    text += "老虎在山里走了很久很久，它又累又饿又渴。是。"
    assert repeated_sentences(text + "\n老虎在山里走了很久很久，它又累又饿又渴。") == (
        "Buy the new book of the tiger. Yes. Yes.\n老虎在山里走了很久很久，它又累又饿又渴。是。\n"
    )
    assert repeated_sentences(text[:60]) == text[:60]


def test_a_sentence_ends_behind_its_closing_quote_and_not_at_a_title_or_an_abbreviation():
    said = "“老虎在山里走了很久很久，它又累又饿又渴。”\n"
    assert repeated_sentences(said * 2) == said + "\n"
    report = "It bit Mr. J. Lee of the village, e.g. in the arm. "
    assert repeated_sentences(f"{report}{report}He lives. In Mr. J. Lee of the village") == (
        f"{report}He lives. In Mr. J. Lee of the village"
    )


def test_they_are_off_by_default_and_the_report_counts_and_shows_what_they_did(tmp_path):
    names = ["emails", "phones", "identity_numbers", "secrets"]
    text = "\n".join(text for _, text, _ in MASKED)
    assert rule_set().rewritten(text, sft=False, code=False, zh=False) == text
    jsonl.write_jsonl(tmp_path / "a.jsonl", [{"id": "a", "text": text}, {"id": "b", "text": "Nothing private."}])
    made = clean_files([tmp_path / "a.jsonl"], tmp_path / "out", on=names)
    assert made["figures"]["rewritten"] == dict.fromkeys(sorted(names), 1)
    page = (tmp_path / "out" / "report.html").read_text()
    assert "[EMAIL]" in page and "[PHONE]" in page and "[ID]" in page
    again = clean_files([tmp_path / "out"], tmp_path / "again", on=names)
    assert again["figures"]["rewritten"] == {}
