"""The exact sequential boundary: its level and its numerical error.

Covers: evidence/spending.py.
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from stagezero.evidence import FIRST_PAIR, Spending, critical_values, pairs_until_width

Floats = NDArray[np.float64]
SPENDINGS = [
    Spending(0.05, 25, True, 0.1),
    Spending(0.05, 25, False, 0.1),
    Spending(0.05 / 121, 40),
    Spending(1e-7, 40),
    Spending(0.3, 4, True),
]


def t_paths(rng: np.random.Generator, runs: int, pairs: int) -> Floats:
    """Return the t-statistics of normal differences after every pair, shape (runs, pairs)."""
    x = rng.standard_normal((runs, pairs))
    k = np.arange(1, pairs + 1)
    mean = x.cumsum(1) / k
    variance = ((x * x).cumsum(1) - k * mean * mean) / np.maximum(k - 1, 1)
    variance[:, 0] = np.inf
    return np.asarray(mean * np.sqrt(k / variance))


@pytest.mark.parametrize("spending", SPENDINGS)
def test_the_critical_values_agree_with_a_much_finer_grid(spending: Spending) -> None:
    values = critical_values(spending, spending.max_pairs)
    fine = critical_values(spending, spending.max_pairs, nodes=1000, quadrature_nodes=96)
    assert values[: FIRST_PAIR - 1] == fine[: FIRST_PAIR - 1] == (np.inf,) * (FIRST_PAIR - 1)
    assert values == pytest.approx(fine, rel=1e-4)


def test_after_the_first_look_the_spent_level_is_met_exactly() -> None:
    """At the first look and the second one, the level is known in closed form or by integration."""
    spending = Spending(0.05, 25)
    first, second = spending.increments(5).tolist()
    c4, c5 = critical_values(spending, 5)[3:]
    assert stats.t.sf(c4, 3) == pytest.approx(first, rel=1e-4)
    paths = t_paths(np.random.default_rng(1), 1_000_000, 5)
    rejected = int(((paths[:, 4] > c5) & (paths[:, 3] <= c4)).sum())
    assert stats.binomtest(rejected, len(paths), second).pvalue > 1e-3


@pytest.mark.parametrize("spending", SPENDINGS[:2])
def test_the_level_is_spent_at_every_pair_and_over_extensions(spending: Spending) -> None:
    paths = t_paths(np.random.default_rng(2), 60_000, 60)
    crossed = np.logical_or.accumulate((np.abs(paths) if spending.two_sided else paths) > critical_values(spending, 60), axis=1)
    spent = spending.increments(60).cumsum()
    for k in (4, 6, 12, 25, 40, 60):
        assert stats.binomtest(int(crossed[:, k - 1].sum()), len(paths), spent[k - FIRST_PAIR]).pvalue > 1e-4, k
    assert spending.increments(25).sum() == pytest.approx(0.045) and spending.increments(10_000).sum() < 0.05


def test_negative_control_values_without_the_correction_for_looks_exceed_the_level() -> None:
    paths = t_paths(np.random.default_rng(3), 20_000, 25)
    naive = stats.t.isf(0.05, np.maximum(np.arange(25), 1))
    naive[: FIRST_PAIR - 1] = np.inf
    assert (paths > naive).any(1).mean() > 0.15


def test_without_a_reserve_nothing_is_rejected_after_the_maximum() -> None:
    assert critical_values(Spending(0.05, 10), 12)[9:] == (critical_values(Spending(0.05, 10), 10)[-1], np.inf, np.inf)
    assert len(critical_values(Spending(0.05, 10), 2)) == 2


def test_impossible_settings_are_rejected() -> None:
    for arguments in ((0.0, 25), (0.6, 25), (0.05, 3), (0.05, 25.5), (0.05, 25, True, 1.0), (0.05, 25, True, -0.1)):
        with pytest.raises(ValueError, match="level, max_pairs, reserve"):
            Spending(*arguments)


def test_levels_at_the_limits() -> None:
    assert critical_values(Spending(1e-16, 25), 25) == (np.inf,) * 25
    assert all(a > b for a, b in itertools.pairwise(critical_values(Spending(1e-12, 25), 25)[3:]))
    assert np.isfinite(critical_values(Spending(0.5, 200), 200)[3:]).all()


def test_more_pairs_give_a_narrower_interval() -> None:
    spending = Spending(0.05, 25, True, 0.1)
    more = pairs_until_width(spending, 0.05, 0.06, 10, 50)
    assert more is not None
    values = critical_values(spending, 50)
    assert values[9 + more] * 0.06 / np.sqrt(10 + more) <= 0.05 < values[8 + more] * 0.06 / np.sqrt(9 + more)
    assert pairs_until_width(spending, 0.001, 0.06, 10, 50) is None
