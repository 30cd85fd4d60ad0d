"""Small files that must be whole or absent: secrets, and text that a person wrote."""

from __future__ import annotations

import os
import secrets
import tempfile
from pathlib import Path

from stagezero.errors import InputError, StagezeroError

SECRET_BYTES = 32


def lasting_secret(path: Path) -> bytes:
    """32 random bytes, made on first use, readable by their owner alone; a kill while making them leaves nothing.

    Raises:
        StagezeroError: the file is there and is not a secret.
    """
    if not path.exists():
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=".secret-")  # mode 0600
        with os.fdopen(handle, "wb") as out:
            out.write(secrets.token_bytes(SECRET_BYTES))
            out.flush()
            os.fsync(out.fileno())
        Path(name).rename(path)
    found = path.read_bytes()
    if len(found) != SECRET_BYTES:
        raise StagezeroError(f"{path}: expected {SECRET_BYTES} bytes; this secret is damaged, restore it from a copy.")
    return found


def read_text(path: Path, error: type[InputError]) -> str:
    """A text file that a person wrote.

    Raises:
        InputError: of the given kind, when it is not UTF-8 text.
    """
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise error(f"{path}: expected UTF-8 text; save the file as UTF-8.") from None
