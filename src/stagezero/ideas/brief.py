"""The brief: what a researcher knows when it proposes.

All researchers get the same brief. It contains no item.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from stagezero.ideas.idea import Idea
from stagezero.training import Recipe


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of one earlier idea. It contains no item, no answer and no seed."""

    stage: int
    idea: Idea
    fate: str
    pairs: int
    effect: float
    alignment_gain: float


@dataclass(frozen=True, slots=True)
class OwnModel:
    """A stage's own model, for the researcher that *is* this model; no other researcher gets it."""

    stage: int
    folder: Path
    digest: str
    passed: bool
    """Whether the model has passed audit. If not, its ideas wait for review."""


@dataclass(frozen=True, slots=True)
class Brief:
    """Everything that a researcher may know when it proposes.

    ``own`` is not knowledge: it is the model for the researcher that is this model, and no text
    contains it.
    """

    stage: int
    control: Recipe
    properties: tuple[str, ...]
    capabilities: tuple[str, ...]
    trainable: tuple[str, ...]
    scores: dict[str, float]
    history: tuple[Outcome, ...]
    channels: tuple[str, ...] = ()
    own: OwnModel | None = None
