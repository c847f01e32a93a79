"""A stage of which nothing is left says so."""

import pytest

from tigerjax.command.figures import show


@pytest.mark.parametrize(("left", "said"), [(0, True), (1, False)])
def test_a_stage_of_which_nothing_is_left_says_so(capsys, left, said):
    show({"in": 1200, "out": left, "dropped": {"against_sft": 1200 - left}}, None)
    assert ("nothing is left of 1,200 records" in capsys.readouterr().err) == said
