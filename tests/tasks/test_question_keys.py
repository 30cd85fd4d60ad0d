"""Two forms of one question have one key, and different questions have different keys."""

from __future__ import annotations

import pytest

from stagezero.tasks.question_keys import same_question_key


@pytest.mark.parametrize(
    "text",
    ["Train\u200d trap 0?", "Train, trap 0?", "**Train** trap 0", "train \u2014 trap 0?", "Q: Train trap 0?", "Tr\u0430in trap 0?",
     "{Train trap 0}", "\u2039Train trap 0>", " Train\u00adtrap 0".replace("\u00ad", " ")],
)  # fmt: skip
def test_forms_of_one_question(text: str) -> None:
    assert same_question_key(text) == same_question_key("Train trap 0?")


@pytest.mark.parametrize(
    ("one", "other"),
    [("Is 3 != 4?", "Is 3 = 4?"), ("5 - -3?", "5 - 3?"),
     ("2-3?", "2+3?"), ("2-3", "23"), ("1.5?", "15?"), ("3/4", "34"), ("-5?", "5?"), ("Close door 1.", "Please close door 1."), ("?", "!")],
)  # fmt: skip
def test_different_questions_have_different_keys(one: str, other: str) -> None:
    assert same_question_key(one) != same_question_key(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        # symbols
        ("C++", "C#"), ("What is C++?", "What is C#?"), ("What does & mean?", "What does @ mean?"),
        ("What does ! mean?", "What does ? mean?"),
        ("What does \U0001f600 mean?", "What does \U0001f601 mean?"), ("Describe: \U0001f600", "Describe: \U0001f642"),
        ("What country has \U0001f1eb\U0001f1f7?", "What country has \U0001f1ee\U0001f1f9?"),
        ("C\u266f", "C\u266d"), ("\u20ac5", "$5"), ("5 %?", "5?"),
        # letters with marks
        ("schon", "sch\u00f6n"), ("m\u00e1", "m\u00e0"), ("est\u00e1", "esta"), ("habl\u00f3", "hablo"),
        ("\u0915\u0941\u0932", "\u0915\u0932"),
        ("\u304b", "\u304c"), ("Was hei\u00dft schon?", "Was hei\u00dft sch\u00f6n?"),
        # formulas
        ("\u221a4", "4"), ("3!", "3"), ("What is 3!?", "What is 3?"), ("n!", "n"), ("x\u00b2", "x2"), ("A \u2264 B", "A \u2265 B"),
        ("A < B", "A > B"),
        ("p \u2227 q", "p \u2228 q"), ("-x", "x"), ("What is -x?", "What is x?"), ("x - y", "x + y"), ("2*(3+4)", "2*3+4"),
        ("(2*3)+4", "2*(3+4)"),
        ("[0,1)", "(0,1]"), ("(a, b]", "[a, b)"), ("- 5 + 3", "5 + 3"), ("C = D?", "C \u2260 D?"), ("\u00bd", "12"),
        # Morse
        ("What letter is . -?", "What letter is - .?"), ("What is ... in Morse?", "What is --- in Morse?"),
        ("Read . in Morse", "Read - in Morse"),
        (". -", "- ."),
    ],
)  # fmt: skip
def test_signs_and_marks_make_another_question(one: str, other: str) -> None:
    assert same_question_key(one) != same_question_key(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("2-3", "2 - 3"), ("A\u2264B", "A \u2264 B"), ("2+2=?", "2+2?"), ("What is C++?", "what is **C++**"), ("New York?", "new-york"),
        ("Is it red?", "is it  RED"), ("\u201cIs it\u201d red?", '"is it" red'), ("Is it red, then?", "Is it red - then"),
        ("Is it red ?", "Is it red?"),
        ("Vraiment ? Oui", "vraiment? oui"), ("Is it 'red'?", "Is it (red)"), ("- Is it red?", "Is it red"), ("# Is it red?", "Is it red"),
        ("it is red; why?", "It is red. Why?"), ("Is it red?!", "Is it red"), ("Which (red, blue)?", "Which: red, blue?"),
        ("na\u00efve", "nai\u0308ve"),
        ("Question: is it red\u2026", "Is it red"),
        ("\u2764\ufe0f?", "\u2764?"), ("Is it\u200b red", "Is it red?"),
    ],
)  # fmt: skip
def test_punctuation_of_sentences_makes_no_other_question(one: str, other: str) -> None:
    assert same_question_key(one) == same_question_key(other)
