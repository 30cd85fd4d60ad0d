"""A stage's provenance as other supply-chain tools read it: SLSA provenance v1 in an in-toto statement.

Everything in it is in the ledger: what was built (recipe, seed), from what (base, human data, ideas, models whose labels or weights
crossed), in which environment, and where in which ledger that stands.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stagezero.ledger.attestation import statement
from stagezero.ledger.lineage import Lineage, Record

PREDICATE = "https://slsa.dev/provenance/v1"
BUILD_TYPE = "https://stagezero.dev/stage-build/v1"
BUILDER = "https://stagezero.dev/builder/v1"


def provenance(record: Record, found: Lineage, head: str, entries: int) -> dict[str, Any]:
    """The statement about a stage's model.

    Args:
        head, entries: of the ledger that it was read from.
    """
    body, described = record.stages[found.stage], record.described
    dependencies: list[dict[str, Any]] = [
        {"name": "base", "uri": f"stagezero:model/{described['project']['base']}", "digest": {"sha256": described["base"]}},
        {"name": "training data", "uri": f"stagezero:suite/{described['project']['suite']}", "digest": {"sha256": described["suite"]}},
    ]
    for i in found.influences:
        if i.kind == "idea" and i.digest:
            notes = {"title": i.what, "by": i.by, "bits": i.bits, "letInBy": i.let_in, "stage": i.stage}
            dependencies.append({"name": "idea", "uri": f"stagezero:idea/{i.digest}", "digest": {"sha256": i.digest}, "annotations": notes})
        elif i.let_in == "a declared channel":
            notes = {"kind": i.kind, "by": i.by, "bits": i.bits}
            dependencies.append(
                {"name": i.what, "uri": f"stagezero:model/{i.digest}", "digest": {"sha256": i.digest}, "annotations": notes}
            )
    predicate: Mapping[str, Any] = {
        "buildDefinition": {
            "buildType": BUILD_TYPE,
            "externalParameters": {"recipe": body["recipe"], "seed": body["seeds"][0], "stage": found.stage, "run": record.name},
            "internalParameters": {
                "environment": described["environment"], "stagezero": described["stagezero"], "confined": found.confined,
            },
            "resolvedDependencies": dependencies,
        },
        "runDetails": {
            "builder": {"id": BUILDER, "version": {"stagezero": described["stagezero"], **described["environment"]["versions"]}},
            "metadata": {"invocationId": f"{record.name}/stage-{found.stage}/{head}"},
            "byproducts": [{"name": "ledger", "digest": {"sha256": head}, "annotations": {"entries": entries, "verdict": body["verdict"]}}],
        },
        "lineage": {"line": found.line(), "onlyIdeas": found.only_ideas(), "roots": found.roots()},
    }  # fmt: skip
    return statement({found.name: body["model"]}, PREDICATE, predicate)
