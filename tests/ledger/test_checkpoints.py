"""Keys, signed checkpoints and witnesses.

A cut, rolled back, forked or changed ledger is detected, and a witness stores the evidence.

Covers: ledger/keys.py, ledger/witness.py.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stagezero.errors import LedgerError, StagezeroError, WitnessError
from stagezero.ledger import Checkpoint, Ledger, SigningKey, VerifyKey, Witness, cosign, read_checkpoint, sign_checkpoint, verify

LAB = SigningKey.from_seed(b"l" * 32, "lab.example/ledger")
AUDITOR = SigningKey.from_seed(b"a" * 32, "auditor.example")
ANY_TEXT = st.one_of(st.text(), st.text("abc\n— +=0123456789"))


def grow(path: Path, size: int, salt: str = "") -> Ledger:
    ledger = Ledger(path)
    ledger.catch_up()
    for i in range(ledger.size, size):
        ledger.record("note", {"i": i, "salt": salt})
    return ledger


# keys


def test_the_text_of_a_key_has_the_format_of_signed_notes() -> None:
    # The example key of golang.org/x/mod/sumdb/note.
    text = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
    key = VerifyKey.parse(text)
    assert (key.name, key.text(), len(key.raw)) == ("PeterNeumann", text, 32)
    note = "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n"
    line = "x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM="
    assert key.verify(base64.b64decode(line)[4:], note.encode())
    assert base64.b64decode(line)[:4] == key.hash


def test_a_key_persists_and_its_secret_is_never_printed(tmp_path: Path) -> None:
    first = SigningKey.load_or_create(tmp_path / "key", "lab")
    reloaded = SigningKey.load_or_create(tmp_path / "key", "lab")
    secret = (tmp_path / "key").read_bytes()
    assert first.verify_key == reloaded.verify_key == VerifyKey.parse(first.verify_key.text())
    assert (tmp_path / "key").stat().st_mode & 0o077 == 0
    printed = repr(first) + str(first) + repr(first.verify_key)
    assert secret.hex() not in printed and repr(secret)[2:-1] not in printed
    assert first.verify_key.verify(reloaded.sign(b"m"), b"m")
    assert not first.verify_key.verify(first.sign(b"m"), b"n")
    assert not first.verify_key.verify(b"", b"m")
    (tmp_path / "key").write_bytes(b"short")
    with pytest.raises(StagezeroError, match="damaged"):
        SigningKey.load_or_create(tmp_path / "key", "lab")


@pytest.mark.parametrize("name", ["", "a b", "a+b", "a\nb", "x" * 201, "a\u2028b"])
def test_a_key_name_that_a_note_cannot_contain_is_rejected(name: str) -> None:
    with pytest.raises(LedgerError, match="key name"):
        SigningKey.from_seed(bytes(32), name)


def test_a_key_with_any_changed_character_is_rejected() -> None:
    text = LAB.verify_key.text()
    for position in range(len(text)):
        for other in "aB0+/ ":
            if text[position] != other:
                with pytest.raises(LedgerError, match="key"):
                    VerifyKey.parse(text[:position] + other + text[position + 1 :])


@settings(max_examples=200, deadline=None)
@given(ANY_TEXT)
def test_any_invalid_text_as_a_key_raises_a_ledger_error(text: str) -> None:
    with pytest.raises(LedgerError):
        VerifyKey.parse(text)


# checkpoints


def test_a_checkpoint_is_a_signed_note(tmp_path: Path) -> None:
    ledger = grow(tmp_path / "l", 5)
    text = ledger.checkpoint(LAB)
    assert text.splitlines()[:4] == ["lab.example/ledger", "5", base64.b64encode(ledger.root).decode(), ""]
    assert text.splitlines()[4].startswith("— lab.example/ledger ")
    assert read_checkpoint(text, LAB.verify_key) == Checkpoint("lab.example/ledger", 5, ledger.root)
    cosigned = cosign(text, AUDITOR)
    assert cosigned.startswith(text) and cosign(cosigned, AUDITOR) == cosigned
    for key in (LAB, AUDITOR):
        assert read_checkpoint(cosigned, key.verify_key).size == 5
    with pytest.raises(WitnessError, match="expected a signature of"):
        read_checkpoint(text, AUDITOR.verify_key)
    with pytest.raises(WitnessError, match="signatures already"):
        for i in range(20):
            text = cosign(text, SigningKey.from_seed(bytes([i]) * 32, f"w{i}"))


def test_any_changed_byte_of_a_checkpoint_is_detected(tmp_path: Path) -> None:
    text = grow(tmp_path / "l", 5).checkpoint(LAB)
    for position in range(len(text)):
        for other in (chr(ord(text[position]) ^ 1), chr(ord(text[position]) ^ 0x20), ""):
            with pytest.raises(WitnessError):
                read_checkpoint(text[:position] + other + text[position + 1 :], LAB.verify_key)


@settings(max_examples=300, deadline=None)
@given(ANY_TEXT)
def test_any_invalid_text_as_a_checkpoint_raises_a_witness_error(text: str) -> None:
    for call in (lambda: read_checkpoint(text, LAB.verify_key), lambda: cosign(text, LAB)):
        with pytest.raises(WitnessError):
            call()


def damage(path: Path, change: str) -> None:
    lines = path.read_bytes().splitlines(keepends=True)
    if change == "cut":
        path.write_bytes(b"".join(lines[:-3]))
    elif change == "torn":
        path.write_bytes(b"".join(lines)[: -len(lines[-1]) - 5])
    elif change == "emptied":
        path.write_bytes(b"")
    else:
        path.unlink()
        path.with_name(path.name + ".tree").unlink()
        grow(path, 12, "another history").close()


@pytest.mark.parametrize("change", ["cut", "torn", "emptied", "forked"])
def test_a_checkpoint_detects_changes_that_the_chain_alone_cannot(tmp_path: Path, change: str) -> None:
    path = tmp_path / "l"
    ledger = grow(path, 9)
    text = ledger.checkpoint(LAB)
    ledger.close()
    grow(path, 12).close()
    assert verify(path, text, LAB.verify_key) == verify(path, text, LAB.verify_key, deep=True) == 12
    damage(path, change)
    if change == "cut":
        assert verify(path, text, LAB.verify_key) == 9
    if change in ("cut", "torn"):
        damage(path, "cut")
    verify(path)
    with pytest.raises(WitnessError, match="copy"):
        verify(path, text, LAB.verify_key)


def test_a_checkpoint_of_an_empty_ledger_and_a_checkpoint_without_a_key(tmp_path: Path) -> None:
    ledger = grow(tmp_path / "l", 0)
    empty = ledger.checkpoint(LAB)
    ledger.record("note", {})
    assert verify(ledger.path, empty, LAB.verify_key) == 1
    with pytest.raises(WitnessError, match="another root"):
        verify(ledger.path, sign_checkpoint(Checkpoint("lab", 0, bytes(32)), LAB), LAB.verify_key)
    with pytest.raises(LedgerError, match="both or neither"):
        verify(ledger.path, empty)
    with pytest.raises(LedgerError, match="no ledger"):
        verify(tmp_path / "none", empty, LAB.verify_key)


# witnesses


def test_a_witness_accepts_checkpoints_that_extend_the_last_one(tmp_path: Path) -> None:
    witness = Witness(tmp_path / "w")
    assert witness.newest(LAB.verify_key.name) is None
    ledger = grow(tmp_path / "l", 0)
    for size in (0, 1, 1, 5, 8, 8, 13):
        ledger.close()
        ledger = grow(tmp_path / "l", size)
        newest = witness.newest(LAB.verify_key.name)
        proof = [] if newest is None else ledger.consistency(read_checkpoint(newest, LAB.verify_key).size)
        text = ledger.checkpoint(LAB)
        assert witness.accept(text, LAB.verify_key, proof).size == size
        assert Witness(tmp_path / "w").newest(LAB.verify_key.name) == text
    assert witness.conflicts(LAB.verify_key.name) == []


Conflict = Callable[[Path], tuple[str, SigningKey, list[str]]]


def roll_back(folder: Path) -> tuple[str, SigningKey, list[str]]:
    return grow(folder / "old", 0).checkpoint(LAB), LAB, []


def cut_and_regrow(folder: Path) -> tuple[str, SigningKey, list[str]]:
    damage(folder / "l", "cut")
    ledger = grow(folder / "l", 7, "another end")
    return ledger.checkpoint(LAB), LAB, []


def fork_and_grow(folder: Path) -> tuple[str, SigningKey, list[str]]:
    other = grow(folder / "other", 9, "another history")
    return other.checkpoint(LAB), LAB, other.consistency(7)


def grow_without_proof(folder: Path) -> tuple[str, SigningKey, list[str]]:
    return grow(folder / "l", 9).checkpoint(LAB), LAB, ["zz" * 32]


def change_key(folder: Path) -> tuple[str, SigningKey, list[str]]:
    ledger, key = grow(folder / "l", 9), SigningKey.from_seed(b"n" * 32, LAB.verify_key.name)
    return ledger.checkpoint(key), key, ledger.consistency(7)


@pytest.mark.parametrize(
    ("conflict", "why"),
    [
        (roll_back, "rollback"),
        (cut_and_regrow, "split view"),
        (fork_and_grow, "split view"),
        (grow_without_proof, "split view"),
        (change_key, "key changed"),
    ],
)
def test_a_witness_rejects_a_conflicting_checkpoint_and_stores_both(tmp_path: Path, conflict: Conflict, why: str) -> None:
    witness = Witness(tmp_path / "w")
    ledger = grow(tmp_path / "l", 7)
    accepted = ledger.checkpoint(LAB)
    ledger.close()
    witness.accept(accepted, LAB.verify_key)
    text, key, proof = conflict(tmp_path)
    for _ in range(2):
        with pytest.raises(WitnessError, match=why):
            witness.accept(text, key.verify_key, proof)
    assert witness.newest(LAB.verify_key.name) == accepted
    (evidence,) = witness.conflicts(LAB.verify_key.name)
    stored = json.loads(evidence.read_text())
    assert (stored["kept"], stored["shown"]) == (accepted, text)
    assert why in stored["why"]
    read_checkpoint(stored["kept"], LAB.verify_key)
    read_checkpoint(stored["shown"], key.verify_key)


def test_a_witness_rejects_another_origin_an_invalid_signature_and_a_superfluous_proof(tmp_path: Path) -> None:
    witness = Witness(tmp_path / "w")
    ledger = grow(tmp_path / "l", 3)
    text = ledger.checkpoint(LAB)
    with pytest.raises(WitnessError, match="name of a ledger must not change"):
        witness.accept(cosign(ledger.checkpoint(AUDITOR), LAB), LAB.verify_key)
    with pytest.raises(WitnessError, match="expected a signature"):
        witness.accept(text, AUDITOR.verify_key)
    with pytest.raises(WitnessError, match="expected no proof"):
        witness.accept(text, LAB.verify_key, ledger.consistency(2))
    assert witness.newest(LAB.verify_key.name) is None
    witness.accept(text, LAB.verify_key)
    assert len(list((tmp_path / "w").iterdir())) == 2, "only the checkpoint and the lock may exist"


def test_the_number_of_stored_conflicts_is_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stagezero.ledger.witness.MAX_CONFLICTS", 3)
    witness = Witness(tmp_path / "w")
    witness.accept(grow(tmp_path / "l", 6).checkpoint(LAB), LAB.verify_key)
    for size in range(5):
        with pytest.raises(WitnessError, match="rollback"):
            witness.accept(grow(tmp_path / str(size), size).checkpoint(LAB), LAB.verify_key)
    assert len(witness.conflicts(LAB.verify_key.name)) == 3
