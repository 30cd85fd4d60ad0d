"""Tells models that overfitted the sealed items from a shadow suite that is merely harder.

A shadow suite is asked once. That models score less on it shows nothing: on ImageNet-V2 every model lost about eleven points, the
better ones slightly less than the worse, a level shift with slope ≥ 1 (Recht, Roelofs, Schmidt, Shankar 2019, "Do ImageNet classifiers
generalize to ImageNet?"). So models that never met the door say where the line lies,

    shadow score = a + b · sealed score,

and the question is how far the models that did meet it lie *below*: excess = mean over them of a + b·(sealed score) − shadow score.

Items are drawn at random, and all models answer the same ones, so the standard error comes from each item's influence on the
excess, over all models at once (the delta method; sealed and shadow items are independent of one another). The controls' sealed
scores are noisy too, which flattens a least-squares line; what the items' spread says of that noise is taken out of its
denominator (Fuller 1987, "Measurement error models"). A bootstrap over items doubles that noise instead, and was seen to reject up to
27 % of the time at 5 % where the door's models are much weaker than the controls (tests/evidence/test_shadow.py has such a case).

It is assumed that models obey the shift's line up to ``scatter``, and that the door's models were not picked by their sealed scores:
picking the best of many is a form of overfitting and shows as one. Models far outside the controls' range make it an extrapolation.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from stagezero.evidence.intervals import Estimate

Floats = NDArray[np.float64]
Answers = tuple[Sequence[float] | Floats, Sequence[float] | Floats]
"""One model's scores, one a cluster in [0, 1]: on the sealed items, and on the shadow items."""
LEAST_CONTROLS = 3


@dataclass(frozen=True, slots=True)
class ShadowFinding:
    """What a burned shadow showed.

    ``shift`` is the controls' mean drop from sealed to shadow, ``slope`` that of their line; ``excess`` how far the door's models lie
    below it (``n`` counts those models), with its two-sided 95 % interval; ``p_value`` is one-sided, for "no excess".
    """

    shift: float
    slope: float
    excess: Estimate
    p_value: float
    overfitted: bool
    sentence: str


def _scores(name: str, models: Sequence[Answers], least: int) -> tuple[Floats, Floats]:
    if len(models) < least:
        raise ValueError(f"{name}: expected at least {least} models, got {len(models)}; ask more models before the shadow is burned")
    sealed, shadow = (np.array([np.asarray(m[part], dtype=np.float64) for m in models]) for part in (0, 1))
    for found in (sealed, shadow):
        if found.ndim != 2 or found.shape[1] < 2 or not ((found >= 0) & (found <= 1)).all():
            raise ValueError(f"{name}: expected scores in [0, 1] on the same 2 or more clusters for every model; ask all models all items")
    return sealed, shadow


def shadow_finding(door: Sequence[Answers], control: Sequence[Answers], alpha: float = 0.05, scatter: float = 0.0) -> ShadowFinding:
    """Are the models that met the door overfitted to the sealed items, beyond the shift that the controls show?

    Args:
        door: models that met the door.
        control: at least three that never did, of varied quality.
        alpha: level of the one-sided test.
        scatter: standard deviation of models about the shift's line that is known from elsewhere; items do not tell it.

    Raises:
        ValueError: too few models, or they did not answer the same items.
    """
    met, met_shadow = _scores("door", door, 1)
    free, free_shadow = _scores("control", control, LEAST_CONTROLS)
    if met.shape[1] != free.shape[1] or met_shadow.shape[1] != free_shadow.shape[1]:
        raise ValueError("door, control: expected answers to the same items, got other numbers of them; ask all models all items")
    n_sealed, n_shadow = met.shape[1], met_shadow.shape[1]
    sealed, shadow = free.mean(axis=1), free_shadow.mean(axis=1)
    off, gap = sealed - sealed.mean(), float(met.mean() - sealed.mean())
    shift = float(sealed.mean() - shadow.mean())
    around = free - free.mean(axis=0)
    noise = float(around.var(axis=1, ddof=1).sum()) / n_sealed
    spread = float(off @ off)
    if spread < 2.0 * noise or spread < 1e-12:
        nothing = Estimate(0.0, -math.inf, math.inf, len(met))
        sentence = "Nothing is shown: the controls are too alike to place a line; more of them, of more varied quality, are needed."
        return ShadowFinding(shift, math.nan, nothing, 1.0, False, sentence)
    slope = float(off @ (shadow - shadow.mean())) / (spread - noise)
    excess = float(shadow.mean() - met_shadow.mean()) + slope * gap
    # Influence of each item, through the means and through the slope.
    turn = (shadow - shadow.mean() - 2.0 * slope * off) / (spread - noise)
    by_sealed = slope * (met.mean(axis=0) - free.mean(axis=0)) + gap * (turn @ free)
    by_shadow = free_shadow.mean(axis=0) - met_shadow.mean(axis=0) + gap * (off / (spread - noise)) @ free_shadow
    variance = float(by_sealed.var(ddof=1)) / n_sealed + float(by_shadow.var(ddof=1)) / n_shadow
    variance += scatter**2 * (1.0 / len(met) + 1.0 / len(free) + gap**2 / (spread - noise))
    error, df = math.sqrt(variance), min(n_sealed, n_shadow) - 1
    half = float(stats.t.ppf(0.975, df)) * error
    p_value = float(stats.t.sf(excess / error, df)) if error > 0 else float(excess <= 0)
    found = Estimate(excess, excess - half, excess + half, len(met))
    overfitted = p_value <= alpha
    sentence = (
        f"Models that never met the door score {abs(shift):.3f} {'less' if shift >= 0 else 'more'} on the shadow (slope {slope:.2f}); "
        f"those that met it lie {found} below that line (one-sided p = {p_value:.2g}): "
        + ("they are overfitted to the sealed items." if overfitted else "no overfitting to the sealed items is shown.")
    )
    return ShadowFinding(shift, slope, found, p_value, overfitted, sentence)


def draw_answers(rng: np.random.Generator, accuracy: ArrayLike, n: int, correlation: float) -> Floats:
    """Right and wrong answers of models to the same ``n`` items, whose difficulty is shared: correlated normals, cut at each accuracy."""
    cut = stats.norm.ppf(np.asarray(accuracy, dtype=np.float64))[:, None]
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
    """The chance that burning a shadow would show an overfit of this size: simulated, before anything is burned.

    Args:
        n_sealed, n_shadow: clusters.
        door, controls: numbers of models.
        effect: how much of their sealed score the door's models owe to overfitting.
        accuracy: true mean of the door's models and of the controls' middle.
        correlation: of two models' answers to the same item, on the latent normal scale; 0 ≤ ρ < 1.
        alpha: level of the test.
        seed: of the simulation.
        spread: the controls' true means are spaced evenly over accuracy ± spread.
        runs: simulated burns; the standard error is at most ½/√runs.

    Raises:
        ValueError: an accuracy would leave (0, 1), or the correlation [0, 1).
    """
    ends = (accuracy - spread, accuracy + spread, accuracy + effect)
    if not all(0 < x < 1 for x in ends) or not 0 <= correlation < 1:
        raise ValueError(
            f"accuracy, spread, effect, correlation: expected accuracies within (0, 1) and a correlation in [0, 1), "
            f"got {ends} and {correlation}; take a smaller spread or effect"
        )
    rng, shown = np.random.default_rng(seed), 0
    free = np.linspace(accuracy - spread, accuracy + spread, controls)
    met = np.full(door, accuracy)
    for _ in range(runs):
        sealed = draw_answers(rng, [*(met + effect), *free], n_sealed, correlation)
        shadow = draw_answers(rng, [*met, *free], n_shadow, correlation)
        answers = list(zip(sealed, shadow, strict=True))
        shown += shadow_finding(answers[:door], answers[door:], alpha).overfitted
    return shown / runs
