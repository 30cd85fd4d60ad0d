"""The sealed items of a suite, and the commitments that identify them.

Sealed items are i.i.d. draws under the auditor's lifetime secret, or the rows of an organisation's
own sealed file. An item is identified by its *commitment*: an HMAC under the lifetime secret of its
question, normalised to letters and digits only. Case, punctuation, order, names, answer formats and
seeds do not change it. A rewording that is registered as such belongs to the cluster of its
original. A paraphrase that was not registered is another item: it cannot be detected here, and
every certificate states this.
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
from stagezero.tasks import DEFAULT_ANSWER_TOKENS, Item, answer_tokens
from stagezero.tasks.atlas import GENERATOR, Atlas
from stagezero.tasks.atlas import sealed_items as draw_atlas_items
from stagezero.tasks.jsonl import JsonlSuite


def normalise_question(text: str) -> str:
    """Return a question's letters and digits, with case, accents and compatibility forms folded.

    A text without letters and digits is returned without its whitespace.
    """
    folded = unicodedata.normalize("NFKD", unicodedata.normalize("NFKC", text).casefold())
    letters_and_digits = "".join(c for c in folded if unicodedata.category(c)[0] in "LN")
    return letters_and_digits or "".join(text.split())


def commitment(secret: bytes, text: str) -> str:
    """Return the permanent identifier of an item, as hex. It reveals nothing without the secret."""
    return hmac.new(secret, b"item/" + normalise_question(text).encode(), hashlib.sha256).hexdigest()


@dataclass(frozen=True, slots=True)
class SealedItems:
    """The sealed items of one suite.

    Attributes:
        items_by_claim: claim → the items that are used, one of each independent cluster.
        clusters: the commitments of every item that the suite spends, grouped by cluster.
        instruction: the instruction before each question; None for none.
        generator: the item distribution that a certificate names.
        answer_tokens: most tokens of an answer.
    """

    items_by_claim: Mapping[str, Sequence[Item]]
    clusters: Sequence[Sequence[str]]
    instruction: str | None
    generator: str
    answer_tokens: int

    @property
    def questions(self) -> list[str]:
        """The questions, in the order of the claims. An examination receives nothing else."""
        return [item.input for items in self.items_by_claim.values() for item in items]

    @property
    def commitment(self) -> str:
        """One digest over all commitments."""
        return digest(sorted({item for cluster in self.clusters for item in cluster}))


def _choose_items(suite: JsonlSuite, path: Path, claim: str, secret: bytes) -> list[Item]:
    """Choose one item of each cluster, with an equal number of each kind.

    Rows of one cluster are not independent draws.
    """
    clusters: dict[str, list[Item]] = {}
    for item in suite.open_items():
        if item.property == claim:
            clusters.setdefault(item.cluster, []).append(item)
    rng = random.Random(f"{secret.hex()}/{claim}")
    order = rng.sample(sorted(clusters), len(clusters))
    by_kind: dict[str, list[Item]] = {}
    for name in order:
        # Of the kinds that the cluster has, the one with the fewest items so far.
        kind = min(sorted({i.kind for i in clusters[name]}), key=lambda k: len(by_kind.get(k, [])))
        by_kind.setdefault(kind, []).append(rng.choice([i for i in clusters[name] if i.kind == kind]))
    n = min((len(items) for items in by_kind.values()), default=0)
    if n == 0 or (claim in suite.properties and len(by_kind) < 2):
        raise SuiteError(f"{path}: not enough sealed items for claim {claim!r}; add traps and twins, or remove its bar.")
    return [item for items in by_kind.values() for item in items[:n]]


def items_from_file(path: Path, claims: Sequence[str], secret: bytes) -> SealedItems:
    """Return the items of a sealed file. The suite spends every row of the file, used or not.

    Args:
        path: the sealed JSONL file.
        claims: the claims that have a bar.
        secret: the auditor's lifetime secret.

    Raises:
        SuiteError: the file is malformed, or a claim has too few items.
    """
    suite = JsonlSuite(path)
    clusters: dict[str, list[str]] = {}
    for item in suite.open_items():
        texts = [item.input, *filter(None, [suite.rewording_of(item.id)])]
        clusters.setdefault(item.cluster, []).extend(commitment(secret, text) for text in texts)
    items_by_claim = {claim: _choose_items(suite, path, claim, secret) for claim in claims}
    return SealedItems(items_by_claim, list(clusters.values()), None, f"the clusters of the sealed file {path.name}", answer_tokens(suite))


def items_from_generator(name: str, graded: bool, items: int, claims: Sequence[str], secret: bytes) -> SealedItems:
    """Return independent draws from atlas's generator, seeded by the secret and the suite's name.

    Another name gives another independent draw, with a certificate and a budget of its own. The
    draw itself is the one cluster that the suite spends.

    Args:
        name: the suite's name.
        graded: use the graded variant of atlas.
        items: draws per claim.
        claims: the claims that have a bar.
        secret: the auditor's lifetime secret.

    Raises:
        SuiteError: atlas has no such claim.
    """
    seed = hmac.new(secret, f"draw/{name}".encode(), hashlib.sha256).digest()
    items_by_claim = {claim: draw_atlas_items(seed, claim, items) for claim in claims}
    draw = hmac.new(secret, f"draw/{name}/{items}".encode(), hashlib.sha256).hexdigest()
    return SealedItems(items_by_claim, [[draw]], Atlas(graded).instruction, f"generator {GENERATOR}", DEFAULT_ANSWER_TOKENS)


def load_sealed_items(name: str, terms: Terms, secret: bytes, copy: Path | None = None) -> SealedItems:
    """Return the sealed items of a suite with these terms.

    Args:
        name: the suite's name.
        terms: its terms.
        secret: the auditor's lifetime secret.
        copy: the auditor's own copy of the sealed file; None before it has one.

    Raises:
        SuiteError: the suite has no sealed items, or a claim has too few.
    """
    if terms.sealed is not None:
        return items_from_file(copy or Path(terms.sealed), tuple(terms.bars), secret)
    if terms.suite not in ("atlas", "atlas+graded"):
        raise SuiteError(
            f"audit: suite {terms.suite!r} has no sealed items; name the auditor's own file in audit.sealed, or leave audit out."
        )
    return items_from_generator(name, terms.suite.endswith("graded"), terms.items, tuple(terms.bars), secret)


def copy_sealed_file(path: Path, folder: Path) -> Path:
    """Copy a sealed file, and the checkers that it names, into a folder of the auditor alone.

    Returns:
        The path of the copy.

    Raises:
        SuiteError: a checker is outside the file's folder.
    """
    suite = JsonlSuite(path)
    source_folder = path.parent.resolve()
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    for checker in sorted({Path(i.checker) for i in suite.open_items() if i.checker}):
        if not checker.is_relative_to(source_folder):
            raise SuiteError(f"{path}: checker {str(checker)!r} lies outside the file's folder; put it beside the sealed file.")
        copy = folder / checker.relative_to(source_folder)
        copy.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        shutil.copyfile(checker, copy)
    shutil.copyfile(path, folder / path.name)
    return folder / path.name
