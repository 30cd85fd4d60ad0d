"""MkDocs hook: generates the field tables of the reference pages from the pydantic models.

A line ``<!-- fields: package.module.Model -->`` in a page becomes the model's docstring and a
table of its fields. Models that a field refers to must have a line of their own.
"""

from __future__ import annotations

import importlib
import inspect
import re
import types
import typing
from enum import Enum
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

_DIRECTIVE = re.compile(r"^<!-- fields: ([\w.]+) -->$", re.MULTILINE)
_BOUNDS = {"gt": ">", "ge": "≥", "lt": "<", "le": "≤", "min_length": "length ≥", "max_length": "length ≤"}


def on_page_markdown(markdown: str, **_: object) -> str:
    """Replace every directive of a page."""
    return _DIRECTIVE.sub(lambda match: _section(match[1]), markdown)


def _section(name: str) -> str:
    module, _, attribute = name.rpartition(".")
    model: type[BaseModel] = getattr(importlib.import_module(module), attribute)
    if not inspect.getdoc(model) or model.__doc__ is BaseModel.__doc__:
        raise ValueError(f"{name} has no docstring")
    text = re.sub(r"``(.+?)``", r"`\1`", inspect.cleandoc(model.__doc__ or ""))
    rows = [_row(field, info) for field, info in model.model_fields.items()]
    return "\n".join([text, "", "| field | type | default | |", "| --- | --- | --- | --- |", *rows])


def _row(name: str, info: FieldInfo) -> str:
    default = "required" if info.is_required() else f"`{_value(info)}`"
    notes = [re.sub(r"``(.+?)``", r"`\1`", info.description or ""), *_bounds(info)]
    cells = [f"`{name}`", _type(info.annotation), default, "; ".join(note for note in notes if note)]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _value(info: FieldInfo) -> object:
    value = info.get_default(call_default_factory=True) if info.default is PydanticUndefined else info.default
    if value is None:
        return "none"
    return {} if isinstance(value, BaseModel) else list(value) if isinstance(value, tuple) else value


def _bounds(info: FieldInfo) -> list[str]:
    found = [
        f"{sign} {bound:,}" for item in info.metadata for key, sign in _BOUNDS.items() if (bound := getattr(item, key, None)) is not None
    ]
    return found + [f"pattern `{item.pattern}`" for item in info.metadata if getattr(item, "pattern", None)]


def _type(annotation: Any) -> str:
    """A type as a user would write it: no markers, no private names."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _type(arguments[0])
    if origin is typing.Literal:
        return " or ".join(f"`{a}`" for a in arguments)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_type(a) for a in arguments if a is not type(None))
    if origin in (tuple, list, frozenset):
        return f"list of {_type(arguments[0])}"
    if origin is dict:
        return f"{_type(arguments[0])} → {_type(arguments[1])}"
    if inspect.isclass(annotation) and issubclass(annotation, Enum):
        return " or ".join(f"`{item.value}`" for item in annotation)
    names = {str: "text", int: "whole number", float: "number", bool: "true or false"}
    return names.get(annotation, getattr(annotation, "__name__", str(annotation)))
