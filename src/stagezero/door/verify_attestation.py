"""What anybody can check of an attestation with a public key alone: an auditor's, of what a model passed, or a run's, of its provenance."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from stagezero.errors import AttestationError, InputError
from stagezero.files import read_text
from stagezero.ledger import VerifyKey, read_checkpoint, unseal
from stagezero.ledger.provenance import PREDICATE as PROVENANCE
from stagezero.models import checkpoint_digest
from stagezero.models.checkpoint import check

PREDICATE = "https://stagezero.dev/attestation/alignment-audit/v1"


def verified(path: Path, key: str, model: Path | None = None) -> dict[str, Any]:
    """The statement in a file, if the key signed it and it says what such statements say.

    Args:
        key: the auditor's public key, or the name of a file that holds it.
        model: a checkpoint that the statement must be about.

    Raises:
        InputError: a file or the key cannot be read.
        AttestationError: it does not verify, or is about another model.
        WitnessError: the ledger's checkpoint in it is not the auditor's.
    """
    if not path.is_file():
        raise InputError(f"attestation {str(path)!r}: expected a file, found none; check the path.")
    there = Path(key)
    known = VerifyKey.parse(read_text(there, InputError) if len(key) < 1000 and there.is_file() else key)
    statement = unseal(read_text(path, InputError), [known])
    if statement["predicateType"] == PROVENANCE:
        return _about(statement, model)
    if statement["predicateType"] != PREDICATE:
        raise AttestationError(
            f"attestation: expected a statement of type {PREDICATE}, got {statement['predicateType']!r:.200}; give another."
        )
    said = statement["predicate"]
    try:
        named, checkpoint = said["auditor"], said["disclosure"]["ledger"]
    except (KeyError, TypeError):
        raise AttestationError("attestation: the statement is not complete; ask the auditor for it again.") from None
    if named != known.text():
        raise AttestationError("attestation: the statement names another auditor than the key's; ask the auditor for it again.")
    read_checkpoint(checkpoint, known)
    return _about(statement, model)


def _about(statement: dict[str, Any], model: Path | None) -> dict[str, Any]:
    """The statement, if it is about the model that is given."""
    if model is not None:
        check(model)
        if {subject["digest"]["sha256"] for subject in statement["subject"]} != {checkpoint_digest(model)}:
            raise AttestationError(f"attestation: {model} is not the model that it speaks of; give that one.")
    return statement
