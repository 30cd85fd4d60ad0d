"""Proofs from a ledger that others may be writing to, without reading it: a few blocks of it and of its tree."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import BinaryIO

from stagezero.errors import LedgerError
from stagezero.ledger.format import end_of_lines, number_of
from stagezero.ledger.merkle import leaf_hash, verify_inclusion
from stagezero.ledger.tree_file import StoredTree


@dataclass(frozen=True, slots=True)
class Proof:
    """That a line stands at its place among the ``size`` lines under a root."""

    seq: int
    line: bytes
    size: int
    root: bytes
    path: list[bytes]

    def holds(self) -> bool:
        """Whether the proof leads from the line to the root. Whose root it is, a signed checkpoint says."""
        return verify_inclusion(leaf_hash(self.line), self.seq, self.size, self.path, self.root)


class LedgerView:
    """A ledger as it is now, for reading proofs from.

    The stored tree is taken where its end agrees with the ledger's line there, and continued in memory over lines
    that it does not have yet; a tree that turns out not to fit is left aside and made from the whole ledger. Nothing is
    written, and the chain is not verified: what a proof is worth, its reader finds by holding it against a signed checkpoint.
    """

    def __init__(self, path: Path) -> None:
        """Open.

        Raises:
            LedgerError: there is no ledger, or its last line is not one.
        """
        self.path = path
        if not path.exists():
            raise LedgerError(f"there is no ledger at {path}; check the path.")
        self._handle: BinaryIO = path.open("rb")
        self._tree = StoredTree(path.with_name(path.name + ".tree"), writable=False)
        self._end = end_of_lines(self._handle)
        self.size = self._count()
        self._tree.trust(self.size)
        held = self._tree.size
        if held and leaf_hash(self.line(held - 1)) != self._tree.node(0, held - 1):
            self._tree.trust(0)
        self._continue()

    def _count(self) -> int:
        if not self._end:
            return 0
        # The last line starts after the newline before it; look for that in ever larger steps.
        back = 1 << 12
        while True:
            start = max(0, self._end - back)
            self._handle.seek(start)
            block = self._handle.read(self._end - 1 - start)
            at = block.rfind(b"\n")
            if at >= 0 or start == 0:
                return number_of(self.path, block[at + 1 :]) + 1
            back *= 4

    def _continue(self) -> None:
        at = 0
        if self._tree.size:
            self.line(self._tree.size - 1)
            at = self._handle.tell()
        self._handle.seek(at)
        for raw in islice(self._handle, self.size - self._tree.size):
            self._tree.append(leaf_hash(raw[:-1]))

    @property
    def root(self) -> bytes:
        return self._tree.root()

    def line(self, seq: int) -> bytes:
        """The stored line of an entry, found by halving the file; the numbers in the lines say where to go on.

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
            number = number_of(self.path, line)
            if number == seq:
                return line
            if number < seq:
                low = self._handle.tell()
            else:
                high = middle
        raise LedgerError(f"{self.path}: expected an entry below {self.size}, got {seq}; ask for one that is there.")

    def prove(self, seq: int) -> Proof:
        """The proof that entry ``seq`` is in the ledger.

        Raises:
            LedgerError: there is no such entry, or the file changed under the view.
        """
        line = self.line(seq)
        for _ in range(2):
            proof = Proof(seq, line, self.size, self.root, self._tree.inclusion(seq))
            if proof.holds():
                return proof
            self._tree.trust(0)
            self._continue()
        raise LedgerError(f"{self.path}: entry {seq} is not where its number says; run `stagezero ledger verify` to see what changed.")

    def close(self) -> None:
        self._handle.close()
        self._tree.close()


def prove(path: Path, seq: int) -> Proof:
    """The proof that entry ``seq`` is in the ledger at ``path``, with the line itself.

    Raises:
        LedgerError: there is no such ledger or entry.
    """
    view = LedgerView(path)
    try:
        return view.prove(seq)
    finally:
        view.close()
