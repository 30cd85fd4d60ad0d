"""Parts of command lines that the sandboxes and the lab's box share."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence

from stagezero.files import PACKAGE
from stagezero.isolation.confinement import Limits, Task
from stagezero.isolation.visible import accelerators

HARDEN, RUNNER = PACKAGE.resolve() / "isolation" / "harden.py", PACKAGE.resolve() / "isolation" / "runner.py"
DROP_CAPABILITIES = ("setpriv", "--no-new-privs", "--bounding-set=-all", "--inh-caps=-all", "--")


def missing_tool() -> str | None:
    """A sentence about a program that bubblewrap's boxes need and this machine does not have."""
    for tool in ("bwrap", "setpriv") if os.geteuid() == 0 else ("bwrap",):
        if shutil.which(tool) is None:
            return f"{tool} is not installed; install it with: apt install {'bubblewrap' if tool == 'bwrap' else 'util-linux'}"
    return None


def hardened(profile: str, words: Sequence[str], script: str = str(HARDEN)) -> list[str]:
    """The words before a command that run it by ``harden.py``, which lies at ``script``."""
    return [sys.executable, "-I", "-S", script, f"profile={profile}", *words, "--"]


def resource_limits(limits: Limits, seconds: float) -> dict[str, int]:
    """Limits that ``harden.py`` sets.

    Address space is bounded well above the memory that the supervisor allows, since libraries map more than they use; the driver of an
    accelerator reserves far more still, and there the data segment is bounded instead.
    """
    return {
        "data" if accelerators() else "address_space": limits.memory + 8 * 2**30, "cpu_seconds": int(seconds) + 10,
        "file_bytes": limits.disk, "open_files": 1024, "processes": limits.processes, "core_bytes": 0,
    }  # fmt: skip


def run_task(task: Task, pipe: int, script: str = str(RUNNER)) -> list[str]:
    """The command that runs a task's program by ``runner.py``, which lies at ``script`` and sends the weights through ``pipe``."""
    run = [sys.executable if word in ("python", "python3") and at == 0 else word for at, word in enumerate(task.run)]
    return [sys.executable, "-I", script, str(pipe), *run]
