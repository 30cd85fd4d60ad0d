"""Regular expressions from other people: RE2's syntax, which matches in linear time.

Python's matcher backtracks, and some expressions (``(a+)+$``) can fail in more ways than can ever
be tried. RE2 has no such expression. It has no lookarounds and no backreferences either; ``\\d``,
``\\w`` and ``\\b`` mean ASCII characters, and ``$`` matches at the end of the text only.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

import re2  # type: ignore[import-untyped]

MAX_PATTERN_CHARACTERS = 200
_MAX_MEMORY_BYTES = 8 << 20

_REMEDIES = (
    (r"\(\?<?[=!]", "RE2 has no lookarounds; match the text around it as well, or make two rules of it"),
    (r"\(\?P=|\\[1-9]|\\g<", "RE2 has no references to groups; write the repeated text out"),
    (r"\(\?>|[*+?}]\+", "RE2 has no atomic groups and possessive repeats; use plain repeats, which cost no more in RE2"),
    (r"\(\?\(", "RE2 has no conditions; write both alternatives out, as in (?:ab|c)"),
    (r"\(\?#", "RE2 has no comments; remove it"),
    (r"\(\?[a-zA-Z]*[xauL]", "RE2 has no such flag; it has i, m, s and U"),
    (r"\\[ec]", r"in RE2 a control character is written \x1b; write that"),
    (r"\\Z", r"in RE2 the end of the text is \z; write that"),
    (r"\[[^\]]*\\b", r"in RE2 a backspace is written \x08; write that"),
    (r"\\[^\x00-\x7f]", "in RE2 a backslash stands before ASCII characters only; remove it"),
    (r"\\[uUN]", r"in RE2 a character is written \x{1F600}, or as itself; write that"),
    (r"\}\)[*+{]|\{\d{4,}|\{\d*,\d{4,}", "RE2 repeats a part at most 1,000 times; lower the number"),
)
"""Parts of Python's syntax that RE2 refuses, and what to write in place of them."""


_LITERAL_REPEAT = re.compile(r"(?:^|[^\\])(?:\\\\)*(?<!\\x)(\{,\d+\}|\{\d{5,}(?:,\d*)?\}|\{\d*,\d{5,}\})")
"""Repeats in Python's syntax that RE2 takes for plain text, without an error."""


def _options() -> Any:
    options = re2.Options()
    options.log_errors = False
    options.max_mem = _MAX_MEMORY_BYTES
    return options


@lru_cache(maxsize=1024)
def compiled(pattern: str) -> Any:
    """Return a compiled expression, whose ``search`` takes time linear in the text.

    Args:
        pattern: a regular expression in RE2's syntax.

    Raises:
        ValueError: it is not such an expression; the message has what to write in place of it.
    """
    literal = _LITERAL_REPEAT.search(pattern)
    if literal is not None:
        raise ValueError(f"RE2 reads {literal[1]} as plain text; write {{0,n}}, with numbers of at most 1,000")
    try:
        return re2.compile(pattern, _options())
    except re2.error as error:
        reason = str(error.args[0].decode(errors="replace") if isinstance(error.args[0], bytes) else error)
        remedy = next((text for part, text in _REMEDIES if re.search(part, pattern)), "correct it")
        raise ValueError(f"{reason}; {remedy}") from None
    except UnicodeEncodeError:
        raise ValueError("it contains half a character; correct it") from None


def matches(pattern: str, text: str) -> bool:
    """Return whether an expression matches anywhere in a text.

    Args:
        pattern: a regular expression in RE2's syntax.
        text: any text; characters that cannot be encoded match as question marks.
    """
    return compiled(pattern).search(text.encode("utf-8", "replace").decode("utf-8")) is not None


def check_pattern(pattern: str, name: str = "the pattern", limit: int = MAX_PATTERN_CHARACTERS) -> str:
    """Validate a regular expression in RE2's syntax and return it unchanged.

    Args:
        pattern: the expression.
        name: its field, for the error message.
        limit: the most characters.

    Raises:
        ValueError: it is too long, or RE2 does not accept it.
    """
    _check_length(pattern, name, limit)
    try:
        compiled(pattern)
    except ValueError as error:
        raise ValueError(f"{name} is not a regular expression of RE2 ({error})") from None
    return pattern


def check_python_pattern(pattern: str, name: str = "the pattern", limit: int = MAX_PATTERN_CHARACTERS) -> str:
    """Validate a regular expression of Python and return it unchanged.

    Args:
        pattern: the expression.
        name: its field, for the error message.
        limit: the most characters.

    Raises:
        ValueError: it is too long, or is not a regular expression.
    """
    _check_length(pattern, name, limit)
    try:
        re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(f"{name} is not a regular expression of Python ({error}); correct it") from None
    return pattern


def _check_length(pattern: str, name: str, limit: int) -> None:
    if len(pattern) > limit:
        raise ValueError(f"{name}: expected at most {limit:,} characters, got {len(pattern):,}; shorten it")
