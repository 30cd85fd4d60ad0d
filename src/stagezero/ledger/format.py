"""The byte format of a ledger's lines, and the walk that verifies them.

One line is ``{"entry":{…},"hash":"…","time":"…","stamp":"…"}`` and a newline. ``entry`` is
canonical JSON (RFC 8785) with four keys in this order: ``body``, ``kind``, ``prev`` (the hash of
the entry before it) and ``seq`` (its number). ``hash`` is SHA-256 of the stored bytes of the entry,
as hex. ``stamp`` is SHA-256 of the concatenated texts of the previous stamp, the hash and the time,
as hex. For the first entry, the previous hash and the previous stamp are ``GENESIS``.

The walk hashes the stored bytes and compares both ends of each line with the only bytes that are
valid there; an entry must end in ``,"prev":"…","seq":N}``. This needs no parsing and detects every
changed byte. It does not detect a *writer* that stored something other than canonical JSON in the
first place. A ``deep`` walk does: it parses every entry and serialises it again.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, overload

from stagezero.errors import LedgerError
from stagezero.ledger.canonical import canonical

GENESIS = "0" * 64
_HEAD, _HASH, _TIME, _STAMP, _TAIL = b'{"entry":', b',"hash":"', b'","time":"', b'","stamp":"', b'"}'
_TIME_BYTES = len("2026-01-01T00:00:00.000000Z")
_TIME_FORM = re.compile(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")
_SUFFIX_BYTES = len(_HASH) + 64 + len(_TIME) + _TIME_BYTES + len(_STAMP) + 64 + len(_TAIL)
_TIME_OFFSET = len(_HASH) + 64 + len(_TIME)
_SEQ = b'","seq":'
_BLOCK_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class Entry:
    """One verified entry."""

    seq: int
    kind: str
    body: dict[str, Any]
    prev: str
    hash: str
    time: str


class StoredLine(NamedTuple):
    """One verified line.

    Attributes:
        line: its bytes, without the newline.
        content: the canonical bytes of its entry.
        hash: SHA-256 of the content, as hex.
        time: when the entry was written.
        stamp: the head of the stamp chain after this line, as hex.
    """

    line: bytes
    content: bytes
    hash: str
    time: str
    stamp: str


def make_line(content: bytes, time: str, stamp: str) -> StoredLine:
    """Make the line of an entry.

    Args:
        content: the canonical bytes of the entry.
        time: UTC, in the form ``2026-01-01T00:00:00.000000Z``.
        stamp: the stamp of the line before it.
    """
    hash_ = hashlib.sha256(content).hexdigest()
    new_stamp = hashlib.sha256(f"{stamp}{hash_}{time}".encode()).hexdigest()
    line = b"".join((_HEAD, content, _HASH, hash_.encode(), _TIME, time.encode(), _STAMP, new_stamp.encode(), _TAIL))
    return StoredLine(line, content, hash_, time, new_stamp)


def walk(path: Path, handle: BinaryIO, *, deep: bool = False) -> Iterator[StoredLine]:
    """Verify the lines of an open ledger in order, from its start.

    Args:
        path: name of the ledger, for error messages.
        handle: the open file, at its start.
        deep: also require that every entry is canonical JSON and that every time has the right
            form.

    Raises:
        LedgerError: an entry does not verify; the message has the number of the first such entry
            and the reason.
    """
    previous, stamp, sha256, head, head_bytes = GENESIS, GENESIS, hashlib.sha256, _HEAD, len(_HEAD)
    for seq, raw in enumerate(handle):
        cut = len(raw) - _SUFFIX_BYTES - 1
        content = raw[head_bytes:cut]
        time = raw[cut + _TIME_OFFSET : cut + _TIME_OFFSET + _TIME_BYTES]
        hash_ = sha256(content).hexdigest().encode()
        new_stamp = sha256(stamp.encode() + hash_ + time).hexdigest()
        if not (
            cut >= head_bytes
            and raw.endswith(b',"hash":"%b","time":"%b","stamp":"%b"}\n' % (hash_, time, new_stamp.encode()))
            and raw.startswith(head)
            and time.isascii()
        ):
            raise _invalid_entry(path, seq, _reason(raw))
        if not content.endswith(b',"prev":"%b","seq":%d}' % (previous.encode(), seq)):
            raise _invalid_entry(path, seq, "it does not follow the entry before it")
        if deep and _TIME_FORM.fullmatch(time) is None:
            raise _invalid_entry(path, seq, "its time does not have the form of a time")
        previous, stamp = hash_.decode(), new_stamp
        stored = StoredLine(raw[:-1], content, previous, time.decode(), new_stamp)
        if deep and _canonical_content(path, seq, stored) != content:
            raise _invalid_entry(path, seq, "its bytes are not canonical JSON")
        yield stored


def _invalid_entry(path: Path, seq: int, reason: str) -> LedgerError:
    return LedgerError(f"{path}: entry {seq} does not verify: {reason}; restore the file from a copy, entries before it are sound.")


def _reason(raw: bytes) -> str:
    """Why a line with this content does not verify."""
    if not raw.endswith(b"\n"):
        return "it is incomplete"
    cut = len(raw) - 1 - _SUFFIX_BYTES
    suffix, at = raw[cut:-1], 0
    if cut < len(_HEAD) or not raw.startswith(_HEAD):
        return "it is not a ledger line"
    for frame, size in ((_HASH, 64), (_TIME, _TIME_BYTES), (_STAMP, 64), (_TAIL, 0)):
        if suffix[at : at + len(frame)] != frame or not suffix[at + len(frame) : at + len(frame) + size].isascii():
            return "it is not a ledger line"
        at += len(frame) + size
    if hashlib.sha256(raw[len(_HEAD) : cut]).hexdigest().encode() != suffix[len(_HASH) : len(_HASH) + 64]:
        return "its bytes do not match its hash"
    return "its time or its stamp was changed"


def _parse_integer(text: str) -> int | float:
    # Canonical JSON writes a large float without a decimal point. As a Python int it could not be
    # serialised again.
    return int(text) if len(text) < 16 else float(text) if abs(float(text)) >= 2**53 else int(text)


def _canonical_content(path: Path, seq: int, stored: StoredLine) -> bytes:
    """Parse an entry and serialise it again; empty if it does not have an entry's four fields."""
    try:
        entry = json.loads(stored.content, parse_int=_parse_integer)
        complete = set(entry) == {"seq", "kind", "body", "prev"} and isinstance(entry["kind"], str) and isinstance(entry["body"], dict)
        return canonical(entry) if complete else b""
    except (ValueError, TypeError, RecursionError, OverflowError):
        raise _invalid_entry(path, seq, "its bytes are not canonical JSON") from None


def parse_entry(path: Path, seq: int, stored: StoredLine) -> Entry:
    """Parse the entry of a verified line.

    Args:
        path: name of the ledger, for error messages.
        seq: the entry's number.

    Raises:
        LedgerError: the line contains something other than an entry, stored so by its writer.
    """
    try:
        entry = json.loads(stored.content)
        kind, body, prev = entry["kind"], entry["body"], entry["prev"]
    except (ValueError, TypeError, KeyError, RecursionError):
        raise _invalid_entry(path, seq, "it is not an entry") from None
    if not isinstance(kind, str) or not isinstance(body, dict):
        raise _invalid_entry(path, seq, "it is not an entry")
    return Entry(seq, kind, body, prev, stored.hash, stored.time)


def matches_own_hash(line: bytes) -> bool:
    """Return whether a line, without its newline, contains the hash of its own entry."""
    cut = len(line) - _SUFFIX_BYTES
    if cut < len(_HEAD) or not line.startswith(_HEAD):
        return False
    return line[cut : cut + len(_HASH) + 64] == _HASH + hashlib.sha256(line[len(_HEAD) : cut]).hexdigest().encode()


def parse_entry_number(path: Path, line: bytes) -> int:
    """Return the entry number that an unverified line states, without parsing its JSON.

    Raises:
        LedgerError: the line has no such number.
    """
    end = len(line) - _SUFFIX_BYTES
    at = line.rfind(_SEQ, 0, max(end, 0))
    digits = line[at + len(_SEQ) : end - 1]
    if at < 0 or not 0 < len(digits) < 16 or not digits.isdigit() or line[end - 1 : end] != b"}":
        raise LedgerError(f"{path}: one of its lines is not a ledger line; run `stagezero ledger verify` to see which.")
    return int(digits)


def end_of_lines(handle: BinaryIO) -> int:
    """Return the offset after the last complete line of an open file.

    The bytes after it are an incomplete line: torn by a crash, or still being written.
    """
    end = handle.seek(0, os.SEEK_END)
    while end > 0:
        start = max(0, end - _BLOCK_BYTES)
        handle.seek(start)
        at = handle.read(end - start).rfind(b"\n")
        if at >= 0:
            return start + at + 1
        end = start
    return 0


class Entries(Sequence[Entry]):
    """The entries of a verified ledger, read from the file on access.

    Uses 40 bytes of memory for each entry. Every entry is checked against its hash when it is read.
    """

    def __init__(self, path: Path) -> None:
        """Start with no entries; ``add`` them in order."""
        self._path = path
        self._ends = array("Q")
        self._hashes = bytearray()

    def add(self, stored: StoredLine) -> None:
        """Add a line that was just verified or appended."""
        self._ends.append((self._ends[-1] if self._ends else 0) + len(stored.line) + 1)
        self._hashes += bytes.fromhex(stored.hash)

    def hash_of(self, seq: int) -> str:
        """Return the content hash of an entry as hex, without reading the file."""
        return self._hashes[32 * seq : 32 * seq + 32].hex()

    def __len__(self) -> int:
        return len(self._ends)

    def _read(self, handle: BinaryIO, seq: int) -> Entry:
        start = self._ends[seq - 1] if seq else 0
        handle.seek(start)
        line = handle.read(self._ends[seq] - start - 1)
        cut = len(line) - _SUFFIX_BYTES
        content, hash_ = line[len(_HEAD) : max(cut, 0)], self.hash_of(seq)
        if hashlib.sha256(content).hexdigest() != hash_:
            raise _invalid_entry(self._path, seq, "it was changed while the ledger was open")
        time = line[cut + _TIME_OFFSET : cut + _TIME_OFFSET + _TIME_BYTES].decode("ascii", errors="replace")
        return parse_entry(self._path, seq, StoredLine(line, content, hash_, time, ""))

    def __iter__(self) -> Iterator[Entry]:
        with self._path.open("rb") as handle:
            seq = 0
            while seq < len(self):
                yield self._read(handle, seq)
                seq += 1

    @overload
    def __getitem__(self, index: int) -> Entry: ...
    @overload
    def __getitem__(self, index: slice) -> list[Entry]: ...
    def __getitem__(self, index: int | slice) -> Entry | list[Entry]:
        numbers = range(len(self))[index]
        with self._path.open("rb") as handle:
            return self._read(handle, numbers) if isinstance(numbers, int) else [self._read(handle, seq) for seq in numbers]
