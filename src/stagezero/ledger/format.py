"""The form of a ledger's lines, and the walk over them that checks every byte.

One line is ``{"entry":{…},"hash":"…","time":"…","stamp":"…"}``. ``entry`` is canonical JSON (RFC 8785) with its body,
kind, the previous entry's hash and its number, in that order; ``hash`` is SHA-256 of the stored entry bytes.
``stamp`` chains hash and time in the same way.

The walk hashes what is stored and compares both ends of it with the only bytes that may stand there: an entry ends in
``,"prev":"…","seq":N}``. It therefore needs no parsing, and any changed byte is found. What it leaves open is whether the
*writer* stored canonical JSON in the first place; a ``deep`` walk parses every entry and writes it anew to see.
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
_TIME_LENGTH = len("2026-01-01T00:00:00.000000Z")
_TIME_FORM = re.compile(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")
_SUFFIX = len(_HASH) + 64 + len(_TIME) + _TIME_LENGTH + len(_STAMP) + 64 + len(_TAIL)
_TIME_AT = len(_HASH) + 64 + len(_TIME)
_SEQ = b'","seq":'


@dataclass(frozen=True, slots=True)
class Entry:
    """One verified entry."""

    seq: int
    kind: str
    body: dict[str, Any]
    prev: str
    hash: str
    time: str


class Stored(NamedTuple):
    """One checked line: without its newline, its entry's bytes, and what it adds to the two chains."""

    line: bytes
    content: bytes
    hash: str
    time: str
    stamp: str


def written(content: bytes, time: str, stamp: str) -> Stored:
    """The line that holds an entry's canonical bytes, after a line whose stamp was ``stamp``."""
    hash_ = hashlib.sha256(content).hexdigest()
    new = hashlib.sha256(f"{stamp}{hash_}{time}".encode()).hexdigest()
    line = b"".join((_HEAD, content, _HASH, hash_.encode(), _TIME, time.encode(), _STAMP, new.encode(), _TAIL))
    return Stored(line, content, hash_, time, new)


def walk(path: Path, handle: BinaryIO, *, deep: bool = False) -> Iterator[Stored]:
    """Check the lines of an open ledger from its start, in order.

    Raises:
        LedgerError: naming the first entry that does not verify, and why.
    """
    previous, stamp, sha256, head, cut_head = GENESIS, GENESIS, hashlib.sha256, _HEAD, len(_HEAD)
    for seq, raw in enumerate(handle):
        cut = len(raw) - _SUFFIX - 1
        content = raw[cut_head:cut]
        time = raw[cut + _TIME_AT : cut + _TIME_AT + _TIME_LENGTH]
        hash_ = sha256(content).hexdigest().encode()
        new = sha256(stamp.encode() + hash_ + time).hexdigest()
        if not (
            cut >= cut_head
            and raw.endswith(b',"hash":"%b","time":"%b","stamp":"%b"}\n' % (hash_, time, new.encode()))
            and raw.startswith(head)
            and time.isascii()
        ):
            raise _bad(path, seq, _why(raw))
        if not content.endswith(b',"prev":"%b","seq":%d}' % (previous.encode(), seq)):
            raise _bad(path, seq, "it does not follow the entry before it")
        if deep and _TIME_FORM.fullmatch(time) is None:
            raise _bad(path, seq, "its time is not written as times are")
        previous, stamp = hash_.decode(), new
        found = Stored(raw[:-1], content, previous, time.decode(), new)
        if deep and _rewritten(path, seq, found) != content:
            raise _bad(path, seq, "its bytes are not canonical JSON")
        yield found


def _bad(path: Path, seq: int, why: str) -> LedgerError:
    return LedgerError(f"{path}: entry {seq} does not verify: {why}; restore the file from a copy, entries before it are sound.")


def _why(raw: bytes) -> str:
    if not raw.endswith(b"\n"):
        return "it is incomplete"
    cut = len(raw) - 1 - _SUFFIX
    suffix, at = raw[cut:-1], 0
    if cut < len(_HEAD) or not raw.startswith(_HEAD):
        return "it is not a ledger line"
    for frame, size in ((_HASH, 64), (_TIME, _TIME_LENGTH), (_STAMP, 64), (_TAIL, 0)):
        if suffix[at : at + len(frame)] != frame or not suffix[at + len(frame) : at + len(frame) + size].isascii():
            return "it is not a ledger line"
        at += len(frame) + size
    if hashlib.sha256(raw[len(_HEAD) : cut]).hexdigest().encode() != suffix[len(_HASH) : len(_HASH) + 64]:
        return "its bytes do not match its hash"
    return "its time or its stamp was changed"


def _integer(text: str) -> int | float:
    # Canonical JSON writes a large float without a point; as an integer it could not be written again.
    return int(text) if len(text) < 16 else float(text) if abs(float(text)) >= 2**53 else int(text)


def _rewritten(path: Path, seq: int, stored: Stored) -> bytes:
    try:
        entry = json.loads(stored.content, parse_int=_integer)
        whole = set(entry) == {"seq", "kind", "body", "prev"} and isinstance(entry["kind"], str) and isinstance(entry["body"], dict)
        return canonical(entry) if whole else b""
    except (ValueError, TypeError, RecursionError, OverflowError):
        raise _bad(path, seq, "its bytes are not canonical JSON") from None


def parsed(path: Path, seq: int, stored: Stored) -> Entry:
    """The entry of a checked line.

    Raises:
        LedgerError: its writer stored something else than an entry.
    """
    try:
        entry = json.loads(stored.content)
        kind, body, prev = entry["kind"], entry["body"], entry["prev"]
    except (ValueError, TypeError, KeyError, RecursionError):
        raise _bad(path, seq, "it is not an entry") from None
    if not isinstance(kind, str) or not isinstance(body, dict):
        raise _bad(path, seq, "it is not an entry")
    return Entry(seq, kind, body, prev, stored.hash, stored.time)


def is_whole(line: bytes) -> bool:
    """Whether a line without its newline carries the hash of its own entry."""
    cut = len(line) - _SUFFIX
    if cut < len(_HEAD) or not line.startswith(_HEAD):
        return False
    return line[cut : cut + len(_HASH) + 64] == _HASH + hashlib.sha256(line[len(_HEAD) : cut]).hexdigest().encode()


def number_of(path: Path, line: bytes) -> int:
    """The number that a line says it has.

    Raises:
        LedgerError: it says none.
    """
    end = len(line) - _SUFFIX
    at = line.rfind(_SEQ, 0, max(end, 0))
    digits = line[at + len(_SEQ) : end - 1]
    if at < 0 or not 0 < len(digits) < 16 or not digits.isdigit() or line[end - 1 : end] != b"}":
        raise LedgerError(f"{path}: a line of it is not a ledger line; run `stagezero ledger verify` to see which.")
    return int(digits)


def end_of_lines(handle: BinaryIO) -> int:
    """Where the last complete line of an open file ends; what follows was torn by a crash, or is being written now."""
    end = handle.seek(0, os.SEEK_END)
    while end > 0:
        start = max(0, end - (1 << 16))
        handle.seek(start)
        at = handle.read(end - start).rfind(b"\n")
        if at >= 0:
            return start + at + 1
        end = start
    return 0


class Entries(Sequence[Entry]):
    """The entries of a checked ledger, read from the file when they are asked for: a long ledger costs 40 bytes an entry."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._ends = array("Q")
        self._hashes = bytearray()

    def note(self, stored: Stored) -> None:
        """Count in a line that was checked or appended just now."""
        self._ends.append((self._ends[-1] if self._ends else 0) + len(stored.line) + 1)
        self._hashes += bytes.fromhex(stored.hash)

    def hash_of(self, seq: int) -> str:
        """The content hash of an entry, without reading the file."""
        return self._hashes[32 * seq : 32 * seq + 32].hex()

    def __len__(self) -> int:
        return len(self._ends)

    def _read(self, handle: BinaryIO, seq: int) -> Entry:
        start = self._ends[seq - 1] if seq else 0
        handle.seek(start)
        line = handle.read(self._ends[seq] - start - 1)
        cut = len(line) - _SUFFIX
        content, hash_ = line[len(_HEAD) : max(cut, 0)], self.hash_of(seq)
        if hashlib.sha256(content).hexdigest() != hash_:
            raise _bad(self._path, seq, "it was changed while the ledger was open")
        time = line[cut + _TIME_AT : cut + _TIME_AT + _TIME_LENGTH].decode("ascii", errors="replace")
        return parsed(self._path, seq, Stored(line, content, hash_, time, ""))

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
        wanted = range(len(self))[index]
        with self._path.open("rb") as handle:
            return self._read(handle, wanted) if isinstance(wanted, int) else [self._read(handle, seq) for seq in wanted]
