"""The weaker sandbox: Landlock and seccomp, for machines where bubblewrap cannot make a box.

A project must request it by name. The program opens no file except those of the environment, its
inputs and its own folder, and no socket except a pair of its own. The limits are those of a box.

It is weaker because processes and the network stay visible and are only out of reach:

- the program sees the machine's load;
- it can signal the user's processes before Linux 6.12;
- it can fill the disk: the limit applies to each file;
- processes that it leaves running are found only through their parents.
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
from stagezero.isolation.commands import DROP_CAPABILITIES, RUNNER_SCRIPT, harden_prefix, resource_limits
from stagezero.isolation.confinement import Limits, Task
from stagezero.isolation.supervisor import supervise
from stagezero.isolation.visible_paths import SYSTEM_PATHS, accelerators, python_paths
from stagezero.models.checkpoint import content_files

_DEVICES = ("/dev/null", "/dev/zero", "/dev/urandom", "/dev/random", "/dev/full")
_KERNEL_FILES = ("/proc/self", "/proc/cpuinfo", "/proc/meminfo", "/proc/stat", "/proc/driver", "/sys/devices/system/cpu")


def _prefix(task: Task, limits: Limits, inputs: Path) -> list[str]:
    """Return the words that, put before a command, run it under Landlock."""
    visible, hidden = python_paths()
    readable = [
        *_KERNEL_FILES,
        inputs,
        *(path.resolve() for folder in (task.model, task.base) for path in content_files(folder)),
        RUNNER_SCRIPT,
    ]
    system = [path.resolve() for path in SYSTEM_PATHS if path.exists()]
    readable += [path for path in system if path.is_file()]
    folders = [path for path in dict.fromkeys(system) if path.is_dir()]
    folders = [path for path in folders if not any(path != other and path.is_relative_to(other) for other in folders)]
    for folder in (*folders, *visible):
        readable += _without(folder, [path for path in hidden if path.is_relative_to(folder)])
    writable = [inputs.parent / "work", inputs.parent / "tmp", *_DEVICES, *accelerators()]
    # Processes have no kernel limit here: it would count all processes of the user.
    words = [f"{name}={number}" for name, number in resource_limits(limits, task.seconds).items() if name != "processes"]
    # Python imports only from folders that it can list, and folders with hidden entries are not
    # readable as a whole.
    listed = {path.parent for path in hidden if path.parent.name.endswith("-packages")}
    words += [*(f"read={path}" for path in readable), *(f"write={path}" for path in writable), *(f"list={path}" for path in sorted(listed))]
    # Root stays root, because the files belong to root, but drops its capabilities.
    return [*(DROP_CAPABILITIES if os.geteuid() == 0 else ()), *harden_prefix("landlock", words)]


def _without(folder: Path, hidden: list[Path]) -> Iterator[Path]:
    """Yield a folder, or, if it contains hidden paths, the entries below it that contain none.

    Landlock grants everything below a path and cannot exclude a part of it.
    """
    if not hidden:
        yield folder
    elif folder not in hidden:
        for entry in sorted(folder.iterdir()):
            # A rule applies to the target of a link: lib64 of a virtual environment links to lib,
            # which has the hidden packages.
            target = entry.resolve()
            if entry == target or not any(path.is_relative_to(target) or target.is_relative_to(path) for path in hidden):
                yield from _without(entry, [path for path in hidden if path.is_relative_to(entry)])


def start(task: Task, limits: Limits, inputs: Path, pipe: int, output: int) -> subprocess.Popen[bytes]:
    """Start a program under Landlock; the arguments are those of ``bubblewrap.start``."""
    return unconfined.start_with_prefix(task, inputs, pipe, output, _prefix(task, limits, inputs))


def unavailable_reason() -> str | None:
    """Return why Landlock cannot confine a program here; None if a test program was confined."""
    if sys.platform != "linux" or harden.landlock_version(ctypes.CDLL(None)) < harden.FILES_VERSION:
        return "this kernel lacks version 3 of Landlock (Linux 6.2); use a newer kernel, or bubblewrap"
    with tempfile.TemporaryDirectory() as inside, tempfile.TemporaryDirectory() as outside:
        secret = Path(outside) / "secret"
        secret.write_text("exposed")
        for name in ("model", "base"):
            (Path(outside) / name).mkdir()
        script = f"cat {secret}; echo x > {outside}/x; echo finished"
        task = Task(("sh", "-c", script), Path(outside) / "model", Path(outside) / "base", {}, None, 0, 30, 2**20)
        (Path(inside) / "out").mkdir()
        result = supervise(start, task, Limits(), Path(inside) / "out", Path(inside))
        if (Path(outside) / "x").exists() or "exposed" in result.output:
            return "Landlock was installed, but a file outside the sandbox could be read or written"
    text = result.output.strip()
    return None if text.endswith("finished") else f"a Landlock sandbox could not be made ({text[-200:] or 'no reason given'})"
