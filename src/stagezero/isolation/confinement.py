"""The types that every kind of sandbox shares: a task, its limits and its result."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

Kind = Literal["box", "landlock", "none"]
"""The kind of sandbox.

*box* uses bubblewrap. *landlock* uses Landlock and seccomp and is weaker. *none* gives the program
the user's own rights; it is for people's own programs only.
"""

BROKER_VARIABLE = "STAGEZERO_SANDBOX"
"""Environment variable with the port and token of the broker, for a lab in a box."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits on one program with all that it starts.

    Args:
        memory: bytes of memory.
        disk: bytes of files.
        processes: processes and threads at the same time.
    """

    memory: int = 8 * 2**30
    disk: int = 4 * 2**30
    processes: int = 64


@dataclass(frozen=True, slots=True)
class Confinement:
    """How a project confines programs: the kind of sandbox and the limits."""

    kind: Kind = "box"
    limits: Limits = field(default=Limits())


@dataclass(frozen=True, slots=True)
class Task:
    """One program to run.

    Args:
        run: the command of a team's own program; empty for an idea's code, which is
            ``files["technique.py"]``.
        model, base: checkpoint folders, visible read-only.
        files: name → content of the files in the working folder.
        data: training data as JSON lines; None for none.
        seed: the seed of the build.
        seconds: wall-clock time after which the program is killed.
        max_weight_bytes: limit on the weights that the program sends.
    """

    run: tuple[str, ...]
    model: Path
    base: Path
    files: Mapping[str, bytes]
    data: bytes | None
    seed: int
    seconds: float
    max_weight_bytes: int


@dataclass(frozen=True, slots=True)
class RunResult:
    """How a program ended.

    Args:
        code: its exit code; if negative, the negated number of the signal that killed it.
        output: the end of its stdout and stderr.
        stopped: why the supervisor stopped it or discarded its weights; None if it did neither.
        not_started: whether the program could not be started on this machine.
    """

    code: int
    output: str
    stopped: str | None = None
    not_started: bool = False
