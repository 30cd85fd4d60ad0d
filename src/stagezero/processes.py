"""Fork servers that Ctrl-C does not end with a traceback."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Sequence
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext

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
    if threading.current_thread() is threading.main_thread():
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # a new process inherits this
        try:
            forkserver.ensure_running()
        finally:
            signal.signal(signal.SIGINT, before)
    return context
