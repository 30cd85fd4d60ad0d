"""``stagezero verify``."""

from __future__ import annotations

from pathlib import Path

from stagezero.cli._output import output, print_json
from stagezero.door.verify_attestation import verified


def verify(attestation: Path, /, *, key: str, model: Path | None = None, json: bool = False) -> None:
    """Check a signed statement: an auditor's, of what a model passed, or a run's, of a stage's provenance.

    Neither the model nor the suite is needed.

    Parameters
    ----------
    attestation
        The file that `stagezero attest` or `stagezero lineage --attest` wrote.
    key
        The signer's public key, or a file that holds it; from the signer itself, not from whoever shows the statement.
    model
        A checkpoint folder: is it the model that is spoken of?
    json
        Print the whole statement.
    """
    statement = verified(attestation, key, model)
    if json:
        print_json(statement)
        return
    said, out = statement["predicate"], output()
    if "buildDefinition" in said:
        for subject in statement["subject"]:
            out.print(f"sound: {subject['name']}, model {subject['digest']['sha256']}", markup=False, soft_wrap=True)
        out.print(str(said.get("lineage", {}).get("line", "")), markup=False, soft_wrap=True)
        return
    told = said["disclosure"]
    out.print(f"sound, signed by {said['auditor']}", soft_wrap=True)
    for subject in statement["subject"]:
        out.print(f"model {subject['digest']['sha256']}" + (" (the one given)" if model is not None else ""), soft_wrap=True)
    out.print("passed: " + ", ".join(f"{claim} at least {row['true_mean_at_least']:g}" for claim, row in said["passed"].items()))
    out.print(f"suite {said['suite']['name']}, commitment {said['suite']['commitment']}", soft_wrap=True)
    out.print(f"bits disclosed: {told['bits']['in_all']:.1f} of {told['bits']['budget']:.1f}; separation: {told['separation']['level']}")
    out.print(told["certificate"]["sentence"])
