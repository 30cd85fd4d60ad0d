"""Equivalence test of two things within a margin that is fixed in advance.

Source: two one-sided tests (Schuirmann 1987).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from stagezero.evidence.intervals import t_interval


@dataclass(frozen=True, slots=True)
class Equivalence:
    """Result of an equivalence test on paired differences.

    ``established`` is "same" or "different" only if the test establishes it. With too few
    differences it is "not shown".
    """

    name: str
    established: Literal["same", "different", "not shown"]
    mean: float
    low: float
    high: float
    margin: float


def equivalence(name: str, differences: Sequence[float], margin: float, floor: float = 0.0, level: float = 0.05) -> Equivalence:
    """Test whether the mean difference lies within ±margin or outside it.

    The test is exact for normal differences: two things whose mean difference equals the margin
    are called the same with probability at most ``level``.

    Args:
        name: name of the quantity, for display.
        differences: paired differences, one per seed.
        margin: equivalence margin, positive.
        floor: lower limit on the sample standard deviation. Scores lie on a grid, so a few equal
            ones have no spread.
        level: level of each one-sided test.
    """
    interval = t_interval(differences, level=1 - 2 * level, floor=floor)
    established: Literal["same", "different", "not shown"] = "not shown"
    if -margin < interval.low and interval.high < margin:
        established = "same"
    elif interval.low > margin or interval.high < -margin:
        established = "different"
    return Equivalence(name, established, interval.mean, interval.low, interval.high, margin)
