"""Every error that stagezero raises on purpose, as one tree.

Each message has one or two sentences: the field, what was expected, what was got, and the fix.

StagezeroError             Base class: printed without a traceback, exit code 2.
├── InputError             Raised when something that a person wrote cannot be used.
│   ├── ProjectError       Raised when the project file is invalid.
│   ├── RecipeError        Raised when a recipe is invalid, or a patch does not fit its recipe.
│   ├── IdeaError          Raised when an idea file is invalid.
│   ├── SuiteError         Raised when a suite of tasks is invalid.
│   └── ModelError         Raised when a model name is unknown or a checkpoint is incomplete.
│       └── UnreadableTextError  Raised when a model cannot read a text.
├── MissingPackageError    Raised when an optional package is not installed.
├── RunChangedError        Raised when a half-finished run no longer matches its project.
├── LedgerError            Raised when a ledger or a key is missing, invalid or in use.
│   └── WitnessError       Raised when two views of one ledger contradict each other.
├── AttestationError       Raised when a signed statement does not verify.
├── BuildError             Raised when a training step fails because of its recipe.
├── SandboxError           Raised when a program cannot be confined; it is not run.
├── WorkerError            Raised when a worker dies, or the machine is out of memory or disk.
│   └── MemoryShortError   Raised when a job was killed or had too little memory, alone too.
└── DoorError              Raised when the auditor refuses a request or cannot be set up.
    ├── BudgetSpentError   Raised when the sealed items have no disclosures left.
    ├── UnreachableError   Raised when the auditor does not respond; a retry may succeed.
    ├── WaitError          Raised when pending answers may use up the remaining budget.
    └── ClosedError        Raised when the auditor's own records, clock or disk are at fault.
"""

from __future__ import annotations

import difflib
import importlib
import types
import typing
from collections.abc import Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydantic import ValidationError


class StagezeroError(Exception):
    """Base class of all errors that the caller can fix.

    The command line prints the message without a traceback and exits with code 2.
    """


class InputError(StagezeroError):
    """Raised when something that a person wrote cannot be used."""


class ProjectError(InputError):
    """Raised when the project file is invalid."""


class RecipeError(InputError):
    """Raised when a recipe is invalid, or a patch does not fit the recipe it is applied to."""


class IdeaError(InputError):
    """Raised when an idea file is invalid."""


class SuiteError(InputError):
    """Raised when a suite of tasks is invalid."""


class ModelError(InputError):
    """Raised when a model name is unknown or a checkpoint folder is incomplete."""


class UnreadableTextError(ModelError):
    """Raised when a text exceeds a model's context, or has a token without an embedding."""


class NonFiniteScoresError(ModelError):
    """Raised when a model gives its tokens scores that are NaN or infinite: it has no answer."""


class MissingPackageError(StagezeroError):
    """Raised when an optional package is not installed; the message has the install command."""


class RunChangedError(StagezeroError):
    """Raised when a half-finished run no longer matches the project it belongs to."""


class LedgerError(StagezeroError):
    """Raised when a ledger or a key is missing, invalid or in use by another process."""


class WitnessError(LedgerError):
    """Raised when two views of one ledger contradict each other, or a checkpoint is invalid."""


class AttestationError(StagezeroError):
    """Raised when a signed statement does not verify."""


class BuildError(StagezeroError):
    """Raised when a training step fails because of its recipe; a retry would fail again."""


class SandboxError(StagezeroError):
    """Raised when a program cannot be confined as required.

    The program is not run. The error is no verdict on any idea.
    """


class WorkerError(StagezeroError):
    """Raised when a worker dies, or runs out of memory or disk.

    The machine is the cause. The error is no verdict on any idea.
    """


class MemoryShortError(WorkerError):
    """Raised when a job was killed or had too little memory, also while no other job ran.

    A comparison with the control, built in the same way, decides whether the machine or the job is
    the cause.
    """


class DoorError(StagezeroError):
    """Raised when the auditor refuses a request or cannot be set up."""


class UnreachableError(DoorError):
    """Raised when the auditor does not respond. It may be available again later."""


class BudgetSpentError(DoorError):
    """Raised when the sealed items have no disclosures left."""


class WaitError(DoorError):
    """Raised when answers are pending and one of them may use up the remaining budget.

    Attributes:
        until: the earliest time for a retry, in seconds since 1970.
    """

    def __init__(self, message: str, until: float = 0.0) -> None:
        """Store the message and the time of the earliest retry."""
        super().__init__(message)
        self.until = until


class ClosedError(DoorError):
    """Raised when the auditor's own records, clock or disk are at fault; it refuses to answer."""


def explain(error: ValidationError, where: str, model: Any = None, hidden: Sequence[str] = ()) -> str:
    """Describe one problem of a pydantic error: the field, what was expected, the fix.

    Args:
        error: the error.
        where: the file or command that contains the field; the message begins with it.
        model: the type that was validated. With it, an unknown key is answered with the known ones.
        hidden: known keys that a person may not write.
    """
    errors = error.errors()
    # A misspelt key first: what is missing is often the same key, spelt right.
    first = next((e for e in errors if e["type"] == "extra_forbidden"), errors[0])
    field = ".".join(str(part) for part in first["loc"]) or "the whole file"
    others = error.error_count() - 1
    more = f" ({others} more error{'s' if others > 1 else ''})" if others else ""
    if first["type"] == "extra_forbidden":
        known = [name for name in known_keys(model, first["loc"][:-1]) if name not in hidden]
        close = difflib.get_close_matches(str(first["loc"][-1]), known, n=1)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        listed = f"; the known keys are: {', '.join(known)}" if known else ""
        return f"{where}: unknown key {field!r}{hint}; remove it or correct its spelling{listed}{more}."
    if first["type"] == "missing":
        return f"{where}: {field!r} is missing; add it{more}."
    if first["type"] == "value_error":
        place = f"{field}: " if first["loc"] else ""
        return f"{where}: {place}{str(first['ctx']['error']).rstrip('.')}{more}."
    if first["type"] == "union_tag_invalid":
        key, tag, tags = (first["ctx"][name] for name in ("discriminator", "tag", "expected_tags"))
        return f"{where}: {field}: {key} has the unknown value {tag!r}; choose one of {tags}{more}."
    if first["type"] == "union_tag_not_found":
        return f"{where}: {field}: {first['ctx']['discriminator']} is missing; add it{more}."
    value = first.get("input")
    got = f", got {value!r:.60}" if isinstance(value, (str, int, float, bool)) or value is None else ""
    return f"{where}: {field!r}: {_expected(first['type'], first['msg'])}{got}; correct it{more}."


def known_keys(model: Any, location: Sequence[int | str]) -> list[str]:
    """Return the keys that a pydantic type accepts at a location of its data.

    Args:
        model: a pydantic model, or a type made of models, lists and unions.
        location: keys, positions, and tags of unions, as in pydantic's errors.

    Returns:
        The keys, in their order; an empty list if there is no model at the location.
    """
    for part in location:
        model = _without_none(model)
        if hasattr(model, "model_fields"):
            fields = model.model_fields
            model = fields[part].annotation if part in fields else None
        elif typing.get_origin(model) in (list, tuple) and isinstance(part, int):
            model = typing.get_args(model)[0]
        else:
            model = next((option for option in _options(model) if _has_tag(option, part)), None)
    return list(getattr(_without_none(model), "model_fields", ()))


def _without_none(model: Any) -> Any:
    """Return the one type that a value may have besides None; a larger union is not changed."""
    options = [option for option in _options(model) if option is not type(None)]
    return options[0] if len(options) == 1 else model


def _options(model: Any) -> tuple[Any, ...]:
    """Return the members of a union, and any other type alone."""
    while typing.get_origin(model) is typing.Annotated:
        model = model.__origin__
    return typing.get_args(model) if typing.get_origin(model) in (typing.Union, types.UnionType) else (model,)


def _has_tag(model: Any, tag: object) -> bool:
    """Return whether a member of a union is the one with a tag."""
    if typing.get_origin(model) is typing.Annotated:
        return any(getattr(mark, "tag", None) == tag for mark in model.__metadata__)
    return any(tag in typing.get_args(field.annotation) for field in getattr(model, "model_fields", {}).values())


_EXPECTED = {
    "int": "a whole number", "float": "a number", "bool": "true or false", "string": "text", "list": "a list", "tuple": "a list",
    "dict": "keys with values", "model": "keys with values",
}  # fmt: skip
"""Words for the types in the names of pydantic's errors, such as ``int_parsing``."""


def _expected(kind: str, message: str) -> str:
    """Return what was expected, in plain words, from a pydantic error's type and message."""
    name, _, problem = kind.partition("_")
    if name in _EXPECTED and problem.removeprefix("attributes_") in ("type", "parsing", "parsing_size", "from_float"):
        return f"expected {_EXPECTED[name]}"
    if message.startswith("Input should be "):
        rest = message.removeprefix("Input should be ")
        return f"expected a value {rest}" if rest.startswith(("greater", "less")) else f"expected {rest}"
    return f"{message[0].lower()}{message[1:]}".replace(" after validation", "")


def require_package(module: str, install: str, purpose: str) -> ModuleType:
    """Import an optional package.

    Args:
        module: the module to import.
        install: the command that installs it.
        purpose: what needs it; the error message begins with this.

    Raises:
        MissingPackageError: the module cannot be imported; the message has the install command.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingPackageError(f"{purpose} needs the package {module!r}; install it with: {install}") from error
