"""Are two things the same, within a margin that was fixed beforehand? Two one-sided tests (Schuirmann 1987)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from stagezero.evidence.intervals import t_interval


@dataclass(frozen=True, slots=True)
class Equivalence:
    """What paired differences say: "same" only where it is shown, which too few of them do not."""

    name: str
    shown: Literal["same", "different", "not shown"]
    mean: float
    low: float
    high: float
    margin: float


def equivalence(name: str, differences: Sequence[float], margin: float, floor: float = 0.0, level: float = 0.05) -> Equivalence:
    """ "same" when the mean difference is shown to lie within ±margin, each side at ``level``; "different" when it is shown to lie outside.

    Exact for normal differences: things that differ by the margin are called the same with probability at most ``level``.

    Args:
        differences: paired, one a seed.
        floor: the least standard deviation believed; scores lie on a grid.
    """
    found = t_interval(differences, level=1 - 2 * level, floor=floor)
    shown: Literal["same", "different", "not shown"] = "not shown"
    if -margin < found.low and found.high < margin:
        shown = "same"
    elif found.low > margin or found.high < -margin:
        shown = "different"
    return Equivalence(name, shown, found.mean, found.low, found.high, margin)
