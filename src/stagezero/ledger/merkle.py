"""The Merkle tree over a ledger's lines (RFC 6962), for short proofs about a long ledger.

A leaf is SHA-256(0x00, line) of a stored line without its newline. A node is SHA-256(0x01, left,
right). The root of the first ``size`` lines commits to every byte of them. An *inclusion proof*
shows that a line has a certain number under a root. A *consistency proof* shows that a larger root
extends a smaller one without changing any of its lines.

The functions here are pure. They take a ``node(level, n)`` that returns the hash of the n-th
complete subtree of 2^level leaves, and call it O(log size) times. ``tree_file.py`` stores those
hashes in a file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence

NodeLookup = Callable[[int, int], bytes]
"""Returns the hash of the n-th complete subtree of 2^level leaves, given (level, n)."""
EMPTY_ROOT = hashlib.sha256(b"").digest()


def leaf_hash(line: bytes) -> bytes:
    """Return the leaf hash of a ledger line, given without its newline, 32 bytes."""
    return hashlib.sha256(b"\x00" + line).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Return the hash of an inner node with these children, 32 bytes."""
    return hashlib.sha256(b"\x01" + left + right).digest()


def peaks(start: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield (level, n) of the complete subtrees that cover the leaves [start, end), left to right.

    ``start`` must be a multiple of the largest power of two below ``end - start``. This is the case
    for every subtree of the tree.
    """
    at = start
    while at < end:
        level = (end - at).bit_length() - 1
        yield level, at >> level
        at += 1 << level


def _fold(hashes: Sequence[bytes]) -> bytes:
    root = hashes[-1]
    for left in reversed(hashes[:-1]):
        root = node_hash(left, root)
    return root


def _subtree(node: NodeLookup, start: int, end: int) -> bytes:
    return _fold([node(level, n) for level, n in peaks(start, end)])


def _split(size: int) -> int:
    """The largest power of two below ``size``."""
    return 1 << ((size - 1).bit_length() - 1)


def inclusion_proof(node: NodeLookup, seq: int, size: int) -> list[bytes]:
    """Return the proof that leaf ``seq`` is in the tree of ``size`` leaves.

    The hashes are in order from the leaf's sibling upward.

    Raises:
        ValueError: ``seq`` is not below ``size``.

    Source: RFC 6962, section 2.1.1.
    """
    if not 0 <= seq < size:
        raise ValueError(f"expected a leaf below {size}, got {seq}")
    proof = []
    start, end = 0, size
    while end - start > 1:
        middle = start + _split(end - start)
        if seq < middle:
            proof.append(_subtree(node, middle, end))
            end = middle
        else:
            proof.append(_subtree(node, start, middle))
            start = middle
    return proof[::-1]


def verify_inclusion(leaf: bytes, seq: int, size: int, proof: Sequence[bytes], expected: bytes) -> bool:
    """Return whether a proof shows that ``leaf`` has the number ``seq`` under a root.

    Args:
        leaf: the leaf hash, 32 bytes.
        seq: its number, from 0.
        size: number of leaves under the root.
        proof: the hashes of ``inclusion_proof``.
        expected: the root, 32 bytes.

    Source: RFC 9162, section 2.1.3.2.
    """
    if not 0 <= seq < size or any(len(p) != 32 for p in (leaf, expected, *proof)):
        return False
    at, last, root = seq, size - 1, leaf
    for sibling in proof:
        if last == 0:
            return False
        if at & 1 or at == last:
            root = node_hash(sibling, root)
            while not at & 1 and at:
                at, last = at >> 1, last >> 1
        else:
            root = node_hash(root, sibling)
        at, last = at >> 1, last >> 1
    return last == 0 and root == expected


def consistency_proof(node: NodeLookup, old: int, size: int) -> list[bytes]:
    """Return the proof that a tree of ``size`` leaves extends that of its first ``old`` leaves.

    The proof is empty if ``old`` is 0 or equals ``size``.

    Raises:
        ValueError: ``old`` is larger than ``size``.

    Source: RFC 6962, section 2.1.2.
    """
    if not 0 <= old <= size:
        raise ValueError(f"expected a size of at most {size}, got {old}")
    if old in (0, size):
        return []
    proof = []
    start, end, from_start = 0, size, True
    while end != old:
        middle = start + _split(end - start)
        if old <= middle:
            proof.append(_subtree(node, middle, end))
            end = middle
        else:
            proof.append(_subtree(node, start, middle))
            start, from_start = middle, False
    if not from_start:
        proof.append(_subtree(node, start, end))
    return proof[::-1]


def verify_consistency(old: int, size: int, old_root: bytes, new_root: bytes, proof: Sequence[bytes]) -> bool:
    """Return whether a proof shows that one tree extends another.

    Args:
        old: number of leaves of the smaller tree.
        size: number of leaves of the larger tree.
        old_root: root of the smaller tree, 32 bytes.
        new_root: root of the larger tree, 32 bytes.
        proof: the hashes of ``consistency_proof``.

    Source: RFC 9162, section 2.1.4.2.
    """
    if not 0 <= old <= size or any(len(p) != 32 for p in (old_root, new_root, *proof)):
        return False
    if old == 0:
        return not proof and old_root == EMPTY_ROOT and (size > 0 or new_root == EMPTY_ROOT)
    if old == size:
        return not proof and old_root == new_root
    hashes = list(proof)
    if old & (old - 1) == 0:
        hashes.insert(0, old_root)
    if not hashes:
        return False
    at, last = old - 1, size - 1
    while at & 1:
        at, last = at >> 1, last >> 1
    before = after = hashes[0]
    for sibling in hashes[1:]:
        if last == 0:
            return False
        if at & 1 or at == last:
            before, after = node_hash(sibling, before), node_hash(sibling, after)
            while not at & 1 and at:
                at, last = at >> 1, last >> 1
        else:
            after = node_hash(after, sibling)
        at, last = at >> 1, last >> 1
    return last == 0 and before == old_root and after == new_root


class Frontier:
    """The roots of the complete subtrees at the right edge of a growing tree.

    They suffice to add leaves and to compute the root, in O(log size) memory.
    """

    def __init__(self, size: int = 0, hashes: Sequence[bytes] = ()) -> None:
        """Start empty, or with the hashes of ``peaks(0, size)`` of an existing tree."""
        self.size = size
        self._hashes = list(hashes)

    def add(self, leaf: bytes) -> list[bytes]:
        """Add a leaf and return the hashes of the subtrees that it completes, the leaf first."""
        completed = [leaf]
        at, hashes, sha256 = self.size, self._hashes, hashlib.sha256
        while at & 1:
            leaf = sha256(b"\x01" + hashes.pop() + leaf).digest()
            completed.append(leaf)
            at >>= 1
        hashes.append(leaf)
        self.size += 1
        return completed

    def root(self) -> bytes:
        """Return the root hash, 32 bytes."""
        return _fold(self._hashes) if self._hashes else EMPTY_ROOT
