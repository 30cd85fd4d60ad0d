"""Atomic writes, locks, secrets, and files in folders whose owner is not trusted.

*Writing*: a file is staged under another name in its folder, synced and renamed, so that a crash leaves either the old content or the
new. *Reading*: a folder that others may write to is opened step by step without following a link, and a file in it only where it is a
plain one; what was checked is what is open, so that a later exchange of the name has no effect.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.resources import files
from itertools import islice
from pathlib import Path
from typing import BinaryIO, Self

from stagezero.errors import IdeaError, InputError, StagezeroError

PACKAGE = Path(str(files("stagezero")))
"""The folder of this package, from a checkout and from an installed wheel alike."""
SECRET_BYTES = 32
MOST_NAMES = 10_000
"""Names of a folder that are listed."""
STAGED = ".writing-"
"""How the name of a file begins that is not written completely."""
MACHINE_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.ENFILE, errno.EMFILE, errno.ENOMEM}
"""Errors that are the machine's trouble, whoever owns the folder."""
_CHUNK = 1 << 20
_READ = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_SEARCH = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_CLOEXEC
"""Opens a folder to pass through, for which no right to list it is needed."""


class Closing:
    """What holds files, processes or connections until it is closed: the end of a ``with`` block closes it."""

    def close(self) -> None: ...

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


# --- writing ---


@contextmanager
def staged(folder: int, name: str, mode: int = 0o600, sync: bool = True) -> Iterator[BinaryIO]:
    """A new file in an open folder, which takes its name when the block ends; after an exception the old file is still there.

    Args:
        mode: permissions of the file, less the umask.
        sync: have its content on disk before it takes its name.
    """
    new = f"{STAGED}{secrets.token_hex(8)}"
    handle = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode, dir_fd=folder)
    try:
        with os.fdopen(handle, "wb") as out:
            yield out
            out.flush()
            if sync:
                os.fsync(handle)
        os.rename(new, name, src_dir_fd=folder, dst_dir_fd=folder)
    except BaseException:
        with suppress(OSError):
            os.unlink(new, dir_fd=folder)
        raise


def write_whole(path: Path, content: str | bytes, *, mode: int = 0o600, lasting: bool = False) -> None:
    """Write a file atomically; its folder is made if need be.

    Args:
        mode: permissions of the file, less the umask.
        lasting: have also the file's name on disk on return, so that a power cut does not bring the old file back.
    """
    with open_folder(path.parent, make=True) as folder:
        _write(folder, path.name, content, mode)
        if lasting:
            os.fsync(folder)


def write_in_folder(folder: int, name: str, text: str) -> None:
    """Write a file atomically into an open folder of somebody else, who may read it; a folder under its name is set aside."""
    try:
        _write(folder, name, text, 0o666)
    except IsADirectoryError:
        _set_aside(folder, name)
        _write(folder, name, text, 0o666)


def _write(folder: int, name: str, content: str | bytes, mode: int) -> None:
    with staged(folder, name, mode) as out:
        out.write(content.encode() if isinstance(content, str) else content)


def lasting_secret(path: Path) -> bytes:
    """32 random bytes, made on first use, readable by their owner alone.

    Raises:
        StagezeroError: the file is there and is not a secret.
    """
    if not path.exists():
        write_whole(path, secrets.token_bytes(SECRET_BYTES), lasting=True)
    found = path.read_bytes()
    if len(found) != SECRET_BYTES:
        raise StagezeroError(f"{path}: expected {SECRET_BYTES} bytes; this secret is damaged, restore it from a copy.")
    return found


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on ``path``, which is made if need be; waits for the process that holds it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


# --- reading ---


class SourceError(OSError):
    """A file that is not copied: it is no plain file, cannot be read, or is too long (``errno.EFBIG``)."""


@contextmanager
def open_folder(place: Path, *below: str, make: bool = False) -> Iterator[int]:
    """A folder below one that is trusted, opened step by step without following a link.

    Args:
        place: the trusted folder; links on the way to it are followed.
        below: names, each in the folder before it.
        make: make what is not there, and set aside what is no folder.
    """
    if make:
        place.mkdir(parents=True, exist_ok=True)
    folder = os.open(place, _SEARCH if below else _READ)
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
        return os.open(part, _READ | os.O_NOFOLLOW, dir_fd=folder)
    except OSError as error:
        if not make or error.errno not in (errno.ENOTDIR, errno.ELOOP):
            raise
        _set_aside(folder, part)
        os.mkdir(part, dir_fd=folder)
        return os.open(part, _READ | os.O_NOFOLLOW, dir_fd=folder)


def _set_aside(folder: int, name: str) -> None:
    os.rename(name, f".aside-{secrets.token_hex(8)}", src_dir_fd=folder, dst_dir_fd=folder)


def lies_in(folder: int, other: Path) -> bool:
    """Whether an open folder is another one or lies in it: asked of the kernel, so that the path it was opened by does not matter."""
    wanted, handle = other.stat(), os.dup(folder)
    try:
        while True:
            here = os.fstat(handle)
            if os.path.samestat(here, wanted):
                return True
            above = os.open("..", _SEARCH, dir_fd=handle)
            os.close(handle)
            handle = above
            if os.path.samestat(here, os.fstat(handle)):
                return False
    finally:
        os.close(handle)


def list_names(folder: int) -> list[str]:
    """Names in an inbox that are no half-written file's; those that ``submit`` gives come first."""
    with os.scandir(folder) as rows:
        names = [row.name for row in islice(rows, MOST_NAMES) if not row.name.startswith(".")]
    return sorted(names, key=lambda n: (re.fullmatch(r"[0-9a-f]{64}\.md", n) is None, n))


def open_plain_file(folder: int, name: str, hard_links: bool = True) -> BinaryIO:
    """A plain file in an open folder. A link is not followed, anything else is not opened, and no call waits for a writer.

    Args:
        hard_links: take also a file that has another name.

    Raises:
        OSError: it is no such file (``EINVAL``), was exchanged while it was opened (``ESTALE``), or cannot be read.
    """
    before = os.stat(name, dir_fd=folder, follow_symlinks=False)
    if not stat.S_ISREG(before.st_mode) or (before.st_nlink != 1 and not hard_links):
        raise OSError(errno.EINVAL, "no plain file")
    handle = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    after = os.fstat(handle)
    if not os.path.samestat(before, after) or not stat.S_ISREG(after.st_mode):  # the number of a file that is gone is given again
        os.close(handle)
        raise OSError(errno.ESTALE, "exchanged while it was opened")
    return os.fdopen(handle, "rb")


def read_plain_file(folder: int, name: str, most: int) -> str:
    """A plain file's text.

    Raises:
        IdeaError: it is anything else, or longer than ``most`` bytes, or no UTF-8.
    """
    try:
        with open_plain_file(folder, name, hard_links=False) as source:
            size, data = os.fstat(source.fileno()).st_size, source.read(most + 1)
    except OSError as error:
        if error.errno == errno.EINVAL:
            raise IdeaError("expected a plain file, got a link, a folder or something else; write the text itself") from None
        if error.errno == errno.ESTALE:
            raise IdeaError("changed while it was read; write it under another name and rename it") from None
        raise
    if len(data) > most:
        raise IdeaError(f"{size:,} bytes; at most {most:,} are read, so write less")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        raise IdeaError("expected UTF-8 text; save it as UTF-8") from None


def copy_plain_file(folder: int, name: str, to: Path, most: int | None = None) -> int:
    """Copy a plain file out of an open folder to a new file; the number of its bytes.

    Args:
        most: bytes that are copied at most; None for as many as the file had when it was opened.

    Raises:
        SourceError: the file is none that is copied.
        OSError: the copy cannot be written.
    """
    with _source_errors():
        source = open_plain_file(folder, name)
    with source, to.open("xb") as out:
        size = os.fstat(source.fileno()).st_size
        most = size if most is None else most
        while size <= most:
            with _source_errors():
                chunk = source.read(_CHUNK)
            if not chunk:
                return out.tell()
            out.write(chunk)
            size = max(size, out.tell())
    raise SourceError(errno.EFBIG, os.strerror(errno.EFBIG))


@contextmanager
def _source_errors() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise SourceError(error.errno, error.strerror) from None


def read_text(path: Path, error: type[InputError]) -> str:
    """A text file that a person wrote.

    Raises:
        InputError: of the given kind, when it is not UTF-8 text.
    """
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise error(f"{path}: expected UTF-8 text; save the file as UTF-8.") from None


@contextmanager
def ignore_their_errors() -> Iterator[None]:
    """Ignore what goes wrong in a folder of somebody else, other than the machine's own trouble."""
    try:
        yield
    except OSError as error:
        if error.errno in MACHINE_ERRORS:
            raise
