"""The hashes of a ledger's Merkle tree, stored beside it in ``ledger.jsonl.tree``.

With this file, a proof does not require reading the ledger. It contains only the 32-byte hashes of
complete subtrees, in the order in which the subtrees became complete. This is the order of Go's
``tlog`` (``StoredHashIndex``). The file only grows. It contains nothing that the ledger does not
determine, and it is never evidence: a process that opens the ledger for writing compares the whole
file with the ledger and repairs it, and a reader checks it against the lines that it proves. The
file is not synced to disk; hashes lost in a power cut are computed again.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

from stagezero.errors import LedgerError
from stagezero.ledger import merkle
from stagezero.ledger.merkle import Frontier

HASH_BYTES = 32
_CHUNK_BYTES = 1 << 20


def hash_index(level: int, n: int) -> int:
    """Return the position, in hashes, of the n-th complete subtree of 2^level leaves."""
    leaf = ((n + 1) << level) - 1
    return 2 * leaf - leaf.bit_count() + level


def hash_count(size: int) -> int:
    """Return how many hashes a tree of ``size`` leaves has."""
    return 2 * size - size.bit_count()


def complete_leaves(hashes: int) -> int:
    """Return the largest number of leaves whose hashes are all among the first ``hashes``."""
    size = hashes // 2
    while hash_count(size + 1) <= hashes:
        size += 1
    return size


class StoredTree:
    """A tree whose hashes are in a file and, beyond the end of the file, in memory."""

    def __init__(self, path: Path, *, writable: bool) -> None:
        """Open an empty tree; call ``check`` or ``trust`` next to load the file's hashes."""
        self.path = path
        self._file: BinaryIO | None = None
        with contextlib.suppress(OSError):  # no file, or a read-only folder: all hashes stay in memory
            self._file = path.open("r+b" if writable and path.exists() else "x+b" if writable else "rb", buffering=0)
        self._writable = writable
        self._stored = 0
        self._unwritten = bytearray()
        self._frontier = Frontier()

    @property
    def size(self) -> int:
        """Number of leaves."""
        return self._frontier.size

    def check(self, leaves: Iterable[bytes]) -> None:
        """Compare the file with the ledger's leaves; rewrite it from the first difference on."""
        if self._file is None:
            for leaf in leaves:
                self.append(leaf)
            return
        file = self._file.fileno()
        agreed, matching, computed = 0, True, bytearray()

        def compare_chunk() -> None:
            nonlocal agreed, matching
            if matching and os.pread(file, len(computed), agreed) != computed:
                matching = False
                os.ftruncate(file, agreed)
            if not matching:
                _write_all(file, computed, agreed)
            agreed += len(computed)
            computed.clear()

        for leaf in leaves:
            for hash_ in self._frontier.add(leaf):
                computed += hash_
            if len(computed) >= _CHUNK_BYTES:
                compare_chunk()
        compare_chunk()
        if os.fstat(file).st_size != agreed:
            os.ftruncate(file, agreed)
        self._stored = agreed // HASH_BYTES

    def trust(self, max_leaves: int) -> None:
        """Load the file's hashes of up to ``max_leaves`` leaves without checking them."""
        available = complete_leaves(os.fstat(self._file.fileno()).st_size // HASH_BYTES) if self._file is not None else 0
        size = min(available, max_leaves)
        self._unwritten.clear()
        self._stored = hash_count(size)
        self._frontier = Frontier(size, [self.node(level, n) for level, n in merkle.peaks(0, size)])

    def append(self, leaf: bytes) -> None:
        """Add a leaf.

        Hashes that cannot be written, for example to a full disk, stay in memory. The next call
        retries them.
        """
        for hash_ in self._frontier.add(leaf):
            self._unwritten += hash_
        if self._writable and self._file is not None:
            with contextlib.suppress(OSError):
                _write_all(self._file.fileno(), self._unwritten, self._stored * HASH_BYTES)
                self._stored += len(self._unwritten) // HASH_BYTES
                self._unwritten.clear()

    def node(self, level: int, n: int) -> bytes:
        """Return the hash of the n-th complete subtree of 2^level leaves, 32 bytes."""
        at = hash_index(level, n)
        if at >= self._stored:
            at -= self._stored
            return bytes(self._unwritten[at * HASH_BYTES : at * HASH_BYTES + HASH_BYTES])
        if self._file is None:
            raise LedgerError(f"{self.path}: this ledger is closed; open it again to make a proof.")
        return os.pread(self._file.fileno(), HASH_BYTES, at * HASH_BYTES)

    def root(self) -> bytes:
        """Return the root hash, 32 bytes."""
        return self._frontier.root()

    def inclusion(self, seq: int) -> list[bytes]:
        """Return the inclusion proof of leaf ``seq``."""
        return merkle.inclusion_proof(self.node, seq, self.size)

    def consistency(self, old: int) -> list[bytes]:
        """Return the consistency proof from the first ``old`` leaves to all leaves."""
        return merkle.consistency_proof(self.node, old, self.size)

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None


def _write_all(file: int, data: bytes | bytearray, at: int) -> None:
    with memoryview(data) as view:
        done = 0
        while done < len(view):
            done += os.pwrite(file, view[done:], at + done)
