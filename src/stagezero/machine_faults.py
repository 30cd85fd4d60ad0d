"""Distinguishes faults of the machine from faults of a recipe or a model, by the exception.

Some libraries report a full disk, or too little memory, with an exception of their own, whose text
has the system's error number or words. The exceptions that led to an exception are examined, too.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator

from stagezero.errors import MemoryShortError, WorkerError
from stagezero.files import MACHINE_ERRORS

_WRITE_ERRORS = (MACHINE_ERRORS - {errno.ENOMEM}) | {errno.EFBIG, errno.EACCES, errno.EPERM, errno.ENOENT, errno.EAGAIN}
"""Error numbers of a disk, a mount or a limit, in the texts of libraries."""
_MEMORY_WORDS = (
    "can't allocate memory", "Cannot allocate memory", "bad_alloc", "out of memory", "STATUS_ALLOC_FAILED", "failed to map segment",
)  # fmt: skip
_MEMORY_TEXT = re.compile(rf"\bos error {errno.ENOMEM}\b")
_NO_THREAD = "can't start new thread"
_GPU_BUSY = "devices are busy or unavailable"


def _causes(error: BaseException) -> Iterator[BaseException]:
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__


def is_memory_short(error: BaseException) -> bool:
    """Return whether an exception reports that the machine or its GPU is out of memory."""
    return any(
        isinstance(cause, MemoryError)
        or (isinstance(cause, OSError) and cause.errno == errno.ENOMEM)
        or (isinstance(cause, RuntimeError | ImportError) and any(words in str(cause) for words in _MEMORY_WORDS))
        or _MEMORY_TEXT.search(str(cause)) is not None
        for cause in _causes(error)
    )


def machine_fault(error: BaseException) -> str | None:
    """Return the fault of a disk, mount or limit that an exception reports; None if none."""
    for cause in _causes(error):
        if isinstance(cause, OSError) and cause.errno in MACHINE_ERRORS - {errno.ENOMEM}:
            return os.strerror(cause.errno)
        text = str(cause)
        if isinstance(cause, RuntimeError) and _NO_THREAD in text:
            return "this machine's limit of processes and threads is reached"
        if isinstance(cause, RuntimeError) and _GPU_BUSY in text:
            return "the GPU is busy or unavailable"
        numbers = {int(number) for number in re.findall(r"os error (\d{1,4})\b", text)}
        for number in sorted(_WRITE_ERRORS):
            if number in numbers or (number in MACHINE_ERRORS and os.strerror(number) in text):
                return os.strerror(number)
    return None


def worker_error(error: BaseException, where: object) -> WorkerError | None:
    """Return the error to raise if an exception reports a fault of the machine; None if none.

    Args:
        error: the exception.
        where: the file, folder or model that could not be used, for the message.
    """
    if is_memory_short(error):
        return MemoryShortError(f"{where}: not enough memory; free some, then run the same command again.")
    fault = machine_fault(error)
    if fault is None:
        return None
    return WorkerError(f"{where}: {fault}; free space, or mend the disk or the mount, then run the same command again.")
