"""The sealed items: i.i.d. draws under the auditor's secret seed, or an organisation's own sealed file."""

from __future__ import annotations

import random
from pathlib import Path

from stagezero.door.messages import Terms
from stagezero.errors import SuiteError
from stagezero.tasks import Item
from stagezero.tasks.atlas import GENERATOR, sealed_items
from stagezero.tasks.jsonl import JsonlSuite


def _from_file(path: Path, claim: str, secret: bytes) -> list[Item]:
    """One item a cluster, kinds balanced: rows of one cluster are not independent draws."""
    suite = JsonlSuite(path)
    clusters: dict[str, list[Item]] = {}
    for item in suite.open_items():
        if item.property == claim:
            clusters.setdefault(item.cluster, []).append(item)
    rng = random.Random(f"{secret.hex()}/{claim}")
    order = rng.sample(sorted(clusters), len(clusters))
    chosen: dict[str, list[Item]] = {}
    for name in order:
        # The kind that is short so far, where the cluster offers it.
        kind = min(sorted({i.kind for i in clusters[name]}), key=lambda k: len(chosen.get(k, [])))
        chosen.setdefault(kind, []).append(rng.choice([i for i in clusters[name] if i.kind == kind]))
    n = min((len(items) for items in chosen.values()), default=0)
    if n == 0 or (claim in suite.properties and len(chosen) < 2):
        raise SuiteError(f"{path}: not enough sealed items for claim {claim!r}; add traps and twins, or remove its bar.")
    return [item for items in chosen.values() for item in items[:n]]


def draw(terms: Terms, secret: bytes) -> dict[str, list[Item]]:
    """Claim → sealed items, one a cluster.

    Raises:
        SuiteError: a claim has no sealed items.
    """
    if terms.sealed is not None:
        return {claim: _from_file(Path(terms.sealed), claim, secret) for claim in terms.bars}
    if not terms.suite.startswith("atlas"):
        raise SuiteError(
            f"audit: suite {terms.suite!r} has no sealed items; name the auditor's own file in audit.sealed, or leave audit out."
        )
    return {claim: sealed_items(secret, claim, terms.items) for claim in terms.bars}


def generator_of(terms: Terms) -> str:
    """The item distribution that a certificate speaks of."""
    return f"the clusters of the sealed file {Path(terms.sealed).name}" if terms.sealed is not None else f"generator {GENERATOR}"
