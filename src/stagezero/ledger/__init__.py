"""The ledger: an append-only, hash-chained record that anyone can verify with a hash function.

Contains canonical JSON and digests, the chain itself, Merkle proofs, signed checkpoints, witnesses,
and signed attestations. Installs and imports neither torch nor transformers.
"""

from stagezero.ledger.attestation import make_statement, sign_statement, verify_envelope
from stagezero.ledger.canonical import canonical, digest, digest_of_texts, file_digest
from stagezero.ledger.chain import Ledger, read, refuse_if_in_use, verify
from stagezero.ledger.checkpoints import Checkpoint, cosign, read_checkpoint, sign_checkpoint
from stagezero.ledger.format import Entry
from stagezero.ledger.inclusion import LedgerView, Proof, prove
from stagezero.ledger.keys import SigningKey, VerifyKey
from stagezero.ledger.merkle import leaf_hash, verify_consistency, verify_inclusion
from stagezero.ledger.witness import Witness

__all__ = [
    "Checkpoint", "Entry", "Ledger", "LedgerView", "Proof", "SigningKey", "VerifyKey", "Witness", "canonical", "cosign", "digest",
    "digest_of_texts", "file_digest", "leaf_hash", "make_statement", "prove", "read", "read_checkpoint", "refuse_if_in_use",
    "sign_checkpoint", "sign_statement", "verify", "verify_consistency", "verify_envelope", "verify_inclusion",
]  # fmt: skip
