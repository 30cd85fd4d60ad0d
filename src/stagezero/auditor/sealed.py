"""The sealed items: i.i.d. draws under the auditor's secret seed, or an organisation's own sealed file."""

from __future__ import annotations

import os
import random
import secrets
from pathlib import Path

from stagezero.door.messages import Terms
from stagezero.errors import SuiteError
from stagezero.tasks import Item
from stagezero.tasks.atlas import GENERATOR, sealed_items
from stagezero.tasks.jsonl import JsonlSuite


def secret_of(folder: Path) -> bytes:
    """The auditor's lifetime secret, made on first use, readable by its owner alone."""
    path = folder / "secret"
    if not path.exists():
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "wb") as out:
            out.write(secrets.token_bytes(32))
            out.flush()
            os.fsync(out.fileno())
    found = path.read_bytes()
    if len(found) != 32:
        raise SuiteError(f"{path}: expected 32 bytes; the auditor's secret is damaged, restore it from a copy.")
    return found


def _from_file(path: Path, claim: str, secret: bytes) -> list[Item]:
    """One item a cluster, kinds balanced: rows of one cluster are not independent draws."""
    suite = JsonlSuite(path)
    clusters: dict[str, list[Item]] = {}
    for item in suite.open_items():
        if item.property == claim:
            clusters.setdefault(item.cluster, []).append(item)
    if not clusters:
        raise SuiteError(f"{path}: no sealed item for claim {claim!r}; add some, or remove its bar.")
    rng = random.Random(f"{secret.hex()}/{claim}")
    chosen = [rng.choice(clusters[name]) for name in sorted(clusters)]
    if claim in suite.capabilities:
        return chosen
    traps, twins = ([i for i in chosen if i.kind == kind] for kind in ("trap", "twin"))
    n = min(len(traps), len(twins))
    return rng.sample(traps, n) + rng.sample(twins, n)


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
