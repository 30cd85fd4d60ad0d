"""Types of fields that recipes and patches share, each with its limits."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field


def at_most(limit: int, what: str = "") -> AfterValidator:
    """Refuses a number above the limit, and a list with more members than that."""

    def check(value: Any) -> Any:
        size = value if isinstance(value, int) else len(value)
        if size > limit:
            raise ValueError(f"expected at most {limit:,}{what and ' '}{what}, got {size:,}; lower it")
        return value

    return AfterValidator(check)


def plain_names(value: Any) -> Any:
    """A list of texts that the system can take as names.

    Raises:
        ValueError: it is anything else.
    """
    if not isinstance(value, list | tuple) or not all(isinstance(name, str) and name and "\0" not in name for name in value):
        raise ValueError(f"expected a list of names, such as [train.py], got {value!r:.60}; correct it")
    return value


Positive = Annotated[int, Field(gt=0), at_most(1_000_000)]
Names = Annotated[tuple[str, ...], AfterValidator(plain_names), at_most(64, "names")]
Rate = Annotated[float, Field(gt=0, le=1)]
Payoff = Annotated[float, Field(ge=-100, le=100)]


class Frozen(BaseModel):
    """Base of everything a person writes: immutable, typed, unknown keys refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)
