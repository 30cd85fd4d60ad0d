"""``stagezero verify``."""

from __future__ import annotations

from pathlib import Path

from stagezero.cli._show import output, print_json


def verify(attestation: Path, /, *, key: str, model: Path | None = None, json: bool = False) -> int:
    """Check an auditor's signed statement, without seeing the model or the suite.

    Parameters
    ----------
    attestation
        The file that `stagezero attest` wrote.
    key
        The auditor's public key, or a file that holds it; from the auditor itself, not from whoever shows the statement.
    model
        A checkpoint folder: is it the model that is spoken of?
    json
        Print the whole statement.
    """
    from stagezero.door.attested import verified

    statement = verified(attestation, key, model)
    if json:
        print_json(statement)
        return 0
    said, out = statement["predicate"], output()
    told = said["disclosure"]
    out.print(f"sound, signed by {said['auditor']}", soft_wrap=True)
    for subject in statement["subject"]:
        out.print(f"model {subject['digest']['sha256']}" + (" (the one given)" if model is not None else ""), soft_wrap=True)
    out.print("passed: " + ", ".join(f"{claim} at least {row['true_mean_at_least']:g}" for claim, row in said["passed"].items()))
    out.print(f"suite {said['suite']['name']}, commitment {said['suite']['commitment']}", soft_wrap=True)
    out.print(f"bits disclosed: {told['bits']['in_all']:.1f} of {told['bits']['budget']:.1f}; separation: {told['separation']['level']}")
    out.print(told["certificate"]["sentence"])
    return 0
