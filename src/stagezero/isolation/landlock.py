"""The weaker sandbox: Landlock and seccomp around a program, where bubblewrap cannot make a box and a project asks for this by name.

It opens no file but the environment, its inputs and its own folder, and no socket but local ones; limits hold as in a box. Weaker, because
processes and the network are not out of sight but out of reach: it sees how busy the machine is, can send signals to the user's processes
before Linux 6.12, fills the disk up to its limit a file, and what it leaves running is found by its parents alone.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from stagezero.isolation import bubblewrap, harden, runner, supervisor
from stagezero.isolation.confinement import Limits, Task
from stagezero.models.checkpoint import content_files

_OWN = ("/dev/null", "/dev/zero", "/dev/urandom", "/dev/random", "/dev/full")
_KNOWN = ("/proc/self", "/proc/cpuinfo", "/proc/meminfo", "/proc/stat", "/proc/driver", "/sys/devices/system/cpu")


def _words(task: Task, limits: Limits, place: Path) -> list[str]:
    """The command that shuts the process in and becomes the next one."""
    binds, covered = bubblewrap.shown()
    readable = [
        *_KNOWN,
        str(place),
        *(str(path.resolve()) for folder in (task.model, task.base) for path in content_files(folder)),
        str(Path(runner.__file__).resolve()),
    ]
    # What is not to be seen lies inside what is: its neighbours are named one by one.
    system = [path.resolve() for path in map(Path, bubblewrap.SYSTEM) if path.exists()]
    whole = [path for path in system if not any(path != other and path.is_relative_to(other) for other in system if other.is_dir())]
    readable += [str(path) for path in system if path.is_file()]
    for folder in (*dict.fromkeys(path for path in whole if path.is_dir()), *binds):
        readable += _without(folder, [c for c in covered if c.is_relative_to(folder)])
    writable = [str(place.parent / "work"), str(place.parent / "tmp"), *_OWN, *(str(d) for d in bubblewrap._devices())]
    code = (
        "import ctypes, sys; sys.path.insert(0, sys.argv[1]); import harden, os\n"
        "l = ctypes.CDLL(None, use_errno=True); l.prctl(38, 1, 0, 0, 0)\n"
        "cut = sys.argv.index('--'); n = int(sys.argv[2]); words = sys.argv[3:cut]\n"
        "ok = harden.only_these(l, words[:n], words[n:]) and harden.no_abstract_sockets(l) | True\n"
        "limits = dict(w.split('=') for w in os.environ.pop('LIMITS').split())\n"
        "limits = {k: int(v) for k, v in limits.items()}; limits.pop('sealed', None)\n"
        "harden.limit(limits)\n"
        "if not (ok and harden.filter_calls(l, 2)): sys.exit('no Landlock')\n"
        "rest = sys.argv[cut + 1:]; os.execvp(rest[0], rest)\n"
    )
    told = " ".join(w for w in bubblewrap.limits_of(limits, task.seconds) if not w.startswith("processes"))
    start = [
        sys.executable,
        "-I",
        "-S",
        "-c",
        code,
        str(Path(harden.__file__).resolve().parent),
        str(len(readable)),
        *readable,
        *writable,
        "--",
    ]
    # As root it stays root, since its files are root's; what root may do beyond that it gives up.
    drop = ["setpriv", "--no-new-privs", "--bounding-set=-all", "--inh-caps=-all", "--"] if os.geteuid() == 0 else []
    return [*drop, "env", f"LIMITS={told}", *start]


def _without(folder: Path, covered: list[Path]) -> list[str]:
    """A folder, or the parts of it that hold nothing covered."""
    if folder in covered:
        return []
    if not covered:
        return [str(folder)]
    found = []
    for entry in sorted(folder.iterdir()):
        inner = [c for c in covered if c.is_relative_to(entry)]
        found += _without(entry, inner) if inner else [str(entry)]
    return found


def started(task: Task, limits: Limits, place: Path, pipe: int, said: int) -> subprocess.Popen[bytes]:
    """Start a program so."""
    return supervisor.beside(task, limits, place, pipe, said, _words(task, limits, place))


def why_not() -> str | None:
    """Why this cannot be done here, found by doing it."""
    if sys.platform != "linux" or harden.landlock_version(ctypes.CDLL(None)) < 3:
        return "this kernel has no Landlock of version 3 (Linux 6.2); use a newer one, or bubblewrap"
    with tempfile.TemporaryDirectory() as made, tempfile.TemporaryDirectory() as elsewhere:
        secret = Path(elsewhere) / "secret"
        secret.write_text("told")
        for name in ("model", "base"):
            (Path(elsewhere) / name).mkdir()
        peek = f"cat {secret}; echo x > {elsewhere}/x; echo tried"
        task = Task(("sh", "-c", peek), Path(elsewhere) / "model", Path(elsewhere) / "base", {}, None, 0, 30, 2**20)
        (Path(made) / "out").mkdir()
        done = supervisor.follow(started, task, Limits(), Path(made) / "out", Path(made))
        if (Path(elsewhere) / "x").exists() or "told" in done.said:
            return "what it should shut out could be reached"
    return None if done.said.strip().endswith("tried") else f"it could not be made ({done.said.strip()[-200:] or 'no reason given'})"
