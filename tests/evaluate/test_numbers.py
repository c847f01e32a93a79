"""Numbers as models write them, in GSM8K and in checkable questions."""

import pytest

from tigerjax.evaluate import judge
from tigerjax.evaluate.questions import Question
from tigerjax.evaluate.questions import judge as right

NINE_AND_A_HALF_THOUSAND = [
    "The answer is $9{,}500$.",
    r"The answer is \$9,500.",
    r"The answer is \(9\,500\).",
    r"So it is \boxed{9{,}500}.",
    r"The answer is \boxed{\$9500 \text{ dollars}}",
    "The answer is $9,500.00",
    "The answer is **9,500** dollars.",
    "The answer is 9 500 km.",
    "The answer is 9'500",
    "The answer is 4,500 + 5,000 = 9,500.",
    "The answer is x = 9500",
    "The answer is ￥9,500元",
    "The answer is ９５００",
    "The answer is 9500%",
    "The answer is US$9,500, which is 19 times 500.",
    r"The answer is $\frac{19000}{2}$",
    "He has 4 and earns 9,500",
]


@pytest.mark.parametrize("text", NINE_AND_A_HALF_THOUSAND)
def test_a_number_is_itself_in_every_writing(text):
    assert judge.gsm8k(text, "9500")
    assert not judge.gsm8k(text, "9501") and not judge.gsm8k(text, "500") and not judge.gsm8k(text, "9")


@pytest.mark.parametrize(
    ("text", "gold", "same"),
    [
        ("The answer is -5", "-5", True),
        ("The answer is -$5", "-5", True),
        ("The answer is 5", "-5", False),
        ("The answer is 7-5", "5", False),
        ("The answer is 1/2", "0.5", True),
        ("The answer is .5", "0.5", True),
        ("The answer is 1/0", "1", False),
        ("The answer is 1, 2 or 3", "123", False),
        ("The answer is 17. 12 was wrong = 12", "17", True),
        ("The answer is " + "9" * 5000, "9", False),
    ],
)
def test_signs_fractions_and_lists_are_not_mixed_up(text, gold, same):
    assert judge.gsm8k(text, gold) is same


@pytest.mark.parametrize(
    ("text", "gold", "right"),
    [
        ("The answer is 1,234.", "1234", True),
        ("First 5. The answer is 7 apples, not 8", "7", True),
        ("5 and 6 make 11", "11", True),
        ("-3.0", "-3", True),
        ("none", "0", False),
        ("The answer is 2\nQuestion: what of 3? The answer is 9", "2", True),
        ("The answer is 20", "2", False),
    ],
)
def test_gsm8k_extraction(text, gold, right):
    assert judge.gsm8k(text, gold) is right


SUM = Question(
    id="q", lang="en", task="sum", prompt="A dozen and 5?", answers=("17",), others=("12", "17", "9500", "4")
)


@pytest.mark.parametrize(
    ("text", "good"),
    [
        ("12 + 5 = 17", True),
        ("17 = 12 + 5", True),
        ("4 + 8 = 12, and 12 + 5 = 17.", True),
        (r"\(12 + 5 = \boxed{17}\)", True),
        ("12 + 5 is easy. The answer is 17.", True),
        ("12加5，答案是17。", True),
        ("17.0", True),
        ("It is $17.", True),
        ("12 + 5 = 12", False),
        ("12 + 5 = 17 or 12", False),
        ("12 or 17", False),
        ("12, 17, 9500, 4", False),
        ("117", False),
        ("1,700", False),
        ("17.5", False),
        ("", False),
    ],
)
def test_only_the_final_number_of_a_calculation_is_the_answer(text, good):
    assert right(SUM, text) is good


def test_a_number_with_separators_is_an_accepted_answer_in_every_writing():
    question = Question(id="q", lang="en", task="price", prompt="How much?", answers=("$9,500",), others=("9", "500"))
    assert all(right(question, text) for text in ("9500", "$9{,}500$", "9,500.00 dollars", "It costs 9 500 €."))
    assert not right(question, "9") and not right(question, "500")


def test_words_beside_a_number_are_accepted_too():
    question = Question(id="q", lang="en", task="n", prompt="?", answers=("17", "seventeen"), others=("12", "twelve"))
    assert right(question, "seventeen") and right(question, "17") and not right(question, "twelve or seventeen")
