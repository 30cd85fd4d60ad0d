"""The versions in a ledger's first entry: of the format, the rule, the scorer and the builds.

A ledger is read, and its decisions are recomputed, with the versions that it names. A ledger that
names none was written in format 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stagezero.errors import InputError, RunChangedError
from stagezero.evidence import RULE_VERSION
from stagezero.ledger import Ledger
from stagezero.measure import SCORER_VERSION
from stagezero.training.build import BUILD_FORMAT
from stagezero.training.recipes import RLHF, Filter, Recipe

LEDGER_FORMAT = 2
"""Format of the ledgers that campaigns and comparisons write. Since format 2, entry 0 names the
versions of format, rule, scorer and build."""
FORMAT_1_VERSIONS = {"format": 1, "rule": 1, "scorer": 1, "build": "build/2"}
"""Versions of a ledger whose first entry does not name them."""
RELEASE_OF_BUILD_FORMAT = {"build/2": "release 0.1"}
"""Build format → the release that makes such builds."""


def current_versions() -> dict[str, Any]:
    """Return the versions that this release writes into a first entry."""
    return {"format": LEDGER_FORMAT, "rule": RULE_VERSION, "scorer": SCORER_VERSION, "build": BUILD_FORMAT}


def recorded_version(first_entry: Mapping[str, Any], name: str) -> Any:
    """Return the version that applies to a ledger.

    Args:
        first_entry: body of the ledger's first entry.
        name: ``format``, ``rule``, ``scorer`` or ``build``.
    """
    return first_entry.get(name, FORMAT_1_VERSIONS[name])


def check_versions(ledger: Ledger) -> None:
    """Refuse to continue a run that was begun with another format, rule, scorer or build format.

    Raises:
        RunChangedError: the message names both versions.
    """
    if not ledger.entries:
        return
    for name, current in current_versions().items():
        recorded = recorded_version(ledger.entries[0].body, name)
        if recorded != current:
            what = {"format": "ledger format"}.get(name, name)
            raise RunChangedError(
                f"{ledger.path.parent}: this run was begun in {what} {recorded}, and this release continues {what} {current}; "
                "finish it with the release that began it, or move the folder away to start a new run."
            )


def check_build(first_entry: Mapping[str, Any], recipe: Recipe) -> None:
    """Refuse to rebuild a model whose build has another format.

    Formats 2 and 3 are the same for a pocket base: they differ in special tokens that its tokenizer
    does not have, in tensor types that it does not use, in the syntax of patterns, and in what a
    reward model reads.

    Args:
        first_entry: body of the ledger's first entry.
        recipe: the recipe to rebuild.

    Raises:
        InputError: the formats differ; the message names the required release.
    """
    recorded = recorded_version(first_entry, "build")
    pocket = str(first_entry["project"]["base"]).startswith("pocket/")
    changed = any((isinstance(step, Filter) and step.matching is not None) or isinstance(step, RLHF) for step in recipe.steps)
    if recorded != BUILD_FORMAT and not ((recorded, BUILD_FORMAT) == ("build/2", "build/3") and pocket and not changed):
        release = RELEASE_OF_BUILD_FORMAT.get(str(recorded), "the release that wrote it")
        raise InputError(
            f"rebuild: the ledger's models were built in format {recorded}, and this release builds {BUILD_FORMAT}; use {release}."
        )
