"""Regular expressions from untrusted authors: RE2's syntax, and a remedy for what it refuses."""

from __future__ import annotations

import pytest

from stagezero.errors import RecipeError
from stagezero.patterns import check_pattern, check_python_pattern, matches
from stagezero.tasks import load_suite
from stagezero.training import parse_recipe
from stagezero.training.data import datasets_before

SLOW_IN_PYTHON = [r"(a+)+$", r"(\w+\s?)*z", r"(cat|dog|catdog)+!", "a?" * 40 + "a" * 40, r"((.*)*)*z", r".*.*.*.*.*.*z"]


@pytest.mark.parametrize("pattern", SLOW_IN_PYTHON)
def test_patterns_that_python_could_not_finish_are_searched_in_linear_time(pattern: str) -> None:
    """The test itself would not end with a backtracking matcher."""
    assert check_pattern(pattern) == pattern
    assert not matches(pattern, "a" * 39 + " b!" * 1000 + "b")


@pytest.mark.parametrize(
    ("pattern", "remedy"),
    [
        (r"(?=secret)", "no lookarounds; match the text around it"),
        (r"(?<!not )true", "no lookarounds"),
        (r"(a)\1", "no references to groups; write the repeated text out"),
        (r"(?P<x>a)(?P=x)", "no references to groups"),
        (r"(?>a)b", "use plain repeats"),
        (r"a++", "use plain repeats"),
        (r"(a)?(?(1)b|c)", "write both alternatives out"),
        (r"(?#note)a", "no comments; remove it"),
        (r"yes\Z", r"write that"),
        (r"\u00e9", "or as itself; write that"),
        (r"a{1001}", "at most 1,000 times; lower the number"),
        (r"^\d{,3}$", "RE2 reads {,3} as plain text; write {0,n}"),
        (r"x{99999999999}", "with numbers of at most 1,000"),
        (r"(x{500}){500}", "at most 1,000 times; lower the number"),
        (r"(?x)a b", "no such flag; it has i, m, s and U"),
        (r"\e[0m", r"written \x1b; write that"),
        (r"[a\b]", r"written \x08; write that"),
        (r"caf\é", "before ASCII characters only; remove it"),
        ("(", "missing )"),
        ("[z-a]", "correct it"),
    ],
)
def test_a_refusal_has_what_to_write_instead(pattern: str, remedy: str) -> None:
    with pytest.raises(ValueError, match=r"'matching' is not a regular expression of RE2") as refusal:
        check_pattern(pattern, "'matching'")
    assert remedy in str(refusal.value)


def test_the_syntax_of_re2_applies() -> None:
    assert matches(r"\{,3}", "{,3}"), "an escaped brace is text"
    assert matches(r"\x{10000}", "\U00010000"), "a character by its number is no repeat"
    assert matches(r"\d", "7") and not matches(r"\d", "٣"), "digits are ASCII"
    assert not matches(r"yes$", "yes\n") and matches(r"(?m)yes$", "yes\nno"), "$ is the end of the text"
    assert matches(r"(?i)\bpin\b", "My PIN?") and matches("", "")
    assert matches("a", "\ud800a"), "half a character is no error"


def test_long_patterns_are_rejected() -> None:
    for check in (check_pattern, check_python_pattern):
        with pytest.raises(ValueError, match="at most 200 characters, got 201"):
            check("x" * 201)
    with pytest.raises(ValueError, match="not a regular expression of Python"):
        check_python_pattern("(")


def test_a_filter_selects_with_re2() -> None:
    def items(pattern: str) -> int:
        steps = [
            {"step": "mix", "parts": [{"each": 50}]},
            {"step": "filter", "matching": pattern},
            {"step": "sft", "steps": 1, "learning_rate": 1e-3},
        ]
        return len(datasets_before(parse_recipe(steps, "t"), 2, load_suite("atlas"), 1)["data"])

    assert 0 < items(r"^(What|Where)\b") < items(r".*.*.*")
    with pytest.raises(RecipeError, match=r"steps.1.filter.matching.*not a regular expression of RE2.*no lookarounds"):
        items(r"(?=What)")
