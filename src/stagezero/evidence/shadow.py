"""Test whether models overfitted the sealed items, given that the shadow suite may be harder.

A shadow suite is used once. A lower score on it is no evidence of overfitting. On ImageNet-V2 every
model lost about eleven points, and the better models slightly less than the worse ones: a shift in
level with slope ≥ 1 (Recht, Roelofs, Schmidt, Shankar 2019, "Do ImageNet classifiers generalize to
ImageNet?"). Control models that were never submitted through the door therefore estimate the line

    shadow score = a + b · sealed score.

The test statistic is how far the submitted models lie below this line:

    excess = mean over the submitted models of (a + b · sealed score − shadow score).

Items are drawn at random, and all models answer the same items. The standard error is therefore
computed from the influence of each item on the excess, over all models together (delta method). The
sealed and the shadow items are independent of each other. The controls' sealed scores contain
measurement error, which biases a least-squares slope towards zero. The error variance is estimated
from the spread over items and subtracted from the denominator of the slope (Fuller 1987,
"Measurement error models"). A bootstrap over items doubles this error instead: at a nominal level
of 5 % it rejected up to 27 % of the time if the submitted models are much weaker than the controls
(tests/evidence/test_shadow.py contains such a case).

Assumptions: models scatter about the line with standard deviation ``scatter``, and the submitted
models were not selected by their sealed scores. Selecting the best of many models is a form of
overfitting, and the test detects it as such. If the submitted models lie far outside the range of
the controls, the line is an extrapolation.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtri, stdtr, stdtrit

from stagezero.evidence.intervals import Estimate

Floats = NDArray[np.float64]
Answers = tuple[Sequence[float] | Floats, Sequence[float] | Floats]
"""One model's scores on the sealed items and on the shadow items: one per cluster, in [0, 1]."""
MIN_CONTROLS = 3
"""Smallest number of control models for which a line can be fitted."""


@dataclass(frozen=True, slots=True)
class ShadowFinding:
    """Result of burning a shadow suite.

    ``shift`` is the controls' mean drop from the sealed to the shadow suite, and ``slope`` is the
    slope of their line. ``excess`` is the mean distance of the submitted models below the line,
    with a two-sided 95 % interval; its ``n`` is the number of submitted models. ``p_value`` is
    one-sided, for H0: no excess. ``sentence`` states the result in words.
    """

    shift: float
    slope: float
    excess: Estimate
    p_value: float
    overfitted: bool
    sentence: str


def _score_arrays(name: str, models: Sequence[Answers], min_models: int) -> tuple[Floats, Floats]:
    """Return the sealed and the shadow scores of a group, each of shape (models, clusters)."""
    if len(models) < min_models:
        raise ValueError(f"{name}: expected at least {min_models} models, got {len(models)}; examine more models before burning the shadow")
    sealed, shadow = (np.array([np.asarray(m[part], dtype=np.float64) for m in models]) for part in (0, 1))
    for scores in (sealed, shadow):
        if scores.ndim != 2 or scores.shape[1] < 2 or not ((scores >= 0) & (scores <= 1)).all():
            raise ValueError(
                f"{name}: expected scores in [0, 1] on the same 2 or more clusters for every model; examine all models on all items"
            )
    return sealed, shadow


def shadow_finding(door: Sequence[Answers], control: Sequence[Answers], alpha: float = 0.05, scatter: float = 0.0) -> ShadowFinding:
    """Test whether the submitted models overfitted the sealed items, beyond the controls' shift.

    Args:
        door: the models that were submitted through the door.
        control: at least three models of varied quality that were never submitted.
        alpha: level of the one-sided test.
        scatter: standard deviation of models about the line, known from other data. The item scores
            do not determine it.

    Raises:
        ValueError: there are too few models, or they did not answer the same items.
    """
    door_sealed, door_shadow = _score_arrays("door", door, 1)
    control_sealed, control_shadow = _score_arrays("control", control, MIN_CONTROLS)
    if door_sealed.shape[1] != control_sealed.shape[1] or door_shadow.shape[1] != control_shadow.shape[1]:
        raise ValueError("door, control: expected answers to the same items, got different numbers; examine all models on all items")
    n_sealed, n_shadow = door_sealed.shape[1], door_shadow.shape[1]
    sealed, shadow = control_sealed.mean(axis=1), control_shadow.mean(axis=1)
    deviation, gap = sealed - sealed.mean(), float(door_sealed.mean() - sealed.mean())
    shift = float(sealed.mean() - shadow.mean())
    residual = control_sealed - control_sealed.mean(axis=0)
    error_variance = float(residual.var(axis=1, ddof=1).sum()) / n_sealed
    sum_of_squares = float(deviation @ deviation)
    if sum_of_squares < 2.0 * error_variance or sum_of_squares < 1e-12:
        unknown = Estimate(0.0, -math.inf, math.inf, len(door_sealed))
        sentence = "No conclusion is possible: the controls are too alike to fit a line. Use more controls, of more varied quality."
        return ShadowFinding(shift, math.nan, unknown, 1.0, False, sentence)
    denominator = sum_of_squares - error_variance
    slope = float(deviation @ (shadow - shadow.mean())) / denominator
    excess = float(shadow.mean() - door_shadow.mean()) + slope * gap
    # Influence of each item on the excess: directly through the means, and through the slope.
    slope_weights = (shadow - shadow.mean() - 2.0 * slope * deviation) / denominator
    sealed_influence = slope * (door_sealed.mean(axis=0) - control_sealed.mean(axis=0)) + gap * (slope_weights @ control_sealed)
    shadow_influence = control_shadow.mean(axis=0) - door_shadow.mean(axis=0) + gap * (deviation / denominator) @ control_shadow
    variance = float(sealed_influence.var(ddof=1)) / n_sealed + float(shadow_influence.var(ddof=1)) / n_shadow
    variance += scatter**2 * (1.0 / len(door_sealed) + 1.0 / len(control_sealed) + gap**2 / denominator)
    standard_error, df = math.sqrt(variance), min(n_sealed, n_shadow) - 1
    half_width = float(stdtrit(df, 0.975)) * standard_error
    p_value = float(stdtr(df, -excess / standard_error)) if standard_error > 0 else float(excess <= 0)
    estimate = Estimate(excess, excess - half_width, excess + half_width, len(door_sealed))
    overfitted = p_value <= alpha
    sentence = (
        f"The controls score {abs(shift):.3f} {'lower' if shift >= 0 else 'higher'} on the shadow suite than on the sealed suite "
        f"(slope {slope:.2f}). The submitted models lie {estimate} below the controls' line (one-sided p = {p_value:.2g}). "
        + ("They are overfitted to the sealed items." if overfitted else "Overfitting to the sealed items is not established.")
    )
    return ShadowFinding(shift, slope, estimate, p_value, overfitted, sentence)


def draw_answers(rng: np.random.Generator, accuracy: ArrayLike, n: int, correlation: float) -> Floats:
    """Simulate right (1) and wrong (0) answers of models to the same items.

    Each answer is a latent normal variable, cut at the model's accuracy. The models share the
    difficulty of an item, so their latent variables are correlated.

    Args:
        rng: source of randomness.
        accuracy: true accuracies, shape (models,).
        n: number of items.
        correlation: correlation of two models' latent variables, 0 ≤ ρ < 1.

    Returns:
        Shape (models, n).
    """
    cut = ndtri(np.asarray(accuracy, dtype=np.float64))[:, None]
    shared, own = rng.standard_normal(n), rng.standard_normal((len(cut), n))
    return np.asarray(math.sqrt(correlation) * shared + math.sqrt(1.0 - correlation) * own < cut, dtype=np.float64)


def shadow_power(
    n_sealed: int,
    n_shadow: int,
    door: int,
    controls: int,
    effect: float,
    accuracy: float,
    correlation: float,
    alpha: float = 0.05,
    seed: int = 0,
    spread: float = 0.1,
    runs: int = 400,
) -> float:
    """Return the probability that burning the shadow detects an overfit of this size.

    The probability is simulated; no suite is burned.

    Args:
        n_sealed, n_shadow: numbers of clusters.
        door, controls: numbers of submitted models and of controls.
        effect: part of the submitted models' sealed score that is due to overfitting.
        accuracy: true accuracy of the submitted models, and the middle of the controls' accuracies.
        correlation: correlation of two models' answers to the same item, on the latent normal
            scale; 0 ≤ ρ < 1.
        alpha: level of the test.
        seed: seed of the simulation.
        spread: the controls' true accuracies are spaced evenly over accuracy ± spread.
        runs: number of simulated burns. The standard error is at most ½/√runs.

    Raises:
        ValueError: an accuracy lies outside (0, 1), or the correlation outside [0, 1).
    """
    accuracies = (accuracy - spread, accuracy + spread, accuracy + effect)
    if not all(0 < x < 1 for x in accuracies) or not 0 <= correlation < 1:
        raise ValueError(
            f"accuracy, spread, effect, correlation: expected accuracies within (0, 1) and a correlation in [0, 1), "
            f"got {accuracies} and {correlation}; choose a smaller spread or effect"
        )
    rng, detected = np.random.default_rng(seed), 0
    control_accuracies = np.linspace(accuracy - spread, accuracy + spread, controls)
    door_accuracies = np.full(door, accuracy)
    for _ in range(runs):
        sealed = draw_answers(rng, [*(door_accuracies + effect), *control_accuracies], n_sealed, correlation)
        shadow = draw_answers(rng, [*door_accuracies, *control_accuracies], n_shadow, correlation)
        answers = list(zip(sealed, shadow, strict=True))
        detected += shadow_finding(answers[:door], answers[door:], alpha).overfitted
    return detected / runs
