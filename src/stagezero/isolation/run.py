"""Runs a task in the requested kind of sandbox, and tests whether this machine can make one."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path

from stagezero.isolation import broker, bubblewrap, landlock, supervisor, unconfined
from stagezero.isolation.confinement import BROKER_VARIABLE, Confinement, Kind, RunResult, Task

_STARTERS: dict[Kind, supervisor.Starter] = {"box": bubblewrap.start, "landlock": landlock.start, "none": unconfined.start}


def confine(task: Task, confinement: Confinement, out: Path, scratch: Path) -> RunResult:
    """Run a program in a sandbox and write the weights that it sends to ``out``.

    Args:
        out: an empty folder. Only ``*.safetensors`` files of bounded size are written there; their
            content is not checked.
        scratch: a folder for intermediate files. The caller removes it.

    Raises:
        SandboxError: such a sandbox cannot be made here.
    """
    if confinement.kind == "box" and os.environ.get(BROKER_VARIABLE):
        return broker.request_run(task, confinement.limits, out)
    return supervisor.supervise(_STARTERS[confinement.kind], task, confinement.limits, out, scratch)


@lru_cache(maxsize=4)
def unavailable_reason(kind: Kind = "box") -> str | None:
    """Return why this kind of sandbox cannot be made here; None if it can be made and confines.

    The test makes a sandbox and tries to get out of it. For a lab in a box, the broker makes boxes
    outside, so they are not tested.
    """
    if kind == "none" or (kind == "box" and os.environ.get(BROKER_VARIABLE)):
        return None
    return bubblewrap.unavailable_reason() if kind == "box" else landlock.unavailable_reason()
