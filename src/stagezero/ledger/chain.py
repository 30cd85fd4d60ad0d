"""The ledger: append-only, hash-chained JSON lines that anyone can check with a hash function.

``format.py`` says what a line is and what checking it means. Times are kept out of an entry's ``hash`` on purpose: the
content chain of a run that was killed and continued equals that of an undisturbed one, and the seeds drawn from its
head are the same.

One process writes at a time (an flock says so); any number may read. A line torn by a crash was never
acknowledged: it is moved aside to ``ledger.jsonl.torn`` when the ledger is next opened for writing.
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
from stagezero.ledger.checkpoints import Checkpoint, hold_against, read_checkpoint, sign_checkpoint
from stagezero.ledger.format import GENESIS, Entries, Entry, end_of_lines, is_whole, parsed, walk, written
from stagezero.ledger.keys import SigningKey, VerifyKey
from stagezero.ledger.merkle import leaf_hash
from stagezero.ledger.tree_file import StoredTree

GOING = 2.0
"""Seconds that a writer which was just killed may take to be gone."""


def _open(path: Path) -> BinaryIO:
    if not path.exists():
        raise LedgerError(f"there is no ledger at {path}; check the path.")
    return path.open("rb", buffering=1 << 18)


def read(path: Path) -> Iterator[Entry]:
    """Read and verify entries in order.

    Raises:
        LedgerError: naming the first entry that does not verify, and why.
    """
    with _open(path) as handle:
        for seq, stored in enumerate(walk(path, handle)):
            yield parsed(path, seq, stored)


def verify(path: Path, checkpoint: str | None = None, key: VerifyKey | None = None, *, deep: bool = False) -> int:
    """Number of entries of a sound ledger.

    Without ``deep``, the stored bytes are hashed and their order is checked, which finds any change made after they were
    written; ``deep`` also parses every entry and refuses one that its writer did not store as canonical JSON.

    Args:
        path: the ledger.
        checkpoint: a signed checkpoint of it, as text: its signature must be ``key``'s, and the ledger must hold what it
            signed. A checkpoint is what shows that entries are missing at the end.
        key: whose signature the checkpoint must bear.

    Raises:
        LedgerError: as ``read``.
        WitnessError: the checkpoint's signature is wrong, or the ledger is not the one that it signed.
    """
    if (checkpoint is None) != (key is None):
        raise LedgerError("verify: a checkpoint is checked with a key; give both or neither.")
    signed: Checkpoint | None = read_checkpoint(checkpoint, key) if checkpoint is not None and key is not None else None
    with _open(path) as handle:
        lines = walk(path, handle, deep=deep)
        if signed is None:
            return sum(1 for _ in lines)
        return hold_against(path, (stored.line for stored in lines), signed)


def refuse_if_in_use(path: Path) -> None:
    """Raise if another process is writing to a ledger.

    Raises:
        LedgerError: it is.
    """
    if path.exists():
        with path.open("ab") as handle:
            _lock(handle, path)


def _lock(handle: BinaryIO, path: Path) -> None:
    end = time.monotonic() + GOING
    while True:
        try:
            return fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            if time.monotonic() > end:
                raise LedgerError(f"{path}: another process is writing to this ledger; wait for it or stop it.") from None
            time.sleep(0.05)


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
        self._handle: BinaryIO = path.open("ab+", buffering=0)
        _lock(self._handle, path)
        self.entries = Entries(path)
        self._stamp = GENESIS
        self._confirmed = 0
        self._tree: StoredTree | None = None
        try:
            self._set_torn_line_aside()
            self._tree = StoredTree(path.with_name(path.name + ".tree"), writable=True)
            self._tree.check(self._leaves())
            if not self.entries:
                with open_folder(path.parent) as folder:
                    os.fsync(folder)  # a file is not safe on disk before its name is
        except BaseException:
            self.close()
            raise

    def _leaves(self) -> Iterator[bytes]:
        """Verify every line once; note where it is, and give its leaf."""
        with self.path.open("rb", buffering=1 << 18) as handle:
            for stored in walk(self.path, handle):
                self.entries.note(stored)
                self._stamp = stored.stamp
                yield leaf_hash(stored.line)

    def _set_torn_line_aside(self) -> None:
        keep = end_of_lines(self._handle)
        self._handle.seek(keep)
        torn = self._handle.read()
        if not torn or is_whole(torn[:-1]):
            # Nothing is torn; or a complete entry's newline was overwritten, which is damage: reading will say so.
            return
        with self.path.with_name(self.path.name + ".torn").open("ab") as aside:
            aside.write(torn + b"\n")
        self._handle.truncate(keep)
        os.fsync(self._handle.fileno())

    @property
    def head(self) -> str:
        """Content hash of the last entry that this run has confirmed or appended."""
        return self.entries.hash_of(self._confirmed - 1) if self._confirmed else GENESIS

    @property
    def replaying(self) -> bool:
        """True while the entries asked for are already there."""
        return self._confirmed < len(self.entries)

    @property
    def upcoming(self) -> Entry | None:
        """The entry that is asked for next, where it is already there; None beyond the end."""
        return self.entries[self._confirmed] if self.replaying else None

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
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        stored = written(content, now, self._stamp)
        self._append(stored.line + b"\n")
        entry = Entry(self._confirmed, kind, json.loads(canonical(body)), self.head, hash_, now)
        self._stamp = stored.stamp
        self.entries.note(stored)
        self._proofs.append(leaf_hash(stored.line))
        self._confirmed += 1
        return entry

    def _append(self, line: bytes) -> None:
        """Write a line and sync it; if that fails, the file is as it was, and if not even that can be had, nothing more is written."""
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
        """Number of entries that are there, confirmed by this run or not."""
        return len(self.entries)

    @property
    def root(self) -> bytes:
        """The root of the Merkle tree over all lines."""
        return self._proofs.root()

    def checkpoint(self, key: SigningKey) -> str:
        """A signed checkpoint of all that is there; its origin is the key's name."""
        return sign_checkpoint(self, key)

    def consistency(self, size: int) -> list[str]:
        """The proof, as hex, that the ledger as it is now extends its first ``size`` entries.

        Raises:
            LedgerError: it never had as many.
        """
        if not 0 <= size <= self.size:
            raise LedgerError(f"{self.path}: expected a size of at most {self.size}, got {size}; was this ledger cut short?")
        return [hash_.hex() for hash_ in self._proofs.consistency(size)]

    def close(self) -> None:
        """Let others write. Entries can still be read."""
        self._handle.close()
        if self._tree is not None:
            self._tree.close()
