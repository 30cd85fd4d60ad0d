"""Named Ed25519 keys, in the format of signed notes (C2SP signed-note).

A public key is one word: ``name+8 hex digits+base64(0x01 || key)``. The eight digits are the first
four bytes of SHA-256(name, newline, 0x01, key). They show which key made a signature line, and
detect a mistyped word.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from stagezero.errors import LedgerError
from stagezero.files import load_or_create_secret

_ED25519 = b"\x01"
_NAME_FORM = re.compile(r"[^\s+\x00-\x1f\x7f]{1,200}")


def from_base64(text: str) -> bytes:
    """Decode standard base64, and reject every spelling but the one that ``to_base64`` makes.

    Raises:
        ValueError: the text is not base64, or is another spelling of the same bytes.
    """
    try:
        data = base64.b64decode(text.encode("ascii"), validate=True)
    except (binascii.Error, UnicodeEncodeError):
        raise ValueError("not base64") from None
    if to_base64(data) != text:
        raise ValueError("not the canonical spelling of base64")
    return data


def to_base64(data: bytes) -> str:
    """Encode bytes as standard base64 with padding."""
    return base64.b64encode(data).decode("ascii")


def _check_name(name: str) -> str:
    """Return the name of a key if it is valid."""
    if _NAME_FORM.fullmatch(name) is None or not name.isprintable():
        raise LedgerError(f"key name: expected 1 to 200 printable characters, no spaces and no '+', got {name!r:.80}; choose another name.")
    return name


@dataclass(frozen=True, slots=True)
class VerifyKey:
    """A public key and its name."""

    name: str
    raw: bytes

    def __post_init__(self) -> None:
        """Validate the name and the length of the key."""
        _check_name(self.name)
        if len(self.raw) != 32:
            raise LedgerError(f"key: expected 32 bytes, got {len(self.raw)}; copy the whole key.")

    @property
    def hash(self) -> bytes:
        """The four bytes that identify this key in the signature lines of a signed note."""
        return hashlib.sha256(self.name.encode() + b"\n" + _ED25519 + self.raw).digest()[:4]

    @property
    def keyid(self) -> str:
        """SHA-256 of the raw key, as hex; the key's id in attestations."""
        return hashlib.sha256(self.raw).hexdigest()

    def verify(self, signature: bytes, message: bytes) -> bool:
        """Return whether the signature is by this key and over this message."""
        try:
            Ed25519PublicKey.from_public_bytes(self.raw).verify(signature, message)
        except (InvalidSignature, ValueError):
            return False
        return True

    def text(self) -> str:
        """Return the key as one word, to give to those who verify its signatures."""
        return f"{self.name}+{self.hash.hex()}+{to_base64(_ED25519 + self.raw)}"

    @classmethod
    def parse(cls, text: str) -> VerifyKey:
        """Parse the word that ``text`` returns.

        Raises:
            LedgerError: a part of it is invalid; the message names the part.
        """
        parts = text.strip().split("+", 2)
        if len(parts) != 3:
            raise LedgerError(f"key: expected name+hash+base64, got {text!r:.80}; copy the whole line.")
        name, hash_, encoded = parts
        try:
            data = from_base64(encoded)
        except ValueError:
            raise LedgerError(f"key {name!r:.80}: expected base64 after the second '+', got {encoded!r:.80}; copy the key again.") from None
        if data[:1] != _ED25519 or len(data) != 33:
            raise LedgerError(
                f"key {name!r:.80}: expected the byte 1 and the 32 bytes of an Ed25519 key, got {len(data)} bytes; give an Ed25519 key."
            )
        key = cls(name, data[1:])
        if key.hash.hex() != hash_:
            raise LedgerError(f"key {name!r:.80}: expected the hash {key.hash.hex()}, got {hash_!r:.80}; copy the key again.")
        return key


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A private key. Its ``repr`` does not contain the secret."""

    verify_key: VerifyKey
    _private: Ed25519PrivateKey = field(repr=False, compare=False)

    @classmethod
    def from_seed(cls, seed: bytes, name: str) -> SigningKey:
        """Derive the key from a 32-byte seed.

        Raises:
            LedgerError: the name or the length of the seed is invalid.
        """
        if len(seed) != 32:
            raise LedgerError(f"signing key: expected a seed of 32 bytes, got {len(seed)}; give the whole seed.")
        private = Ed25519PrivateKey.from_private_bytes(seed)
        return cls(VerifyKey(_check_name(name), private.public_key().public_bytes_raw()), private)

    @classmethod
    def load_or_create(cls, path: Path, name: str) -> SigningKey:
        """Load the key whose seed is stored at ``path``; create the file on first use.

        Raises:
            StagezeroError: the file exists and is not a 32-byte secret, or the name is invalid.
        """
        return cls.from_seed(load_or_create_secret(path), name)

    def sign(self, message: bytes) -> bytes:
        """Sign a message; return 64 bytes, which are always the same for the same message."""
        return self._private.sign(message)
