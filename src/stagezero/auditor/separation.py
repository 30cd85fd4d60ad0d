"""Separates the auditor from the lab: checks the claimed level, protects the auditor's process.

A claim that a connection contradicts is lowered. A peer with another address may still be a
container on this machine; the auditor cannot detect that, so the operator must know it.
"""

from __future__ import annotations

import ctypes
import ipaddress
import multiprocessing.util
import os
import resource
import socket
import sys
from collections.abc import Iterable
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

from stagezero.door.messages import Separation

_PR_SET_DUMPABLE = 4
_TIME_WAIT = "06"


def _parse_address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Parse an IP address and remove the IPv4-mapped prefix; None if the text is not an address."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return None
    return (address.ipv4_mapped or address) if address.version == 6 else address


@lru_cache(maxsize=256)
def _is_local(host: str) -> bool:
    """Return whether an address belongs to this machine: only then can a socket bind to it."""
    address = _parse_address(host)
    if address is None or address.is_loopback:
        return True
    family = socket.AF_INET6 if address.version == 6 else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((str(address), 0))
    except OSError:
        return False
    return True


def _proc_net_address(address: ipaddress.IPv4Address | ipaddress.IPv6Address, port: int) -> str:
    """Format an address as /proc/net/tcp does."""
    packed = address.packed
    words = b"".join(packed[i : i + 4][::-1] for i in range(0, len(packed), 4))
    return f"{words.hex().upper()}:{port:04X}"


def connection_owner(host: str, port: int) -> int | None:
    """Return the uid that owns the local end of a connection; None if it is not certain."""
    address = _parse_address(host)
    if address is None:
        return None
    rows: list[str] = []
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with suppress(OSError):
            rows += Path(table).read_text().splitlines()[1:]
    return _owner(rows, _proc_net_address(address, port))


def _owner(rows: Iterable[str], local: str) -> int | None:
    """Return the uid that owns the sockets with this local address; None if it is not certain.

    An earlier connection from the same port can have a row, too. It is in the state TIME_WAIT and
    has the uid 0. In any other state, a socket without an inode was closed by an unknown owner. A
    peer could close its own, to appear as the owner of another one with the same port.

    Args:
        rows: rows of ``/proc/net/tcp`` and ``/proc/net/tcp6``.
        local: the address as in ``/proc/net/tcp``. An IPv4-mapped one ends with it.
    """
    fields = [row.split() for row in rows]
    owners = {int(row[7]) if row[9] != "0" else None for row in fields if row[1].endswith(local) and row[3] != _TIME_WAIT}
    return owners.pop() if len(owners) == 1 else None


def observed_separation(host: str, port: int, claimed: Separation) -> Separation:
    """Return the claimed separation, or the lower one that a connection from this peer shows."""
    if claimed in ("colocated", "boxed") or not _is_local(host):
        return claimed
    owner = connection_owner(host, port)
    return "colocated" if owner in (None, 0, os.getuid()) else "separate user"


def protect_process() -> None:
    """Protect this process, and every process forked from it, from others of the same user.

    They can then read neither its memory, environment or files through /proc nor a core dump of
    it. They can still read the auditor folder, so this is an additional barrier, not a separation.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # In Python 3.11.0, fork servers listen on an abstract socket to which any user may connect and
    # run code (CVE-2022-42919).
    multiprocessing.util.abstract_sockets_supported = False  # type: ignore[misc]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
