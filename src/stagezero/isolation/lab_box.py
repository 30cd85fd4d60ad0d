"""A box for the lab: a process tree in which the auditor's folder and processes do not exist. Made with bubblewrap.

The lab gets the file system read-only but for its own folders, its own /tmp, /run, /dev and /proc in a process namespace of its own,
and no capabilities. Hidden folders and files are covered by an empty folder or file, wherever they are mounted. The network is shared: the
auditor is reached over it.

Started by root, the mounts are made without a user namespace and every capability is dropped for good: a mere uid mapping would leave
the covers removable. Started by a user, a user namespace is needed, and further ones are switched off inside.

A process outside that obeys one inside would undo the box. So these ways to one are closed too:

- sockets in the file system, to which a read-only mount is no barrier: /run (systemd, D-Bus, containers), temporary folders (Python's
  fork servers), and whatever else listens when the box is made;
- abstract sockets, by Landlock where the kernel has it (6.12 and later);
- the kernel's settings under /proc, which root may write without any capability: one of them names a program that the kernel runs;
- the terminal, into which an ``ioctl`` could type commands for the shell outside, by seccomp; Ctrl-C still reaches the lab;
- user namespaces inside, by seccomp too: they open parts of the kernel that are otherwise root's;
- keys with which the user's own account can be entered again over the shared network (``~/.ssh``, Jupyter's);
- the program itself, where it lies in a folder that the lab may write: what is written there would run outside the next time.

Inside, ``harden.py`` sets seccomp and Landlock and becomes the lab.
"""

from __future__ import annotations

import contextlib
import os
import stat
import subprocess
import sys
import tempfile
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from stagezero.files import PACKAGE
from stagezero.isolation.commands import DROP_CAPABILITIES, hardened, missing_tool
from stagezero.isolation.visible import accelerators

PROBE_SECONDS = 20
EMPTY_FILE = PACKAGE.resolve() / "isolation" / "empty"
"""An empty file that covers hidden ones."""
EMPTIED_FOLDERS = ("/tmp", "/var/tmp", "/dev/shm", "/run")
"""Folders that are the box's own and empty."""
RESTORED_PATHS = ("/etc/resolv.conf", "/run/current-system", "/run/opengl-driver")
"""Paths below them that every program needs, where they exist: the name servers, and the folder of NixOS's programs."""
LOGIN_KEYS = (".ssh", ".local/share/jupyter/runtime")
"""Folders below the home folder with keys to the user's own account."""
_IGNORE_INTERRUPT = 'trap "" INT; exec "$@"'


@dataclass(frozen=True, slots=True)
class Box:
    """A box: what it lets the lab write, hides, and shows beyond the rest of the file system."""

    writable: Sequence[Path]
    """Folders and files that the lab may write; they must exist."""
    hidden: Sequence[Path]
    """Folders and files that are empty and read-only in the box; they must exist."""
    readable: Sequence[Path] = ()
    """Paths that the lab reads, and that would else be covered with /tmp or writable with a folder above them."""

    def command(self, run: Sequence[str], folder: Path) -> list[str]:
        """The command line that runs another in the box, in ``folder``."""
        root = os.geteuid() == 0
        # Ctrl-C is for the lab, whose harden.py listens for it again: if bwrap ended by it, the lab would be killed before it can stop.
        line = ["sh", "-c", _IGNORE_INTERRUPT, "sh", "bwrap", "--die-with-parent", "--unshare-pid", "--unshare-ipc", "--unshare-uts"]
        line += ["--cap-drop", "ALL"] if root else ["--unshare-user", "--disable-userns"]
        line += ["--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc"]
        for name in _kernel_settings():
            line += ["--ro-bind-try", name, name]
        for device in accelerators():
            line += ["--dev-bind", str(device), str(device)]
        emptied = _emptied_folders()
        for path in emptied:
            line += ["--tmpfs", str(path)]
        # Paths in those folders that are needed are restored, and the program stays read-only inside writable folders; shallow paths
        # first, so that the deepest decides how a path is mounted.
        program = [Path(sys.prefix), Path(sys.base_prefix), PACKAGE.resolve().parent]
        needed = [p.resolve() for p in (*program, folder, *self.readable, *map(Path, RESTORED_PATHS))]
        writable = [p.resolve() for p in self.writable]
        binds = {p: "--ro-bind" for p in needed if p.exists() and _is_below(p, emptied)}
        binds |= dict.fromkeys(writable, "--bind")
        binds |= {p: "--ro-bind" for p in needed[: len(program)] if binds.get(p) != "--bind" and _is_below(p, writable)}
        for path in sorted(binds, key=lambda p: len(p.parts)):
            line += [binds[path], str(path), str(path)]
        hidden = [p.resolve() for p in self.hidden]
        keys = [(Path.home() / name).resolve() for name in LOGIN_KEYS if _is_folder(Path.home() / name)]
        sockets = [p for p in _listening_sockets() if not _is_below(p, emptied) or _is_below(p, binds)]
        for path in dict.fromkeys([*_all_mounted_names(hidden), *keys, *sockets]):
            if path not in hidden and _is_below(path, hidden):
                continue
            line += ["--tmpfs", str(path), "--remount-ro", str(path)] if path.is_dir() else ["--ro-bind", str(EMPTY_FILE), str(path)]
        return [*line, "--chdir", str(folder), "--", *(DROP_CAPABILITIES if root else ()), *hardened("lab", ()), *run]


def _is_below(path: Path, folders: Collection[Path]) -> bool:
    return any(path.is_relative_to(folder) for folder in folders)


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:
        return False  # this user cannot look into it, and nor can the lab


def _emptied_folders() -> list[Path]:
    """Folders that are the box's own and empty, each once and none inside another."""
    given = [*EMPTIED_FOLDERS, tempfile.gettempdir(), os.environ.get("XDG_RUNTIME_DIR", "/run")]
    found = {Path(p).resolve() for p in given if _is_folder(Path(p))} - {Path("/")}
    return sorted(p for p in found if not _is_below(p, found - {p}))


def _kernel_settings() -> list[str]:
    """Entries of /proc that belong to no process: they are the kernel's, and the same outside."""
    return sorted(entry.path for entry in os.scandir("/proc") if not entry.name.isdigit() and not entry.is_symlink())


def _mounts() -> Iterator[tuple[str, Path, Path]]:
    """Every mount: its device, the folder of the device that is mounted, and the mount point."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        device, root, point = (field.encode().decode("unicode_escape") for field in line.split()[2:5])
        yield device, Path(root), Path(point)


def _all_mounted_names(paths: Sequence[Path]) -> Iterator[Path]:
    """Paths, and the other names that further mounts of the same file system give them."""
    mounts = list(_mounts())
    for path in paths:
        yield path
        mount = max((m for m in mounts if path.is_relative_to(m[2])), key=lambda m: len(m[2].parts), default=None)
        if mount is None:
            continue
        stored = mount[1] / path.relative_to(mount[2])
        for device, root, point in mounts:
            if device == mount[0] and stored.is_relative_to(root):
                other = point / stored.relative_to(root)
                with contextlib.suppress(OSError):
                    if other != path and other.samefile(path):
                        yield other


def _listening_sockets() -> Iterator[Path]:
    """Sockets in the file system that a process listens on and this user may connect to."""
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
    if (missing := missing_tool()) is not None:
        return missing
    with tempfile.TemporaryDirectory(dir=Path.home() if os.access(Path.home(), os.W_OK) else None) as place:
        folder, file = Path(place) / "hidden", Path(place) / "file"
        folder.mkdir()
        for path in (folder / "secret", file):
            path.write_text("exposed")
        both = f"{file} {folder}/secret"
        script = f"cat {both} /proc/{os.getpid()}/root{folder}/secret; umount {folder} {file}; cat {both}; echo tried"
        try:
            line = Box((), (folder, file)).command(["sh", "-c", script], Path("/"))
            done = subprocess.run(line, capture_output=True, text=True, timeout=PROBE_SECONDS, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            return f"a box could not be made ({type(error).__name__})"
    if done.stdout.strip() == "tried":
        return None
    if "exposed" in done.stdout:
        return "a box was made, but what it should hide could be read"
    reason = (done.stderr.strip().splitlines() or ["no reason given"])[0]
    return (
        f"a box could not be made ({reason}); on Ubuntu 24.04 and later "
        "allow user namespaces to bwrap with an AppArmor profile, in a container start it with --security-opt seccomp=unconfined"
    )
