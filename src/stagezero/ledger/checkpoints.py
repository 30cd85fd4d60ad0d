"""Signed checkpoints: the owner of a ledger states its size and root.

An owner that has signed a checkpoint cannot later present another ledger without being detected.

A checkpoint is a signed note (C2SP signed-note and tlog-checkpoint), plain text with Unix
newlines::

    origin
    size in decimal
    base64 of the root of the Merkle tree over the first size lines

    — name base64(4-byte key hash || Ed25519 signature)

The signature covers the three lines with their newlines. The origin is the name of the owner's key.
A witness *cosigns* a checkpoint by adding a signature line of its own key, over the same three
lines. A cosignature contains no time of its own. It states only that the witness has received this
checkpoint and, before it, none that contradicts it. Extension lines are rejected.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from stagezero.errors import WitnessError
from stagezero.ledger.keys import SigningKey, VerifyKey, from_base64, to_base64
from stagezero.ledger.merkle import Frontier, leaf_hash

MAX_SIGNATURES = 16
MAX_CHECKPOINT_CHARS = 16_384
_DASH = "— "


class HasRoot(Protocol):
    """A ledger, or a view of one: a number of lines and the root over them."""

    @property
    def size(self) -> int:
        """Number of lines."""
        ...

    @property
    def root(self) -> bytes:
        """The root hash over them, 32 bytes."""
        ...


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A statement that the first ``size`` lines of the ledger ``origin`` have this Merkle root."""

    origin: str
    size: int
    root: bytes

    def body(self) -> str:
        """Return the text that a signature covers."""
        return f"{self.origin}\n{self.size}\n{to_base64(self.root)}\n"


@dataclass(frozen=True, slots=True)
class _Signature:
    name: str
    key_hash: bytes
    signature: bytes

    def line(self) -> str:
        return f"{_DASH}{self.name} {to_base64(self.key_hash + self.signature)}\n"


def _parse(text: str) -> tuple[Checkpoint, list[_Signature]]:
    """Parse a checkpoint, of which only one spelling is valid.

    Raises:
        WitnessError: the text is not a checkpoint.
    """

    def invalid(reason: str) -> WitnessError:
        return WitnessError(f"checkpoint: {reason}; give the whole signed text as it was received.")

    if not isinstance(text, str) or len(text) > MAX_CHECKPOINT_CHARS:
        raise invalid(f"expected a text of at most {MAX_CHECKPOINT_CHARS} characters")
    lines = text.split("\n")
    if len(lines) < 6 or lines[3] != "" or lines[-1] != "":
        raise invalid("expected three lines, an empty line and one or more signature lines")
    origin, size, encoded = lines[:3]
    if not origin or not origin.isprintable():
        raise invalid("expected the ledger's name in line 1")
    if not (size.isascii() and size.isdigit() and len(size) <= 15) or (size != "0" and size.startswith("0")):
        raise invalid(f"expected a size in line 2, got {size!r:.40}")
    try:
        root = from_base64(encoded)
    except ValueError:
        root = b""
    if len(root) != 32:
        raise invalid(f"expected base64 of a 32-byte root in line 3, got {encoded!r:.60}")
    signatures = []
    if len(lines) - 5 > MAX_SIGNATURES:
        raise invalid(f"expected at most {MAX_SIGNATURES} signature lines")
    for line in lines[4:-1]:
        name, _, data = line.removeprefix(_DASH).partition(" ")
        try:
            raw = from_base64(data)
        except ValueError:
            raw = b""
        if not line.startswith(_DASH) or not name or len(raw) <= 4:
            raise invalid(f"expected a signature line, got {line!r:.60}")
        signatures.append(_Signature(name, raw[:4], raw[4:]))
    return Checkpoint(origin, int(size), root), signatures


def _signed(checkpoint: Checkpoint, key: SigningKey) -> _Signature:
    return _Signature(key.verify_key.name, key.verify_key.hash, key.sign(checkpoint.body().encode()))


def sign_checkpoint(ledger: HasRoot, key: SigningKey) -> str:
    """Sign a checkpoint of a whole ledger; its origin is the key's name."""
    checkpoint = Checkpoint(key.verify_key.name, ledger.size, ledger.root)
    return f"{checkpoint.body()}\n{_signed(checkpoint, key).line()}"


def read_checkpoint(text: str, key: VerifyKey) -> Checkpoint:
    """Verify a checkpoint that ``key`` signed, as owner or as witness, and return it.

    Signatures of other keys are ignored.

    Raises:
        WitnessError: the text is not a checkpoint, or it has no valid signature of the key.
    """
    checkpoint, signatures = _parse(text)
    own = [s for s in signatures if s.name == key.name and s.key_hash == key.hash]
    if not own:
        raise WitnessError(
            f"checkpoint of {checkpoint.origin!r:.80}: expected a signature of {key.name!r}, got none; ask for a checkpoint that it signed."
        )
    if not all(key.verify(s.signature, checkpoint.body().encode()) for s in own):
        raise WitnessError(
            f"checkpoint of {checkpoint.origin!r:.80}: the signature of {key.name!r} does not verify; it was changed after signing, "
            "or another key made it."
        )
    return checkpoint


def cosign(text: str, key: SigningKey) -> str:
    """Add a signature line to a checkpoint; return it unchanged if the key has signed it already.

    Does not verify the other signatures: call ``read_checkpoint`` with the owner's key first.

    Raises:
        WitnessError: the text is not a checkpoint, or has the maximum number of signatures.
    """
    checkpoint, signatures = _parse(text)
    own = _signed(checkpoint, key)
    if own in signatures:
        return text
    if len(signatures) >= MAX_SIGNATURES:
        raise WitnessError(
            f"checkpoint of {checkpoint.origin!r:.80}: it has {len(signatures)} signatures already; cosign it as its owner sent it."
        )
    return text + own.line()


def check_lines(path: Path, lines: Iterable[bytes], checkpoint: Checkpoint) -> int:
    """Check that a ledger begins with the lines that a checkpoint covers; return its line count.

    Args:
        path: name of the ledger, for error messages.
        lines: all stored lines of the ledger, without newlines.
        checkpoint: the checkpoint; its signature must have been verified.

    Raises:
        WitnessError: there are fewer lines than the checkpoint covers, or other lines.
    """
    frontier, count = Frontier(), 0
    root = frontier.root() if checkpoint.size == 0 else b""
    for line in lines:
        count += 1
        if count <= checkpoint.size:
            frontier.add(leaf_hash(line))
            if count == checkpoint.size:
                root = frontier.root()
    subject = f"{path}: a signed checkpoint of {checkpoint.origin!r:.80}"
    if count < checkpoint.size:
        raise WitnessError(f"{subject} covers {checkpoint.size} entries, got {count}; the ledger was cut short, restore it from a copy.")
    if root != checkpoint.root:
        raise WitnessError(
            f"{subject} has another root for the first {checkpoint.size} entries; entries were changed, restore it from a copy."
        )
    return count
