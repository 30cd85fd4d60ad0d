"""What a sandbox is asked to run, within which limits, and what comes back: the types that every kind of sandbox shares."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

Kind = Literal["box", "landlock", "none"]
"""*box*: bubblewrap. *landlock*: Landlock and seccomp, weaker. *none*: the user's own rights, for people's own programs alone."""

BROKER_VARIABLE = "STAGEZERO_SANDBOX"
"""The environment variable with the port and token of the broker that makes sandboxes for a lab in a box."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Of one program and all that it starts: bytes of memory, bytes of files, processes and threads at a time."""

    memory: int = 8 * 2**30
    disk: int = 4 * 2**30
    processes: int = 64


@dataclass(frozen=True, slots=True)
class Confinement:
    """How programs are confined, as a project asks for it."""

    kind: Kind = "box"
    limits: Limits = field(default=Limits())


@dataclass(frozen=True, slots=True)
class Task:
    """One program to run.

    Args:
        run: the command, for a team's own program; empty for an idea's code, which is ``files["technique.py"]``.
        model, base: checkpoint folders, shown read-only.
        files: name → content of the files in the working folder.
        data: JSON lines; None where there are none.
        seconds: wall-clock time after which the program is killed.
        output: the most bytes of weights that the program may send.
    """

    run: tuple[str, ...]
    model: Path
    base: Path
    files: Mapping[str, bytes]
    data: bytes | None
    seed: int
    seconds: float
    output: int


@dataclass(frozen=True, slots=True)
class Ran:
    """How a program ended.

    Args:
        code: its exit code; negative: the signal that killed it.
        said: the end of what it printed.
        stopped: why the supervisor stopped it, or discarded what it sent; None where it did not.
        not_started: the program itself is not on this machine, which is not the program's doing.
    """

    code: int
    said: str
    stopped: str | None = None
    not_started: bool = False
