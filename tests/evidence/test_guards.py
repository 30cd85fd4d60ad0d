"""Guards: simulated error rates under the null with binomial bounds, and inconclusive results.

Covers: evidence/equivalence.py.
"""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from stagezero.evidence import (
    LOOK_LEVELS,
    check_guards,
    crosses_harm_boundary,
    gain_established,
    looks_from,
    non_inferiority,
    planned_looks,
)


def test_a_harmful_idea_passes_at_most_at_the_level() -> None:
    rng, runs, margin = np.random.default_rng(3), 3000, 0.05
    result = non_inferiority(rng.normal(-margin, 0.03, (runs, 10)), np.full(runs, margin), np.full(runs, 0.01))
    assert stats.binomtest(int(result.holds.sum()), runs, 0.05, "greater").pvalue > 1e-3


@pytest.mark.parametrize("last", [10, 12, 20, 40])
def test_a_loss_equal_to_the_margin_passes_at_most_at_the_level_over_all_looks(last: int) -> None:
    rng, runs, margin = np.random.default_rng(7), 20_000, 0.05
    rows, looks = rng.normal(-margin, 0.03, (runs, 40)), planned_looks(10, last)
    margins, floors, level = np.full(runs, margin), np.full(runs, 0.01), LOOK_LEVELS[len(looks)]
    held = np.any([non_inferiority(rows[:, :k], margins, floors, level).holds for k in looks], axis=0)
    assert stats.binomtest(int(held.sum()), runs, 0.05, "greater").pvalue > 1e-3
    harmless = np.any([non_inferiority(rows[:, :k] + margin, margins, floors, level).holds for k in looks], axis=0)
    assert last < 40 or harmless.mean() > 0.999


def test_the_looks_at_the_guards() -> None:
    assert planned_looks(10, 40) == (10, 15, 25) and planned_looks(10, 12) == (10, 12) and planned_looks(10, 10) == (10,)
    assert looks_from(4, (10, 15, 25), 40) == (10, 15, 25) and looks_from(12, (10, 15, 25), 40) == (15, 25)
    assert looks_from(30, (10, 15, 25), 40) == (30, 40) and looks_from(40, (10, 15, 25), 40) == (40,)
    assert looks_from(30, (10, 15, 25), 1000) == (30, 45) and looks_from(13, (10,), 40) == (13, 20)


@pytest.mark.parametrize(
    ("differences", "established"),
    [([0.0] * 5, "not shown"), ([0.0, 0.01] * 5, "holds"), ([-0.2, -0.21] * 5, "fails"), ([-0.3, 0.3] * 5, "not shown"), ([], "not shown")],
)
def test_an_inconclusive_guard_is_distinguished_from_a_failed_one(differences: list[float], established: str) -> None:
    (guard,) = check_guards(("g",), np.array([differences], dtype=np.float64), np.array([0.05]), np.array([0.01]))
    assert (guard.name, guard.established, guard.n) == ("g", established, len(differences))


def test_many_guards_give_the_same_results_as_each_alone() -> None:
    rows, margin, floor = np.random.default_rng(4).normal(-0.03, 0.03, (40, 12)), np.full(40, 0.05), np.full(40, 0.01)
    together = check_guards([f"g{i}" for i in range(40)], rows, margin, floor)
    assert together == tuple(check_guards((f"g{i}",), rows[i : i + 1], margin[:1], floor[:1])[0] for i in range(40))
    assert {g.established for g in together} == {"holds", "not shown"}


def test_a_guard_that_crosses_the_harm_boundary_would_have_failed() -> None:
    rng, runs = np.random.default_rng(5), 2000
    rows, margin, sd = rng.normal(0.0, 0.03, (runs, 10)), np.full(runs, 0.05), np.full(runs, 0.03)
    ended = np.any([crosses_harm_boundary(rows[:, :k], margin, sd) for k in range(1, 11)], axis=0)
    assert ended.sum() <= 2, "a harmless idea must hardly ever be ended early"
    margin_and_sd = np.array([0.05]), np.array([0.03])
    assert [bool(crosses_harm_boundary(np.array([d]), *margin_and_sd)[0]) for d in ([-0.2, -0.2], [-0.3], [-0.2])] == [True, True, False]


def test_a_gain_is_established_at_its_level() -> None:
    rng, runs = np.random.default_rng(6), 3000
    established = gain_established(rng.normal(0.0, 0.03, (runs, 10)), np.full(runs, 0.01), np.zeros(runs))
    assert stats.binomtest(int(established.sum()), runs, 0.05, "greater").pvalue > 1e-3
    assert not gain_established(np.full((1, 10), 0.01), np.array([0.001]), np.array([0.05])).any(), (
        "a significant gain must not count if it is below the smallest relevant gain"
    )
