"""A process of its own for code that a suite brings along: it may print, exit, or never end.

A user's scorer is a Python file with ``score(item: dict, answer: str) -> str``, which returns one
of right, wrong, refused, unparseable. It belongs to the user and runs with the user's rights. Its
bytes are part of the suite's digest. Only ``scoring`` calls this module.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stagezero.errors import MemoryShortError, SuiteError
from stagezero.files import PACKAGE_FOLDER, Closeable

if TYPE_CHECKING:
    from stagezero.tasks.items import Item

OUTCOMES = ("right", "wrong", "refused", "unparseable")
SCORER_SECONDS = 60.0
"""Time limit of a user's scorer for one answer."""
PATTERN_SECONDS = 5.0
"""Time limit of a pattern with ``engine: re`` for one answer."""
_PROGRAM = PACKAGE_FOLDER / "tasks" / "helper_program.py"


class HelperError(Exception):
    """Raised when the helper process ended or took too long; the message has the reason."""


class _Helper(Closeable):
    """One helper process. It ends with this one, when its stdin is closed."""

    def __init__(self) -> None:
        command = [sys.executable, "-P", str(_PROGRAM)]  # -P: the folder of this package is not the user's
        # A worker has this variable. A program of the user may import from its own folder.
        variables = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True, env=variables)
        self._number = 0
        self._received = b""

    def request(self, content: dict[str, Any], seconds: float) -> dict[str, Any]:
        """Send a request and return the reply.

        Raises:
            HelperError: the process ended, or did not reply in time. It is stopped.
            MemoryShortError: the process was killed.
        """
        stdin = self._process.stdin
        assert stdin is not None
        self._number += 1
        end = time.monotonic() + seconds
        try:
            stdin.write(json.dumps({**content, "number": self._number}).encode() + b"\n")
            stdin.flush()
        except BrokenPipeError:
            raise self._ended() from None
        while True:
            line = self._read_line(end, seconds)
            try:
                reply = json.loads(line)
                # A fork of the user's code may have sent a second reply to an earlier request.
                if reply["number"] == self._number:
                    value: dict[str, Any] = reply
                    return value
            except (ValueError, KeyError, TypeError):
                raise HelperError("wrote to the stream of its replies") from None

    def _read_line(self, end: float, seconds: float) -> bytes:
        stdout = self._process.stdout
        assert stdout is not None
        while b"\n" not in self._received:
            if not select.select([stdout], [], [], max(0.0, end - time.monotonic()))[0]:
                raise HelperError(f"took longer than {seconds:g} s")
            part = os.read(stdout.fileno(), 1 << 16)
            if not part:
                raise self._ended()
            self._received += part
        line, _, self._received = self._received.partition(b"\n")
        return line

    def _ended(self) -> Exception:
        """Return the error for a process that has ended. The system kills it if memory is short."""
        try:
            code = self._process.wait(10)
        except subprocess.TimeoutExpired:
            return HelperError("closed the stream of its replies")
        if code == -signal.SIGKILL:
            return MemoryShortError("the process of a suite's scorer was killed; free memory, then run the same command again.")
        return HelperError(f"ended its process (exit code {code})")

    def close(self) -> None:
        """Stop the process, and every process that the user's code has started in its group."""
        with contextlib.suppress(OSError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):
                assert stream is not None
                stream.close()


_helpers: dict[int, _Helper] = {}
"""Process id → its helper. A forked process does not use the helper of its parent."""


@atexit.register
def close_helpers() -> None:
    """Stop the helper of this process."""
    helper = _helpers.pop(os.getpid(), None)
    if helper is not None:
        helper.close()


def _request(content: dict[str, Any], seconds: float) -> dict[str, Any]:
    pid = os.getpid()
    if pid not in _helpers:
        _helpers.clear()
        _helpers[pid] = _Helper()
    try:
        return _helpers[pid].request(content, seconds)
    except BaseException:
        _helpers.pop(pid).close()
        raise


def call_scorer(path: str, item: Item, answer: str) -> str:
    """Score one answer with a user's function.

    Raises:
        SuiteError: the file is missing or has no such function, or the function raised an
            exception, ended its process, took too long, or returned something that is no outcome.
    """
    if not Path(path).is_file():
        raise SuiteError(f"scorer {path!r}: expected a Python file with a function score(item, answer), found no file; correct the path.")
    try:
        reply = _request({"path": path, "item": asdict(item), "answer": answer}, SCORER_SECONDS)
    except HelperError as error:
        raise SuiteError(f"scorer {path!r} {error} on item {item.id!r}; correct it.") from None
    if "error" in reply:
        raise SuiteError(f"scorer {path!r}, item {item.id!r}: {reply['error']}; correct the file.")
    if reply["outcome"] not in OUTCOMES:
        raise SuiteError(
            f"scorer {path!r} returned {reply['outcome']!r} for item {item.id!r}; expected one of {', '.join(OUTCOMES)}; "
            "correct its return value."
        )
    outcome: str = reply["outcome"]
    return outcome


def search_python_pattern(item: Item, answer: str) -> bool:
    """Return whether an item's pattern, in Python's syntax, matches anywhere in an answer.

    Raises:
        SuiteError: the search took too long.
    """
    try:
        return bool(_request({"pattern": item.target, "answer": answer}, PATTERN_SECONDS)["found"])
    except HelperError as error:
        raise SuiteError(f"item {item.id!r}: its pattern {error} on an answer; use RE2 (leave out 'engine'), or simplify it.") from None
