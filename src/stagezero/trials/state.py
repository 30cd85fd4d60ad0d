"""The state of one trial: the jobs it waits for, its pairs so far, and its decision."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import NamedTuple

from stagezero.evidence import Estimate, Guard
from stagezero.measure import ALIGNMENT
from stagezero.training import Recipe
from stagezero.training.executors import Result
from stagezero.trials.hypothesis import Entrant, Hypothesis
from stagezero.trials.ruling import Failure, FailureCounts, Fate, Pair

CONTROL = "control"
"""The arm of a control job."""
STORED_GUARD_KEYS = {"established": "shown"}
"""Fields of a guard that have another name in the ledger."""


def _ledger_value(value: object) -> object:
    """Round a number to six digits; return None if it is infinite, because JSON has no infinity."""
    if not isinstance(value, float):
        return value
    return float(f"{value:.6g}") if math.isfinite(value) else None


def _guard_entry(guard: Guard) -> dict[str, object]:
    """Return a guard as the ledger stores it."""
    return {STORED_GUARD_KEYS.get(key, key): _ledger_value(value) for key, value in asdict(guard).items()}


@dataclass(frozen=True, slots=True)
class Decision:
    """How a trial ended.

    ``interval`` is the mean difference with the interval of the trial's test; None under rule 1 and
    without a pair.
    """

    hypothesis: Hypothesis
    title: str
    researcher: str
    level: float
    fate: Fate
    why: str
    pairs: tuple[Pair, ...]
    e_values: tuple[float, ...]
    guards: tuple[Guard, ...]
    failures: tuple[Failure, ...] = ()
    interval: Estimate | None = None

    @property
    def decided_at(self) -> int:
        """The number of the replicate that decided the trial.

        A replicate that failed to build has no pair. If failures are counted, they are in
        ``failures``; otherwise the first one ends the trial.
        """
        return len(self.pairs) + len(self.failures) + (self.fate is Fate.FAILED and not self.failures)

    @property
    def promoted(self) -> bool:
        """True if the candidate was promoted."""
        return self.fate is Fate.PROMOTED

    def mean_gain(self) -> float:
        """Return the mean paired difference of the alignment score over the pairs of this trial.

        The same pairs decided the trial, so the mean is biased upwards. Use it only to rank
        candidates.
        """
        return sum(p.difference(ALIGNMENT) for p in self.pairs) / len(self.pairs) if self.pairs else 0.0

    def entry(self) -> dict[str, object]:
        """Return the body of the ledger entry."""
        return {
            "hypothesis": self.hypothesis.digest(), "title": self.title, "researcher": self.researcher,
            "level": float(f"{self.level:.6g}"), "fate": str(self.fate), "why": self.why, "pairs": len(self.pairs),
            "guards": [_guard_entry(g) for g in self.guards], **({"failures": len(self.failures)} if self.failures else {}),
            **({"interval": [_ledger_value(x) for x in (self.interval.low, self.interval.high)]} if self.interval else {}),
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class ReplicateJob:
    """One job of a replicate: build a recipe and measure it on the replicate's draw of items.

    Args:
        arm: CONTROL, the key of a trial's hypothesis, or the name of a matched control.
        recipe: the recipe to build.
        replicate: number of the replicate, from 1.
        neighbour: for calibration, a second replicate whose items are answered too.
        reworded: the property whose items are drawn in other wordings; None for the usual draw.
    """

    arm: str
    recipe: Recipe = field(compare=False)
    replicate: int
    neighbour: int | None = None
    reworded: str | None = None


Request = tuple[tuple[ReplicateJob, ...], ...]
"""Groups of jobs that a trial waits for. The trial continues when all jobs of any one group have
ended."""


class Reply(NamedTuple):
    """The results of one group of a request, or the error of one of its jobs.

    ``group`` is the index of the group in the request. If failed builds are counted, ``partial``
    has one entry for each job of a pair: its result, or None if it failed.
    """

    group: int
    results: tuple[Result, ...] = ()
    error: Exception | None = None
    partial: tuple[Result | None, ...] = ()


@dataclass
class TrialState:
    """The progress of one trial.

    Args:
        entrant: the registered hypothesis.
        key: digest of the hypothesis.
        pairs: the pairs so far, in the order of their replicates.
        e_values: the e-process after each pair.
        failures: the replicates without a pair, if failed builds are counted.
        request: the jobs that the trial waits for.
        crossed: True once the e-process has reached the threshold.
        in_final_checks: True once only the final checks remain.
        decision: None until the trial is decided.
    """

    entrant: Entrant
    key: str
    pairs: list[Pair] = field(default_factory=list)
    e_values: list[float] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    request: Request = ()
    crossed: bool = False
    in_final_checks: bool = False
    decision: Decision | None = None

    @property
    def next_replicate(self) -> int:
        """The number of the next replicate, from 1."""
        return self.done + 1

    @property
    def done(self) -> int:
        """The number of replicates so far: pairs and counted failures."""
        return len(self.pairs) + len(self.failures)

    @property
    def failure_counts(self) -> FailureCounts:
        """How often each arm failed to build."""
        return FailureCounts.of(self.failures, len(self.pairs))

    @property
    def max_e_value(self) -> float:
        """The largest e-value so far, at least 1."""
        return max(self.e_values, default=1.0)

    def candidate_job(self, s: int, reworded: str | None = None) -> ReplicateJob:
        """Return the candidate's job of replicate ``s``."""
        return ReplicateJob(self.key, self.entrant.hypothesis.candidate, s, reworded=reworded)

    def decide(self, level: float, fate: Fate, why: str, guards: tuple[Guard, ...] = (), interval: Estimate | None = None) -> None:
        """Set the final decision."""
        e = self.entrant
        self.decision = Decision(
            e.hypothesis, e.title, e.researcher, level, fate, why, tuple(self.pairs), tuple(self.e_values), guards, tuple(self.failures),
            interval,
        )  # fmt: skip
