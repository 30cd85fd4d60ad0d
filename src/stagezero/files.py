"""Atomic writes, locks, secrets, and safe access to folders that other users control.

*Writing*: the content goes to a staged file with another name in the same folder, is synced to
disk, and is renamed. After a crash, the old content or the new content is there.

*Reading*: a folder that others may write to is opened step by step, without following a symlink.
A file in it is opened only if it is a regular file. The file that was checked is the file that is
open, so that a later swap of the name has no effect.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import secrets
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.resources import files
from itertools import islice
from pathlib import Path
from typing import BinaryIO, Self

from stagezero.errors import IdeaError, InputError, StagezeroError

PACKAGE_FOLDER = Path(str(files("stagezero")))
"""The folder of this package, for a checkout and for an installed wheel."""
SECRET_BYTES = 32
MAX_LISTED_NAMES = 10_000
"""The most names of one folder that ``list_names`` reads."""
STAGED_PREFIX = ".writing-"
"""Prefix of the name of a file whose content is still incomplete."""
MACHINE_ERRORS = {
    errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.ENFILE, errno.EMFILE, errno.ENOMEM, errno.ESTALE, errno.ENOTCONN,
    errno.ENODEV, errno.ENXIO, errno.ETIMEDOUT, errno.EHOSTDOWN,
}  # fmt: skip
"""Error numbers that report a fault of the machine or a mount, not of the folder's owner."""
_CHUNK_BYTES = 1 << 20
_OPEN_ATTEMPTS = 20
_CTIME_STEP_SECONDS = 0.02
"""More than the time between two steps of the clock that sets a file's ctime (10 ms at most)."""
_READ_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_PASS_FLAGS = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_CLOEXEC
"""Flags to open a folder only to pass through it. This needs no permission to list the folder."""


class Closeable:
    """Base class for owners of files, processes or connections; a ``with`` block closes them."""

    def close(self) -> None:
        """Release everything that this object owns."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def user_home() -> Path:
    """Return the user's home folder.

    Raises:
        InputError: the system does not know one.
    """
    try:
        return Path.home()
    except RuntimeError:
        raise InputError("this user has no home folder (HOME is not set); set STAGEZERO_HOME to a folder for bases and builds.") from None


# --- writing ---


@contextmanager
def staged_file(folder: int, name: str, mode: int = 0o600, sync: bool = True) -> Iterator[BinaryIO]:
    """Yield a new file in an open folder and rename it to ``name`` when the block ends.

    After an exception, the old file is unchanged.

    Args:
        folder: descriptor of the open folder.
        name: final name of the file.
        mode: permissions of the file, before the umask applies.
        sync: sync the content to disk before the rename.
    """
    new = f"{STAGED_PREFIX}{secrets.token_hex(8)}"
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


def write_atomic(path: Path, content: str | bytes, *, mode: int = 0o600, durable: bool = False) -> None:
    """Write a file atomically, and create its folder if necessary.

    Args:
        mode: permissions of the file, before the umask applies.
        durable: also sync the folder, so that a power cut cannot restore the old file.
    """
    try:
        with open_folder(path.parent, create=True) as folder:
            _write(folder, path.name, content, mode)
            if durable:
                os.fsync(folder)
    except OSError as error:  # which may name the staged file
        raise OSError(error.errno, error.strerror, str(path)) from None


def write_in_folder(folder: int, name: str, text: str) -> None:
    """Write a file atomically, and readable for all users, into another user's open folder.

    A folder that has this name already is renamed out of the way.
    """
    try:
        _write(folder, name, text, 0o666)
    except IsADirectoryError:
        _move_aside(folder, name)
        _write(folder, name, text, 0o666)


def _write(folder: int, name: str, content: str | bytes, mode: int) -> None:
    with staged_file(folder, name, mode) as out:
        out.write(content.encode() if isinstance(content, str) else content)


def load_or_create_secret(path: Path) -> bytes:
    """Return the 32 random bytes stored at ``path``; create the file on first use.

    Only the file's owner may read it.

    Raises:
        StagezeroError: the file exists and does not have 32 bytes.
    """
    if not path.exists():
        with open_folder(path.parent, create=True) as folder:
            new = f"{STAGED_PREFIX}{secrets.token_hex(8)}"
            with staged_file(folder, new) as out:
                out.write(secrets.token_bytes(SECRET_BYTES))
            try:
                # Of two processes that create the secret at once, the first one wins.
                with suppress(FileExistsError):
                    os.link(new, path.name, src_dir_fd=folder, dst_dir_fd=folder)
                os.fsync(folder)
            finally:
                os.unlink(new, dir_fd=folder)
    secret = path.read_bytes()
    if len(secret) != SECRET_BYTES:
        raise StagezeroError(f"{path}: expected {SECRET_BYTES} bytes, got {len(secret)}; this secret is damaged, restore it from a copy.")
    return secret


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on ``path`` for the duration of the block.

    Creates the file if necessary. Waits until no other process has the lock.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


# --- reading ---


class SourceError(OSError):
    """Raised when a source file is not a regular file, is unreadable, or too long (``EFBIG``)."""


@contextmanager
def open_folder(place: Path, *below: str, create: bool = False) -> Iterator[int]:
    """Open a folder below a trusted folder, step by step and without following a symlink.

    Args:
        place: the trusted folder. Symlinks in its own path are followed.
        below: names to descend through, each in the folder before it.
        create: create missing folders, and rename anything else with such a name out of the way.

    Yields:
        The descriptor of the open folder; it is closed when the block ends.
    """
    if create:
        place.mkdir(parents=True, exist_ok=True)
    folder = os.open(place, _PASS_FLAGS if below else _READ_FLAGS)
    try:
        for part in below:
            child = _open_child(folder, part, create)
            os.close(folder)
            folder = child
        yield folder
    finally:
        os.close(folder)


def _open_child(folder: int, part: str, create: bool) -> int:
    if part in ("", ".", "..") or "/" in part or "\0" in part:
        raise OSError(errno.EINVAL, "not the name of a folder", part)
    if create:
        with suppress(FileExistsError):
            os.mkdir(part, dir_fd=folder)
    try:
        return os.open(part, _READ_FLAGS | os.O_NOFOLLOW, dir_fd=folder)
    except OSError as error:
        if not create or error.errno not in (errno.ENOTDIR, errno.ELOOP):
            raise
        _move_aside(folder, part)
        os.mkdir(part, dir_fd=folder)
        return os.open(part, _READ_FLAGS | os.O_NOFOLLOW, dir_fd=folder)


def _move_aside(folder: int, name: str) -> None:
    os.rename(name, f".aside-{secrets.token_hex(8)}", src_dir_fd=folder, dst_dir_fd=folder)


def is_within(folder: int, other: Path) -> bool:
    """Return whether an open folder is ``other`` or is inside it.

    Follows ``..`` from the open descriptor to the root, so that the path by which the folder was
    opened does not matter.
    """
    target, handle = other.stat(), os.dup(folder)
    try:
        while True:
            current = os.fstat(handle)
            if os.path.samestat(current, target):
                return True
            parent = os.open("..", _PASS_FLAGS, dir_fd=handle)
            os.close(handle)
            handle = parent
            if os.path.samestat(current, os.fstat(handle)):
                return False
    finally:
        os.close(handle)


def list_names(folder: int) -> list[str]:
    """List the names in an inbox, without hidden and half-written files.

    Reads at most ``MAX_LISTED_NAMES`` names. Names in the form that ``submit`` gives come first.
    """
    with os.scandir(folder) as rows:
        names = [row.name for row in islice(rows, MAX_LISTED_NAMES) if not row.name.startswith(".")]
    return sorted(names, key=lambda n: (re.fullmatch(r"[0-9a-f]{64}\.md", n) is None, n))


def open_regular_file(folder: int, name: str, allow_hard_links: bool = True) -> BinaryIO:
    """Open a regular file in an open folder for reading.

    Never follows a symlink and never blocks on a writer. Rejects devices, pipes and sockets. If its
    writer replaces the file during the call, the call begins again.

    Args:
        folder: descriptor of the open folder.
        name: one name, without a slash.
        allow_hard_links: also open a file that has a second name. A user who may write to the
            folder could give another user's file a name in it.

    Raises:
        OSError: it is not such a file (``EINVAL`` or ``ELOOP``), it was replaced at every attempt
            (``ESTALE``), or it cannot be read.
    """
    if "/" in name or "\0" in name:
        raise OSError(errno.EINVAL, "not a name of one file")
    for _ in range(_OPEN_ATTEMPTS):
        # The file is examined before it is opened, because opening a device can have effects.
        before = os.stat(name, dir_fd=folder, follow_symlinks=False)
        if not stat.S_ISREG(before.st_mode) or (before.st_nlink > 1 and not allow_hard_links):
            raise OSError(errno.EINVAL, "not a regular file")
        handle = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
        after = os.fstat(handle)
        same = os.path.samestat(before, after) and stat.S_ISREG(after.st_mode)  # inode numbers are reused
        if same and (allow_hard_links or _has_one_name(folder, name, handle)):
            return os.fdopen(handle, "rb")
        os.close(handle)
    raise OSError(errno.ESTALE, "replaced while it was opened")


def _has_one_name(folder: int, name: str, handle: int) -> bool:
    """Return whether ``name`` is the only name of an open file.

    One count of the names is not enough: while one name is exchanged for another, the count can be
    too low. Each new or removed name changes the file's ctime. The count is therefore read twice,
    and ``name`` looked up in between; a ctime that is older than the clock's steps, and the same
    both times, proves that nothing changed in between.
    """
    age = time.time() - os.fstat(handle).st_ctime
    if 0 <= age < _CTIME_STEP_SECONDS:
        time.sleep(_CTIME_STEP_SECONDS - age)
    start, first = time.time(), os.fstat(handle)
    settled = abs(start - first.st_ctime) >= _CTIME_STEP_SECONDS
    try:
        named = os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return False
    second = os.fstat(handle)
    unchanged = first.st_ctime_ns == second.st_ctime_ns and first.st_nlink == second.st_nlink == 1
    return settled and unchanged and os.path.samestat(named, second)


def read_regular_file(folder: int, name: str, max_bytes: int) -> str:
    """Read the text of a regular file in an open folder.

    Raises:
        IdeaError: it is not a regular file with one name, is longer than ``max_bytes``, or is not
            UTF-8.
        OSError: it cannot be read.
    """
    try:
        with open_regular_file(folder, name, allow_hard_links=False) as source:
            size, data = os.fstat(source.fileno()).st_size, source.read(max_bytes + 1)
    except OSError as error:
        if error.errno in (errno.EINVAL, errno.ELOOP):
            raise IdeaError("expected a regular file, got a link, a folder or something else; write the text itself") from None
        if error.errno == errno.ESTALE:
            raise IdeaError("the file was replaced again and again while it was opened; write it once") from None
        raise
    if len(data) > max_bytes:
        raise IdeaError(f"expected at most {max_bytes:,} bytes, got {size:,}; shorten it")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        raise IdeaError("expected UTF-8 text; save it as UTF-8") from None


def copy_regular_file(folder: int, name: str, to: Path, max_bytes: int | None = None) -> int:
    """Copy a regular file out of an open folder to a new file and return the number of bytes.

    Args:
        to: path of the copy; it must not exist.
        max_bytes: limit for the copy; None uses the size that the file had when it was opened.

    Raises:
        SourceError: the source is not a regular file, is unreadable, or exceeds the limit.
        OSError: the copy cannot be written.
    """
    with _source_errors():
        source = open_regular_file(folder, name)
    with source, to.open("xb") as out:
        size = os.fstat(source.fileno()).st_size
        max_bytes = size if max_bytes is None else max_bytes
        while size <= max_bytes:
            with _source_errors():
                chunk = source.read(_CHUNK_BYTES)
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
    """Read a text file that a person wrote. A byte order mark at its beginning is left out.

    Args:
        error: the class of the error to raise.

    Raises:
        InputError: of the given class, if the file is not UTF-8 text.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise error(f"{path}: expected UTF-8 text; save the file as UTF-8.") from None


@contextmanager
def ignore_folder_errors() -> Iterator[None]:
    """Suppress the ``OSError`` of an operation in another user's folder.

    Errors in ``MACHINE_ERRORS`` are raised: they are a fault of this machine.
    """
    try:
        yield
    except OSError as error:
        if error.errno in MACHINE_ERRORS:
            raise
