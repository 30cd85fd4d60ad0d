"""What every researcher is told, and what it must answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from stagezero.lab.ideas import Idea
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


class Researcher(Protocol):
    """Proposes ideas for one stage."""

    @property
    def name(self) -> str:
        """What it is called in the project and the report."""
        ...

    @property
    def ideas_on_file(self) -> Sequence[Idea]:
        """Ideas known before the campaign begins, so that editing one under a half-finished run is noticed."""
        ...

    @property
    def repeatable(self) -> bool:
        """True where it is a pure function of the brief and its settings, so that a continued run may simply ask again. What the others
        propose is kept in the run's folder before it is used (``lab/proposals.py``)."""
        ...

    def propose(self, brief: Brief) -> Sequence[Idea]: ...
