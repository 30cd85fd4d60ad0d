"""Canonical JSON (RFC 8785) and its SHA-256.

Every digest in the project is computed here, so that one value always has one digest.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import rfc8785


def canonical(value: Any) -> bytes:
    """Serialise a value as canonical JSON.

    Numbers must be finite, and integers below 2^53 in absolute value.

    Source: RFC 8785.
    """
    return rfc8785.dumps(value)


def digest(value: Any) -> str:
    """Return SHA-256 of a value's canonical JSON, as hex."""
    return hashlib.sha256(canonical(value)).hexdigest()


def digest_of_texts(rows: Sequence[Sequence[str]]) -> str:
    """Return ``digest(rows)`` of lists of texts, in much less time.

    Without numbers and objects, the standard library's JSON is canonical: only the form of numbers
    and the order of keys could differ.
    """
    text = json.dumps(rows, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def file_digest(path: Path) -> str:
    """Return SHA-256 of a file's bytes, as hex."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
