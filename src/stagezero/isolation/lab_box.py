"""A box for the lab: a process tree in which the auditor's folder and processes do not exist. Made with bubblewrap.

The lab gets the file system read-only but for its own folders, its own /tmp, /run, /dev and /proc in a process namespace of its own,
and no capabilities. What is to be hidden is covered by an empty folder, or an empty file, wherever it is mounted. The network is
shared: the door is on it.

Started by root, the mounts are made without a user namespace and every capability is dropped for good: a mere uid mapping would leave
the covers removable. Started by a user, a user namespace is needed, and further ones are switched off inside.

A box is no box while something outside it does what it is told from inside. So these are closed too:

- sockets in the file system, to which a read-only mount is no barrier: /run (systemd, D-Bus, containers), temporary folders (Python's
  fork servers), and whatever else listens when the box is made;
- abstract sockets, by Landlock where the kernel has it (6.12 and later);
- the kernel's settings under /proc, which root may write without any capability: one of them names a program that the kernel runs;
- the terminal, into which an ``ioctl`` could type commands for the shell outside, by seccomp; Ctrl-C still reaches the lab;
- user namespaces inside, by seccomp too: what opens in them is not worth guarding;
- keys with which the user's own account can be entered again over the shared network (``~/.ssh``, Jupyter's);
- the program itself, where it lies in a folder that the lab may write: what is written there would run outside the next time.

Inside, ``harden.py`` closes the last of these and becomes the lab.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from stagezero.files import PACKAGE
from stagezero.isolation import harden

DEVICES = ("nvidia*", "dri", "kfd")
TRY_SECONDS = 20
EMPTY_FILE = Path(__file__).resolve().with_name("empty")
"""An empty file, to cover others with."""
EMPTY = ("/tmp", "/var/tmp", "/dev/shm", "/run")
"""Folders that the box has of its own, empty."""
PUT_BACK = ("/etc/resolv.conf", "/run/current-system", "/run/opengl-driver")
"""What of them every program needs, where it is there: names of hosts, and where NixOS keeps its programs."""
KEYS = (".ssh", ".local/share/jupyter/runtime")
"""Folders of the home folder from which the account can be entered again."""


@dataclass(frozen=True, slots=True)
class Box:
    """What a box shows and what it hides."""

    writable: Sequence[Path]
    """Folders and files that the lab may write; they must exist."""
    hidden: Sequence[Path]
    """Folders and files that are empty and read-only in it; they must exist."""
    readable: Sequence[Path] = ()
    """What the lab reads and would be covered with /tmp, or written through a folder that it may write."""

    def command(self, run: Sequence[str], folder: Path) -> list[str]:
        """The command line that runs another in the box, in ``folder``."""
        root = os.geteuid() == 0
        # Ctrl-C is for the lab, which harden.py lets hear it again: were bwrap to end by it, the lab would be killed in mid-sentence.
        found = ["sh", "-c", 'trap "" INT; exec "$@"', "sh"]
        found += ["bwrap", "--die-with-parent", "--unshare-pid", "--unshare-ipc", "--unshare-uts"]
        found += ["--cap-drop", "ALL"] if root else ["--unshare-user", "--disable-userns"]
        found += ["--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc"]
        for name in _settings():
            found += ["--ro-bind-try", name, name]
        for pattern in DEVICES:
            for device in sorted(Path("/dev").glob(pattern)):
                found += ["--dev-bind", str(device), str(device)]
        empty = _empty()
        for path in empty:
            found += ["--tmpfs", str(path)]
        # What lies in those folders and is needed is put back, and the program stays read-only inside what may be written;
        # shallow first, so that the nearest says how a path is mounted.
        program = [Path(sys.prefix), Path(sys.base_prefix), PACKAGE.resolve().parent]
        needed = [p.resolve() for p in (*program, folder, *self.readable, *map(Path, PUT_BACK))]
        binds = {p: "--ro-bind" for p in needed if p.exists() and _inside(p, empty)}
        binds |= {p.resolve(): "--bind" for p in self.writable}
        binds |= {
            p: "--ro-bind" for p in needed[: len(program)] if binds.get(p) != "--bind" and _inside(p, [w.resolve() for w in self.writable])
        }
        for path in sorted(binds, key=lambda p: len(p.parts)):
            found += [binds[path], str(path), str(path)]
        hidden = [p.resolve() for p in self.hidden]
        keys = [Path.home() / name for name in KEYS]
        sockets = [p for p in _sockets() if not _inside(p, empty) or _inside(p, list(binds))]
        for path in dict.fromkeys([*_everywhere(hidden), *(p.resolve() for p in keys if _is_folder(p)), *sockets]):
            if path not in hidden and any(path != h and path.is_relative_to(h) for h in hidden):
                continue
            found += ["--tmpfs", str(path), "--remount-ro", str(path)] if path.is_dir() else ["--ro-bind", str(EMPTY_FILE), str(path)]
        found += ["--chdir", str(folder), "--"]
        if root:
            found += ["setpriv", "--no-new-privs", "--bounding-set=-all", "--inh-caps=-all", "--"]
        return [*found, sys.executable, "-I", "-S", str(Path(harden.__file__).resolve()), "--", *run]


def _inside(path: Path, folders: Iterable[Path]) -> bool:
    return any(path.is_relative_to(folder) for folder in folders)


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:
        return False  # it cannot even be looked at, so nothing in it can be read


def _empty() -> list[Path]:
    """Folders that the box has of its own, each once and none inside another."""
    given = [*EMPTY, tempfile.gettempdir(), os.environ.get("XDG_RUNTIME_DIR", "/run")]
    found = {Path(p).resolve() for p in given if _is_folder(Path(p))} - {Path("/")}
    return sorted(p for p in found if not _inside(p, found - {p}))


def _settings() -> list[str]:
    """All of /proc that is not of a process; it is the kernel's, and the same outside."""
    return sorted(entry.path for entry in os.scandir("/proc") if not entry.name.isdigit() and not entry.is_symlink())


def _mounts() -> Iterator[tuple[str, Path, Path]]:
    """Every mount: its device, which folder of that is mounted, and where."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        device, root, point = (field.encode().decode("unicode_escape") for field in line.split()[2:5])
        yield device, Path(root), Path(point)


def _everywhere(paths: Sequence[Path]) -> Iterator[Path]:
    """Paths, and the other names that further mounts of the same file system give to them."""
    mounts = list(_mounts())
    for path in paths:
        yield path
        held = max((m for m in mounts if path.is_relative_to(m[2])), key=lambda m: len(m[2].parts), default=None)
        if held is None:
            continue
        stored = held[1] / path.relative_to(held[2])
        for device, root, point in mounts:
            if device == held[0] and stored.is_relative_to(root):
                other = point / stored.relative_to(root)
                with contextlib.suppress(OSError):
                    if other != path and other.samefile(path):
                        yield other


def _sockets() -> Iterator[Path]:
    """Sockets in the file system on which somebody listens, and that this user may connect to."""
    try:
        lines = Path("/proc/net/unix").read_text(errors="replace").splitlines()[1:]
    except OSError:
        return
    for line in lines:
        fields = line.split(maxsplit=7)
        if len(fields) == 8 and fields[7].startswith("/"):
            path = Path(fields[7])
            with contextlib.suppress(OSError):
                if stat.S_ISSOCK(path.stat().st_mode) and os.access(path, os.W_OK):
                    yield path.resolve()


def why_not() -> str | None:
    """Why no box can be made here, found by making one around a secret; None when it hid it."""
    for tool in ("bwrap", "setpriv") if os.geteuid() == 0 else ("bwrap",):
        if shutil.which(tool) is None:
            return f"{tool} is not installed; install it with: apt install {'bubblewrap' if tool == 'bwrap' else 'util-linux'}"
    with tempfile.TemporaryDirectory(dir=Path.home() if os.access(Path.home(), os.W_OK) else None) as place:
        hidden, told = Path(place) / "hidden", Path(place) / "file"
        hidden.mkdir()
        for path in (hidden / "secret", told):
            path.write_text("told")
        both = f"{told} {hidden}/secret"
        peek = f"cat {both} /proc/{os.getpid()}/root{hidden}/secret; umount {hidden} {told}; cat {both}; echo tried"
        try:
            line = Box((), (hidden, told)).command(["sh", "-c", peek], Path("/"))
            done = subprocess.run(line, capture_output=True, text=True, timeout=TRY_SECONDS, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            return f"a box could not be made ({type(error).__name__})"
    if done.stdout.strip() == "tried":
        return None
    if "told" in done.stdout:
        return "a box was made, but what it should hide could be read"
    reason = (done.stderr.strip().splitlines() or ["no reason given"])[0]
    return (
        f"a box could not be made ({reason}); on Ubuntu 24.04 and later "
        "allow user namespaces to bwrap with an AppArmor profile, in a container start it with --security-opt seccomp=unconfined"
    )
