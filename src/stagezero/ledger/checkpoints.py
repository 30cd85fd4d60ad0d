"""Signed checkpoints: a ledger's owner states its size and root, so that it cannot later show another ledger.

A checkpoint is a signed note (C2SP signed-note and tlog-checkpoint), plain text with Unix newlines::

    origin
    size in decimal
    base64 of the root of the Merkle tree over the first size lines

    — name base64(4-byte key hash || Ed25519 signature)

The signature is over the three lines with their newlines. The origin is the name of the owner's key. A witness *cosigns*
by adding one more signature line of its own key, over the same three lines: it carries no time of its own, so it
says "I have seen this, and nothing before it that contradicts it", and no more. Extension lines are not allowed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from stagezero.errors import WitnessError
from stagezero.ledger.keys import SigningKey, VerifyKey, from_base64, to_base64
from stagezero.ledger.merkle import Frontier, leaf_hash

MOST_SIGNATURES = 16
LONGEST = 16_384
_DASH = "— "


class Rooted(Protocol):
    """What has a size and a root: an open ledger, or a view of one."""

    @property
    def size(self) -> int: ...
    @property
    def root(self) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The first ``size`` lines of the ledger named ``origin`` have this Merkle root."""

    origin: str
    size: int
    root: bytes

    def body(self) -> str:
        """The text that is signed."""
        return f"{self.origin}\n{self.size}\n{to_base64(self.root)}\n"


@dataclass(frozen=True, slots=True)
class _Signature:
    name: str
    key_hash: bytes
    signature: bytes

    def line(self) -> str:
        return f"{_DASH}{self.name} {to_base64(self.key_hash + self.signature)}\n"


def _parse(text: str) -> tuple[Checkpoint, list[_Signature]]:
    """The parts of a note, of which there is one spelling.

    Raises:
        WitnessError: it is no checkpoint.
    """

    def bad(why: str) -> WitnessError:
        return WitnessError(f"checkpoint: {why}; give the whole signed text as it was received.")

    if not isinstance(text, str) or len(text) > LONGEST:
        raise bad(f"expected a text of at most {LONGEST} characters")
    lines = text.split("\n")
    if len(lines) < 6 or lines[3] != "" or lines[-1] != "":
        raise bad("expected three lines, an empty line and one or more signature lines")
    origin, size, encoded = lines[:3]
    if not origin or not origin.isprintable():
        raise bad("expected the ledger's name in line 1")
    if not (size.isascii() and size.isdigit() and len(size) <= 15) or (size != "0" and size.startswith("0")):
        raise bad(f"expected a size in line 2, got {size!r:.40}")
    try:
        root = from_base64(encoded)
    except ValueError:
        root = b""
    if len(root) != 32:
        raise bad(f"expected base64 of a 32-byte root in line 3, got {encoded!r:.60}")
    signatures = []
    if len(lines) - 5 > MOST_SIGNATURES:
        raise bad(f"expected at most {MOST_SIGNATURES} signature lines")
    for line in lines[4:-1]:
        name, _, data = line.removeprefix(_DASH).partition(" ")
        try:
            raw = from_base64(data)
        except ValueError:
            raw = b""
        if not line.startswith(_DASH) or not name or len(raw) <= 4:
            raise bad(f"expected a signature line, got {line!r:.60}")
        signatures.append(_Signature(name, raw[:4], raw[4:]))
    return Checkpoint(origin, int(size), root), signatures


def _signed(checkpoint: Checkpoint, key: SigningKey) -> _Signature:
    return _Signature(key.verify_key.name, key.verify_key.hash, key.sign(checkpoint.body().encode()))


def sign_checkpoint(ledger: Rooted, key: SigningKey) -> str:
    """A signed checkpoint of all that a ledger holds; its origin is the key's name."""
    checkpoint = Checkpoint(key.verify_key.name, ledger.size, ledger.root)
    return f"{checkpoint.body()}\n{_signed(checkpoint, key).line()}"


def read_checkpoint(text: str, key: VerifyKey) -> Checkpoint:
    """The checkpoint that ``key`` signed, as owner or as witness. Signatures of other keys are left alone.

    Raises:
        WitnessError: it is no checkpoint, or the key did not sign it.
    """
    checkpoint, signatures = _parse(text)
    mine = [s for s in signatures if s.name == key.name and s.key_hash == key.hash]
    if not mine:
        raise WitnessError(f"checkpoint of {checkpoint.origin!r:.80}: it bears no signature of {key.name!r}; ask for one that does.")
    if not all(key.verify(s.signature, checkpoint.body().encode()) for s in mine):
        raise WitnessError(
            f"checkpoint of {checkpoint.origin!r:.80}: the signature of {key.name!r} does not verify; it was changed after signing, "
            "or another key made it."
        )
    return checkpoint


def cosign(text: str, key: SigningKey) -> str:
    """The same note with one more signature line; as it was if the key has signed it before.

    It says nothing about the signatures that are there: read the note with the owner's key first.

    Raises:
        WitnessError: it is no checkpoint, or has no room for another signature.
    """
    checkpoint, signatures = _parse(text)
    mine = _signed(checkpoint, key)
    if mine in signatures:
        return text
    if len(signatures) >= MOST_SIGNATURES:
        raise WitnessError(
            f"checkpoint of {checkpoint.origin!r:.80}: it has {len(signatures)} signatures already; cosign it as its owner sent it."
        )
    return text + mine.line()


def hold_against(path: Path, lines: Iterable[bytes], checkpoint: Checkpoint) -> int:
    """Number of lines, all of them read; the first of them must be those that a checkpoint speaks of.

    Raises:
        WitnessError: they are fewer, or others.
    """
    frontier, found = Frontier(), 0
    root = frontier.root() if checkpoint.size == 0 else b""
    for line in lines:
        found += 1
        if found <= checkpoint.size:
            frontier.add(leaf_hash(line))
            if found == checkpoint.size:
                root = frontier.root()
    who = f"{path}: a signed checkpoint of {checkpoint.origin!r:.80}"
    if found < checkpoint.size:
        raise WitnessError(f"{who} speaks of {checkpoint.size} entries and {found} are there; it was cut short, restore it from a copy.")
    if root != checkpoint.root:
        raise WitnessError(f"{who} has another root for its first {checkpoint.size} entries; entries were changed, restore it from a copy.")
    return found
