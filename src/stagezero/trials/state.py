"""One idea's way through its trial: the jobs it waits for, the pairs it has, and how it ends."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field

from stagezero.evidence import Guard
from stagezero.measure import ALIGNMENT
from stagezero.training import Recipe
from stagezero.trials.decision import Fate, Judge, Pair, Ruling
from stagezero.trials.hypothesis import Entrant, Hypothesis


def _written(value: object) -> object:
    """Six digits of a number, and nothing where a bound is infinite: the ledger's form has no infinities."""
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
        """What the ledger says of it."""
        return {
            "hypothesis": self.hypothesis.digest(),
            "title": self.title,
            "researcher": self.researcher,
            "level": float(f"{self.level:.6g}"),
            "fate": str(self.fate),
            "why": self.why,
            "pairs": len(self.pairs),
            "guards": [{key: _written(value) for key, value in asdict(g).items()} for g in self.guards],
        }


@dataclass(frozen=True, slots=True)
class Wanted:
    """One job of a replicate: a build, asked its own draw, its neighbour's too (calibration), or in other wordings."""

    who: str
    recipe: Recipe = field(compare=False)
    replicate: int = 1
    neighbour: int | None = None
    reworded: str | None = None


@dataclass
class Course:
    """One idea's way through its trial."""

    entrant: Entrant
    key: str  # the hypothesis as it was registered
    judge: Judge | None = None  # known once the noise is
    pairs: list[Pair] = field(default_factory=list)
    e_values: list[float] = field(default_factory=list)
    ruling: Ruling | None = None
    awaited: list[Wanted] = field(default_factory=list)  # jobs that the last checks wait for
    checking: bool = False
    decision: Decision | None = None
    written: bool = False

    @property
    def crossed(self) -> bool:
        return self.ruling is not None and self.ruling.crossed

    @property
    def next(self) -> int:
        return len(self.pairs) + 1

    def candidate(self, s: int, reworded: str | None = None) -> Wanted:
        return Wanted(self.key, self.entrant.hypothesis.candidate, s, reworded=reworded)

    def end(self, level: float, fate: Fate, why: str, guards: tuple[Guard, ...]) -> None:
        """Decide it, for good."""
        entrant, pairs, e_values = self.entrant, tuple(self.pairs), tuple(self.e_values)
        self.awaited = []
        self.decision = Decision(entrant.hypothesis, entrant.title, entrant.researcher, level, fate, why, pairs, e_values, guards)
