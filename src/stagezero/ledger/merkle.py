"""The Merkle tree over a ledger's lines (RFC 6962), so that a short proof shows what a long ledger holds.

A leaf is SHA-256(0x00, line) of a stored line without its newline; a node SHA-256(0x01, left, right). The root of a size
commits to every byte up to there. An *inclusion proof* shows that a line stands at its place under a root; a
*consistency proof* shows that a larger root extends a smaller one without changing what that held.

The functions here are pure: they take a ``node(level, n)`` that gives the hash of the n-th complete subtree of
2^level leaves, and ask for O(log size) of them. ``tree_file.py`` keeps those hashes in a file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence

Node = Callable[[int, int], bytes]
EMPTY_ROOT = hashlib.sha256(b"").digest()


def leaf_hash(line: bytes) -> bytes:
    """The leaf of a ledger line, given without its newline."""
    return hashlib.sha256(b"\x00" + line).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\x01" + left + right).digest()


def peaks(start: int, end: int) -> Iterator[tuple[int, int]]:
    """(level, n) of the complete subtrees that make up the leaves [start, end), left to right.

    ``start`` must be a multiple of the largest power of two below ``end - start``, as it is for every subtree of the tree.
    """
    at = start
    while at < end:
        level = (end - at).bit_length() - 1
        yield level, at >> level
        at += 1 << level


def _folded(hashes: Sequence[bytes]) -> bytes:
    found = hashes[-1]
    for left in reversed(hashes[:-1]):
        found = node_hash(left, found)
    return found


def _subtree(node: Node, start: int, end: int) -> bytes:
    return _folded([node(level, n) for level, n in peaks(start, end)])


def _split(size: int) -> int:
    """The largest power of two below ``size``."""
    return 1 << ((size - 1).bit_length() - 1)


def inclusion_proof(node: Node, seq: int, size: int) -> list[bytes]:
    """The proof that leaf ``seq`` stands in the tree of ``size`` leaves; from the leaf's sibling upward.

    Raises:
        ValueError: there is no such leaf.
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
    """Whether the proof shows that ``leaf`` is number ``seq`` of the ``size`` leaves under the root ``expected``."""
    if not 0 <= seq < size or any(len(p) != 32 for p in (leaf, expected, *proof)):
        return False
    at, last, found = seq, size - 1, leaf
    for sibling in proof:
        if last == 0:
            return False
        if at & 1 or at == last:
            found = node_hash(sibling, found)
            while not at & 1 and at:
                at, last = at >> 1, last >> 1
        else:
            found = node_hash(found, sibling)
        at, last = at >> 1, last >> 1
    return last == 0 and found == expected


def consistency_proof(node: Node, old: int, size: int) -> list[bytes]:
    """The proof that the tree of ``size`` leaves extends the tree of the first ``old``; empty when either has nothing to show.

    Raises:
        ValueError: ``old`` is larger than ``size``.
    """
    if not 0 <= old <= size:
        raise ValueError(f"expected a size of at most {size}, got {old}")
    if old in (0, size):
        return []
    proof = []
    start, end, whole = 0, size, True
    while end != old:
        middle = start + _split(end - start)
        if old <= middle:
            proof.append(_subtree(node, middle, end))
            end = middle
        else:
            proof.append(_subtree(node, start, middle))
            start, whole = middle, False
    if not whole:
        proof.append(_subtree(node, start, end))
    return proof[::-1]


def verify_consistency(old: int, size: int, old_root: bytes, new_root: bytes, proof: Sequence[bytes]) -> bool:
    """Whether the proof shows that the tree of ``size`` leaves under ``new_root`` extends the one of ``old`` under ``old_root``."""
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
    """The roots of the complete subtrees at the right edge: all that growing a tree, and its root, needs."""

    def __init__(self, size: int = 0, hashes: Sequence[bytes] = ()) -> None:
        """Empty, or that of a tree whose ``peaks(0, size)`` have these hashes."""
        self.size = size
        self._hashes = list(hashes)

    def add(self, leaf: bytes) -> list[bytes]:
        """Count in one leaf; gives the hashes of the subtrees that it completes, itself first."""
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
        return _folded(self._hashes) if self._hashes else EMPTY_ROOT
