"""Parts of command lines that the sandboxes and the lab's box share. This module starts nothing."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence

from stagezero.files import PACKAGE_FOLDER
from stagezero.isolation.confinement import Limits, Task
from stagezero.isolation.visible_paths import accelerators

HARDEN_SCRIPT = PACKAGE_FOLDER.resolve() / "isolation" / "harden.py"
RUNNER_SCRIPT = PACKAGE_FOLDER.resolve() / "isolation" / "runner.py"
DROP_CAPABILITIES = ("setpriv", "--no-new-privs", "--bounding-set=-all", "--inh-caps=-all", "--")


def missing_tool() -> str | None:
    """Return a sentence about a program that boxes need and this machine lacks, or None."""
    for tool in ("bwrap", "setpriv") if os.geteuid() == 0 else ("bwrap",):
        if shutil.which(tool) is None:
            return f"{tool} is not installed; install it with: apt install {'bubblewrap' if tool == 'bwrap' else 'util-linux'}"
    return None


def harden_prefix(profile: str, words: Sequence[str], script: str = str(HARDEN_SCRIPT)) -> list[str]:
    """Return the words that, put before a command, run it through ``harden.py``.

    Args:
        profile: a key of ``harden.PROFILES``.
        words: further arguments of ``harden.py``, such as ``processes=64``.
        script: the path of ``harden.py``.
    """
    return [sys.executable, "-I", "-S", script, f"profile={profile}", *words, "--"]


def resource_limits(limits: Limits, seconds: float) -> dict[str, int]:
    """Return the limits that ``harden.py`` sets for a program that may run for ``seconds``.

    The limit on address space is well above the memory that the supervisor allows, because
    libraries map more than they use. The driver of an accelerator reserves far more still; with
    one, the data segment is limited instead.
    """
    return {
        "data" if accelerators() else "address_space": limits.memory + 8 * 2**30, "cpu_seconds": int(seconds) + 10,
        "file_bytes": limits.disk, "open_files": 1024, "processes": limits.processes, "core_bytes": 0,
    }  # fmt: skip


def runner_command(task: Task, pipe: int, script: str = str(RUNNER_SCRIPT)) -> list[str]:
    """Return the command that runs a task's program through ``runner.py``.

    Args:
        pipe: file descriptor to which ``runner.py`` writes the weights.
        script: the path of ``runner.py``.
    """
    run = [sys.executable if word in ("python", "python3") and at == 0 else word for at, word in enumerate(task.run)]
    return [sys.executable, "-I", script, str(pipe), *run]
