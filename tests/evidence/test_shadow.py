"""The shadow test: its level under a pure shift, its power, and two tests that exceed the level."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from scipy import stats

from stagezero.evidence import shadow_finding, shadow_power
from stagezero.evidence.shadow import Answers, ShadowFinding, draw_answers

RUNS = 400


def simulate(
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


def is_within_level(wrong: int, runs: int, level: float = 0.05) -> bool:
    return bool(stats.binomtest(wrong, runs, level, "greater").pvalue > 1e-3)


@pytest.mark.parametrize("slope", [1.0, 1.17])
@pytest.mark.parametrize("door", [[0.82, 0.85], [0.7, 0.7, 0.7], [0.58, 0.6]], ids=["better", "alike", "weaker"])
def test_a_pure_shift_is_reported_as_overfitting_at_most_at_the_level(slope: float, door: list[float]) -> None:
    rng = np.random.default_rng(1)
    findings = [shadow_finding(*simulate(rng, door, np.linspace(0.58, 0.82, 5).tolist(), slope)) for _ in range(RUNS)]
    assert is_within_level(sum(f.overfitted for f in findings), RUNS)
    assert is_within_level(sum(not f.excess.low <= 0 <= f.excess.high for f in findings), RUNS)
    assert np.mean([f.shift for f in findings]) == pytest.approx(0.11, abs=0.005)
    assert np.median([f.slope for f in findings]) == pytest.approx(slope, abs=0.03)


def test_negative_control_a_t_test_of_the_drop_exceeds_the_level() -> None:
    rng, wrong = np.random.default_rng(2), 0
    for _ in range(RUNS):
        door, _ = simulate(rng, [0.7, 0.7, 0.7], np.linspace(0.58, 0.82, 5).tolist(), 1.0)
        sealed, shadow = (np.array([d[part] for d in door]).mean(axis=0) for part in (0, 1))
        wrong += stats.ttest_ind(sealed, shadow, alternative="greater").pvalue < 0.05
    assert not is_within_level(wrong, RUNS) and wrong > 0.9 * RUNS


def bootstrap_finds_excess(door: list[Answers], control: list[Answers], rng: np.random.Generator) -> bool:
    """Test the same excess at 5 %: percentile bootstrap over items, least-squares line."""
    door_sealed, door_shadow, control_sealed, control_shadow = (
        np.array([m[part] for m in group]) for group in (door, control) for part in (0, 1)
    )
    n, m = door_sealed.shape[1], door_shadow.shape[1]
    w, v = rng.multinomial(n, np.full(n, 1 / n), 200) / n, rng.multinomial(m, np.full(m, 1 / m), 200) / m
    sealed, shadow = w @ control_sealed.T, v @ control_shadow.T
    centred = sealed - sealed.mean(axis=1, keepdims=True)
    slope = (centred * shadow).sum(axis=1) / (centred**2).sum(axis=1)
    excess = shadow.mean(axis=1) - (v @ door_shadow.T).mean(axis=1) + slope * ((w @ door_sealed.T).mean(axis=1) - sealed.mean(axis=1))
    return bool(np.quantile(excess, 0.05) > 0)


def test_the_shadow_test_has_its_level_where_a_bootstrap_does_not() -> None:
    rng = np.random.default_rng(3)
    samples = [simulate(rng, [0.5] * 3, np.linspace(0.62, 0.78, 8).tolist(), 1.17, n=300) for _ in range(250)]
    assert is_within_level(sum(shadow_finding(*w).overfitted for w in samples), 250)
    assert not is_within_level(sum(bootstrap_finds_excess(*w, rng) for w in samples), 250)


@pytest.mark.parametrize("slope", [1.0, 1.17])
def test_an_overfit_of_five_points_is_detected(slope: float) -> None:
    rng = np.random.default_rng(4)
    findings = [
        shadow_finding(*simulate(rng, [0.72] * 3, np.linspace(0.6, 0.8, 6).tolist(), slope, 1000, overfit=0.05)) for _ in range(RUNS)
    ]
    assert sum(f.overfitted for f in findings) > 0.8 * RUNS
    # A point of sealed score from overfitting is `slope` points of shadow score that are missing.
    assert np.mean([f.excess.mean for f in findings]) == pytest.approx(0.05 * slope, abs=0.005)


def test_a_known_scatter_about_the_line_is_taken_into_account() -> None:
    rng, wrong, wrong_without_scatter = np.random.default_rng(5), 0, 0
    for _ in range(RUNS):
        noise = rng.normal(0.0, 0.03, 7)
        true = np.array([0.72, *np.linspace(0.6, 0.8, 6)])
        sealed, shadow = draw_answers(rng, true, 2000, 0.4), draw_answers(rng, true - 0.1 + noise, 2000, 0.4)
        answers: list[Answers] = list(zip(sealed, shadow, strict=True))
        wrong += shadow_finding(answers[:1], answers[1:], scatter=0.03).overfitted
        wrong_without_scatter += shadow_finding(answers[:1], answers[1:]).overfitted
    assert is_within_level(wrong, RUNS)
    assert not is_within_level(wrong_without_scatter, RUNS), "negative control: ignored scatter must look like overfitting"


def test_the_power_can_be_computed_before_burning() -> None:
    strong = shadow_power(1000, 1000, 3, 6, 0.05, 0.75, 0.4, seed=1, runs=200)
    assert strong > 0.9
    assert strong == shadow_power(1000, 1000, 3, 6, 0.05, 0.75, 0.4, seed=1, runs=200), "equal seeds must give equal power"
    assert shadow_power(300, 300, 1, 3, 0.02, 0.75, 0.4, seed=1, runs=200) < 0.4
    assert is_within_level(round(400 * shadow_power(300, 300, 2, 4, 0.0, 0.75, 0.4, seed=1)), 400)
    with pytest.raises(ValueError, match="accuracy"):
        shadow_power(300, 300, 1, 3, 0.02, 0.95, 0.4)


def test_controls_of_equal_accuracy_determine_no_line() -> None:
    rng = np.random.default_rng(6)
    finding = shadow_finding(*simulate(rng, [0.8], [0.7, 0.7, 0.7], 1.0, n=200, correlation=0.0))
    assert not finding.overfitted and finding.p_value == 1.0 and math.isinf(finding.excess.high) and "too alike" in finding.sentence


def test_the_finding_describes_its_result() -> None:
    rng = np.random.default_rng(7)
    finding = shadow_finding(*simulate(rng, [0.72] * 3, np.linspace(0.6, 0.8, 6).tolist(), 1.0, 1000, overfit=0.1))
    assert isinstance(finding, ShadowFinding) and finding.overfitted and finding.excess.n == 3
    assert "They are overfitted" in finding.sentence and "lower on the shadow" in finding.sentence


def test_invalid_answers_are_rejected() -> None:
    rng = np.random.default_rng(8)
    door, control = simulate(rng, [0.7], [0.6, 0.7, 0.8], 1.0, n=50)
    with pytest.raises(ValueError, match=r"^control: expected at least 3"):
        shadow_finding(door, control[:2])
    with pytest.raises(ValueError, match=r"^door: expected at least 1"):
        shadow_finding([], control)
    with pytest.raises(ValueError, match="same items"):
        shadow_finding([(np.ones(49), np.ones(50))], control)
    with pytest.raises(ValueError, match=r"scores in \[0, 1\]"):
        shadow_finding([(np.full(50, 1.2), np.ones(50))], control)
