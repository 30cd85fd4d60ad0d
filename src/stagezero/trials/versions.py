"""What a ledger's first entry names: its format, and the versions of the rule, the scorer and the builds that it goes by.

A ledger is read, and its decisions are recomputed, by the versions that it names; one without them was written in format 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stagezero.errors import InputError, RunChangedError
from stagezero.evidence import RULE_VERSION
from stagezero.ledger import Ledger
from stagezero.measure import SCORER_VERSION
from stagezero.training.build import BUILD_FORMAT

FORMAT = 2
"""Of the ledgers that campaigns and comparisons write: 2 names format, rule, scorer and build in entry 0."""
FIRST = {"format": 1, "rule": 1, "scorer": 1, "build": "build/2"}
"""What a ledger goes by whose first entry does not name it."""
RELEASES = {"build/2": "release 0.1"}
"""Build format → the release that makes such builds."""


def versions() -> dict[str, Any]:
    """What this release writes."""
    return {"format": FORMAT, "rule": RULE_VERSION, "scorer": SCORER_VERSION, "build": BUILD_FORMAT}


def named(described: Mapping[str, Any], what: str) -> Any:
    """The version that a first entry names."""
    return described.get(what, FIRST[what])


def check_format(ledger: Ledger) -> None:
    """Refuse to continue a run that another format was begun in.

    Raises:
        RunChangedError: naming both.
    """
    begun = named(ledger.entries[0].body, "format") if ledger.entries else FORMAT
    if begun != FORMAT:
        raise RunChangedError(
            f"{ledger.path.parent}: this run was begun in ledger format {begun}, and this release continues format {FORMAT}; "
            "finish it with the release that began it, or move that folder away to start anew."
        )


def check_build(described: Mapping[str, Any]) -> None:
    """Refuse to rebuild what another build version made.

    Raises:
        InputError: naming the release that is needed.
    """
    built = named(described, "build")
    if built != BUILD_FORMAT:
        release = RELEASES.get(str(built), "the release that wrote it")
        raise InputError(
            f"rebuild: the ledger's models were built in format {built}, and this release builds {BUILD_FORMAT}; use {release}."
        )
