"""The ledger: changed bytes are detected, torn lines are set aside, and a replay is verified.

Covers: ledger/canonical.py, ledger/format.py.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stagezero.errors import LedgerError
from stagezero.ledger import Entry, Ledger, canonical, digest, digest_of_texts, read, verify
from stagezero.ledger.format import GENESIS, make_line


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


@pytest.mark.parametrize("deep", [False, True])
def test_any_flipped_byte_is_detected_and_its_entry_named(path: Path, deep: bool) -> None:
    data = path.read_bytes()
    starts = [0, *(i + 1 for i, b in enumerate(data[:-1]) if b == 10)]
    for position in range(len(data)):
        entry = sum(s <= position for s in starts) - 1
        for flip in (1, 0x80):
            damaged = bytearray(data)
            damaged[position] ^= flip
            path.write_bytes(bytes(damaged))
            with pytest.raises(LedgerError, match=f"entry {entry} does not verify"):
                verify(path, deep=deep)


def test_a_removed_entry_is_detected(path: Path) -> None:
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:2] + lines[3:]))
    with pytest.raises(LedgerError, match="entry 2"):
        verify(path)


def test_a_torn_line_is_set_aside_and_the_ledger_remains_usable(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content + b'{"entry":{"seq":5,"ki')
    with pytest.raises(LedgerError, match="incomplete"):
        verify(path)
    ledger = Ledger(path)
    ledger.close()
    assert path.read_bytes() == content
    assert b'"ki' in path.with_name("ledger.jsonl.torn").read_bytes()


def test_a_replay_confirms_entries_then_appends_and_hashes_do_not_depend_on_the_time(path: Path, tmp_path: Path) -> None:
    replayed = Ledger(path)
    for i in range(5):
        replayed.record("note", {"i": i, "text": "ä" * i, "x": 0.1 * i})
    replayed.record("note", {"new": True})
    replayed.close()
    other = Ledger(tmp_path / "other.jsonl")
    for i in range(5):
        other.record("note", {"i": i, "text": "ä" * i, "x": 0.1 * i})
    other.record("note", {"new": True})
    assert other.head == replayed.head
    assert verify(path) == 6


def test_a_replay_that_differs_is_rejected(path: Path) -> None:
    ledger = Ledger(path)
    with pytest.raises(LedgerError, match="start anew with --fresh"):
        ledger.record("note", {"i": 99})


def test_a_second_writer_is_rejected(path: Path) -> None:
    first = Ledger(path)
    with pytest.raises(LedgerError, match="another process"):
        Ledger(path)
    first.close()


def test_equal_values_have_equal_canonical_json() -> None:
    assert canonical({"b": 1, "a": 1.0}) == canonical({"a": 1, "b": 1.0}) == b'{"a":1,"b":1}'


def write_stored(path: Path, *contents: bytes) -> Path:
    """Write a ledger with these stored bytes, and with hashes and stamps that match them."""
    stamp, lines = GENESIS, b""
    for content in contents:
        stored = make_line(content, "2026-01-01T00:00:00.000000Z", stamp)
        stamp, lines = stored.stamp, lines + stored.line + b"\n"
    path.write_bytes(lines)
    return path


def first_entry(body: str, kind: str = '"note"', extra: str = "") -> bytes:
    return f'{{"body":{body},"kind":{kind}{extra},"prev":"{GENESIS}","seq":0}}'.encode()


@pytest.mark.parametrize(
    "body",
    [
        "{}",
        '{"a":1e+21,"b":100000000000000000000,"c":9007199254740991,"d":-1e-7,"e":0}',
        '{"a":[[[null,true,"\u00e9"]]]}',
        '{"a":10000000000000000}',
    ],
)
def test_deep_verification_accepts_all_canonical_json(tmp_path: Path, body: str) -> None:
    assert verify(write_stored(tmp_path / "l", first_entry(body)), deep=True) == 1


@pytest.mark.parametrize(
    "content",
    [
        first_entry('{"b":1,"a":2}'),
        first_entry('{"a": 1}'),
        first_entry('{"a":1,"a":1}'),
        first_entry('{"a":1.0}'),
        first_entry('{"a":9007199254740993}'),
        first_entry('{"a":1e999}'),
        first_entry('{"a":NaN}'),
        first_entry('{"a":' + "1" * 5000 + "}"),
        first_entry('{"a":' + "[" * 100_000 + "]" * 100_000 + "}"),
        first_entry('{"a":"\\u0041"}'),
        first_entry("[]"),
        first_entry("{}", "1"),
        first_entry("{}", extra=',"other":1'),
        first_entry("{"),
        f'{{"kind":"note","body":{{}},"prev":"{GENESIS}","seq":0}}'.encode(),
        f'{{"body":"\xff","kind":"note","prev":"{GENESIS}","seq":0}}'.encode("latin-1"),
    ],
)
def test_non_canonical_entries_pass_by_their_bytes_but_not_deep_verification(tmp_path: Path, content: bytes) -> None:
    path = write_stored(tmp_path / "l", content)
    assert verify(path) == 1
    with pytest.raises(LedgerError, match="entry 0 does not verify: its bytes are not canonical JSON"):
        verify(path, deep=True)


@pytest.mark.parametrize(
    "content",
    [first_entry("{"), first_entry("[]"), first_entry("{}", "1"), first_entry("[" * 100_000), first_entry('{"a":' + "1" * 5000 + "}")],
    ids=lambda content: repr(content[:30]),
)
def test_content_that_is_no_entry_cannot_be_read(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(LedgerError, match="entry 0 does not verify: it is not an entry"):
        list(read(write_stored(tmp_path / "l", content)))


def test_an_entry_in_the_wrong_position_is_detected(tmp_path: Path) -> None:
    for content in (first_entry("{}").replace(b":0}", b":1}"), first_entry("{}").replace(GENESIS.encode(), b"1" * 64), b"{}"):
        with pytest.raises(LedgerError, match="entry 0 does not verify: it does not follow"):
            verify(write_stored(tmp_path / "l", content))


def test_entries_are_a_sequence_read_from_the_file(path: Path) -> None:
    ledger = Ledger(path)
    entries = ledger.entries
    assert len(entries) == ledger.size == 5 and list(entries) == list(read(path)) == [entries[i] for i in range(5)]
    assert entries[-1].body["i"] == 4 and [e.seq for e in entries[1:3]] == [1, 2]
    with pytest.raises(IndexError):
        entries[5]
    ledger.catch_up()
    new = ledger.record("note", {"i": 5, "n": 1e21})
    assert isinstance(new, Entry) and entries[5] == new
    ledger.close()
    assert entries[5] == new and bool(entries)


def test_an_entry_changed_while_the_ledger_is_open_is_not_returned(path: Path) -> None:
    ledger = Ledger(path)
    path.write_bytes(path.read_bytes().replace(b'"i":3', b'"i":7'))
    with pytest.raises(LedgerError, match="entry 3 does not verify: it was changed while"):
        list(ledger.entries)


def test_an_invalid_ledger_does_not_remain_locked(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content.replace(b'"i":3', b'"i":7'))
    with pytest.raises(LedgerError, match="entry 3"):
        Ledger(path)
    path.write_bytes(content)
    Ledger(path).close()


def test_a_long_torn_line_is_set_aside(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content + b'{"entry":' + b"x" * 300_000)
    Ledger(path).close()
    assert path.read_bytes() == content
    path.write_bytes(b"x" * 200_000)
    assert Ledger(path).size == 0 and path.read_bytes() == b""


@pytest.mark.parametrize("call", ["write", "fsync"])
def test_a_failed_write_leaves_the_ledger_unchanged(path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    ledger = Ledger(path)
    ledger.catch_up()
    before, root, write = path.read_bytes(), ledger.root, os.write

    def fail(file: int, data: bytes = b"") -> int:
        if data[:1] == b"{":
            return write(file, data[:50])
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(f"stagezero.ledger.chain.os.{call}", fail)
        with pytest.raises(OSError, match="No space"):
            ledger.record("note", {"lost": 1})
    assert path.read_bytes() == before and ledger.size == 5 and ledger.root == root
    ledger.record("note", {"second": 1})
    ledger.close()
    assert verify(path, deep=True) == 6 and Ledger(path).entries[5].body == {"second": 1}


@given(st.lists(st.lists(st.text(st.characters(exclude_categories=["Cs"])))))
def test_the_digest_of_texts_is_their_canonical_digest(rows: list[list[str]]) -> None:
    assert digest_of_texts(rows) == digest(rows)
