"""Numbers as models write them, in GSM8K and in checkable questions."""

import pytest
from linear import assert_linear

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


EQUAL = [
    ("1.5 million", "1500000"),
    ("$1.5 million", "1,500,000"),
    ("2 billion", "2e9"),
    ("3 hundred", "300"),
    ("50k", "50,000"),
    ("1e6", "1000000"),
    ("1.5E+3", "1500"),
    ("1.5 × 10^6", "1.5 million"),
    (r"$1.5 \times 10^{6}$", "1500000"),
    ("2.5e-3", "0.0025"),
    ("3.2万", "32000"),
    ("1.2亿", "120,000,000"),
    ("5千", "5000"),
    ("3百万", "3 million"),
    ("3万2千", "32000"),
    ("2万5000元", "25000"),
    ("1亿2000万", "1.2亿"),
    ("两千", "2000"),
    ("二十三", "23"),
    ("十", "10"),
    ("一百零五", "105"),
    ("三万五千", "35000"),
    ("一亿两千万", "1.2亿"),
    ("贰佰", "200"),
    ("二〇二四", "2024"),
    ("三点一四", "3.14"),
    ("百分之五", "5%"),
    ("百分之5", "5%"),
    ("百分之五", "0.05"),
    ("千分之五", "0.005"),
    ("三分之一", "1/3"),
    ("5%", "0.05"),
    ("5 percent", "5%"),
    ("five percent", "5%"),
    ("１２", "12"),
    ("５％", "5%"),
    ("1/2", "0.5"),
    ("½", "0.5"),
    ("1½", "1.5"),
    ("2 1/4", "2.25"),
    ("one half", "1/2"),
    ("two thirds", "2/3"),
    ("three", "3"),
    ("Twenty-three", "23"),
    ("two hundred and five", "205"),
    ("a hundred", "100"),
    ("one million two hundred thousand", "1.2 million"),
    ("\u22125", "-5"),
    ("－5", "-5"),
    ("负五", "-5"),
    ("负5", "-5"),
    ("minus five", "-5"),
    ("negative 5", "-5"),
    ("1.234.567", "1234567"),
    ("1.234,56", "1234.56"),
    ("12,34,567", "1234567"),
]
DIFFERENT = [
    ("1.5 million", "1.5"),
    ("1.5 millionaires", "1500000"),
    ("3.2万", "3.2"),
    ("50 km", "50000"),
    ("50kg", "50000"),
    ("3千米", "3000"),
    ("3千克", "3000"),
    ("5%", "500"),
    ("5%", "0.05%"),
    ("百分之五", "500"),
    ("五", "百分之五十"),
    ("1½", "5.5"),
    ("1/2", "12"),
    ("1/2", "2"),
    ("1e6", "16"),
    ("2e", "2e2"),
    ("两千", "2"),
    ("二十三", "203"),
    ("二十三", "20"),
    ("twenty-three", "20"),
    ("twenty-three", "3"),
    ("five six", "56"),
    ("threesome", "3"),
    ("第三", "3"),
    ("星期五", "5"),
    ("\u22125", "5"),
    ("负五", "5"),
    ("minus five", "5"),
    ("1,5", "15"),
    ("", "0"),
    ("1e999999999", "1"),
]


@pytest.mark.parametrize(("text", "gold"), EQUAL)
def test_numbers_with_scales_words_and_signs_are_what_they_say(text, gold):
    assert judge.gsm8k(f"The answer is {text}.", gold) and judge.gsm8k(f"The answer is {gold}.", text)
    question = Question(id="q", lang="en", task="n", prompt="?", answers=(gold,), others=("77",))
    assert right(question, text) and right(question, f"答案是{text}。") and not right(question, "77")


@pytest.mark.parametrize(("text", "gold"), DIFFERENT)
def test_numbers_that_differ_are_not_taken_for_each_other(text, gold):
    assert not judge.gsm8k(f"The answer is {text}.", gold)
    assert not right(Question(id="q", lang="en", task="n", prompt="?", answers=(gold,)), text)


def test_words_that_may_be_articles_are_numbers_only_where_they_begin_the_answer():
    question = Question(id="q", lang="en", task="n", prompt="?", answers=("17",), others=("1", "17"))
    assert right(question, "This one is seventeen.") and right(question, "一共是十七。")
    assert right(Question(id="q", lang="en", task="n", prompt="?", answers=("1",)), "One.")


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


def test_long_digits_and_exponents_cost_no_time():
    for part, end in (("9", "e99999"), ("1.", ""), ("1,23", ""), ("十", ""), ("five ", "")):
        assert_linear(lambda n, part=part, end=end: judge.gsm8k(f"The answer is {part * n}{end}", "9"), 20_000)
