"""Starts a program without namespaces or mounts, in a folder of its own beside its inputs."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from stagezero.errors import SandboxError
from stagezero.isolation import harden
from stagezero.isolation.commands import run_task
from stagezero.isolation.confinement import Limits, Task
from stagezero.isolation.visible import environment
from stagezero.models.checkpoint import content_files


def start(task: Task, limits: Limits, inputs: Path, pipe: int, output: int) -> subprocess.Popen[bytes]:
    """Start a program with the user's own rights: one that people wrote and a project allows it for, never an idea's code.

    Raises:
        SandboxError: it is an idea's code.
    """
    if not task.run:
        raise SandboxError("an idea's code is never run without a sandbox; set sandbox.kind to box or landlock.")
    return start_after(task, inputs, pipe, output, [])


def start_after(task: Task, inputs: Path, pipe: int, output: int, prefix: Sequence[str]) -> subprocess.Popen[bytes]:
    """Start a program by a command that begins with ``prefix``; links stand for the model, and not for what else lies in its folder."""
    for name, folder in (("model", task.model), ("base", task.base)):
        for path in content_files(folder):
            (inputs / name / path.name).symlink_to(path.resolve())
    work, temporary = inputs.parent / "work", inputs.parent / "tmp"
    shutil.copytree(inputs / "work", work)
    (temporary / "out").mkdir(parents=True)
    variables = environment(task, inputs, temporary / "out")
    variables |= {"HOME": str(temporary), "TMPDIR": str(temporary), "TORCHINDUCTOR_CACHE_DIR": str(temporary / "inductor")}
    return subprocess.Popen(
        [*prefix, *run_task(task, pipe)], env=variables, cwd=work, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
        pass_fds=[pipe], process_group=0, preexec_fn=_die_with_worker,
    )  # fmt: skip


def _die_with_worker() -> None:
    """Runs in the program's process before it starts. Elsewhere than on Linux the program outlives a killed worker."""
    if sys.platform == "linux":
        harden.die_with_parent(ctypes.CDLL(None))
