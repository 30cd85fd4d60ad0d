"""Starts a program without namespaces or mounts, in a folder of its own beside its inputs.

Without a prefix that confines it, the program has the user's own rights.
"""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from stagezero.errors import SandboxError
from stagezero.isolation import harden
from stagezero.isolation.commands import runner_command
from stagezero.isolation.confinement import Limits, Task
from stagezero.isolation.visible_paths import environment
from stagezero.models.checkpoint import content_files


def start(task: Task, limits: Limits, inputs: Path, pipe: int, output: int) -> subprocess.Popen[bytes]:
    """Start a program with the user's own rights; the arguments are those of ``bubblewrap.start``.

    Only a program that people wrote may run this way, and only if the project allows it. An idea's
    code never does.

    Raises:
        SandboxError: the task is an idea's code.
    """
    if not task.run:
        raise SandboxError("an idea's code is never run without a sandbox; set sandbox.kind to box or landlock.")
    return start_with_prefix(task, inputs, pipe, output, [])


def start_with_prefix(task: Task, inputs: Path, pipe: int, output: int, prefix: Sequence[str]) -> subprocess.Popen[bytes]:
    """Start a program through a command that begins with ``prefix``.

    The program gets links to the model's files, and to no other file of the checkpoint's folder.
    """
    for name, folder in (("model", task.model), ("base", task.base)):
        for path in content_files(folder):
            (inputs / name / path.name).symlink_to(path.resolve())
    work, temporary = inputs.parent / "work", inputs.parent / "tmp"
    shutil.copytree(inputs / "work", work)
    (temporary / "out").mkdir(parents=True)
    variables = environment(task, inputs, temporary / "out")
    variables |= {"HOME": str(temporary), "TMPDIR": str(temporary), "TORCHINDUCTOR_CACHE_DIR": str(temporary / "inductor")}
    return subprocess.Popen(
        [*prefix, *runner_command(task, pipe)], env=variables, cwd=work, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
        pass_fds=[pipe], process_group=0, preexec_fn=_die_with_worker,
    )  # fmt: skip


def _die_with_worker() -> None:
    """Run in the program's process before it starts.

    On systems other than Linux, the program outlives a killed worker.
    """
    if sys.platform == "linux":
        harden.die_with_parent(ctypes.CDLL(None))
