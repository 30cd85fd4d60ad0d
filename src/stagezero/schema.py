"""The base class of everything that a person writes: projects, recipes, ideas and their parts.

Pydantic reads ``true`` as the number 1, and accepts numbers that are not finite. The base class
refuses both in every field of a number, at any depth of lists and mappings.
"""

from __future__ import annotations

import typing
from collections.abc import Iterator
from functools import cache
from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator


class Frozen(BaseModel):
    """Immutable and typed, without unknown keys, and with numbers that are finite."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _reject_truth(cls, data: Any) -> Any:
        """Reject true and false for a number."""
        for name, wanted in _number_fields(cls).items() if isinstance(data, dict) else ():
            for place, value in _truth_values(data.get(name), name):
                raise ValueError(f"{place!r}: expected {wanted}, got {str(value).lower()}; correct it")
        return data


@cache
def _number_fields(model: type[BaseModel]) -> dict[str, str]:
    """Return the fields that contain numbers and no truth values: name → what is expected."""
    fields = {name: set(_leaves(field.annotation)) for name, field in model.model_fields.items()}
    return {
        name: "a number" if float in types else "a whole number"
        for name, types in fields.items()
        if types & {int, float} and bool not in types
    }


def _leaves(annotation: Any) -> Iterator[Any]:
    """Yield the types that an annotation consists of, inside lists, mappings and unions too."""
    origin = typing.get_origin(annotation)
    if origin is typing.Annotated:
        yield from _leaves(annotation.__origin__)
    elif origin is typing.Literal:
        return
    elif origin is not None:
        for argument in typing.get_args(annotation):
            yield from _leaves(argument)
    else:
        yield annotation


def _truth_values(value: Any, place: str) -> Iterator[tuple[str, bool]]:
    """Yield each truth value in a value, with its place."""
    if isinstance(value, bool):
        yield place, value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from _truth_values(inner, f"{place}.{key}")
    elif isinstance(value, list | tuple):
        for number, inner in enumerate(value):
            yield from _truth_values(inner, f"{place}.{number}")
