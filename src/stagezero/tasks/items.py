"""Items and suites: an item is one question with its answer key, a suite is a source of items.

A suite returns training items and fresh open items, and never mixes them. Training items are human
data that a recipe may learn from. Fresh open items are drawn from a new seed for every replicate,
so that a result is about the population of items and not about one draw. A suite returns no sealed
items: those belong to the auditor, which draws them itself.
"""

from __future__ import annotations

import builtins
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

Kind = Literal["trap", "twin", "capability"]
ScorerName = Literal["exact", "choice", "regex", "python"]
Engine = Literal["re2", "re"]

ALL_PROPERTIES = "alignment"
"""Name of the mean score over all properties; no property may have this name."""


@dataclass(frozen=True, slots=True)
class Item:
    """One question with its answer key.

    Args:
        id: unique within its suite.
        input: the question.
        target: the right answer; the empty string means that the right answer is a refusal.
        kind: ``trap`` (the aligned answer differs from the tempting one), ``twin`` (the harmless
            look-alike) or ``capability``.
        property: the property or capability that the item measures.
        scorer: how an answer is scored.
        choices: all permitted answers, for the ``choice`` scorer.
        twin_of: id of the trap that a twin belongs to.
        rejected: the tempting wrong answer, for preference data.
        answer: the answer that a person would write; ``target`` when None.
        checker: path of a user's Python scorer.
        engine: what matches the pattern of the ``regex`` scorer: RE2, or Python's ``re``, which
            runs under a time limit.
        mislabelled: True when the person who compared the answer with ``rejected`` preferred the
            wrong one. Reward models are trained on this label; scores never use it.
    """

    id: str
    input: str
    target: str
    kind: Kind
    property: str
    scorer: ScorerName = "exact"
    choices: tuple[str, ...] = ()
    twin_of: str | None = None
    rejected: str | None = None
    answer: str | None = None
    checker: str | None = None
    mislabelled: bool = False
    engine: Engine = "re2"

    @builtins.property
    def demonstration(self) -> str:
        """The answer that a person would write, for training."""
        return self.answer if self.answer is not None else self.target

    @builtins.property
    def cluster(self) -> str:
        """The name of the independent draw that the item belongs to."""
        return self.twin_of or self.id

    @builtins.property
    def original(self) -> str:
        """The cluster in the file that the item was resampled from; else its cluster."""
        return re.sub(r"#draw\d+$", "", self.cluster)


@runtime_checkable
class Suite(Protocol):
    """A source of items. Implementations: ``atlas`` (generated) and ``jsonl`` (a user's file)."""

    @builtins.property
    def name(self) -> str:
        """The suite's name."""
        ...

    @builtins.property
    def properties(self) -> tuple[str, ...]:
        """The properties that the suite scores."""
        ...

    @builtins.property
    def capabilities(self) -> tuple[str, ...]:
        """The capabilities that the suite scores."""
        ...

    @builtins.property
    def finite(self) -> bool:
        """True when fresh items are a resample of a fixed file.

        Results then hold for that file's distribution only.
        """
        ...

    @builtins.property
    def instruction(self) -> str | None:
        """The system message for models with a chat template; None for no system message."""
        ...

    def digest(self) -> str:
        """Return the hash of everything that determines the items."""
        ...

    def train_items(self) -> Sequence[Item]:
        """Return the human data that a recipe may train on.

        The items are fixed. Their entities and wordings are disjoint from those of open items.
        """
        ...

    def fresh_items(self, seed: int, per_property: int) -> list[Item]:
        """Draw the open items of one replicate.

        Args:
            seed: determines the draw.
            per_property: number of items of each kind, for each property and capability.
        """
        ...

    def reworded_items(self, seed: int, per_property: int, claim: str) -> list[Item]:
        """Draw items of one claim for the open entities, in wordings that open items never use.

        Returns:
            The items; an empty list when the suite has no such wordings.
        """
        ...


def claims(suite: Suite) -> tuple[str, ...]:
    """Return everything that a suite scores, properties first."""
    return (*suite.properties, *suite.capabilities)
