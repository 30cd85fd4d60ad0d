"""What a sandbox is asked and what comes back, whichever way it is made."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Literal

Kind = Literal["box", "landlock", "none"]
"""*box*: bubblewrap. *landlock*: Landlock and seccomp, weaker. *none*: the user's own rights, for people's own programs alone."""

BROKER = "STAGEZERO_SANDBOX"
"""Names the port and token of whoever makes sandboxes for a lab in a box."""


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
        model, base: checkpoint folders; they are shown read-only.
        files: name → bytes of what lies in the working folder.
        data: JSON lines; None where there are none.
        seconds: wall-clock time it may take.
        output: bytes of weights it may send at the most.
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
    """How it ended: its exit code (negative: a signal), the end of what it said, and what stopped it where something outside did.

    ``not_started`` says that the program itself is not there, which is not its doing.
    """

    code: int
    said: str
    stopped: str | None = None
    not_started: bool = False


def confine(task: Task, confinement: Confinement, out: Path, scratch: Path) -> Ran:
    """Run a program and take the weights it sends into ``out``.

    Args:
        out: empty folder; only ``*.safetensors`` of bounded size are written there, and nothing in them has been looked at.
        scratch: a folder for what is needed meanwhile, removed by the caller.

    Raises:
        SandboxError: such a sandbox cannot be made here.
    """
    from stagezero.isolation import broker, bubblewrap, landlock, supervisor

    if confinement.kind == "box" and os.environ.get(BROKER):
        return broker.ask(task, confinement.limits, out)
    make = {"box": bubblewrap.started, "landlock": landlock.started, "none": supervisor.unconfined}[confinement.kind]
    return supervisor.follow(make, task, confinement.limits, out, scratch)


@lru_cache(maxsize=4)
def why_not(kind: Kind = "box") -> str | None:
    """Why such a sandbox cannot be made here, found by making one; None when it held."""
    from stagezero.isolation import bubblewrap, landlock

    if kind == "none" or (kind == "box" and os.environ.get(BROKER)):
        return None
    return bubblewrap.why_not() if kind == "box" else landlock.why_not()
