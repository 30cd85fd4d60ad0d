"""Inclusion proofs from a ledger that another process may be writing to.

A view reads a few blocks of the ledger and of its stored tree, not the whole ledger. It writes
nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import BinaryIO

from stagezero.errors import LedgerError
from stagezero.ledger.format import end_of_lines, parse_entry_number
from stagezero.ledger.merkle import leaf_hash, verify_inclusion
from stagezero.ledger.tree_file import StoredTree


@dataclass(frozen=True, slots=True)
class Proof:
    """An inclusion proof: the line is number ``seq`` of the ``size`` lines under a root.

    Attributes:
        seq: number of the line, from 0.
        line: the stored line, without its newline.
        size: number of lines under the root.
        root: the root hash, 32 bytes.
        path: the hashes of the proof, from the leaf's sibling upward.
    """

    seq: int
    line: bytes
    size: int
    root: bytes
    path: list[bytes]

    def holds(self) -> bool:
        """Return whether the proof leads from the line to the root.

        Only a signed checkpoint shows that the root is that of a certain ledger.
        """
        return verify_inclusion(leaf_hash(self.line), self.seq, self.size, self.path, self.root)


class LedgerView:
    """A snapshot of a ledger, for making proofs.

    The stored tree is used if its last leaf agrees with the ledger's line, and is continued in
    memory over the lines that it does not cover yet. A tree that turns out to be wrong is ignored
    and computed again from the whole ledger. The view does not verify the chain: the recipient of a
    proof must check it against a signed checkpoint.
    """

    def __init__(self, path: Path) -> None:
        """Open a ledger for reading.

        Raises:
            LedgerError: there is no ledger, or its last line is not a ledger line.
        """
        self.path = path
        if not path.exists():
            raise LedgerError(f"there is no ledger at {path}; check the path.")
        self._handle: BinaryIO = path.open("rb")
        self._tree = StoredTree(path.with_name(path.name + ".tree"), writable=False)
        self._end = end_of_lines(self._handle)
        self.size = self._count_lines()
        self._tree.trust(self.size)
        covered = self._tree.size
        if covered and leaf_hash(self.line(covered - 1)) != self._tree.node(0, covered - 1):
            self._tree.trust(0)
        self._extend_tree()

    def _count_lines(self) -> int:
        if not self._end:
            return 0
        # The last line starts after the newline before it. Search for that newline in growing
        # blocks.
        block_bytes = 1 << 12
        while True:
            start = max(0, self._end - block_bytes)
            self._handle.seek(start)
            block = self._handle.read(self._end - 1 - start)
            at = block.rfind(b"\n")
            if at >= 0 or start == 0:
                return parse_entry_number(self.path, block[at + 1 :]) + 1
            block_bytes *= 4

    def _extend_tree(self) -> None:
        """Add the leaves of all lines that the stored tree does not cover."""
        at = 0
        if self._tree.size:
            self.line(self._tree.size - 1)
            at = self._handle.tell()
        self._handle.seek(at)
        for raw in islice(self._handle, self.size - self._tree.size):
            self._tree.append(leaf_hash(raw[:-1]))

    @property
    def root(self) -> bytes:
        """The root hash of the Merkle tree over all lines of the snapshot, 32 bytes."""
        return self._tree.root()

    def line(self, seq: int) -> bytes:
        """Return the stored line of an entry, without its newline.

        Searches by bisection: the numbers in the lines show which half of the file to search next.

        Raises:
            LedgerError: there is no such line.
        """
        low, high = 0, self._end
        while low < high:
            middle = (low + high) // 2
            start = 0
            if middle:
                self._handle.seek(middle - 1)
                self._handle.readline()
                start = self._handle.tell()
            else:
                self._handle.seek(0)
            if start >= high:
                high = middle
                continue
            line = self._handle.readline()[:-1]
            number = parse_entry_number(self.path, line)
            if number == seq:
                return line
            if number < seq:
                low = self._handle.tell()
            else:
                high = middle
        if not self.size:
            raise LedgerError(f"{self.path}: expected a ledger, found an empty file; check the path.")
        raise LedgerError(f"{self.path}: expected an entry below {self.size}, got {seq}; correct the number.")

    def prove(self, seq: int) -> Proof:
        """Return the proof that entry ``seq`` is in the ledger.

        Raises:
            LedgerError: there is no such entry, or the file was changed after the view was opened.
        """
        line = self.line(seq)
        for _ in range(2):
            proof = Proof(seq, line, self.size, self.root, self._tree.inclusion(seq))
            if proof.holds():
                return proof
            self._tree.trust(0)
            self._extend_tree()
        raise LedgerError(
            f"{self.path}: entry {seq} is not at the position that its number states; run `stagezero ledger verify` to see what changed."
        )

    def close(self) -> None:
        """Close the ledger and its tree file."""
        self._handle.close()
        self._tree.close()


def prove(path: Path, seq: int) -> Proof:
    """Return the proof that entry ``seq`` is in the ledger at ``path``, with its line.

    Raises:
        LedgerError: there is no such ledger or entry.
    """
    view = LedgerView(path)
    try:
        return view.prove(seq)
    finally:
        view.close()
