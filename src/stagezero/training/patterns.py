"""How long a regular expression could take, before it is let near the data.

Python's matcher tries one way after another, and some expressions (``(a+)+$``) have more ways to fail than anyone can wait for. An
idea is text from a stranger, so the number of ways is bounded from the expression's own tree and from how long the questions are.
The bound depends on nothing else: what is refused is refused on every machine.
"""

from __future__ import annotations

import re
from re import _parser as parser  # type: ignore[attr-defined]  # the tree that re itself compiles; nothing public gives it
from typing import Any

LONGEST = 200
"""Characters that an expression may have."""

MOST = 10**9
"""Steps that an expression may take at the worst on a question of a hundred characters."""

MOST_IN_ALL = 10**11
"""Steps that one filter may take at the worst on all its questions. The bound is loose: this is some ten seconds in practice."""

_COUNTED = 10**12

_SURE = ("LITERAL", "NOT_LITERAL", "ANY", "IN", "AT", "GROUPREF", "CATEGORY", "RANGE")


def check_pattern(pattern: str) -> str:
    """The expression as it was given.

    Raises:
        ValueError: it is too long, not a regular expression, or could take for ever on a question of a hundred characters.
    """
    if len(pattern) > LONGEST:
        raise ValueError(f"expected a regular expression of at most {LONGEST} characters, got {len(pattern)}; shorten it")
    try:
        re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(f"not a regular expression ({error}); correct it") from None
    if steps_at_most(pattern, 100) >= MOST:
        raise ValueError(
            "this regular expression could take for ever to fail; expected no repeat of something that can itself match in several ways, "
            "as in (a+)+, and few open repeats (*, +); simplify it"
        )
    return pattern


def steps_at_most(pattern: str, length: int) -> int:
    """What searching a text of this length could take at the worst, counted up to a million million."""
    ways, forced = _sequence(parser.parse(pattern), length)
    return min(_COUNTED, (length + 1) * ways * forced)


def _sequence(tree: Any, length: int) -> tuple[int, int]:
    """In how many ways a sequence could match from one place, and how often it goes through what it must repeat."""
    ways, forced = 1, 1
    for code, given in tree:
        more = _part(str(code), given, length)
        ways, forced = min(_COUNTED, ways * more[0]), min(_COUNTED, max(forced, more[1]))
    return ways, forced


def _part(code: str, given: Any, length: int) -> tuple[int, int]:
    if code in _SURE:
        return 1, 1
    if code in ("SUBPATTERN", "ASSERT", "ASSERT_NOT"):
        return _sequence(given[-1], length)
    if code == "ATOMIC_GROUP":
        return _sequence(given, length)
    if code in ("BRANCH", "GROUPREF_EXISTS"):
        branches = [_sequence(b, length) for b in (given[1] if code == "BRANCH" else given[1:]) if b is not None]
        return sum(ways for ways, _ in branches), max(forced for _, forced in branches)
    if code in ("MAX_REPEAT", "MIN_REPEAT", "POSSESSIVE_REPEAT"):
        least, most, (ways, forced) = int(given[0]), int(given[1]), _sequence(given[2], length)
        times = min(most, max(length, least))
        # 40 repeats of something with two ways are already more than is counted.
        return (times - least + 1) * (ways ** min(times, 40)), max(1, least) * forced
    return _COUNTED, 1  # a form that this does not know
