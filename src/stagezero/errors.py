"""Every error a user can meet. Each message is one sentence: what was wrong, what was expected, the fix.

StagezeroError                 shown without a traceback, exit code 2
├── InputError                 something a person wrote cannot be used
│   ├── ProjectError           the project file
│   ├── RecipeError            a recipe, or a patch that does not fit one
│   ├── IdeaError              an idea file
│   ├── SuiteError             a suite of tasks
│   └── ModelError             a model name or a checkpoint
├── MissingPackageError        an optional package is not installed
├── RunChangedError            a half-finished run no longer matches its project
├── LedgerError                the chain does not verify
│   └── WitnessError           two views of one ledger do not agree
├── AttestationError           a signed statement that does not verify
├── BuildError                 a training step failed: the recipe's doing
├── SandboxError               a program cannot be confined here, and is not run
├── WorkerError                a worker died, or ran out of memory or disk: the machine's doing
└── DoorError                  the auditor refused
    ├── BudgetSpentError       the sealed items have no disclosures left
    ├── UnreachableError       the auditor could not be reached; worth trying again
    ├── WaitError              answers are still out; ask again when they have come
    └── ClosedError            the auditor is in doubt, and answers nothing
"""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import ValidationError


class StagezeroError(Exception):
    """Base of all errors that are the caller's to mend; the command line shows the message alone."""


class InputError(StagezeroError):
    """Something a person wrote cannot be used."""


class ProjectError(InputError):
    """The project file."""


class RecipeError(InputError):
    """A recipe, or a patch that does not fit the recipe it is applied to."""


class IdeaError(InputError):
    """An idea file."""


class SuiteError(InputError):
    """A suite of tasks."""


class ModelError(InputError):
    """A model name or a checkpoint folder."""


class MissingPackageError(StagezeroError):
    """An optional package is not installed."""


class RunChangedError(StagezeroError):
    """A half-finished run no longer matches the project it belongs to."""


class LedgerError(StagezeroError):
    """The chain does not verify."""


class WitnessError(LedgerError):
    """Two views of one ledger do not agree."""


class AttestationError(StagezeroError):
    """A signed statement that does not verify."""


class BuildError(StagezeroError):
    """A training step failed, and would fail again: the recipe's doing."""


class SandboxError(StagezeroError):
    """A program cannot be confined as it must be, and is therefore not run: no verdict on any idea."""


class WorkerError(StagezeroError):
    """A worker died, or ran out of memory or disk: the machine's doing, and no verdict on any idea."""


class DoorError(StagezeroError):
    """The auditor refused, or could not be reached."""


class UnreachableError(DoorError):
    """The auditor could not be reached; it may be there again in a while."""


class BudgetSpentError(DoorError):
    """The sealed items have no disclosures left."""


class WaitError(DoorError):
    """Answers are still out, and one of them may use what is left; ``until`` is when to ask again (seconds since 1970)."""

    def __init__(self, message: str, until: float = 0.0) -> None:
        super().__init__(message)
        self.until = until


class ClosedError(DoorError):
    """The auditor is in doubt about itself, and answers nothing."""


def explain(error: ValidationError, where: str) -> str:
    """One sentence for the first problem of a pydantic error: the field, what was expected, the fix."""
    first = error.errors()[0]
    field = ".".join(str(part) for part in first["loc"]) or "the whole file"
    more = f" ({error.error_count() - 1} more after it)" if error.error_count() > 1 else ""
    if first["type"] == "extra_forbidden":
        return f"{where}: unknown key {field!r}; remove it or correct its spelling{more}."
    if first["type"] == "missing":
        return f"{where}: {field!r} is missing; add it{more}."
    if first["type"] == "value_error":
        return f"{where}: {field}: {str(first['ctx']['error']).rstrip('.')}{more}."
    got = first.get("input")
    shown = f", got {got!r:.60}" if isinstance(got, (str, int, float, bool)) or got is None else ""
    return f"{where}: {field!r}: {first['msg'][0].lower()}{first['msg'][1:]}{shown}{more}."


def need(module: str, install: str, purpose: str) -> ModuleType:
    """Import an optional package.

    Raises:
        MissingPackageError: naming the command that installs it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingPackageError(f"{purpose} needs the package {module!r}; install it with: {install}") from error
