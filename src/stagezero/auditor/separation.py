"""How far a peer really is, as far as that can be seen from here: a claim of distance that a connection contradicts is taken back.

A peer on another address may still be a container on this machine; that cannot be seen from here and is the operator's to know.
"""

from __future__ import annotations

import ipaddress
import os
import socket
from functools import lru_cache
from pathlib import Path

from stagezero.door.messages import Separation


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """An address, without the clothes that a socket for both versions puts on version 4; None for what is none."""
    try:
        found = ipaddress.ip_address(host)
    except ValueError:
        return None
    return (found.ipv4_mapped or found) if found.version == 6 else found


@lru_cache(maxsize=256)
def _is_here(host: str) -> bool:
    """Whether an address is one of this machine's own: only then can it be bound."""
    address = _address(host)
    if address is None or address.is_loopback:
        return True
    family = socket.AF_INET6 if address.version == 6 else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((str(address), 0))
    except OSError:
        return False
    return True


def _hex_address(address: ipaddress.IPv4Address | ipaddress.IPv6Address, port: int) -> str:
    """An address as /proc/net/tcp writes it."""
    packed = address.packed
    words = b"".join(packed[i : i + 4][::-1] for i in range(0, len(packed), 4))
    return f"{words.hex().upper()}:{port:04X}"


def owner_of(host: str, port: int) -> int | None:
    """The user who owns the local end of a connection; None where it is not found."""
    address = _address(host)
    if address is None:
        return None
    wanted = _hex_address(address, port)
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            lines = Path(table).read_text().splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            fields = line.split()
            if fields[1] == wanted or (table.endswith("6") and fields[1].endswith(wanted)):
                return int(fields[7])
    return None


def level_of(host: str, port: int, claimed: Separation) -> Separation:
    """The separation that a connection leaves of what is claimed."""
    if claimed in ("colocated", "boxed") or not _is_here(host):
        return claimed
    owner = owner_of(host, port)
    return "colocated" if owner in (None, 0, os.getuid()) else "separate user"
