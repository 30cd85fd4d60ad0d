"""The chain of record: canonical JSON, digests and the append-only ledger."""

from stagezero.ledger.canonical import canonical, digest, file_digest
from stagezero.ledger.chain import Entry, Ledger, read, verify

__all__ = ["Entry", "Ledger", "canonical", "digest", "file_digest", "read", "verify"]
