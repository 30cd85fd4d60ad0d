"""Guards: paired non-inferiority tests of everything that a claim is not about.

All functions take arrays whose last axis is the pairs. A pair is one seed and contributes one value
to each test, never one value per item. A promotion requires that every guard holds, so the guards
need no correction for multiple testing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
GUARD_LEVEL = 0.05
"""One-sided level of each guard, over all its looks together."""
LOOK_LEVELS = {1: 0.05, 2: 0.03, 3: 0.02}
"""One-sided level of each look, by the number of planned looks. The looks share their first pairs,
so a loss equal to the margin passes one of three looks at .02 with probability .044
(tests/evidence/test_guards.py)."""
LOOK_FACTORS = (1.0, 1.5, 2.5)
"""Numbers of pairs at the looks, in multiples of those at the first look: 10, 15 and 25."""
MIN_PAIRS = 10
"""Default number of pairs below which a guard neither holds nor fails."""
HARM_STANDARD_ERRORS_FIRST_PAIR = 6.0
"""Distance of the harm boundary below −margin at the first pair, in standard errors."""
HARM_STANDARD_ERRORS = 4.0
"""Distance of the harm boundary below −margin after the first pair, in standard errors."""


@dataclass(frozen=True, slots=True)
class Guard:
    """Result of one non-inferiority test.

    ``established`` is "holds" if the mean difference is above −margin, "fails" if it is below, and
    "not shown" if neither is established. Only "holds" is a pass. ``lower`` is the one-sided lower
    confidence bound, and ``n`` the number of pairs.
    """

    name: str
    established: Literal["holds", "fails", "not shown"]
    mean: float
    lower: float
    margin: float
    n: int


@dataclass(frozen=True, slots=True)
class NonInferiority:
    """Results of many non-inferiority tests, as arrays of one shape.

    ``mean`` is the mean difference and ``lower`` its one-sided lower confidence bound. ``holds``
    and ``fails`` are True where that result is established.
    """

    mean: Floats
    lower: Floats
    holds: Bools
    fails: Bools


def non_inferiority(
    differences: Floats, margin: Floats, floor: Floats, level: float = GUARD_LEVEL, min_pairs: int = MIN_PAIRS
) -> NonInferiority:
    """Test whether mean paired differences are above −margin.

    A test holds if the one-sided lower bound is above −margin, and fails if the one-sided upper
    bound is below −margin. The level is exact for normal differences. If 5-10 % of the seeds
    collapse by 5 standard deviations, a loss equal to the margin passes 11-15 % of the time.

    Args:
        differences: candidate − control, signed so that larger is better, shape (…, pairs).
        margin: non-inferiority margin, the largest tolerated loss, shape (…).
        floor: lower limit on the sample standard deviation, shape (…).
        level: one-sided level.
        min_pairs: with fewer pairs, a test neither holds nor fails.
    """
    n = differences.shape[-1]
    mean = differences.mean(-1) if n else np.zeros(differences.shape[:-1])
    if n < 2:
        none = np.zeros(mean.shape, dtype=bool)
        return NonInferiority(mean, np.full(mean.shape, -math.inf), none, none)
    half_width = float(stdtrit(n - 1, 1 - level)) * np.maximum(differences.std(-1, ddof=1), floor) / math.sqrt(n)
    enough = n >= min_pairs
    lower, upper = mean - half_width, mean + half_width
    return NonInferiority(mean, lower, (lower > -margin) & enough, (upper < -margin) & enough)


def planned_looks(first: int, last: int) -> tuple[int, ...]:
    """Return the numbers of pairs at which the guards of a trial are planned to be tested.

    Args:
        first: number of pairs at the first look.
        last: registered maximum of pairs, at least ``first``.
    """
    return tuple(dict.fromkeys(min(math.ceil(factor * first), last) for factor in LOOK_FACTORS))


def looks_from(crossed_at: int, looks: Sequence[int], last: int) -> tuple[int, ...]:
    """Return the numbers of pairs at which the guards of a trial are tested.

    They are tested at the planned looks from the pair on that reached the boundary. A trial that
    reaches it after the last planned look tests them at once, and again after half as many pairs
    more. The level of each look must allow for both, also if only one look was planned.

    Args:
        crossed_at: number of pairs at which the boundary was reached.
        looks: the planned looks.
        last: maximum of pairs.
    """
    return tuple(k for k in looks if k >= crossed_at) or tuple(dict.fromkeys((crossed_at, min(last, math.ceil(1.5 * crossed_at)))))


def check_guards(
    names: Sequence[str], differences: Floats, margin: Floats, floor: Floats, min_pairs: int = MIN_PAIRS, level: float = GUARD_LEVEL
) -> tuple[Guard, ...]:
    """Test the guards of one trial.

    Args:
        names: one name per guard.
        differences: candidate − control, signed so that larger is better, shape (guards, pairs).
        margin, floor, min_pairs, level: as in ``non_inferiority``, shape (guards,).
    """
    tests = non_inferiority(differences, margin, floor, level, min_pairs)
    n = differences.shape[-1]
    return tuple(
        Guard(name, "holds" if tests.holds[i] else "fails" if tests.fails[i] else "not shown", float(tests.mean[i]), float(tests.lower[i]),
              float(margin[i]), n)
        for i, name in enumerate(names)
    )  # fmt: skip


def crosses_harm_boundary(differences: Floats, margin: Floats, sd: Floats) -> Bools:
    """Return where a loss is so large that further pairs are very unlikely to make the guard hold.

    The boundary uses the pooled seed noise: the mean is below −margin by six standard errors at the
    first pair, and by four later. A trial that crosses it stops early for harm; it would almost
    certainly fail its guard at the end. Stopping early never promotes, so it spends no error.

    Args:
        differences: candidate − control, signed so that larger is better, shape (…, pairs).
        margin: non-inferiority margin, shape (…).
        sd: pooled A/A standard deviation, shape (…).
    """
    k = differences.shape[-1]
    standard_errors = HARM_STANDARD_ERRORS_FIRST_PAIR if k == 1 else HARM_STANDARD_ERRORS
    return np.asarray(differences.sum(-1) / k + standard_errors * sd / math.sqrt(k) < -margin)


def gain_established(differences: Floats, floor: Floats, min_gain: Floats, level: float = GUARD_LEVEL) -> Bools:
    """Return where a mean difference is significantly above 0 and at least ``min_gain``.

    Significance is by a one-sided t-bound at ``level``.

    Args:
        differences: candidate − control, signed so that larger is better, shape (…, pairs).
        floor: lower limit on the sample standard deviation, shape (…).
        min_gain: smallest mean difference that counts as a gain, shape (…).
        level: one-sided level.
    """
    tests = non_inferiority(differences, np.zeros(differences.shape[:-1]), floor, level, min_pairs=2)
    return tests.holds & (tests.mean >= min_gain)
