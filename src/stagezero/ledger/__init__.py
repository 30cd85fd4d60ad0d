"""The chain of record: canonical JSON, digests, the append-only ledger, its proofs, checkpoints, witnesses and attestations."""

from stagezero.ledger.attestation import seal, statement, unseal
from stagezero.ledger.canonical import canonical, digest, file_digest
from stagezero.ledger.chain import Ledger, read, refuse_if_in_use, verify
from stagezero.ledger.checkpoints import Checkpoint, cosign, read_checkpoint, sign_checkpoint
from stagezero.ledger.format import Entry
from stagezero.ledger.keys import SigningKey, VerifyKey
from stagezero.ledger.merkle import leaf_hash, verify_consistency, verify_inclusion
from stagezero.ledger.view import LedgerView, Proof, prove
from stagezero.ledger.witness import Witness

__all__ = [
    "Checkpoint", "Entry", "Ledger", "LedgerView", "Proof", "SigningKey", "VerifyKey", "Witness", "canonical", "cosign", "digest",
    "file_digest", "leaf_hash", "prove", "read", "read_checkpoint", "refuse_if_in_use", "seal", "sign_checkpoint", "statement",
    "unseal", "verify", "verify_consistency", "verify_inclusion",
]  # fmt: skip
