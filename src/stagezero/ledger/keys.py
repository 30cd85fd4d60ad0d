"""Ed25519 keys with a name, written as signed notes write them (C2SP signed-note).

A public key is one word: ``name+8 hex digits+base64(0x01 || key)``. The eight digits are the first four bytes of
SHA-256(name, newline, 0x01, key): they say which key a signature line is meant for, and catch a mistyped word.
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
from stagezero.files import lasting_secret

_ED25519 = b"\x01"
_NAME = re.compile(r"[^\s+\x00-\x1f\x7f]{1,200}")


def from_base64(text: str) -> bytes:
    """Standard base64 of which there is one spelling for every byte string.

    Raises:
        ValueError: it is not, or is spelled in another way.
    """
    try:
        found = base64.b64decode(text.encode("ascii"), validate=True)
    except (binascii.Error, UnicodeEncodeError):
        raise ValueError("not base64") from None
    if to_base64(found) != text:
        raise ValueError("base64 that is not in its one spelling")
    return found


def to_base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _name(name: str) -> str:
    if _NAME.fullmatch(name) is None or not name.isprintable():
        raise LedgerError(
            f"key name: expected 1 to 200 printable characters without blanks and '+', got {name!r:.80}; choose another name."
        )
    return name


@dataclass(frozen=True, slots=True)
class VerifyKey:
    """A public key and the name it goes by."""

    name: str
    raw: bytes

    def __post_init__(self) -> None:
        _name(self.name)
        if len(self.raw) != 32:
            raise LedgerError(f"key: expected 32 bytes, got {len(self.raw)}; copy the whole key.")

    @property
    def hash(self) -> bytes:
        """The four bytes that mark this key's signatures in a signed note."""
        return hashlib.sha256(self.name.encode() + b"\n" + _ED25519 + self.raw).digest()[:4]

    @property
    def keyid(self) -> str:
        """SHA-256 of the raw key, as hex: the key's id in attestations."""
        return hashlib.sha256(self.raw).hexdigest()

    def verify(self, signature: bytes, message: bytes) -> bool:
        """Whether this key signed the message."""
        try:
            Ed25519PublicKey.from_public_bytes(self.raw).verify(signature, message)
        except (InvalidSignature, ValueError):
            return False
        return True

    def text(self) -> str:
        """The key as one word, to be sent to whoever is to check its signatures."""
        return f"{self.name}+{self.hash.hex()}+{to_base64(_ED25519 + self.raw)}"

    @classmethod
    def parse(cls, text: str) -> VerifyKey:
        """The key that ``text`` wrote.

        Raises:
            LedgerError: naming the part that is wrong.
        """
        parts = text.strip().split("+", 2)
        if len(parts) != 3:
            raise LedgerError(f"key: expected name+hash+base64, got {text!r:.80}; copy the whole line that `text` printed.")
        name, hash_, encoded = parts
        try:
            data = from_base64(encoded)
        except ValueError:
            raise LedgerError(f"key {name!r:.80}: expected base64 after the second '+', got {encoded!r:.80}; copy the key again.") from None
        if data[:1] != _ED25519 or len(data) != 33:
            raise LedgerError(
                f"key {name!r:.80}: expected the byte 1 and 32 bytes of an Ed25519 key, got {len(data)} bytes; give an Ed25519 key."
            )
        key = cls(name, data[1:])
        if key.hash.hex() != hash_:
            raise LedgerError(f"key {name!r:.80}: expected the hash {key.hash.hex()}, got {hash_!r:.80}; copy the key again.")
        return key


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A private key. Its secret is in no representation of it."""

    verify_key: VerifyKey
    _private: Ed25519PrivateKey = field(repr=False, compare=False)

    @classmethod
    def from_seed(cls, seed: bytes, name: str) -> SigningKey:
        """The key of a 32-byte seed.

        Raises:
            LedgerError: the name or the length is wrong.
        """
        if len(seed) != 32:
            raise LedgerError(f"signing key: expected a seed of 32 bytes, got {len(seed)}; give the whole seed.")
        private = Ed25519PrivateKey.from_private_bytes(seed)
        return cls(VerifyKey(_name(name), private.public_key().public_bytes_raw()), private)

    @classmethod
    def lasting(cls, path: Path, name: str) -> SigningKey:
        """The key whose seed is the secret kept at ``path``; made on first use.

        Raises:
            StagezeroError: the file is there and is not a secret, or the name cannot be one.
        """
        return cls.from_seed(lasting_secret(path), name)

    def sign(self, message: bytes) -> bytes:
        """The signature, 64 bytes; the same message always has the same one."""
        return self._private.sign(message)
