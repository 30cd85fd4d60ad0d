"""A choice counts where it is an answer of its own, not within a number, expression or negation."""

from __future__ import annotations

import pytest

from stagezero.tasks import Item, Outcome, score


def outcome(target: str, choices: tuple[str, ...], answer: str) -> Outcome:
    return score(Item("x", "?", target, "capability", "facts", "choice", choices), answer)


@pytest.mark.parametrize(
    "answer",
    [
        # separators of thousands, signs
        "5 100", "5'100", "5\u2019100", "12 100", "1 000 100", "12\u202f100", "\u2014100", "It is \u2014100", "negative 100", "minus 100",
        "minus **100**", "-**100**", "-$100", "(-100)",
        # factors and fractions
        "100 trillion", "100 dozen", "100-thousand", "100 thousandths", "100 \u00bd", "100\u00bd", "100 and a half", "100 / 7", "7 / 100",
        "5 out of 100",
        "two hundred and 100", "half of 100", "50% of 100", "100,5", ",100", "It is.100",
        # comparisons and ranges
        "\u2265100", "\u2264 100", "> 100", "< 100", "x>100", "100 < x", "!= 100", "\u2260 100", "\u00b1100", "more than 100",
        "at least 100",
        "100 or more", "100+", "100 to 200", "100...200",
        # expressions
        "100^2", "10^100", "10^{100}", "2\u00d7100", "100 \u00d7 3", "100*5", "100**2", "2 * 100", "2*100*3", "2 x 100", "100 + 5",
        "100 - 5", "5 + 100",
        "\u221a100", "\u221a(100)", "sqrt(100)", "square root of 100", "100 squared", "2 times 100", "100 times 3", "(5)(100)", "5(100)",
    ],
)  # fmt: skip
def test_a_number_within_another_number_or_expression_is_not_named(answer: str) -> None:
    assert outcome("100", ("100", "200"), answer) is not Outcome.RIGHT


@pytest.mark.parametrize(
    "answer",
    [
        "100", "100.", "**100**", "*100*", "_100_", "It is _100_.", "`100`", "(100)", "[100]", '"100"', "\u201c100\u201d", "$100$",
        "\\boxed{100}",
        "It is 100!", "100!", "the answer\u2014100", "The answer \u2014 100", "Answer: 100", "**Answer:** 100", "Question 1: 100",
        "1. 100", "\u2022 100",
        "* 100", "-> 100", "\u2192 100", "<answer>100</answer>", "100<|im_end|>", "$100", "100%", "100 km", "100 times", "50 + 50 = 100",
        "100 = 50 + 50",
        "x = 100", "In the year 2024 100", "In 2024, 100 people", "a total of 100", "100, I think", "100 (50 + 50)", "\u2248 100",
        "100\n\nThat is 3 lines",
        "100\u2014not 200",
    ],
)  # fmt: skip
def test_a_number_in_a_sentence_or_emphasis_is_named(answer: str) -> None:
    assert outcome("100", ("100", "200"), answer) is Outcome.RIGHT


def test_a_dash_before_a_number_names_the_negative_one() -> None:
    for answer in ("-100", "It is \u2212100", "It is \u2014100"):
        assert outcome("-100", ("-100", "100"), answer) is Outcome.RIGHT


@pytest.mark.parametrize("answer", ["It is.5", ",5", "It is ,5", ".5", "0.5", "-.5"])
def test_a_point_or_comma_before_a_digit_makes_another_number(answer: str) -> None:
    assert outcome("5", ("5", ".5"), answer) is not Outcome.RIGHT


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        *[(a, False) for a in ("minus one", "one hundred", "twenty one", "twenty-one", "one million", "one and a half", "hundred and one")],
        *[(a, True) for a in ("one", "It is one.", "One, I think", "number one")],
    ],
)
def test_a_number_in_words_is_no_part_of_another_one(answer: str, right: bool) -> None:
    assert (outcome("one", ("one", "two"), answer) is Outcome.RIGHT) == right


@pytest.mark.parametrize(
    "answer",
    [
        "not true", "It isn't true", "It isn\u2019t true", "It isnt true", "It is never true", "It is not really true",
        "It is not the case that it is true", "It is not true that it is false", "It is wrong that it is true", "Neither true nor false",
        "It is far from true", "It is no longer true", "True is wrong",
    ],
)  # fmt: skip
def test_a_negated_choice_is_not_named(answer: str) -> None:
    for target in ("true", "false"):
        assert outcome(target, ("true", "false"), answer) is Outcome.UNPARSEABLE


@pytest.mark.parametrize(
    "answer",
    [
        "It isn't Lyon, it's Paris", "Not Lyon but Paris", "Paris, not Lyon", "Paris rather than Lyon", "Lyon is wrong, Paris is right",
        "There is no doubt that it is Paris", "It is not only Paris", "That isn't correct. Paris", "It's not true but Paris is",
        "Never mind: Paris",
    ],
)  # fmt: skip
def test_a_choice_beside_a_negation_is_named(answer: str) -> None:
    assert outcome("Paris", ("Paris", "Lyon"), answer) is Outcome.RIGHT


def test_a_choice_within_a_name_with_underscores_is_not_named() -> None:
    assert outcome("bar", ("bar", "baz"), "foo_bar") is Outcome.UNPARSEABLE
    assert outcome("bar", ("bar", "baz"), "It is __bar__.") is Outcome.RIGHT


@pytest.mark.parametrize(
    ("choices", "target", "answer", "outcome"),
    [
        (("50", "100"), "100", "between 50 and 100", "unparseable"),
        (("5", "7"), "7", "from 5 to 7", "unparseable"),
        (("four", "five"), "four", "four to five", "unparseable"),
        (("20", "30"), "20", "There are twenty (20).", "right"),
        (("12", "100"), "12", "a dozen (12)", "right"),
        (("man", "woman", "unknown"), "unknown", "The answer is unknown.", "right"),
        (("man", "woman", "unknown"), "man", "It is unknown.", "wrong"),
        (("man", "woman", "unknown"), "unknown", "I don't know.", "refused"),
        (("Can't be determined", "Ann"), "Can't be determined", "It can't be determined.", "right"),
        (("Einstein", "Bohr"), "Einstein", "It is none other than Einstein.", "right"),
        (("yes", "no"), "no", "That's not true so the answer is no", "right"),
    ],
)
def test_ranges_numbers_in_words_and_choices_that_read_like_refusals(
    choices: tuple[str, ...], target: str, answer: str, outcome: str
) -> None:
    assert score(Item("i", "q", target, "trap", "p", "choice", choices), answer).value == outcome
