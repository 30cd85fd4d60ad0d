"""The Merkle tree: reference vectors, the recursive definition, proofs, and the stored tree file.

Covers: ledger/tree_file.py.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stagezero.errors import LedgerError
from stagezero.ledger import Ledger, LedgerView, leaf_hash, prove, verify_consistency, verify_inclusion
from stagezero.ledger.merkle import EMPTY_ROOT, Frontier, consistency_proof, inclusion_proof, node_hash
from stagezero.ledger.tree_file import StoredTree, complete_leaves, hash_count, hash_index

# The reference tree of certificate-transparency (merkle_tree_test.cc): inputs, roots of sizes 1 to
# 8, proofs.
INPUTS = [bytes.fromhex(h) for h in ("", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f")]
ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
A = "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7"
B = "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e"
C = "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4"
D = "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b"
E = "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0"
F = "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a"
INCLUSION = {(0, 1): [], (0, 8): [A, B, C], (5, 8): [D, E, ROOTS[3]], (2, 3): [ROOTS[1]], (1, 5): [ROOTS[0], B, D]}
CONSISTENCY = {(1, 1): [], (1, 8): [A, B, C], (6, 8): [F, E, ROOTS[3]], (2, 5): [B, D]}


def nodes(leaves: list[bytes], level: int, n: int) -> bytes:
    return rfc_root(leaves[n << level : (n + 1) << level])


def rfc_root(leaves: list[bytes]) -> bytes:
    """Compute the Merkle tree hash by its definition in RFC 6962, section 2.1."""
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return leaves[0]
    k = 1
    while k * 2 < len(leaves):
        k *= 2
    return node_hash(rfc_root(leaves[:k]), rfc_root(leaves[k:]))


def test_the_roots_of_the_reference_tree() -> None:
    leaves = [leaf_hash(data) for data in INPUTS]
    frontier = Frontier()
    assert frontier.root() == EMPTY_ROOT
    for size, expected in enumerate(ROOTS, 1):
        frontier.add(leaves[size - 1])
        assert frontier.root().hex() == expected


@pytest.mark.parametrize(("seq", "size"), INCLUSION)
def test_the_reference_inclusion_proofs(seq: int, size: int) -> None:
    leaves = [leaf_hash(data) for data in INPUTS]
    proof = inclusion_proof(lambda level, n: nodes(leaves, level, n), seq, size)
    assert [p.hex() for p in proof] == INCLUSION[seq, size]
    assert verify_inclusion(leaves[seq], seq, size, proof, bytes.fromhex(ROOTS[size - 1]))


@pytest.mark.parametrize(("old", "size"), CONSISTENCY)
def test_the_reference_consistency_proofs(old: int, size: int) -> None:
    leaves = [leaf_hash(data) for data in INPUTS]
    proof = consistency_proof(lambda level, n: nodes(leaves, level, n), old, size)
    assert [p.hex() for p in proof] == CONSISTENCY[old, size]
    assert verify_consistency(old, size, bytes.fromhex(ROOTS[old - 1]), bytes.fromhex(ROOTS[size - 1]), proof)


def flipped(data: bytes, bit: int) -> bytes:
    changed = bytearray(data)
    changed[bit // 8 % len(data)] ^= 1 << bit % 8
    return bytes(changed)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_proofs_verify_at_every_size_and_fail_after_any_change(data: st.DataObject) -> None:
    size = data.draw(st.integers(1, 130))
    seq = data.draw(st.integers(0, size - 1))
    old = data.draw(st.integers(1, size))
    leaves = [leaf_hash(str(i).encode()) for i in range(size)]
    root, old_root = rfc_root(leaves), rfc_root(leaves[:old])
    inclusion = inclusion_proof(lambda level, n: nodes(leaves, level, n), seq, size)
    consistency = consistency_proof(lambda level, n: nodes(leaves, level, n), old, size)
    assert verify_inclusion(leaves[seq], seq, size, inclusion, root)
    assert verify_consistency(old, size, old_root, root, consistency)
    bit = data.draw(st.integers(0, 255))
    for position in range(len(inclusion)):
        changed = [flipped(p, bit) if i == position else p for i, p in enumerate(inclusion)]
        assert not verify_inclusion(leaves[seq], seq, size, changed, root)
        assert not verify_inclusion(leaves[seq], seq, size, inclusion[:position] + inclusion[position + 1 :], root)
    for position in range(len(consistency)):
        changed = [flipped(p, bit) if i == position else p for i, p in enumerate(consistency)]
        assert not verify_consistency(old, size, old_root, root, changed)
        assert not verify_consistency(old, size, old_root, root, consistency[:position] + consistency[position + 1 :])
    extra = bytes(32)
    assert not verify_inclusion(flipped(leaves[seq], bit), seq, size, inclusion, root)
    assert not verify_inclusion(leaves[seq], seq, size, [*inclusion, extra], root)
    assert not verify_inclusion(leaves[seq], seq, size, inclusion, flipped(root, bit))
    assert not verify_inclusion(leaves[seq], size, size, inclusion, root)
    assert not verify_consistency(old, size, flipped(old_root, bit), root, consistency)
    assert not verify_consistency(old, size, old_root, flipped(root, bit), consistency)
    assert not verify_consistency(old, size, old_root, root, [*consistency, extra])


def test_a_proof_verifies_for_one_position_only() -> None:
    leaves = [leaf_hash(str(i).encode()) for i in range(13)]
    for seq in range(13):
        proof = inclusion_proof(lambda level, n: nodes(leaves, level, n), seq, 13)
        assert [other for other in range(13) if verify_inclusion(leaves[seq], other, 13, proof, rfc_root(leaves))] == [seq]


def test_consistency_with_the_empty_tree() -> None:
    root = rfc_root([leaf_hash(b"a")])
    assert verify_consistency(0, 1, EMPTY_ROOT, root, [])
    assert verify_consistency(0, 0, EMPTY_ROOT, EMPTY_ROOT, [])
    assert not verify_consistency(0, 1, root, root, [])
    assert not verify_consistency(0, 1, EMPTY_ROOT, root, [root])
    assert not verify_consistency(2, 1, root, root, [])
    assert not verify_consistency(3, 5, root, root, [])


def test_the_order_in_the_tree_file_is_that_of_tlog() -> None:
    order, frontier = [], Frontier()
    for leaf in range(70):
        order += [(level, leaf >> level) for level in range(len(frontier.add(bytes(32))))]
    assert [hash_index(level, n) for level, n in order] == list(range(len(order)))
    for size in range(71):
        assert complete_leaves(hash_count(size)) == size
        assert complete_leaves(hash_count(size + 1) - 1) == size


def write_ledger(folder: Path, entries: int) -> Path:
    ledger = Ledger(folder / "ledger.jsonl")
    ledger.catch_up()
    for i in range(ledger.size, entries):
        ledger.record("note", {"i": i})
    ledger.close()
    return ledger.path


def test_the_stored_tree_grows_with_the_ledger_and_is_repaired(tmp_path: Path) -> None:
    path = write_ledger(tmp_path, 21)
    stored = path.with_name("ledger.jsonl.tree")
    good = stored.read_bytes()
    leaves = [leaf_hash(line) for line in path.read_bytes().splitlines()]
    assert len(good) == 32 * hash_count(21)
    changed = bytearray(good)
    changed[700] ^= 4
    for damage in (None, b"", good[:-1], good[:100], good + bytes(32), good + b"x", bytes(changed), b"garbage" * 500):
        if damage is None:
            stored.unlink()
        else:
            stored.write_bytes(damage)
        for seq in (0, 20):
            proof = prove(path, seq)
            assert proof.holds() and proof.line == path.read_bytes().splitlines()[seq]
        ledger = Ledger(path)
        ledger.close()
        assert ledger.root == rfc_root(leaves)
        assert stored.read_bytes() == good
    write_ledger(tmp_path, 40)
    assert stored.read_bytes().startswith(good)
    assert prove(path, 33).root == Ledger(path).root


def test_a_ledger_returns_proofs_as_hex(tmp_path: Path) -> None:
    path = write_ledger(tmp_path, 9)
    ledger = Ledger(path)
    old_root = ledger.root
    ledger.catch_up()
    ledger.record("note", {"more": 1})
    for seq, line in enumerate(path.read_bytes().splitlines()):
        proof = prove(path, seq)
        assert (proof.line, proof.size, proof.root) == (line, 10, ledger.root) and proof.holds()
    assert verify_consistency(9, 10, old_root, ledger.root, [bytes.fromhex(h) for h in ledger.consistency(9)])
    for seq in (10, -1):
        with pytest.raises(LedgerError, match="expected an entry below 10"):
            prove(path, seq)
    for size in (11, -1):
        with pytest.raises(LedgerError, match="expected a size of at most 10"):
            ledger.consistency(size)


def test_a_view_can_be_read_while_another_process_writes(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.jsonl")
    assert LedgerView(ledger.path).size == 0
    for i in range(60):
        ledger.record("note", {"pad": "x" * (i * 977 % 9000)})
    view = LedgerView(ledger.path)
    lines = ledger.path.read_bytes().splitlines()
    assert [view.line(seq) for seq in range(60)] == lines
    assert (view.size, view.root) == (60, ledger.root)
    ledger.record("note", {"late": True})
    assert view.size == 60 and view.prove(59).holds()
    for seq in (-1, 60, 10**9):
        with pytest.raises(LedgerError, match="expected an entry below 60"):
            view.line(seq)
    with ledger.path.open("ab") as handle:
        handle.write(b'{"entry":{"bo')
    assert LedgerView(ledger.path).size == 61


def test_a_missing_or_invalid_ledger_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match="there is no ledger"):
        prove(tmp_path / "ledger.jsonl", 0)
    (tmp_path / "ledger.jsonl").write_bytes(b"a\nb\n")
    with pytest.raises(LedgerError, match="not a ledger line"):
        prove(tmp_path / "ledger.jsonl", 0)


def test_proofs_work_while_the_tree_file_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_ledger(tmp_path, 3)
    ledger = Ledger(path)
    ledger.catch_up()
    old_root = ledger.root

    def raise_disk_full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("stagezero.ledger.tree_file.os.pwrite", raise_disk_full)
        ledger.record("note", {"full": 1})
        proof = [bytes.fromhex(h) for h in ledger.consistency(3)]
        assert proof and verify_consistency(3, 4, old_root, ledger.root, proof)
    ledger.record("note", {"again": 1})
    assert path.with_name("ledger.jsonl.tree").stat().st_size == 32 * hash_count(5)


def test_a_tree_without_a_file_serves_from_memory(tmp_path: Path) -> None:
    tree = StoredTree(tmp_path / "none" / "tree", writable=True)
    leaves = [leaf_hash(bytes([i])) for i in range(11)]
    tree.check(leaves)
    assert tree.root() == rfc_root(leaves)
    assert verify_inclusion(leaves[4], 4, 11, tree.inclusion(4), tree.root())
