"""Which language a record declares."""

import pytest

from tigerjax.text.language import declared


@pytest.mark.parametrize(("lang", "found"), [("zh_Hans", "zh"), ("English", "en"), ("", ""), (["en"], ""), (5, "")])
def test_only_a_text_declares_a_language(lang, found):
    assert declared({"lang": lang}) == found
