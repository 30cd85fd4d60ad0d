"""What every researcher is told, and what it must answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
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
class Brief:
    """Everything a researcher may know when it proposes."""

    stage: int
    control: Recipe
    properties: tuple[str, ...]
    capabilities: tuple[str, ...]
    trainable: tuple[str, ...]
    scores: dict[str, float]
    history: tuple[Outcome, ...]


class Researcher(Protocol):
    """Proposes ideas for one stage; a pure function of the brief and its own settings."""

    @property
    def name(self) -> str: ...

    @property
    def ideas_on_file(self) -> Sequence[Idea]:
        """Ideas known before the campaign begins, so that editing one under a half-finished run is noticed."""
        ...

    def propose(self, brief: Brief) -> Sequence[Idea]: ...
