"""Rules by which others decide which of many ideas to keep, as functions.

Each function takes the scores of a session and returns which ideas it keeps and how many builds it
needed. ``baseline`` holds repeated scores of the baseline, shape (runs,), and ``candidates`` one
row of scores for each idea, shape (ideas, runs). Larger scores are better. A rule that runs a build
once uses the first score.

Sources:

    greedy            karpathy/autoresearch, program.md (2026): one run for each idea; it is kept if
                      its score is better than the best so far, which it then replaces.
    two_sigma         karpathy/autoresearch, pull request #560 (2026-04-30): a second baseline run;
                      a change below twice the difference of the two baselines is discarded.
    likely_real       davebcn87/pi-autoresearch, pull request #22 (2026-03-18) and README: the
                      improvement over the baseline, divided by the median absolute deviation of
                      all scores so far; "likely real" from 2.0 on. It needs three scores.
    seeds_t           a paired one-sided t-test at .05 over three or five seeds, not corrected for
                      the number of ideas: what many papers report.
    fixed_n           a fixed number of seeds and a t-test at α divided by the number of ideas
                      (Bonferroni).
    group_sequential  three analyses with O'Brien–Fleming-like spending (Lan & DeMets 1983).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from stagezero.evidence import t_statistics

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Kept = tuple[Bools, float]
Rule = Callable[[Floats, Floats], Kept]
ALPHA = 0.05
LIKELY_REAL = 2.0


def _paired_t(baseline: Floats, candidates: Floats) -> Floats:
    """Return the paired t-statistics after every seed, shape (ideas, runs)."""
    return t_statistics(candidates - baseline[: candidates.shape[1]], 0.0, np.full(len(candidates), 1e-6))


def greedy(baseline: Floats, candidates: Floats) -> Kept:
    """Keep every idea whose single run beats the best so far."""
    best, kept = baseline[0], np.zeros(len(candidates), dtype=bool)
    for i, score in enumerate(candidates[:, 0]):
        if score > best:
            best, kept[i] = score, True
    return kept, len(candidates) + 1


def two_sigma(baseline: Floats, candidates: Floats) -> Kept:
    """Keep an idea if it beats the best so far by twice the difference of two baseline runs."""
    noise = abs(baseline[1] - baseline[0])
    best, kept = baseline[0], np.zeros(len(candidates), dtype=bool)
    for i, score in enumerate(candidates[:, 0]):
        if score > best and score - best >= 2 * noise:
            best, kept[i] = score, True
    return kept, len(candidates) + 2


def likely_real(baseline: Floats, candidates: Floats) -> Kept:
    """Keep an idea if it is the best so far and its improvement is "likely real"."""
    seen, best, kept = [baseline[0]], baseline[0], np.zeros(len(candidates), dtype=bool)
    for i, score in enumerate(candidates[:, 0].tolist()):
        seen.append(score)
        if score <= best:
            continue
        best = score
        deviation = float(np.median(np.abs(np.array(seen) - np.median(seen))))
        kept[i] = len(seen) >= 3 and deviation > 0 and (score - baseline[0]) / deviation >= LIKELY_REAL
    return kept, len(candidates) + 1


def seeds_t(n: int) -> Rule:
    """Return the rule of an uncorrected one-sided t-test over ``n`` paired seeds."""

    def rule(baseline: Floats, candidates: Floats) -> Kept:
        t = _paired_t(baseline[:n], candidates[:, :n])
        return t[:, -1] >= stats.t.ppf(1 - ALPHA, n - 1), n * (len(candidates) + 1)

    return rule


def fixed_n_for(effect: float, power: float, level: float) -> int:
    """Return the least number of pairs at which a one-sided t-test has the power.

    Args:
        effect: in standard deviations of a paired difference.
        power: probability of finding it.
        level: level of the test.
    """
    n = 3
    while 1 - stats.nct.cdf(stats.t.ppf(1 - level, n - 1), n - 1, effect * np.sqrt(n)) < power:
        n += 1
    return n


def fixed_n(n: int) -> Rule:
    """Return the rule of a t-test over ``n`` paired seeds, corrected for the number of ideas."""

    def rule(baseline: Floats, candidates: Floats) -> Kept:
        t = _paired_t(baseline[:n], candidates[:, :n])
        return t[:, -1] >= stats.t.ppf(1 - ALPHA / len(candidates), n - 1), n * (len(candidates) + 1)

    return rule


def group_sequential(t: Floats, analyses: tuple[int, ...], level: float) -> tuple[Bools, NDArray[np.int64]]:
    """Apply a group-sequential test with O'Brien–Fleming-like spending.

    The increments of the spending function are used as they are, which is conservative. The test
    stops for futility at t < 0.5 √k.

    Args:
        t: t statistics after every number of pairs, shape (ideas, pairs).
        analyses: numbers of pairs at which the test is evaluated.
        level: level of each idea.

    Returns:
        Which ideas are promoted, and the number of pairs of each; shape (ideas,).
    """
    share = np.array(analyses) / analyses[-1]
    spent = 2 - 2 * stats.norm.cdf(stats.norm.ppf(1 - level / 2) / np.sqrt(share))
    nominal = np.diff(np.concatenate([[0.0], spent * level / spent[-1]]))
    promoted, ended = np.zeros(len(t), dtype=bool), np.zeros(len(t), dtype=np.int64)
    for k, alpha in zip(analyses, nominal, strict=True):
        undecided = ended == 0
        rejects = undecided & (t[:, k - 1] >= stats.t.ppf(1 - alpha, k - 1))
        futile = undecided & ~rejects & (t[:, k - 1] < 0.5 * np.sqrt(k))
        promoted |= rejects
        ended[rejects | futile] = k
    ended[ended == 0] = analyses[-1]
    return promoted, ended


def group_sequential_rule(analyses: tuple[int, ...]) -> Rule:
    """Return the group-sequential rule, corrected for the number of ideas."""

    def rule(baseline: Floats, candidates: Floats) -> Kept:
        promoted, pairs = group_sequential(_paired_t(baseline, candidates), analyses, ALPHA / len(candidates))
        return promoted, float(pairs.sum() + analyses[-1])

    return rule
