"""What every researcher is told before it proposes: the same for all, and nothing of any item."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from stagezero.ideas.idea import Idea
from stagezero.training import Recipe


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one earlier idea: no item, no answer, no seed."""

    stage: int
    idea: Idea
    fate: str
    pairs: int
    effect: float
    alignment_gain: float


@dataclass(frozen=True, slots=True)
class Own:
    """A stage's own model, for the researcher that *is* it; no other is handed it."""

    stage: int
    folder: Path
    digest: str
    passed: bool
    """Whether the auditor has passed it: without that, its ideas wait for review."""


@dataclass(frozen=True, slots=True)
class Brief:
    """Everything a researcher may know when it proposes: the same for all. ``own`` is no knowledge, and in no text."""

    stage: int
    control: Recipe
    properties: tuple[str, ...]
    capabilities: tuple[str, ...]
    trainable: tuple[str, ...]
    scores: dict[str, float]
    history: tuple[Outcome, ...]
    channels: tuple[str, ...] = ()
    own: Own | None = None
