"""The hashes of a ledger's Merkle tree, kept beside it in ``ledger.jsonl.tree`` so that proofs need not read the ledger.

The file is nothing but 32-byte hashes of complete subtrees, in the order in which they became complete: the
order of Go's ``tlog`` (``StoredHashIndex``). It only ever grows, holds nothing that the ledger does not, and is never
evidence: whoever opens the ledger for writing compares all of it with the ledger and mends it; a reader holds it
against the lines it is about to prove. It is not synced to disk: what a power cut takes away is made again.
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

SIZE = 32
_CHUNK = 1 << 20


def index(level: int, n: int) -> int:
    """The place in the file of the n-th complete subtree of 2^level leaves."""
    leaf = ((n + 1) << level) - 1
    return 2 * leaf - leaf.bit_count() + level


def count(size: int) -> int:
    """How many hashes a tree of ``size`` leaves has."""
    return 2 * size - size.bit_count()


def leaves_in(hashes: int) -> int:
    """The most leaves whose hashes are all among the first ``hashes``."""
    size = hashes // 2
    while count(size + 1) <= hashes:
        size += 1
    return size


class StoredTree:
    """A tree whose hashes lie in a file, and, beyond its end, in memory."""

    def __init__(self, path: Path, *, writable: bool) -> None:
        """Open with nothing in it yet; ``check`` or ``trust`` what the file holds next."""
        self.path = path
        self._file: BinaryIO | None = None
        with contextlib.suppress(OSError):  # none there, or a folder that takes no new file: memory serves
            self._file = path.open("r+b" if writable and path.exists() else "x+b" if writable else "rb", buffering=0)
        self._writable = writable
        self._in_file = 0
        self._beyond = bytearray()
        self._frontier = Frontier()

    @property
    def size(self) -> int:
        """Number of leaves."""
        return self._frontier.size

    def check(self, leaves: Iterable[bytes]) -> None:
        """Hold the file against the leaves of the ledger; from the first difference on, it is written anew."""
        if self._file is None:
            for leaf in leaves:
                self.append(leaf)
            return
        file = self._file.fileno()
        agreed, matching, made = 0, True, bytearray()

        def settle() -> None:
            nonlocal agreed, matching
            if matching and os.pread(file, len(made), agreed) != made:
                matching = False
                os.ftruncate(file, agreed)
            if not matching:
                _write_all(file, made, agreed)
            agreed += len(made)
            made.clear()

        for leaf in leaves:
            for hash_ in self._frontier.add(leaf):
                made += hash_
            if len(made) >= _CHUNK:
                settle()
        settle()
        if os.fstat(file).st_size != agreed:
            os.ftruncate(file, agreed)
        self._in_file = agreed // SIZE

    def trust(self, most: int) -> None:
        """Take what the file holds, up to ``most`` leaves, as it is."""
        held = leaves_in(os.fstat(self._file.fileno()).st_size // SIZE) if self._file is not None else 0
        size = min(held, most)
        self._beyond.clear()
        self._in_file = count(size)
        self._frontier = Frontier(size, [self.node(level, n) for level, n in merkle.peaks(0, size)])

    def append(self, leaf: bytes) -> None:
        """Count in one leaf. What a full disk refuses stays in memory and is tried again with the next."""
        for hash_ in self._frontier.add(leaf):
            self._beyond += hash_
        if self._writable and self._file is not None:
            with contextlib.suppress(OSError):
                _write_all(self._file.fileno(), self._beyond, self._in_file * SIZE)
                self._in_file += len(self._beyond) // SIZE
                self._beyond.clear()

    def node(self, level: int, n: int) -> bytes:
        """The hash of the n-th complete subtree of 2^level leaves."""
        at = index(level, n)
        if at >= self._in_file:
            at -= self._in_file
            return bytes(self._beyond[at * SIZE : at * SIZE + SIZE])
        if self._file is None:
            raise LedgerError(f"{self.path}: this ledger was closed; open it again to prove anything.")
        return os.pread(self._file.fileno(), SIZE, at * SIZE)

    def root(self) -> bytes:
        return self._frontier.root()

    def inclusion(self, seq: int) -> list[bytes]:
        return merkle.inclusion_proof(self.node, seq, self.size)

    def consistency(self, old: int) -> list[bytes]:
        return merkle.consistency_proof(self.node, old, self.size)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def _write_all(file: int, data: bytes | bytearray, at: int) -> None:
    with memoryview(data) as view:
        done = 0
        while done < len(view):
            done += os.pwrite(file, view[done:], at + done)
