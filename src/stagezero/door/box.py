"""A box for the lab: a process tree in which the auditor's folder and processes do not exist. Made with bubblewrap.

The lab gets the file system read-only but for its own folders, its own /tmp, /dev and /proc in a process namespace of its own, and no
capabilities. What is to be hidden is covered by an empty folder. The network is shared: the door is on it.

Started by root, the mounts are made without a user namespace and every capability is dropped for good: a mere uid mapping would leave
the covers removable. Started by a user, a user namespace is needed, and further ones are switched off inside.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

DEVICES = ("nvidia*", "dri", "kfd")
TRY_SECONDS = 20


@dataclass(frozen=True, slots=True)
class Box:
    """What a box shows and what it hides."""

    writable: Sequence[Path]
    """Folders and files that the lab may write; they must exist."""
    hidden: Sequence[Path]
    """Folders that do not exist in it, made empty and read-only."""

    def command(self, run: Sequence[str], folder: Path) -> list[str]:
        """The command line that runs another in the box, in ``folder``."""
        root = os.geteuid() == 0
        found = ["bwrap", "--die-with-parent", "--unshare-pid", "--unshare-ipc", "--unshare-uts"]
        found += ["--cap-drop", "ALL"] if root else ["--unshare-user", "--disable-userns"]
        found += ["--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc", "--tmpfs", "/tmp", "--tmpfs", "/dev/shm"]
        for pattern in DEVICES:
            for device in sorted(Path("/dev").glob(pattern)):
                found += ["--dev-bind", str(device), str(device)]
        # /tmp is the box's own, so what lies in the real one and is needed is put back.
        needed = [Path(sys.prefix), Path(sys.base_prefix), Path(__file__).resolve().parents[2], folder]
        for path in dict.fromkeys(p.resolve() for p in needed if p.resolve().is_relative_to("/tmp")):
            found += ["--ro-bind", str(path), str(path)]
        for path in dict.fromkeys(p.resolve() for p in self.writable):
            found += ["--bind", str(path), str(path)]
        for path in dict.fromkeys(p.resolve() for p in self.hidden):
            found += ["--tmpfs", str(path), "--remount-ro", str(path)]
        found += ["--chdir", str(folder), "--"]
        if root:
            found += ["setpriv", "--no-new-privs", "--bounding-set=-all", "--inh-caps=-all", "--"]
        return [*found, *run]


def why_not() -> str | None:
    """Why no box can be made here, found by making one around a secret; None when it hid it."""
    for tool in ("bwrap", "setpriv") if os.geteuid() == 0 else ("bwrap",):
        if shutil.which(tool) is None:
            return f"{tool} is not installed; install it with: apt install {'bubblewrap' if tool == 'bwrap' else 'util-linux'}"
    with tempfile.TemporaryDirectory(dir=Path.home() if os.access(Path.home(), os.W_OK) else None) as place:
        hidden = Path(place) / "hidden"
        hidden.mkdir()
        (hidden / "secret").write_text("told")
        peek = f"cat {hidden}/secret /proc/{os.getpid()}/root{hidden}/secret; umount {hidden}; cat {hidden}/secret; echo tried"
        try:
            done = subprocess.run(
                Box((), (hidden,)).command(["sh", "-c", peek], Path("/")), capture_output=True, text=True, timeout=TRY_SECONDS, check=False
            )
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
