"""Fork servers that Ctrl-C does not end with a traceback, and whose processes do not run the user's
program again."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext
from typing import Any

_SAFE_PATH = "PYTHONSAFEPATH"
"""With this variable, Python does not add the current folder or that of a script to its path."""
_starting = threading.RLock()
"""Held while this process is changed for one that starts: two threads may start processes."""
_NO_LEAK_WARNING = "ignore:resource_tracker"
"""A terminated worker leaves a semaphore, which is then removed with a warning on stderr."""


def start_fork_server(preload: Sequence[str]) -> ForkServerContext:
    """Start the fork server of this process, which imports modules once for all its children.

    It ignores Ctrl-C, as its children do: the process that owns them stops them itself.

    Args:
        preload: the modules to import.
    """
    warnings = os.environ.get("PYTHONWARNINGS", "")
    if _NO_LEAK_WARNING not in warnings:
        os.environ["PYTHONWARNINGS"] = ",".join(filter(None, [warnings, _NO_LEAK_WARNING]))
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(preload))
    with _without_current_folder():
        if threading.current_thread() is threading.main_thread():
            before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # a new process inherits this
            try:
                forkserver.ensure_running()
            finally:
                signal.signal(signal.SIGINT, before)
        else:
            forkserver.ensure_running()
    return context


@contextmanager
def _without_current_folder() -> Iterator[None]:
    """Let Python processes that start inside the block import nothing from the current folder.

    ``multiprocessing`` starts its servers with ``python -c``, which would search there first.
    """
    with _starting:
        before = os.environ.get(_SAFE_PATH)
        os.environ[_SAFE_PATH] = "1"
        try:
            yield
        finally:
            os.environ.pop(_SAFE_PATH, None)
            if before is not None:
                os.environ[_SAFE_PATH] = before


@contextmanager
def without_main_module() -> Iterator[None]:
    """Hide the user's program from the processes that start inside the block.

    They would run the program again. That fails if the program was read from standard input, or
    calls stagezero without a guard (``if __name__ == "__main__"``).
    """
    with _starting:
        main: Any = sys.modules["__main__"]
        hidden: dict[str, Any] = {name: main.__dict__.pop(name) for name in ("__file__", "__spec__") if name in main.__dict__}
        main.__spec__ = None
        try:
            yield
        finally:
            main.__dict__.update(hidden)
