"""The box around the lab: a process tree in which the auditor's folder and processes do not exist.

bubblewrap makes the box. The lab gets the file system read-only except for its own folders, a /tmp,
/run, /dev and /proc of its own, its own process namespace, and no capabilities. An empty folder or
file covers each hidden folder and file at every place where it is mounted. The lab shares the
network, because it reaches the auditor over it.

Started by root, bubblewrap makes the mounts without a user namespace and drops every capability for
good: a uid mapping alone would leave the covers removable. Started by another user, it needs a user
namespace, and further ones are disabled inside.

A process outside that obeys one inside would defeat the box. The box therefore closes these ways to
such a process:

- sockets in the file system, which a read-only mount does not block: those in /run (systemd, D-Bus,
  containers), in temporary folders (Python's fork servers), and every other one with a listener
  when the box is made;
- abstract sockets, closed by Landlock if the kernel supports it (6.12 and later);
- the kernel's settings under /proc, which root may write without any capability: one of them names
  a program that the kernel runs;
- the terminal, into which an ``ioctl`` could type commands for the shell outside: closed by
  seccomp. Ctrl-C still reaches the lab;
- user namespaces inside, also closed by seccomp: they give access to parts of the kernel that
  otherwise only root can use;
- keys that give access to the user's own account over the shared network (``~/.ssh``, Jupyter's);
- the program itself, if it is in a folder that the lab may write: a change there would run outside
  the next time.

Inside the box, ``harden.py`` installs seccomp and Landlock and then becomes the lab.
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

from stagezero.files import PACKAGE_FOLDER
from stagezero.isolation.commands import DROP_CAPABILITIES, harden_prefix, missing_tool
from stagezero.isolation.visible_paths import accelerators

PROBE_SECONDS = 20
EMPTY_FILE = PACKAGE_FOLDER.resolve() / "isolation" / "empty"
"""An empty file, mounted over hidden files."""
EMPTIED_FOLDERS = ("/tmp", "/var/tmp", "/dev/shm", "/run")
"""Folders that the box replaces by empty ones of its own."""
RESTORED_PATHS = ("/etc/resolv.conf", "/run/current-system", "/run/opengl-driver")
"""Paths that every program needs, in the box if they exist: name servers, and NixOS's programs."""
LOGIN_KEY_FOLDERS = (".ssh", ".local/share/jupyter/runtime")
"""Folders in the home folder that contain keys to the user's own account."""
_IGNORE_INTERRUPT = 'trap "" INT; exec "$@"'


@dataclass(frozen=True, slots=True)
class Box:
    """The paths that a box treats differently from the rest of the read-only file system."""

    writable: Sequence[Path]
    """Folders and files that the lab may write; they must exist."""
    hidden: Sequence[Path]
    """Folders and files that are empty and read-only in the box; they must exist."""
    readable: Sequence[Path] = ()
    """Paths that the lab only reads.

    Without this entry they would be hidden with /tmp, or writable with a folder above them.
    """

    def command(self, run: Sequence[str], folder: Path) -> list[str]:
        """Return the command line that runs the command ``run`` in the box, in ``folder``."""
        root = os.geteuid() == 0
        # bwrap ignores Ctrl-C, and harden.py restores it for the lab: if bwrap ended, the lab would
        # be killed before it can stop.
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
        # Needed paths in emptied folders are restored, and the program stays read-only in writable
        # folders. Shallow paths come first, so that the deepest mount decides.
        program = [Path(sys.prefix), Path(sys.base_prefix), PACKAGE_FOLDER.resolve().parent]
        needed = [p.resolve() for p in (*program, folder, *self.readable, *map(Path, RESTORED_PATHS))]
        writable = [p.resolve() for p in self.writable]
        binds = {p: "--ro-bind" for p in needed if p.exists() and _is_below(p, emptied)}
        binds |= dict.fromkeys(writable, "--bind")
        binds |= {p: "--ro-bind" for p in needed[: len(program)] if binds.get(p) != "--bind" and _is_below(p, writable)}
        for path in sorted(binds, key=lambda p: len(p.parts)):
            line += [binds[path], str(path), str(path)]
        hidden = [p.resolve() for p in self.hidden]
        user_folder = _user_folder()
        keys = [(user_folder / name).resolve() for name in LOGIN_KEY_FOLDERS if user_folder and _is_folder(user_folder / name)]
        sockets = [p for p in _listening_sockets() if not _is_below(p, emptied) or _is_below(p, binds)]
        for path in dict.fromkeys([*_all_mounted_names(hidden), *keys, *sockets]):
            if path not in hidden and _is_below(path, hidden):
                continue
            line += ["--tmpfs", str(path), "--remount-ro", str(path)] if path.is_dir() else ["--ro-bind", str(EMPTY_FILE), str(path)]
        return [*line, "--chdir", str(folder), "--", *(DROP_CAPABILITIES if root else ()), *harden_prefix("lab", ()), *run]


def _user_folder() -> Path | None:
    """Return the user's home folder; None if the system knows none."""
    try:
        return Path.home()
    except RuntimeError:
        return None


def _is_below(path: Path, folders: Collection[Path]) -> bool:
    return any(path.is_relative_to(folder) for folder in folders)


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:
        return False  # this user cannot read the parent folder, and nor can the lab


def _emptied_folders() -> list[Path]:
    """Return the folders that the box empties, each once and none inside another."""
    paths = [*EMPTIED_FOLDERS, tempfile.gettempdir(), os.environ.get("XDG_RUNTIME_DIR", "/run")]
    folders = {Path(p).resolve() for p in paths if _is_folder(Path(p))} - {Path("/")}
    return sorted(p for p in folders if not _is_below(p, folders - {p}))


def _kernel_settings() -> list[str]:
    """Return the entries of /proc that belong to the kernel and are the same outside the box."""
    return sorted(entry.path for entry in os.scandir("/proc") if not entry.name.isdigit() and not entry.is_symlink())


def _mounts() -> Iterator[tuple[str, Path, Path]]:
    """Yield every mount: its device, the mounted folder of the device, and the mount point."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        device, root, point = (field.encode().decode("unicode_escape") for field in line.split()[2:5])
        yield device, Path(root), Path(point)


def _all_mounted_names(paths: Sequence[Path]) -> Iterator[Path]:
    """Yield paths, and the other names that further mounts of their file system give them."""
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
    """Yield sockets in the file system that have a listener and that this user may connect to."""
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


def unavailable_reason() -> str | None:
    """Return why no box can be made on this machine; None if one can be made and hides a secret."""
    if (missing := missing_tool()) is not None:
        return missing
    user_folder = _user_folder()
    with tempfile.TemporaryDirectory(dir=user_folder if user_folder and os.access(user_folder, os.W_OK) else None) as temporary:
        folder, file = Path(temporary) / "hidden", Path(temporary) / "file"
        folder.mkdir()
        for path in (folder / "secret", file):
            path.write_text("exposed")
        both = f"{file} {folder}/secret"
        script = f"cat {both} /proc/{os.getpid()}/root{folder}/secret; umount {folder} {file}; cat {both}; echo finished"
        try:
            line = Box((), (folder, file)).command(["sh", "-c", script], Path("/"))
            process = subprocess.run(line, capture_output=True, text=True, timeout=PROBE_SECONDS, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            return f"a box could not be made ({type(error).__name__})"
    if process.stdout.strip() == "finished":
        return None
    if "exposed" in process.stdout:
        return "a box was made, but a file that it hides could be read"
    reason = (process.stderr.strip().splitlines() or ["no reason given"])[0]
    return (
        f"a box could not be made ({reason}); on Ubuntu 24.04 and later allow user namespaces for bwrap with an AppArmor profile; "
        "in a container, start it with --security-opt seccomp=unconfined"
    )
