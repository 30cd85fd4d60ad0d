"""The ledger: every byte of every entry counts, torn lines are set aside, a replay confirms or refuses."""

from __future__ import annotations

from pathlib import Path

import pytest

from stagezero.errors import LedgerError
from stagezero.ledger import Ledger, canonical, read, verify


@pytest.fixture
def path(tmp_path: Path) -> Path:
    ledger = Ledger(tmp_path / "ledger.jsonl")
    for i in range(5):
        ledger.record("note", {"i": i, "text": "ä" * i, "x": 0.1 * i})
    ledger.close()
    return ledger.path


def test_round_trip(path: Path) -> None:
    assert verify(path) == 5
    assert [e.body["i"] for e in read(path)] == list(range(5))


def test_any_flipped_byte_is_found_and_its_entry_named(path: Path) -> None:
    data = path.read_bytes()
    starts = [0, *(i + 1 for i, b in enumerate(data[:-1]) if b == 10)]
    for at in range(len(data)):
        entry = sum(s <= at for s in starts) - 1
        for flip in (1, 0x80):
            damaged = bytearray(data)
            damaged[at] ^= flip
            path.write_bytes(bytes(damaged))
            with pytest.raises(LedgerError, match=f"entry {entry} does not verify"):
                verify(path)


def test_a_removed_entry_is_found(path: Path) -> None:
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:2] + lines[3:]))
    with pytest.raises(LedgerError, match="entry 2"):
        verify(path)


def test_a_torn_line_is_set_aside_and_the_run_goes_on(path: Path) -> None:
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"entry":{"seq":5,"ki')
    with pytest.raises(LedgerError, match="incomplete"):
        verify(path)
    ledger = Ledger(path)
    ledger.close()
    assert path.read_bytes() == whole
    assert b'"ki' in path.with_name("ledger.jsonl.torn").read_bytes()


def test_a_replay_confirms_then_appends_and_content_hashes_ignore_the_clock(path: Path, tmp_path: Path) -> None:
    again = Ledger(path)
    for i in range(5):
        again.record("note", {"i": i, "text": "ä" * i, "x": 0.1 * i})
    again.record("note", {"new": True})
    again.close()
    other = Ledger(tmp_path / "other.jsonl")
    for i in range(5):
        other.record("note", {"i": i, "text": "ä" * i, "x": 0.1 * i})
    other.record("note", {"new": True})
    assert other.head == again.head
    assert verify(path) == 6


def test_a_replay_that_would_say_something_else_is_refused(path: Path) -> None:
    ledger = Ledger(path)
    with pytest.raises(LedgerError, match="start anew with --fresh"):
        ledger.record("note", {"i": 99})


def test_one_writer_at_a_time(path: Path) -> None:
    first = Ledger(path)
    with pytest.raises(LedgerError, match="another process"):
        Ledger(path)
    first.close()


def test_canonical_json_is_one_string_for_one_value() -> None:
    assert canonical({"b": 1, "a": 1.0}) == canonical({"a": 1, "b": 1.0}) == b'{"a":1,"b":1}'
