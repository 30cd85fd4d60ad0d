"""``stagezero verify``: verifies a signed statement; needs neither the model nor the suite."""

from __future__ import annotations

from pathlib import Path

from stagezero.cli._output import print_json, stdout_console
from stagezero.door.verify_attestation import verify_attestation


def verify(attestation: Path, /, *, key: str, model: Path | None = None, json: bool = False) -> None:
    """Verify the signed statement of an auditor or of a run.

    An auditor states what a model passed. A run states the provenance of a stage. Neither the model
    nor the suite is needed.

    Example: `stagezero verify attestation.json --key auditor.key`

    Parameters
    ----------
    attestation
        The file that `stagezero attest` or `stagezero lineage --attest` wrote.
    key
        The signer's public key, or a file that contains it. Obtain it from the signer, not from the
        person who presents the statement.
    model
        A checkpoint folder: also verify that the statement is about this model.
    json
        Print the complete statement.
    """
    statement = verify_attestation(attestation, key, model)
    if json:
        print_json(statement)
        return
    predicate, out = statement["predicate"], stdout_console()
    if "buildDefinition" in predicate:
        for subject in statement["subject"]:
            out.print(f"valid: {subject['name']}, model {subject['digest']['sha256']}", soft_wrap=True)
        out.print(str(predicate.get("lineage", {}).get("line", "")), soft_wrap=True)
        return
    disclosure = predicate["disclosure"]
    bits, suite = disclosure["bits"], predicate["suite"]
    out.print(f"valid, signed by {predicate['auditor']}", soft_wrap=True)
    for subject in statement["subject"]:
        out.print(f"model {subject['digest']['sha256']}" + (" (the given model)" if model is not None else ""), soft_wrap=True)
    out.print("passed: " + ", ".join(f"{claim} at least {row['true_mean_at_least']:g}" for claim, row in predicate["passed"].items()))
    out.print(f"suite {suite['name']}, commitment {suite['commitment']}", soft_wrap=True)
    out.print(f"bits disclosed: {bits['in_all']:.1f} of {bits['budget']:.1f}; separation: {disclosure['separation']['level']}")
    out.print(disclosure["certificate"]["sentence"])
