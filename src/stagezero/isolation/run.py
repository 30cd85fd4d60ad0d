"""Runs a task in the kind of sandbox that is asked for, and tries whether this machine can make one."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path

from stagezero.isolation import broker, bubblewrap, landlock, supervisor, unconfined
from stagezero.isolation.confinement import BROKER_VARIABLE, Confinement, Kind, Ran, Task

_STARTERS: dict[Kind, supervisor.Starter] = {"box": bubblewrap.start, "landlock": landlock.start, "none": unconfined.start}


def confine(task: Task, confinement: Confinement, out: Path, scratch: Path) -> Ran:
    """Run a program and write the weights it sends to ``out``.

    Args:
        out: empty folder; only ``*.safetensors`` of bounded size are written there, and their content is not checked.
        scratch: folder for intermediate files, removed by the caller.

    Raises:
        SandboxError: such a sandbox cannot be made here.
    """
    if confinement.kind == "box" and os.environ.get(BROKER_VARIABLE):
        return broker.request(task, confinement.limits, out)
    return supervisor.supervise(_STARTERS[confinement.kind], task, confinement.limits, out, scratch)


@lru_cache(maxsize=4)
def why_not(kind: Kind = "box") -> str | None:
    """Why such a sandbox cannot be made here, found by making one and trying to get out of it; None when it held."""
    if kind == "none" or (kind == "box" and os.environ.get(BROKER_VARIABLE)):
        return None
    return bubblewrap.why_not() if kind == "box" else landlock.why_not()
