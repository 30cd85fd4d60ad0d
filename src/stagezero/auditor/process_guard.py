"""Shuts an auditor's process to the others of its own user: no memory, environment or files of it through /proc, and no core dump.

Whoever runs as the same user can still read the auditor's folder. It is another wall, not the one that separates the wings.
"""

from __future__ import annotations

import ctypes
import multiprocessing.util
import resource
import sys

_PR_SET_DUMPABLE = 4


def shut() -> None:
    """Shut this process, and those that are forked from it."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # Python 3.11.0 has fork servers listen where any user may connect and have code run (CVE-2022-42919).
    multiprocessing.util.abstract_sockets_supported = False  # type: ignore[misc]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
