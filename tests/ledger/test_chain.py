"""The ledger: every byte of every entry counts, torn lines are set aside, a replay confirms or refuses.

Covers: ledger/canonical.py, ledger/format.py.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from stagezero.errors import LedgerError
from stagezero.ledger import Entry, Ledger, canonical, read, verify
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
def test_any_flipped_byte_is_found_and_its_entry_named(path: Path, deep: bool) -> None:
    data = path.read_bytes()
    starts = [0, *(i + 1 for i, b in enumerate(data[:-1]) if b == 10)]
    for at in range(len(data)):
        entry = sum(s <= at for s in starts) - 1
        for flip in (1, 0x80):
            damaged = bytearray(data)
            damaged[at] ^= flip
            path.write_bytes(bytes(damaged))
            with pytest.raises(LedgerError, match=f"entry {entry} does not verify"):
                verify(path, deep=deep)


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


def stored_as(path: Path, *contents: bytes) -> Path:
    """A ledger whose writer stored these bytes, with hashes and stamps that fit them."""
    stamp, lines = GENESIS, b""
    for content in contents:
        stored = make_line(content, "2026-01-01T00:00:00.000000Z", stamp)
        stamp, lines = stored.stamp, lines + stored.line + b"\n"
    path.write_bytes(lines)
    return path


def first(body: str, kind: str = '"note"', more: str = "") -> bytes:
    return f'{{"body":{body},"kind":{kind}{more},"prev":"{GENESIS}","seq":0}}'.encode()


@pytest.mark.parametrize(
    "body",
    [
        "{}",
        '{"a":1e+21,"b":100000000000000000000,"c":9007199254740991,"d":-1e-7,"e":0}',
        '{"a":[[[null,true,"\u00e9"]]]}',
        '{"a":10000000000000000}',
    ],
)
def test_deep_takes_whatever_canonical_json_can_say(tmp_path: Path, body: str) -> None:
    assert verify(stored_as(tmp_path / "l", first(body)), deep=True) == 1


@pytest.mark.parametrize(
    "content",
    [
        first('{"b":1,"a":2}'),
        first('{"a": 1}'),
        first('{"a":1,"a":1}'),
        first('{"a":1.0}'),
        first('{"a":9007199254740993}'),
        first('{"a":1e999}'),
        first('{"a":NaN}'),
        first('{"a":' + "1" * 5000 + "}"),
        first('{"a":' + "[" * 100_000 + "]" * 100_000 + "}"),
        first('{"a":"\\u0041"}'),
        first("[]"),
        first("{}", "1"),
        first("{}", more=',"other":1'),
        first("{"),
        f'{{"kind":"note","body":{{}},"prev":"{GENESIS}","seq":0}}'.encode(),
        f'{{"body":"\xff","kind":"note","prev":"{GENESIS}","seq":0}}'.encode("latin-1"),
    ],
)
def test_what_a_writer_stored_wrongly_passes_by_its_bytes_and_not_deep(tmp_path: Path, content: bytes) -> None:
    path = stored_as(tmp_path / "l", content)
    assert verify(path) == 1
    with pytest.raises(LedgerError, match="entry 0 does not verify: its bytes are not canonical JSON"):
        verify(path, deep=True)


@pytest.mark.parametrize(
    "content",
    [first("{"), first("[]"), first("{}", "1"), first("[" * 100_000), first('{"a":' + "1" * 5000 + "}")],
    ids=lambda content: repr(content[:30]),
)
def test_what_is_no_entry_cannot_be_read(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(LedgerError, match="entry 0 does not verify: it is not an entry"):
        list(read(stored_as(tmp_path / "l", content)))


def test_an_entry_out_of_its_place_is_found(tmp_path: Path) -> None:
    for content in (first("{}").replace(b":0}", b":1}"), first("{}").replace(GENESIS.encode(), b"1" * 64), b"{}"):
        with pytest.raises(LedgerError, match="entry 0 does not verify: it does not follow"):
            verify(stored_as(tmp_path / "l", content))


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


def test_an_entry_changed_while_the_ledger_is_open_is_not_given_out(path: Path) -> None:
    ledger = Ledger(path)
    path.write_bytes(path.read_bytes().replace(b'"i":3', b'"i":7'))
    with pytest.raises(LedgerError, match="entry 3 does not verify: it was changed while"):
        list(ledger.entries)


def test_a_ledger_that_does_not_verify_is_not_left_locked(path: Path) -> None:
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b'"i":3', b'"i":7'))
    with pytest.raises(LedgerError, match="entry 3"):
        Ledger(path)
    path.write_bytes(whole)
    Ledger(path).close()


def test_a_long_torn_line_is_set_aside(path: Path) -> None:
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"entry":' + b"x" * 300_000)
    Ledger(path).close()
    assert path.read_bytes() == whole
    path.write_bytes(b"x" * 200_000)
    assert Ledger(path).size == 0 and path.read_bytes() == b""


@pytest.mark.parametrize("call", ["write", "fsync"])
def test_an_entry_that_the_disk_refuses_leaves_the_ledger_as_it_was(path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    ledger = Ledger(path)
    ledger.catch_up()
    before, root, write = path.read_bytes(), ledger.root, os.write

    def refuse(file: int, data: bytes = b"") -> int:
        if data[:1] == b"{":
            return write(file, data[:50])
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(f"stagezero.ledger.chain.os.{call}", refuse)
        with pytest.raises(OSError, match="No space"):
            ledger.record("note", {"lost": 1})
    assert path.read_bytes() == before and ledger.size == 5 and ledger.root == root
    ledger.record("note", {"kept": 1})
    ledger.close()
    assert verify(path, deep=True) == 6 and Ledger(path).entries[5].body == {"kept": 1}
