"""How a plan shows its figures."""

import pytest

from tigerjax.plan import figures


@pytest.mark.parametrize(
    ("value", "unit", "digits", "shown"),
    [
        (7042.04, "TFLOP", 1, "7042.0 TFLOP"),
        (0.0042, "TFLOP", 1, "4.2 GFLOP"),
        (17.132, "s", 3, "17.132 s"),
        (0.00004, "s", 3, "40.0 us"),
        (0.0, "s", 3, "0.000 s"),
        (0.0031, "GB", 1, "3.1 MB"),
    ],
)
def test_the_figures_of_a_small_model_are_not_shown_as_zero(value, unit, digits, shown):
    assert figures._scaled(value, unit, digits) == shown
