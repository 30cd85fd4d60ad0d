"""Bounds on the time that a regular expression could take, computed before the expression runs.

Python's matcher backtracks, and some expressions (``(a+)+$``) can fail in more ways than can ever
be tried. An idea is text from an untrusted author. The number of ways is therefore bounded from the
expression's syntax tree and the length of the questions. The bound depends on nothing else, so
every machine rejects the same expressions.
"""

from __future__ import annotations

import re
from re import _parser as parser  # type: ignore[attr-defined]  # no public module returns the tree that re compiles
from typing import Any

MAX_PATTERN_CHARACTERS = 200

MAX_STEPS_PER_QUESTION = 10**9
"""Steps that an expression may take in the worst case on a question of 100 characters."""

MAX_STEPS_PER_FILTER = 10**11
"""Steps that one filter may take in the worst case on all its questions.

The bound is loose: in practice this is about ten seconds.
"""

_STEP_COUNT_CAP = 10**12
"""Steps are counted up to here; a larger number is reported as this one."""

_SINGLE_WAY_CODES = ("LITERAL", "NOT_LITERAL", "ANY", "IN", "AT", "GROUPREF", "CATEGORY", "RANGE")
"""Parts of an expression that match in at most one way from one position."""


def check_pattern(pattern: str) -> str:
    """Validate a regular expression and return it unchanged.

    Raises:
        ValueError: it is too long, is not a regular expression, or could take too many steps on a
            question of 100 characters.
    """
    if len(pattern) > MAX_PATTERN_CHARACTERS:
        raise ValueError(f"expected a regular expression of at most {MAX_PATTERN_CHARACTERS} characters, got {len(pattern)}; shorten it")
    try:
        re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(f"not a regular expression ({error}); correct it") from None
    if worst_case_steps(pattern, 100) >= MAX_STEPS_PER_QUESTION:
        raise ValueError(
            "this regular expression could take too long to fail; expected no repeat of a part that can itself match in several ways, "
            "as in (a+)+, and few open repeats (*, +); simplify it"
        )
    return pattern


def worst_case_steps(pattern: str, length: int) -> int:
    """Return an upper bound on the steps of a search, capped at 10¹².

    Args:
        pattern: a valid regular expression.
        length: number of characters of the text that is searched.
    """
    ways, repeats = _bound_sequence(parser.parse(pattern), length)
    return min(_STEP_COUNT_CAP, (length + 1) * ways * repeats)


def _bound_sequence(tree: Any, length: int) -> tuple[int, int]:
    """Return two bounds for a sequence that starts at one position.

    The first is the number of ways in which it can match. The second is the number of times that
    it passes through its mandatory repeats.
    """
    ways, repeats = 1, 1
    for code, arguments in tree:
        part_ways, part_repeats = _bound_part(str(code), arguments, length)
        ways, repeats = min(_STEP_COUNT_CAP, ways * part_ways), min(_STEP_COUNT_CAP, max(repeats, part_repeats))
    return ways, repeats


def _bound_part(code: str, arguments: Any, length: int) -> tuple[int, int]:
    """Return the bounds of ``_bound_sequence`` for one part of an expression."""
    if code in _SINGLE_WAY_CODES:
        return 1, 1
    if code in ("SUBPATTERN", "ASSERT", "ASSERT_NOT"):
        return _bound_sequence(arguments[-1], length)
    if code == "ATOMIC_GROUP":
        return _bound_sequence(arguments, length)
    if code in ("BRANCH", "GROUPREF_EXISTS"):
        branches = [_bound_sequence(b, length) for b in (arguments[1] if code == "BRANCH" else arguments[1:]) if b is not None]
        return sum(ways for ways, _ in branches), max(repeats for _, repeats in branches)
    if code in ("MAX_REPEAT", "MIN_REPEAT", "POSSESSIVE_REPEAT"):
        least, most, (ways, repeats) = int(arguments[0]), int(arguments[1]), _bound_sequence(arguments[2], length)
        times = min(most, max(length, least))
        # 40 repeats of a part with two ways already exceed the cap.
        return (times - least + 1) * (ways ** min(times, 40)), max(1, least) * repeats
    return _STEP_COUNT_CAP, 1  # an unknown code: assume the worst
