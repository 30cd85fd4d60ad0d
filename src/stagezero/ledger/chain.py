"""The ledger: an append-only file of hash-chained JSON lines that anyone can verify with SHA-256.

``format.py`` specifies a line and its verification. An entry's ``hash`` does not cover its time, on
purpose: the content chain of a run that was killed and continued equals that of an undisturbed one,
and so do the seeds that are drawn from its head.

One process writes at a time, which an flock enforces; any number of processes may read. A line that
a crash left incomplete was never acknowledged to its writer. When the ledger is next opened for
writing, that line is moved to ``ledger.jsonl.torn``.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

from stagezero.errors import LedgerError
from stagezero.files import open_folder
from stagezero.ledger.canonical import canonical
from stagezero.ledger.checkpoints import Checkpoint, check_lines, read_checkpoint, sign_checkpoint
from stagezero.ledger.format import GENESIS, Entries, Entry, end_of_lines, make_line, matches_own_hash, parse_entry, walk
from stagezero.ledger.keys import SigningKey, VerifyKey
from stagezero.ledger.merkle import leaf_hash
from stagezero.ledger.tree_file import StoredTree

LOCK_WAIT_SECONDS = 2.0
"""How long to wait for the lock: a writer that was just killed may still be exiting."""
_BUFFER_BYTES = 1 << 18


def _open(path: Path) -> BinaryIO:
    if not path.exists():
        raise LedgerError(f"there is no ledger at {path}; check the path.")
    return path.open("rb", buffering=_BUFFER_BYTES)


def read(path: Path) -> Iterator[Entry]:
    """Read and verify a ledger's entries in order.

    Raises:
        LedgerError: there is no ledger, or an entry does not verify; the message has the number of
            the first such entry and the reason.
    """
    with _open(path) as handle:
        for seq, stored in enumerate(walk(path, handle)):
            yield parse_entry(path, seq, stored)


def verify(path: Path, checkpoint: str | None = None, key: VerifyKey | None = None, *, deep: bool = False) -> int:
    """Verify a ledger and return the number of its entries.

    Hashes the stored bytes and checks their order, which detects every change made after they were
    written. Only a checkpoint can show that entries at the end are missing.

    Args:
        path: the ledger.
        checkpoint: the text of a signed checkpoint of the ledger. Its signature must be by ``key``,
            and the ledger must contain the entries that it covers.
        key: the public key of the checkpoint's owner or of a witness.
        deep: also parse every entry and reject one that its writer did not store as canonical JSON.

    Raises:
        LedgerError: as ``read``, or only one of ``checkpoint`` and ``key`` is given.
        WitnessError: the checkpoint's signature does not verify, or the checkpoint is of other
            entries.
    """
    if (checkpoint is None) != (key is None):
        raise LedgerError("verify: expected a checkpoint and a key together, got one of them; give both or neither.")
    signed: Checkpoint | None = read_checkpoint(checkpoint, key) if checkpoint is not None and key is not None else None
    with _open(path) as handle:
        lines = walk(path, handle, deep=deep)
        if signed is None:
            return sum(1 for _ in lines)
        return check_lines(path, (stored.line for stored in lines), signed)


def refuse_if_in_use(path: Path) -> None:
    """Raise an error if another process is writing to a ledger.

    Raises:
        LedgerError: another process is writing to it.
    """
    if path.exists():
        with path.open("ab") as handle:
            _lock(handle, path)


def _lock(handle: BinaryIO, path: Path) -> None:
    deadline = time.monotonic() + LOCK_WAIT_SECONDS
    while True:
        try:
            return fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            if time.monotonic() > deadline:
                raise LedgerError(f"{path}: another process is writing to this ledger; wait for it or stop it.") from None
            time.sleep(0.05)


class Ledger:
    """A ledger that is open for writing.

    A campaign is a deterministic function of its project: when it runs again, it records the same
    entries in the same order. ``record`` therefore confirms an entry that is stored already,
    rejects any other entry in its place, and appends only after the last one. This is how a killed
    run continues.
    """

    def __init__(self, path: Path) -> None:
        """Open or create a ledger, and verify all of its entries.

        Raises:
            LedgerError: an entry does not verify, or another process is writing to the ledger.
        """
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._handle: BinaryIO = path.open("ab+", buffering=0)
        _lock(self._handle, path)
        self.entries = Entries(path)
        self._stamp = GENESIS
        self._confirmed = 0
        self._tree: StoredTree | None = None
        try:
            self._move_torn_line_aside()
            self._tree = StoredTree(path.with_name(path.name + ".tree"), writable=True)
            self._tree.check(self._leaves())
            if not self.entries:
                with open_folder(path.parent) as folder:
                    os.fsync(folder)  # otherwise a power cut could remove the new file's name
        except BaseException:
            self.close()
            raise

    def _leaves(self) -> Iterator[bytes]:
        """Verify every line once, add its entry, and yield its Merkle leaf."""
        with self.path.open("rb", buffering=_BUFFER_BYTES) as handle:
            for stored in walk(self.path, handle):
                self.entries.add(stored)
                self._stamp = stored.stamp
                yield leaf_hash(stored.line)

    def _move_torn_line_aside(self) -> None:
        end = end_of_lines(self._handle)
        self._handle.seek(end)
        torn = self._handle.read()
        if not torn or matches_own_hash(torn[:-1]):
            # Either no line is torn, or the newline of a complete entry was overwritten. The latter
            # is damage, which ``walk`` reports.
            return
        with self.path.with_name(self.path.name + ".torn").open("ab") as aside:
            aside.write(torn + b"\n")
        self._handle.truncate(end)
        os.fsync(self._handle.fileno())

    @property
    def head(self) -> str:
        """Content hash, as hex, of the last entry that this run confirmed or appended."""
        return self.entries.hash_of(self._confirmed - 1) if self._confirmed else GENESIS

    @property
    def replaying(self) -> bool:
        """Whether the next entry to be recorded is stored already."""
        return self._confirmed < len(self.entries)

    @property
    def upcoming(self) -> Entry | None:
        """The stored entry that ``record`` must confirm next; None if it will append."""
        return self.entries[self._confirmed] if self.replaying else None

    def catch_up(self) -> None:
        """Confirm all stored entries, for a writer that only appends and never replays."""
        self._confirmed = len(self.entries)

    def record(self, kind: str, body: dict[str, Any]) -> Entry:
        """Confirm the next entry if it is stored already; otherwise append it and sync it to disk.

        Args:
            kind: the kind of entry.
            body: its content, as plain JSON data.

        Raises:
            LedgerError: another entry is stored in its place.
            OSError: it cannot be written; the file is then as before.
        """
        content = canonical({"seq": self._confirmed, "kind": kind, "body": body, "prev": self.head})
        hash_ = hashlib.sha256(content).hexdigest()
        if self.replaying:
            confirmed = self.entries[self._confirmed]
            if confirmed.hash != hash_:
                raise LedgerError(
                    f"{self.path}: entry {confirmed.seq} ({confirmed.kind}) differs from the entry that this run would write ({kind}). "
                    "The code or the inputs of a half-finished run were changed; start anew with --fresh."
                )
            self._confirmed += 1
            return confirmed
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        stored = make_line(content, now, self._stamp)
        self._append(stored.line + b"\n")
        entry = Entry(self._confirmed, kind, json.loads(canonical(body)), self.head, hash_, now)
        self._stamp = stored.stamp
        self.entries.add(stored)
        self._proofs.append(leaf_hash(stored.line))
        self._confirmed += 1
        return entry

    def _append(self, line: bytes) -> None:
        """Write a line and sync it to disk.

        If that fails, truncate the file to its old size. If that fails too, close the ledger, so
        that no further line can be written.
        """
        file = self._handle.fileno()
        end = os.fstat(file).st_size
        try:
            done = 0
            while done < len(line):
                done += os.write(file, line[done:])
            os.fsync(file)
        except BaseException:
            try:
                os.ftruncate(file, end)
            except OSError:
                self.close()
            raise

    @property
    def _proofs(self) -> StoredTree:
        assert self._tree is not None, "made in __init__"
        return self._tree

    @property
    def size(self) -> int:
        """Number of stored entries, confirmed by this run or not."""
        return len(self.entries)

    @property
    def root(self) -> bytes:
        """The root hash of the Merkle tree over all lines, 32 bytes."""
        return self._proofs.root()

    def checkpoint(self, key: SigningKey) -> str:
        """Sign a checkpoint of all stored entries; its origin is the key's name."""
        return sign_checkpoint(self, key)

    def consistency(self, size: int) -> list[str]:
        """Return the consistency proof, as hex, from the first ``size`` entries to all entries.

        Raises:
            LedgerError: the ledger has fewer than ``size`` entries.
        """
        if not 0 <= size <= self.size:
            raise LedgerError(f"{self.path}: expected a size of at most {self.size}, got {size}; was this ledger cut short?")
        return [hash_.hex() for hash_ in self._proofs.consistency(size)]

    def close(self) -> None:
        """Release the lock, so that another process can write. Entries can still be read."""
        self._handle.close()
        if self._tree is not None:
            self._tree.close()
