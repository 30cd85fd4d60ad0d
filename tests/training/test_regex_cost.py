"""Regular expressions from untrusted authors: slow ones are rejected before they run.

Ordinary patterns are accepted.
"""

from __future__ import annotations

import re
import time
from dataclasses import replace

import pytest

from stagezero.errors import RecipeError
from stagezero.tasks import load_suite
from stagezero.training import parse_recipe
from stagezero.training.data import datasets_before
from stagezero.training.regex_cost import MAX_STEPS_PER_QUESTION, check_pattern, worst_case_steps


@pytest.mark.parametrize(
    "pattern",
    [
        r"(a+)+$",
        r"(\w+\s?)*z",
        r"(cat|dog|catdog)+!",
        r"(a?){40}a{40}",
        "a?" * 40 + "a" * 40,
        r"(?=(\w+)+$)x",
        r"((.*)*)*",
        r"(?:(?:){60000}){60000}",
        r".*.*.*.*.*z",
        r"(?:(?:(?:\w{1,99}){1,99}){1,99}){1,99}z",
    ],
)
def test_regex_cost_that_could_take_too_long_are_rejected(pattern: str) -> None:
    with pytest.raises(ValueError, match="could take too long"):
        check_pattern(pattern)


@pytest.mark.parametrize(
    "pattern",
    ["", "PIN", r"(?i)\bpin\b", r"^(What|Where|Who) .*\?$", r"\d{2,4}-\d+", r".*PIN.*code", r"(\w+ ){3}", r"(ab)*", r"(a)?(?(1)b|c)"],
)
def test_ordinary_patterns_are_accepted(pattern: str) -> None:
    assert check_pattern(pattern) == pattern


def test_accepted_patterns_are_fast() -> None:
    """The slowest searches with accepted patterns end within seconds."""
    for pattern in (r".*.*.*z", r"(\w+ ){3}z", r"\w+\w+\w+z"):
        assert worst_case_steps(pattern, 100) < MAX_STEPS_PER_QUESTION
        start = time.perf_counter()
        assert re.search(check_pattern(pattern), "a b " * 25) is None
        assert re.search(pattern, "a" * 100) is None
        assert time.perf_counter() - start < 5


def test_long_and_invalid_patterns_are_rejected() -> None:
    with pytest.raises(ValueError, match="at most 200 characters, got 201"):
        check_pattern("x" * 201)
    for odd in ("(", "a{99999999999}"):
        with pytest.raises(ValueError, match="not a regular expression"):
            check_pattern(odd)


def test_the_length_of_the_questions_is_part_of_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    suite = load_suite("atlas")
    steps = [
        {"step": "mix", "parts": [{"each": 50}]},
        {"step": "filter", "matching": ".*.*.*"},
        {"step": "sft", "steps": 1, "learning_rate": 1e-3},
    ]
    recipe = parse_recipe(steps, "t")
    assert datasets_before(recipe, 2, suite, 1)["data"]
    longer = [replace(item, input=item.input + " word" * 400) for item in suite.train_items()]
    monkeypatch.setattr(type(suite), "train_items", lambda self: longer)
    with pytest.raises(RecipeError, match=r"'matching' could take too long on \d+ questions of up to 2,\d+ characters"):
        datasets_before(recipe, 2, suite, 1)
