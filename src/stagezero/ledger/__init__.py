"""The chain of record: canonical JSON, digests and the append-only ledger."""

from stagezero.ledger.canonical import canonical, digest, file_digest
from stagezero.ledger.chain import Entry, Ledger, read, refuse_if_in_use, verify

__all__ = ["Entry", "Ledger", "canonical", "digest", "file_digest", "read", "refuse_if_in_use", "verify"]
