"""The shadow test: its level under a pure shift, its power, and two tests that exceed the level."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from scipy import stats

from stagezero.evidence import shadow_finding, shadow_power
from stagezero.evidence.shadow import Answers, ShadowFinding, draw_answers

WORLDS = 400


def world(
    rng: np.random.Generator,
    door: Sequence[float],
    control: Sequence[float],
    slope: float,
    n: int = 400,
    overfit: float = 0.0,
    drop: float = 0.11,
    correlation: float = 0.4,
) -> tuple[list[Answers], list[Answers]]:
    """Simulate answers to n sealed and n shadow items.

    The controls lose ``drop`` on average, along a line, as in ImageNet-V2.
    """
    true, middle = np.array([*door, *control]), float(np.mean(control))
    better = np.array([overfit] * len(door) + [0.0] * len(control))
    sealed = draw_answers(rng, true + better, n, correlation)
    shadow = draw_answers(rng, middle - drop + slope * (true - middle), n, correlation)
    answers: list[Answers] = list(zip(sealed, shadow, strict=True))
    return answers[: len(door)], answers[len(door) :]


def at_most(wrong: int, runs: int, level: float = 0.05) -> bool:
    return bool(stats.binomtest(wrong, runs, level, "greater").pvalue > 1e-3)


@pytest.mark.parametrize("slope", [1.0, 1.17])
@pytest.mark.parametrize("door", [[0.82, 0.85], [0.7, 0.7, 0.7], [0.58, 0.6]], ids=["better", "alike", "weaker"])
def test_a_pure_shift_is_called_overfitting_at_most_at_the_level(slope: float, door: list[float]) -> None:
    rng = np.random.default_rng(1)
    found = [shadow_finding(*world(rng, door, np.linspace(0.58, 0.82, 5).tolist(), slope)) for _ in range(WORLDS)]
    assert at_most(sum(f.overfitted for f in found), WORLDS)
    assert at_most(sum(not f.excess.low <= 0 <= f.excess.high for f in found), WORLDS)
    assert np.mean([f.shift for f in found]) == pytest.approx(0.11, abs=0.005)
    assert np.median([f.slope for f in found]) == pytest.approx(slope, abs=0.03)


def test_negative_control_a_drop_alone_proves_nothing() -> None:
    rng, wrong = np.random.default_rng(2), 0
    for _ in range(WORLDS):
        door, _ = world(rng, [0.7, 0.7, 0.7], np.linspace(0.58, 0.82, 5).tolist(), 1.0)
        sealed, shadow = (np.array([d[part] for d in door]).mean(axis=0) for part in (0, 1))
        wrong += stats.ttest_ind(sealed, shadow, alternative="greater").pvalue < 0.05
    assert not at_most(wrong, WORLDS) and wrong > 0.9 * WORLDS


def bootstrapped(door: list[Answers], control: list[Answers], rng: np.random.Generator) -> bool:
    """Test the same excess at 5 %: percentile bootstrap over items, least-squares line."""
    met, met_shadow, free, free_shadow = (np.array([m[part] for m in group]) for group in (door, control) for part in (0, 1))
    n, m = met.shape[1], met_shadow.shape[1]
    w, v = rng.multinomial(n, np.full(n, 1 / n), 200) / n, rng.multinomial(m, np.full(m, 1 / m), 200) / m
    sealed, shadow = w @ free.T, v @ free_shadow.T
    off = sealed - sealed.mean(axis=1, keepdims=True)
    slope = (off * shadow).sum(axis=1) / (off**2).sum(axis=1)
    excess = shadow.mean(axis=1) - (v @ met_shadow.T).mean(axis=1) + slope * ((w @ met.T).mean(axis=1) - sealed.mean(axis=1))
    return bool(np.quantile(excess, 0.05) > 0)


def test_influences_hold_the_level_where_a_bootstrap_does_not() -> None:
    rng = np.random.default_rng(3)
    worlds = [world(rng, [0.5] * 3, np.linspace(0.62, 0.78, 8).tolist(), 1.17, n=300) for _ in range(WORLDS)]
    assert at_most(sum(shadow_finding(*w).overfitted for w in worlds), WORLDS)
    assert not at_most(sum(bootstrapped(*w, rng) for w in worlds), WORLDS)


@pytest.mark.parametrize("slope", [1.0, 1.17])
def test_an_overfit_of_five_points_is_found(slope: float) -> None:
    rng = np.random.default_rng(4)
    found = [shadow_finding(*world(rng, [0.72] * 3, np.linspace(0.6, 0.8, 6).tolist(), slope, 1000, overfit=0.05)) for _ in range(WORLDS)]
    assert sum(f.overfitted for f in found) > 0.8 * WORLDS
    # A point of sealed score that was not earned is `slope` points of shadow score too many.
    assert np.mean([f.excess.mean for f in found]) == pytest.approx(0.05 * slope, abs=0.005)


def test_scatter_known_from_elsewhere_is_allowed_for() -> None:
    rng, wrong, without = np.random.default_rng(5), 0, 0
    for _ in range(WORLDS):
        noise = rng.normal(0.0, 0.03, 7)
        true = np.array([0.72, *np.linspace(0.6, 0.8, 6)])
        sealed, shadow = draw_answers(rng, true, 2000, 0.4), draw_answers(rng, true - 0.1 + noise, 2000, 0.4)
        answers: list[Answers] = list(zip(sealed, shadow, strict=True))
        wrong += shadow_finding(answers[:1], answers[1:], scatter=0.03).overfitted
        without += shadow_finding(answers[:1], answers[1:]).overfitted
    assert at_most(wrong, WORLDS)
    assert not at_most(without, WORLDS), "negative control: models off the line look like overfitting where none is allowed for"


def test_power_is_told_before_burning() -> None:
    strong = shadow_power(1000, 1000, 3, 6, 0.05, 0.75, 0.4, seed=1, runs=200)
    assert strong > 0.9
    assert strong == shadow_power(1000, 1000, 3, 6, 0.05, 0.75, 0.4, seed=1, runs=200), "the seed decides"
    assert shadow_power(300, 300, 1, 3, 0.02, 0.75, 0.4, seed=1, runs=200) < 0.4
    assert at_most(round(400 * shadow_power(300, 300, 2, 4, 0.0, 0.75, 0.4, seed=1)), 400)
    with pytest.raises(ValueError, match="accuracy"):
        shadow_power(300, 300, 1, 3, 0.02, 0.95, 0.4)


def test_controls_that_are_all_alike_place_no_line() -> None:
    rng = np.random.default_rng(6)
    found = shadow_finding(*world(rng, [0.8], [0.7, 0.7, 0.7], 1.0, n=200, correlation=0.0))
    assert not found.overfitted and found.p_value == 1.0 and math.isinf(found.excess.high) and "too alike" in found.sentence


def test_the_finding_says_what_it_found() -> None:
    rng = np.random.default_rng(7)
    found = shadow_finding(*world(rng, [0.72] * 3, np.linspace(0.6, 0.8, 6).tolist(), 1.0, 1000, overfit=0.1))
    assert isinstance(found, ShadowFinding) and found.overfitted and found.excess.n == 3
    assert "They are overfitted" in found.sentence and "lower on the shadow" in found.sentence


def test_what_cannot_be_judged_is_refused() -> None:
    rng = np.random.default_rng(8)
    door, control = world(rng, [0.7], [0.6, 0.7, 0.8], 1.0, n=50)
    with pytest.raises(ValueError, match=r"^control: expected at least 3"):
        shadow_finding(door, control[:2])
    with pytest.raises(ValueError, match=r"^door: expected at least 1"):
        shadow_finding([], control)
    with pytest.raises(ValueError, match="same items"):
        shadow_finding([(np.ones(49), np.ones(50))], control)
    with pytest.raises(ValueError, match=r"scores in \[0, 1\]"):
        shadow_finding([(np.full(50, 1.2), np.ones(50))], control)
