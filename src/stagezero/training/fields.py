"""Field types that recipes and patches share, each with its limits.

A validator raises ``ValueError`` with a phrase that states what was expected, what was got and the
fix; ``errors.explain`` adds the name of the field.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, Field

from stagezero.patterns import check_pattern


def at_most(limit: int, unit: str = "") -> AfterValidator:
    """Return a validator that rejects a number above ``limit``, or a list with more members.

    Args:
        limit: the largest permitted number or length.
        unit: what is counted, for the error message.
    """

    def check(value: Any) -> Any:
        size, fix = (value, "lower it") if isinstance(value, int) else (len(value), "remove some")
        if size > limit:
            raise ValueError(f"expected at most {limit:,}{unit and ' '}{unit}, got {size:,}; {fix}")
        return value

    return AfterValidator(check)


def validate_names(value: Any) -> Any:
    """Return the value if it is a list of texts that the operating system accepts as names.

    Raises:
        ValueError: the value is anything else.
    """
    if not isinstance(value, list | tuple) or not all(isinstance(name, str) and name and "\0" not in name for name in value):
        raise ValueError(f"expected a list of non-empty names without NUL characters, such as [train.py], got {value!r:.60}; correct it")
    return value


Positive = Annotated[int, Field(gt=0), at_most(1_000_000)]
Names = Annotated[tuple[str, ...], AfterValidator(validate_names), at_most(64, "names")]
Rate = Annotated[float, Field(gt=0, le=1)]
Pattern = Annotated[str, AfterValidator(lambda pattern: check_pattern(pattern))]
"""A regular expression in the syntax of RE2."""
Payoff = Annotated[float, Field(ge=-100, le=100)]
