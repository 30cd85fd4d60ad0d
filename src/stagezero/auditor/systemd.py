"""The systemd unit with which an auditor is a user of its own, filled in for this machine."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from stagezero.errors import InputError
from stagezero.files import PACKAGE

TEMPLATE = PACKAGE / "auditor" / "stagezero-auditor.service"
_NOT_IN_A_UNIT = set('"\\%\n$')


def unit(keep: Path, serve: Sequence[str] = (), gpu: bool = False) -> str:
    """The text of the unit.

    Args:
        keep: the auditor's folder.
        serve: more arguments for ``stagezero audit serve``.
        gpu: leave the machine's devices visible to it.

    Raises:
        InputError: a path holds what a unit cannot.
    """
    program, folder = sys.executable, str(keep.resolve())
    for text in (program, folder, *serve):
        if _NOT_IN_A_UNIT & set(text):
            raise InputError(f'audit unit: expected a text without ", \\, %, $ and line breaks, got {text!r}; use another path.')
    homes = ("/home/", "/root/", "/run/user/")
    # What it is started from or works in may not lie in what is hidden from it.
    home = "read-only" if any(str(path).startswith(homes) for path in (program, sys.base_prefix, folder, PACKAGE)) else "true"
    values = {
        "PYTHON": program, "KEEP": folder, "SERVE": " ".join(f'"{text}"' for text in serve), "HOME": home,
        "DEVICES": "false" if gpu else "true",
    }  # fmt: skip
    text = TEMPLATE.read_text()
    for name, value in values.items():
        text = text.replace(f"@{name}@", value)
    return text
