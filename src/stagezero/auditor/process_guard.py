"""Protects an auditor's process from other processes of the same user.

They can then read neither its memory, environment or files through /proc nor a core dump of it. A
process of the same user can still read the auditor folder, so this does not separate the lab from
the auditor; it is an additional barrier.
"""

from __future__ import annotations

import ctypes
import multiprocessing.util
import resource
import sys

_PR_SET_DUMPABLE = 4


def protect_process() -> None:
    """Protect this process and every process that is forked from it."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # In Python 3.11.0, fork servers listen on an abstract socket to which any user may connect and
    # run code (CVE-2022-42919).
    multiprocessing.util.abstract_sockets_supported = False  # type: ignore[misc]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
