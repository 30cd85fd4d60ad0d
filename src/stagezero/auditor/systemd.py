"""Renders the systemd unit that runs an auditor as a separate user on this machine.

``stagezero audit unit`` prints it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from stagezero.errors import InputError
from stagezero.files import PACKAGE_FOLDER

UNIT_TEMPLATE = PACKAGE_FOLDER / "auditor" / "stagezero-auditor.service"
_FORBIDDEN_CHARS = set('"\\%\n$')
_PROTECTED_HOMES = ("/home/", "/root/", "/run/user/")
"""The folders that ``ProtectHome=true`` hides from the service."""


def render_unit(folder: Path, serve_arguments: Sequence[str] = (), gpu: bool = False) -> str:
    """Return the text of the unit.

    Args:
        folder: the auditor folder.
        serve_arguments: further arguments of ``stagezero audit serve``.
        gpu: give the service access to the machine's devices.

    Raises:
        InputError: a path or an argument contains a character that a unit file cannot.
    """
    program, path = sys.executable, str(folder.resolve())
    for text in (program, path, *serve_arguments):
        if _FORBIDDEN_CHARS & set(text):
            raise InputError(f'audit unit: expected a text without ", \\, %, $ and line breaks, got {text!r}; use another path.')
    # ProtectHome=true would hide a program, package or auditor folder that is in a home directory.
    in_home = any(str(used).startswith(_PROTECTED_HOMES) for used in (program, sys.base_prefix, path, PACKAGE_FOLDER))
    values = {
        "PYTHON": program, "FOLDER": path, "SERVE": " ".join(f'"{text}"' for text in serve_arguments),
        "HOME": "read-only" if in_home else "true", "DEVICES": "false" if gpu else "true",
    }  # fmt: skip
    unit = UNIT_TEMPLATE.read_text()
    for name, value in values.items():
        unit = unit.replace(f"@{name}@", value)
    return unit
