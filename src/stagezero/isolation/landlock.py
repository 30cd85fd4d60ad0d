"""The weaker sandbox: Landlock and seccomp around a program, where bubblewrap cannot make a box and a project asks for this by name.

The program opens no file but those of the environment, its inputs and its own folder, and no socket but a pair of its own; limits hold as
in a box. It is weaker because processes and the network are visible and merely out of reach: the program sees how busy the machine is, can
signal the user's processes before Linux 6.12, can fill the disk up to its limit a file, and what it leaves running is found by parentage.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from stagezero.isolation import harden, unconfined
from stagezero.isolation.commands import DROP_CAPABILITIES, RUNNER, hardened, resource_limits
from stagezero.isolation.confinement import Limits, Task
from stagezero.isolation.supervisor import supervise
from stagezero.isolation.visible import SYSTEM_PATHS, accelerators, python_paths
from stagezero.models.checkpoint import content_files

_DEVICES = ("/dev/null", "/dev/zero", "/dev/urandom", "/dev/random", "/dev/full")
_KERNEL_FILES = ("/proc/self", "/proc/cpuinfo", "/proc/meminfo", "/proc/stat", "/proc/driver", "/sys/devices/system/cpu")


def _prefix(task: Task, limits: Limits, inputs: Path) -> list[str]:
    """The words before a program that run it under Landlock."""
    shown, hidden = python_paths()
    readable = [*_KERNEL_FILES, inputs, *(path.resolve() for folder in (task.model, task.base) for path in content_files(folder)), RUNNER]
    system = [path.resolve() for path in SYSTEM_PATHS if path.exists()]
    readable += [path for path in system if path.is_file()]
    folders = [path for path in dict.fromkeys(system) if path.is_dir()]
    folders = [path for path in folders if not any(path != other and path.is_relative_to(other) for other in folders)]
    for folder in (*folders, *shown):
        readable += _without(folder, [path for path in hidden if path.is_relative_to(folder)])
    writable = [inputs.parent / "work", inputs.parent / "tmp", *_DEVICES, *accelerators()]
    # Processes are not bounded: the kernel would count all of the user's.
    words = [f"{name}={number}" for name, number in resource_limits(limits, task.seconds).items() if name != "processes"]
    # Python imports only from folders that it can list; those with something hidden in them are not readable as a whole.
    listed = {path.parent for path in hidden if path.parent.name.endswith("-packages")}
    words += [*(f"read={path}" for path in readable), *(f"write={path}" for path in writable), *(f"list={path}" for path in sorted(listed))]
    # Root stays root, since its files are root's, and drops the rights that root has beyond that.
    return [*(DROP_CAPABILITIES if os.geteuid() == 0 else ()), *hardened("landlock", words)]


def _without(folder: Path, hidden: list[Path]) -> Iterator[Path]:
    """A folder, or those of its entries that contain nothing hidden: Landlock grants what lies below a path, and takes nothing back."""
    if not hidden:
        yield folder
    elif folder not in hidden:
        for entry in sorted(folder.iterdir()):
            # A rule holds for what a link leads to: lib64 of a virtual environment leads to the packages hidden below lib.
            target = entry.resolve()
            if entry == target or not any(path.is_relative_to(target) or target.is_relative_to(path) for path in hidden):
                yield from _without(entry, [path for path in hidden if path.is_relative_to(entry)])


def start(task: Task, limits: Limits, inputs: Path, pipe: int, output: int) -> subprocess.Popen[bytes]:
    """Start a program under Landlock."""
    return unconfined.start_after(task, inputs, pipe, output, _prefix(task, limits, inputs))


def why_not() -> str | None:
    """Why Landlock cannot confine a program here, found by trying; None when it held."""
    if sys.platform != "linux" or harden.landlock_version(ctypes.CDLL(None)) < harden.FILES_VERSION:
        return "this kernel has no Landlock of version 3 (Linux 6.2); use a newer one, or bubblewrap"
    with tempfile.TemporaryDirectory() as made, tempfile.TemporaryDirectory() as elsewhere:
        secret = Path(elsewhere) / "secret"
        secret.write_text("exposed")
        for name in ("model", "base"):
            (Path(elsewhere) / name).mkdir()
        script = f"cat {secret}; echo x > {elsewhere}/x; echo tried"
        task = Task(("sh", "-c", script), Path(elsewhere) / "model", Path(elsewhere) / "base", {}, None, 0, 30, 2**20)
        (Path(made) / "out").mkdir()
        ran = supervise(start, task, Limits(), Path(made) / "out", Path(made))
        if (Path(elsewhere) / "x").exists() or "exposed" in ran.said:
            return "what it should shut out could be reached"
    return None if ran.said.strip().endswith("tried") else f"it could not be made ({ran.said.strip()[-200:] or 'no reason given'})"
