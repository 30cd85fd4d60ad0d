"""The sealed items: i.i.d. draws under the auditor's lifetime secret, or an organisation's own sealed file; and what they are known by.

An item is known by its *commitment*: an HMAC under the lifetime secret of its question, normalised until nothing but letters and digits
is left. Spelling, order, names, answer formats and seeds change nothing; a rewording that is registered as such belongs to its
original. A paraphrase that nobody registered is another item: that cannot be caught here, and every certificate says so.
"""

from __future__ import annotations

import hashlib
import hmac
import random
import shutil
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from stagezero.door.messages import Terms
from stagezero.errors import SuiteError
from stagezero.ledger import digest
from stagezero.tasks import Item
from stagezero.tasks.atlas import GENERATOR, Atlas, sealed_items
from stagezero.tasks.jsonl import JsonlSuite


def bare(text: str) -> str:
    """A question with all but its letters and digits taken away, compatibility forms and accents folded."""
    folded = unicodedata.normalize("NFKD", unicodedata.normalize("NFKC", text).casefold())
    kept = "".join(c for c in folded if unicodedata.category(c)[0] in "LN")
    return kept or "".join(text.split())


def commitment(secret: bytes, text: str) -> str:
    """What an item is known by for ever, as hex; says nothing to whoever lacks the secret."""
    return hmac.new(secret, b"item/" + bare(text).encode(), hashlib.sha256).hexdigest()


@dataclass(frozen=True, slots=True)
class Sealed:
    """The items of one suite: claim → items, one from each independent cluster; and every item that is thereby spent."""

    chosen: Mapping[str, Sequence[Item]]
    clusters: Sequence[Sequence[str]]
    """Commitments, those of one cluster together."""
    instruction: str | None
    generator: str
    """The item distribution that a certificate speaks of."""

    @property
    def questions(self) -> list[str]:
        """What is asked, in the order of the claims; all that an examination may know."""
        return [item.input for chosen in self.chosen.values() for item in chosen]

    @property
    def commitment(self) -> str:
        """One digest for them all."""
        return digest(sorted({item for cluster in self.clusters for item in cluster}))


def _one_a_cluster(suite: JsonlSuite, path: Path, claim: str, secret: bytes) -> list[Item]:
    """One item a cluster, kinds balanced: rows of one cluster are not independent draws."""
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


def from_file(path: Path, claims: Sequence[str], secret: bytes) -> Sealed:
    """The items of a sealed file. Every row of the file is spent with it, asked or not.

    Raises:
        SuiteError: the file is malformed, or a claim has too few items.
    """
    suite = JsonlSuite(path)
    clusters: dict[str, list[str]] = {}
    for item in suite.open_items():
        told = [item.input, *filter(None, [suite.rewording_of(item.id)])]
        clusters.setdefault(item.cluster, []).extend(commitment(secret, text) for text in told)
    chosen = {claim: _one_a_cluster(suite, path, claim, secret) for claim in claims}
    return Sealed(chosen, list(clusters.values()), None, f"the clusters of the sealed file {path.name}")


def generated(name: str, graded: bool, items: int, claims: Sequence[str], secret: bytes) -> Sealed:
    """Independent draws from atlas's generator, under a seed that follows from the secret and the suite's name.

    Another name is another independent draw, with a certificate and a budget of its own; the draw itself is the cluster that is spent.

    Raises:
        SuiteError: atlas has no such claim.
    """
    seed = hmac.new(secret, f"draw/{name}".encode(), hashlib.sha256).digest()
    chosen = {claim: sealed_items(seed, claim, items) for claim in claims}
    spent = hmac.new(secret, f"draw/{name}/{items}".encode(), hashlib.sha256).hexdigest()
    return Sealed(chosen, [[spent]], Atlas(graded).instruction, f"generator {GENERATOR}")


def sealed_suite(name: str, terms: Terms, secret: bytes, kept: Path | None = None) -> Sealed:
    """The sealed items that some terms speak of.

    Args:
        kept: the auditor's own copy of the sealed file, once it has one.

    Raises:
        SuiteError: there are none, or a claim has too few.
    """
    if terms.sealed is not None:
        return from_file(kept or Path(terms.sealed), tuple(terms.bars), secret)
    if terms.suite not in ("atlas", "atlas+graded"):
        raise SuiteError(
            f"audit: suite {terms.suite!r} has no sealed items; name the auditor's own file in audit.sealed, or leave audit out."
        )
    return generated(name, terms.suite.endswith("graded"), terms.items, tuple(terms.bars), secret)


def keep_copy(path: Path, folder: Path) -> Path:
    """Copy a sealed file, and the checkers it names, to where only the auditor reads.

    Raises:
        SuiteError: a checker lies outside the file's folder.
    """
    suite = JsonlSuite(path)
    home = path.parent.resolve()
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    for checker in sorted({Path(i.checker) for i in suite.open_items() if i.checker}):
        if not checker.is_relative_to(home):
            raise SuiteError(f"{path}: checker {str(checker)!r} lies outside the file's folder; put it beside the sealed file.")
        copy = folder / checker.relative_to(home)
        copy.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        shutil.copyfile(checker, copy)
    shutil.copyfile(path, folder / path.name)
    return folder / path.name
