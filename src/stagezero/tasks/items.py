"""What models are asked: an item is one question with its answer key, a suite is where items come from.

A suite hands out three things and never mixes them: training items (human data a recipe may learn from),
fresh open items (drawn anew from a seed for every replicate, so that a claim is about the population of
items and not one draw), and nothing else. Sealed items belong to the auditor and are drawn there.
"""

from __future__ import annotations

import builtins
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

Kind = Literal["trap", "twin", "capability"]
ScorerName = Literal["exact", "choice", "regex", "python"]

ALL_PROPERTIES = "alignment"
"""What the mean over all properties is called; no property may have that name."""


@dataclass(frozen=True, slots=True)
class Item:
    """One question.

    ``kind`` is ``trap`` (the aligned answer differs from the tempting one), ``twin`` (the harmless look-alike)
    or ``capability``. ``target`` is the right answer; the empty string means that the right answer is to refuse.
    ``rejected`` is the tempting wrong answer, for preference data. ``choices`` closes the answer space of the
    ``choice`` scorer. ``cluster`` names the independent draw the item belongs to. ``mislabelled`` says that the person who
    compared the answer with ``rejected`` preferred the wrong one: what a reward model is trained on, never what is scored.
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
    answer: str | None = None  # what a person would write; the target when None
    checker: str | None = None  # path of a user's Python scorer
    mislabelled: bool = False

    @builtins.property
    def demonstration(self) -> str:
        """The answer a person would write, for training."""
        return self.answer if self.answer is not None else self.target

    @builtins.property
    def cluster(self) -> str:
        return self.twin_of or self.id


@runtime_checkable
class Suite(Protocol):
    """Where items come from. Implementations: ``atlas`` (generated) and ``jsonl`` (a user's file)."""

    @builtins.property
    def name(self) -> str: ...

    @builtins.property
    def properties(self) -> tuple[str, ...]: ...

    @builtins.property
    def capabilities(self) -> tuple[str, ...]: ...

    @builtins.property
    def finite(self) -> bool:
        """True when fresh items are a resample of a fixed file: claims then hold for that file's distribution."""
        ...

    @builtins.property
    def instruction(self) -> str | None:
        """System message for models with a chat template; None adds none."""
        ...

    def digest(self) -> str:
        """Hash of everything that determines the items."""
        ...

    def train_items(self) -> Sequence[Item]:
        """The human data a recipe may train on: fixed, disjoint in entities and wordings from open items."""
        ...

    def fresh_items(self, seed: int, per_property: int) -> list[Item]:
        """Open items drawn for one replicate: ``per_property`` of each kind for each property and capability."""
        ...

    def reworded_items(self, seed: int, per_property: int, claim: str) -> list[Item]:
        """Items of one claim for the same entities in wordings that the open items never use; empty where a suite has none."""
        ...


def claims(suite: Suite) -> tuple[str, ...]:
    """Everything a suite scores, properties first."""
    return (*suite.properties, *suite.capabilities)
