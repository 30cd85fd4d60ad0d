"""Whole-or-nothing writes, locks, secrets, and files in folders whose owner is not trusted.

A folder of a stranger's is opened step by step without following a link; its files are plain, bounded and whole. What goes wrong there is
told or is the other's loss; only the machine's own trouble, such as a full disk, is raised.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import secrets
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.resources import files
from itertools import islice
from pathlib import Path

from stagezero.errors import IdeaError, InputError, StagezeroError

PACKAGE = Path(str(files("stagezero")))
"""The folder of this package, from a checkout and from an installed wheel alike."""
SECRET_BYTES = 32
MOST_NAMES = 10_000
"""Names of a folder that are listed."""
MACHINE_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.ENFILE, errno.EMFILE, errno.ENOMEM}
"""Errors that are the machine's trouble, whoever owns the folder."""
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def write_whole(path: Path, text: str) -> None:
    """Write a file so that it is either all there or not there at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".writing-")
    with os.fdopen(handle, "w") as out:
        out.write(text)
        out.flush()
        os.fsync(out.fileno())
    Path(name).rename(path)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on ``path`` (made if need be); waits for whoever holds it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


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


# --- folders of strangers ---


@contextmanager
def ignore_their_errors() -> Iterator[None]:
    """What goes wrong in their folder is their loss, and no reason to stop."""
    try:
        yield
    except OSError as error:
        if error.errno in MACHINE_ERRORS:
            raise


@contextmanager
def open_folder(place: Path, *below: str, make: bool = False) -> Iterator[int]:
    """A folder below one that is trusted, opened step by step without following a link."""
    if make:
        place.mkdir(parents=True, exist_ok=True)
    folder = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for part in below:
            inner = _step(folder, part, make)
            os.close(folder)
            folder = inner
        yield folder
    finally:
        os.close(folder)


def _step(folder: int, part: str, make: bool) -> int:
    if make:
        with suppress(FileExistsError):
            os.mkdir(part, dir_fd=folder)
    try:
        return os.open(part, _FOLDER, dir_fd=folder)
    except OSError as error:
        if not make or error.errno not in (errno.ENOTDIR, errno.ELOOP):
            raise
        _set_aside(folder, part)
        os.mkdir(part, dir_fd=folder)
        return os.open(part, _FOLDER, dir_fd=folder)


def _set_aside(folder: int, name: str) -> None:
    os.rename(name, f".aside-{secrets.token_hex(8)}", src_dir_fd=folder, dst_dir_fd=folder)


def write_in_folder(folder: int, name: str, text: str) -> None:
    """Write a file whole, by rename; what else stands under its name is set aside."""
    new = f".writing-{secrets.token_hex(8)}"
    handle = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666, dir_fd=folder)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as out:
            out.write(text)
            out.flush()
            os.fsync(out.fileno())
        try:
            os.rename(new, name, src_dir_fd=folder, dst_dir_fd=folder)
        except IsADirectoryError:
            _set_aside(folder, name)
            os.rename(new, name, src_dir_fd=folder, dst_dir_fd=folder)
    except BaseException:
        with suppress(OSError):
            os.unlink(new, dir_fd=folder)
        raise


def list_names(folder: int) -> list[str]:
    """Names in an inbox that are no half-written file's; those that ``submit`` gives come first."""
    with os.scandir(folder) as rows:
        names = [row.name for row in islice(rows, MOST_NAMES) if not row.name.startswith(".")]
    return sorted(names, key=lambda n: (re.fullmatch(r"[0-9a-f]{64}\.md", n) is None, n))


def read_plain_file(folder: int, name: str, most: int) -> str:
    """A plain file's text.

    Raises:
        IdeaError: it is anything else, or longer than ``most`` bytes, or no UTF-8.
    """
    before = os.stat(name, dir_fd=folder, follow_symlinks=False)
    if not stat.S_ISREG(before.st_mode) or before.st_nlink != 1:
        raise IdeaError("expected a plain file, got a link, a folder or something else; write the text itself")
    handle = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    with os.fdopen(handle, "rb") as source:
        now = os.fstat(handle)
        if (now.st_ino, now.st_dev) != (before.st_ino, before.st_dev):
            raise IdeaError("changed while it was read; write it under another name and rename it")
        data = source.read(most + 1)
    if len(data) > most:
        raise IdeaError(f"{now.st_size:,} bytes; at most {most:,} are read, so write less")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        raise IdeaError("expected UTF-8 text; save it as UTF-8") from None
