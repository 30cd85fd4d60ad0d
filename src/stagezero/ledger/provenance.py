"""The provenance of a stage as other supply-chain tools read it: SLSA v1 in an in-toto statement.

Everything in the statement comes from the ledger: the build's inputs (recipe, seed), its
dependencies (base, human data, ideas, models whose labels or weights crossed), its environment, and
its place in the ledger.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stagezero.ledger.attestation import make_statement
from stagezero.ledger.lineage import DECLARED_CHANNEL, CampaignRecord, Lineage

PREDICATE_TYPE = "https://slsa.dev/provenance/v1"
BUILD_TYPE = "https://stagezero.dev/stage-build/v1"
BUILDER = "https://stagezero.dev/builder/v1"


def provenance(record: CampaignRecord, lineage: Lineage, head: str, entries: int) -> dict[str, Any]:
    """Make the provenance statement of a stage's model.

    Args:
        record: the campaign's record, read from the ledger.
        lineage: the lineage of the stage.
        head: hash of the ledger's last entry.
        entries: number of the ledger's entries.

    Source: SLSA provenance v1.
    """
    body, campaign = record.stages[lineage.stage], record.campaign
    dependencies: list[dict[str, Any]] = [
        {"name": "base", "uri": f"stagezero:model/{campaign['project']['base']}", "digest": {"sha256": campaign["base"]}},
        {"name": "training data", "uri": f"stagezero:suite/{campaign['project']['suite']}", "digest": {"sha256": campaign["suite"]}},
    ]
    for i in lineage.influences:
        if i.kind == "idea" and i.digest:
            notes = {"title": i.description, "by": i.by, "bits": i.bits, "letInBy": i.admitted_by, "stage": i.stage}
            dependencies.append({"name": "idea", "uri": f"stagezero:idea/{i.digest}", "digest": {"sha256": i.digest}, "annotations": notes})
        elif i.admitted_by == DECLARED_CHANNEL:
            notes = {"kind": i.kind, "by": i.by, "bits": i.bits}
            dependencies.append(
                {"name": i.description, "uri": f"stagezero:model/{i.digest}", "digest": {"sha256": i.digest}, "annotations": notes}
            )
    predicate: Mapping[str, Any] = {
        "buildDefinition": {
            "buildType": BUILD_TYPE,
            "externalParameters": {"recipe": body["recipe"], "seed": body["seeds"][0], "stage": lineage.stage, "run": record.name},
            "internalParameters": {
                "environment": campaign["environment"], "stagezero": campaign["stagezero"], "confined": lineage.confined,
            },
            "resolvedDependencies": dependencies,
        },
        "runDetails": {
            "builder": {"id": BUILDER, "version": {"stagezero": campaign["stagezero"], **campaign["environment"]["versions"]}},
            "metadata": {"invocationId": f"{record.name}/stage-{lineage.stage}/{head}"},
            "byproducts": [{"name": "ledger", "digest": {"sha256": head}, "annotations": {"entries": entries, "verdict": body["verdict"]}}],
        },
        "lineage": {"line": lineage.summary(), "onlyIdeas": lineage.only_ideas(), "roots": lineage.roots()},
    }  # fmt: skip
    return make_statement({lineage.name: body["model"]}, PREDICATE_TYPE, predicate)
