"""Verifies an attestation with a public key alone; anyone can run it.

An attestation is an auditor's statement about the claims that a model passed, or a run's statement
about its provenance.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from stagezero.errors import AttestationError, InputError
from stagezero.files import read_text
from stagezero.ledger import VerifyKey, read_checkpoint, verify_envelope
from stagezero.ledger.provenance import PREDICATE_TYPE as PROVENANCE_PREDICATE_TYPE
from stagezero.models import checkpoint_digest
from stagezero.models.checkpoint import check

AUDIT_PREDICATE_TYPE = "https://stagezero.dev/attestation/alignment-audit/v1"
_MAX_KEY_PATH_CHARS = 1000


def verify_attestation(path: Path, key: str, model: Path | None = None) -> dict[str, Any]:
    """Return the statement in a file after verifying its signature and its form.

    Args:
        path: the attestation file.
        key: the public key of the auditor or of the run, or the name of a file that contains it.
        model: a checkpoint that the statement must be about.

    Raises:
        InputError: a file or the key cannot be read.
        AttestationError: the statement does not verify, or is about another model.
        WitnessError: the ledger checkpoint in the statement is not the auditor's.
    """
    if not path.is_file():
        raise InputError(f"attestation {str(path)!r}: expected a file, found none; check the path.")
    key_path = Path(key)
    is_file = len(key) < _MAX_KEY_PATH_CHARS and key_path.is_file()
    verify_key = VerifyKey.parse(read_text(key_path, InputError) if is_file else key)
    statement = verify_envelope(read_text(path, InputError), [verify_key])
    if statement["predicateType"] == PROVENANCE_PREDICATE_TYPE:
        return _check_subject(statement, model)
    if statement["predicateType"] != AUDIT_PREDICATE_TYPE:
        raise AttestationError(
            f"attestation: expected a statement of type {AUDIT_PREDICATE_TYPE}, got {statement['predicateType']!r:.200}; give another."
        )
    predicate = statement["predicate"]
    try:
        auditor, checkpoint = predicate["auditor"], predicate["disclosure"]["ledger"]
    except (KeyError, TypeError):
        raise AttestationError("attestation: the statement is not complete; ask the auditor for it again.") from None
    if auditor != verify_key.text():
        raise AttestationError("attestation: the statement names another auditor than the key's; ask the auditor for it again.")
    read_checkpoint(checkpoint, verify_key)
    return _check_subject(statement, model)


def _check_subject(statement: dict[str, Any], model: Path | None) -> dict[str, Any]:
    """Return the statement if it is about ``model``, or if ``model`` is None.

    Raises:
        AttestationError: the statement is about another model.
    """
    if model is not None:
        check(model)
        if {subject["digest"]["sha256"] for subject in statement["subject"]} != {checkpoint_digest(model)}:
            raise AttestationError(f"attestation: {model} is not the model that the statement is about; name that model.")
    return statement
