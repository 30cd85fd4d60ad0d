"""What a decision rule reads and returns: pairs, fates and rulings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from stagezero.evidence import Guard, sign_test

Floats = NDArray[np.float64]


class Fate(StrEnum):
    """The result of a trial. The values are stored in ledgers."""

    PROMOTED = "promoted"
    WORSE = "worse"
    SAME = "the same"
    GIVEN_UP = "given up"
    UNDECIDED = "undecided"
    GUARD = "stopped by a guard"
    COLLAPSED = "collapsed"
    FAILS_MORE = "fails more often"
    FAILED = "failed to build"


@dataclass(frozen=True, slots=True)
class Pair:
    """One replicate: control and candidate with the same seed, data order and fresh items.

    ``control`` and ``candidate`` map each claim (a property or a capability) to its score.
    ``control_signs`` and ``candidate_signs`` map each warning sign of a gamed score to the share of
    answers that show it.
    """

    replicate: int
    seed: int
    control_model: str
    candidate_model: str
    control: Mapping[str, float]
    candidate: Mapping[str, float]
    control_signs: Mapping[str, float]
    candidate_signs: Mapping[str, float]

    def difference(self, claim: str) -> float:
        """Return the paired difference of a claim or a warning sign; larger is better.

        It is candidate − control for a claim, and control − candidate for a warning sign.
        """
        if claim in self.control:
            return self.candidate[claim] - self.control[claim]
        return self.control_signs[claim] - self.candidate_signs[claim]


@dataclass(frozen=True, slots=True)
class Failure:
    """A replicate of which at least one build failed; it has no pair.

    ``arms`` names the arms that failed ("control", "candidate"), and ``why`` is the first reason.
    """

    replicate: int
    arms: tuple[str, ...]
    why: str


@dataclass(frozen=True, slots=True)
class FailureCounts:
    """How often each arm failed to build.

    ``only_control`` and ``only_candidate`` count the replicates in which only that arm failed;
    ``both`` counts those in which both did; ``replicates`` counts all.
    """

    only_control: int
    only_candidate: int
    both: int
    replicates: int

    @staticmethod
    def of(failures: Sequence[Failure], pairs: int) -> FailureCounts:
        """Count the failures of a trial with this number of pairs."""
        arms = [set(f.arms) for f in failures]
        return FailureCounts(arms.count({"control"}), arms.count({"candidate"}), arms.count({"control", "candidate"}), pairs + len(arms))

    @property
    def p_value(self) -> float:
        """The exact two-sided p-value of "both arms fail equally often" (McNemar's test)."""
        return sign_test(self.only_control, self.only_candidate)

    def __str__(self) -> str:
        control, candidate = self.only_control + self.both, self.only_candidate + self.both
        return f"failed builds: candidate {candidate}, control {control} of {self.replicates} (exact p = {self.p_value:.2g})"


NO_FAILURES = FailureCounts(0, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class Ruling:
    """Result of one interim analysis.

    ``e_value`` is the value of the e-process after the last pair. ``crossed`` is True if "better"
    is established at this pair or an earlier one. If ``fate`` is None, the trial continues: with
    more pairs if ``guards`` is empty, otherwise with the final checks.
    """

    e_value: float
    crossed: bool
    fate: Fate | None = None
    why: str = ""
    guards: tuple[Guard, ...] = ()


def differences(pairs: Sequence[Pair], claims: Sequence[str]) -> Floats:
    """Return the paired differences of claims or warning signs; larger is better.

    Returns:
        Shape (claims, pairs).
    """
    return np.array([[p.difference(claim) for p in pairs] for claim in claims], dtype=np.float64).reshape(len(claims), len(pairs))
