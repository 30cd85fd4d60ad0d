"""Where one trial stands: the jobs it waits for, the pairs it has, and how it ended."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import NamedTuple

from stagezero.evidence import Guard
from stagezero.measure import ALIGNMENT
from stagezero.training import Recipe
from stagezero.training.executors import Result
from stagezero.trials.decision import Fate, Pair
from stagezero.trials.hypothesis import Entrant, Hypothesis

CONTROL = "control"


def _finite(value: object) -> object:
    """Six digits of a number, and None where a bound is infinite: the ledger's form has no infinities."""
    if not isinstance(value, float):
        return value
    return float(f"{value:.6g}") if math.isfinite(value) else None


@dataclass(frozen=True, slots=True)
class Decision:
    """How a trial ended."""

    hypothesis: Hypothesis
    title: str
    researcher: str
    level: float
    fate: Fate
    why: str
    pairs: tuple[Pair, ...]
    e_values: tuple[float, ...]
    guards: tuple[Guard, ...]

    @property
    def decided_at(self) -> int:
        """The replicate whose outcome decided: one that failed to build left no pair."""
        return len(self.pairs) + (self.fate is Fate.FAILED)

    @property
    def promoted(self) -> bool:
        return self.fate is Fate.PROMOTED

    def gain(self) -> float:
        """Mean change of the alignment score over the pairs that decided; optimistic, for choosing only."""
        return sum(p.difference(ALIGNMENT) for p in self.pairs) / len(self.pairs) if self.pairs else 0.0

    def entry(self) -> dict[str, object]:
        """The ledger's entry."""
        return {
            "hypothesis": self.hypothesis.digest(), "title": self.title, "researcher": self.researcher,
            "level": float(f"{self.level:.6g}"), "fate": str(self.fate), "why": self.why, "pairs": len(self.pairs),
            "guards": [{key: _finite(value) for key, value in asdict(g).items()} for g in self.guards],
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class Wanted:
    """One job of a replicate: a build, asked its own draw, its neighbour's too (calibration), or in other wordings."""

    who: str
    recipe: Recipe = field(compare=False)
    replicate: int
    neighbour: int | None = None
    reworded: str | None = None


Request = tuple[tuple[Wanted, ...], ...]
"""What a trial needs before it can go on: all the jobs of any one of these questions."""


class Reply(NamedTuple):
    """The results of one question, or what went wrong with a job of it."""

    question: int
    results: tuple[Result, ...] = ()
    error: Exception | None = None


@dataclass
class State:
    """One trial as far as it has come."""

    entrant: Entrant
    key: str
    """The hypothesis as it was registered."""
    pairs: list[Pair] = field(default_factory=list)
    e_values: list[float] = field(default_factory=list)
    request: Request = ()
    crossed: bool = False
    """The threshold has been reached."""
    checking: bool = False
    """Its pairs and guards hold, and the last checks are under way."""
    decision: Decision | None = None

    @property
    def next(self) -> int:
        return len(self.pairs) + 1

    @property
    def best(self) -> float:
        """The largest e-value so far."""
        return max(self.e_values, default=1.0)

    def candidate(self, s: int, reworded: str | None = None) -> Wanted:
        return Wanted(self.key, self.entrant.hypothesis.candidate, s, reworded=reworded)

    def end(self, level: float, fate: Fate, why: str, guards: tuple[Guard, ...] = ()) -> None:
        """Decide it, for good."""
        e = self.entrant
        self.decision = Decision(e.hypothesis, e.title, e.researcher, level, fate, why, tuple(self.pairs), tuple(self.e_values), guards)
