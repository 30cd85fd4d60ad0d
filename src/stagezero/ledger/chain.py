"""The ledger: append-only, hash-chained JSON lines that anyone can check with a hash function.

One line is ``{"entry":{…},"hash":"…","time":"…","stamp":"…"}``. ``entry`` is canonical JSON (RFC 8785) with its number, kind,
body and the previous entry's hash; ``hash`` is SHA-256 of the stored entry bytes. ``stamp`` chains hash and time in
the same way. Times are kept out of ``hash`` on purpose: the content chain of a run that was killed and continued equals that of an
undisturbed one, and the seeds drawn from its head are the same.

One process writes at a time (an flock says so); any number may read. A line torn by a crash was never
acknowledged: it is moved aside to ``ledger.jsonl.torn`` when the ledger is next opened for writing.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

from stagezero.errors import LedgerError
from stagezero.ledger.canonical import canonical

GENESIS = "0" * 64
_HEAD, _HASH, _TIME, _STAMP, _TAIL = b'{"entry":', b',"hash":"', b'","time":"', b'","stamp":"', b'"}'
_TIME_LENGTH = len("2026-01-01T00:00:00.000000Z")
_SUFFIX = len(_HASH) + 64 + len(_TIME) + _TIME_LENGTH + len(_STAMP) + 64 + len(_TAIL)


@dataclass(frozen=True, slots=True)
class Entry:
    """One verified entry."""

    seq: int
    kind: str
    body: dict[str, Any]
    prev: str
    hash: str
    time: str


def _stamp(previous: str, hash_: str, time: str) -> str:
    return hashlib.sha256(f"{previous}{hash_}{time}".encode()).hexdigest()


def _split(line: bytes) -> tuple[bytes, str, str, str]:
    """(entry bytes, hash, time, stamp) of a line without its newline.

    Raises:
        ValueError: the line does not have the one permitted shape.
    """
    cut = len(line) - _SUFFIX
    if cut < len(_HEAD) or not line.startswith(_HEAD):
        raise ValueError("it is not a ledger line")
    entry, suffix = line[len(_HEAD) : cut], line[cut:]
    found = []
    at = 0
    for frame, size in ((_HASH, 64), (_TIME, _TIME_LENGTH), (_STAMP, 64)):
        if suffix[at : at + len(frame)] != frame:
            raise ValueError("it is not a ledger line")
        at += len(frame)
        found.append(suffix[at : at + size].decode("ascii"))
        at += size
    if suffix[at:] != _TAIL:
        raise ValueError("it is not a ledger line")
    return entry, found[0], found[1], found[2]


def read(path: Path) -> Iterator[Entry]:
    """Read and verify entries in order.

    Raises:
        LedgerError: naming the first entry that does not verify, and why.
    """
    previous, stamp = GENESIS, GENESIS
    if not path.exists():
        raise LedgerError(f"there is no ledger at {path}; check the path.")
    with path.open("rb") as handle:
        for seq, raw in enumerate(handle):

            def bad(why: str, seq: int = seq) -> LedgerError:
                return LedgerError(
                    f"{path}: entry {seq} does not verify: {why}; restore the file from a copy, entries before it are sound."
                )

            if not raw.endswith(b"\n"):
                raise bad("it is incomplete")
            try:
                content, hash_, time, found_stamp = _split(raw[:-1])
            except ValueError as error:
                raise bad(str(error)) from None
            if hashlib.sha256(content).hexdigest() != hash_:
                raise bad("its bytes do not match its hash")
            if _stamp(stamp, hash_, time) != found_stamp:
                raise bad("its time or its stamp was changed")
            entry = json.loads(content)
            if entry["prev"] != previous or entry["seq"] != seq:
                raise bad("it does not follow the entry before it")
            yield Entry(seq, entry["kind"], entry["body"], entry["prev"], hash_, time)
            previous, stamp = hash_, found_stamp


def verify(path: Path) -> int:
    """Number of entries of a sound ledger.

    Raises:
        LedgerError: as ``read``.
    """
    return sum(1 for _ in read(path))


def refuse_if_in_use(path: Path) -> None:
    """Raise if another process is writing to a ledger.

    Raises:
        LedgerError: it is.
    """
    if path.exists():
        with path.open("ab") as handle:
            _lock(handle, path)


def _lock(handle: BinaryIO, path: Path) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise LedgerError(f"{path}: another process is writing to this ledger; wait for it or stop it.") from None


class Ledger:
    """A ledger open for writing.

    A campaign is a deterministic function of its project: run again, it asks for the same entries in the same
    order. ``record`` therefore confirms an entry that is already there and appends only beyond the end; anything else
    is refused. That is how a killed run continues.
    """

    def __init__(self, path: Path) -> None:
        """Open or create; verifies everything that is there.

        Raises:
            LedgerError: it does not verify, or another process is writing to it.
        """
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._handle: BinaryIO = path.open("ab+")
        _lock(self._handle, path)
        self._set_torn_line_aside()
        self.entries = list(read(path))
        self._stamp = GENESIS
        for entry in self.entries:
            self._stamp = _stamp(self._stamp, entry.hash, entry.time)
        self._confirmed = 0

    def _set_torn_line_aside(self) -> None:
        data = self.path.read_bytes()
        if not data or data.endswith(b"\n"):
            return
        keep = data.rfind(b"\n") + 1
        torn = data[keep:]
        try:
            content, hash_, _, _ = _split(torn[:-1])
            whole = hashlib.sha256(content).hexdigest() == hash_
        except ValueError:
            whole = False
        if whole:
            # A complete entry whose newline was overwritten is damage, not a torn write: reading will say so.
            return
        with self.path.with_name(self.path.name + ".torn").open("ab") as aside:
            aside.write(torn + b"\n")
        self._handle.truncate(keep)
        os.fsync(self._handle.fileno())

    @property
    def head(self) -> str:
        """Content hash of the last entry that this run has confirmed or appended."""
        return self.entries[self._confirmed - 1].hash if self._confirmed else GENESIS

    @property
    def replaying(self) -> bool:
        """True while the entries asked for are already there."""
        return self._confirmed < len(self.entries)

    def catch_up(self) -> None:
        """Confirm everything that is there: for a writer that appends as things happen and never replays."""
        self._confirmed = len(self.entries)

    def record(self, kind: str, body: dict[str, Any]) -> Entry:
        """Confirm the next entry, or append it durably.

        Raises:
            LedgerError: the entry that is already there says something else.
        """
        content = canonical({"seq": self._confirmed, "kind": kind, "body": body, "prev": self.head})
        hash_ = hashlib.sha256(content).hexdigest()
        if self.replaying:
            found = self.entries[self._confirmed]
            if found.hash != hash_:
                raise LedgerError(
                    f"{self.path}: entry {found.seq} ({found.kind}) is not what this run would write ({kind}); the code or the "
                    "inputs changed under a half-finished run: start anew with --fresh."
                )
            self._confirmed += 1
            return found
        time = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        stamp = _stamp(self._stamp, hash_, time)
        line = _HEAD + content + _HASH + hash_.encode() + _TIME + time.encode() + _STAMP + stamp.encode() + _TAIL + b"\n"
        self._handle.write(line)
        self._handle.flush()
        os.fsync(self._handle.fileno())
        self._stamp = stamp
        entry = Entry(self._confirmed, kind, json.loads(canonical(body)), self.head, hash_, time)
        self.entries.append(entry)
        self._confirmed += 1
        return entry

    def close(self) -> None:
        self._handle.close()
