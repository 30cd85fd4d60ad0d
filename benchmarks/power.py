"""Measure the pairs and the power of the sequential rule, and compare it with other plans.

The other plans have a fixed number of seeds, or are group-sequential. There are 60 ideas: 80 % have
no effect, 10 % are harmful by as much as the useful ones help, and 10 % are useful by 2, 3 or 4
standard deviations of a paired difference. The noise is that of real pocket builds, smoothed.

Every plan has a familywise error of .05; the package's rule spends one share of it on the trial of
all promoted ideas together. Every plan builds its controls anew. A promoted idea of the package's
rule is charged the ten pairs that its guards need. The other plans are charged for no guards.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

import numpy as np
from _common import arguments, publish
from _noise import ITEMS, collect
from _simulate import Floats, pooled_sd_from_ring
from null_tournament import PAIRS, WORTH, grid
from numpy.typing import NDArray
from scipy import stats

from stagezero.evidence import StoppingRule, interim_results, t_statistics
from stagezero.project import Trial

IDEAS, CAMPAIGNS, ALPHA = 60, 400, 0.05
NULL, HARMFUL, USEFUL = 48, 6, 6
GUARD_PAIRS = Trial().guard_pairs


@dataclass
class Plan:
    """Costs and promotions of one plan, added up over the campaigns.

    Args:
        pairs: pairs that were built.
        useful_promoted: useful ideas that were promoted.
        campaigns_with_errors: campaigns that promoted a null or a harmful idea.
        campaigns: number of campaigns.
    """

    pairs: float = 0.0
    useful_promoted: int = 0
    campaigns_with_errors: int = 0
    campaigns: int = 0

    def add(self, promoted: NDArray[np.bool_], pairs: float) -> None:
        """Add one campaign: which ideas it promoted, shape (ideas,), and its number of pairs."""
        self.pairs += pairs
        self.useful_promoted += int(promoted[NULL + HARMFUL :].sum())
        self.campaigns_with_errors += bool(promoted[: NULL + HARMFUL].any())
        self.campaigns += 1

    @property
    def power(self) -> float:
        """Share of the useful ideas that were promoted."""
        return self.useful_promoted / (USEFUL * self.campaigns)

    @property
    def pairs_per_idea(self) -> float:
        """Mean number of pairs per idea."""
        return self.pairs / (IDEAS * self.campaigns)


def fixed_n_for(effect: float, power: float) -> int:
    """Return the least number of pairs at which a one-sided t-test at α/N has the power."""
    n = 3
    while 1 - stats.nct.cdf(stats.t.ppf(1 - ALPHA / IDEAS, n - 1), n - 1, effect * np.sqrt(n)) < power:
        n += 1
    return n


def group_sequential(t: Floats, analyses: tuple[int, ...]) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Apply a group-sequential test with O'Brien–Fleming-like spending of α/N.

    The increments of the spending function are used as they are, which is conservative. The test
    stops for futility at t < 0.5 √k.

    Args:
        t: t statistics after every number of pairs, shape (ideas, pairs).
        analyses: numbers of pairs at which the test is evaluated.

    Returns:
        Which ideas are promoted, and the number of pairs of each; shape (ideas,).
    """
    level = ALPHA / IDEAS
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


def main() -> int:
    """Run the benchmark; return 1 if the package's rule is not ahead by the stated factor."""
    options = arguments(__doc__ or "").parse_args()
    noise = collect()["privacy"]
    rng = np.random.default_rng(3)
    rule = StoppingRule(Trial(alpha=ALPHA).level(1, 1, IDEAS), 0.0, ITEMS, WORTH)
    best_n = fixed_n_for(2.0, 0.8)
    sd = noise.sd * np.sqrt(2)
    figures: dict[str, float] = {"best_fixed_n_at_effect_2": float(best_n)}
    for effect in (2, 3, 4):
        shift = sd * np.concatenate([np.zeros(NULL), np.full(HARMFUL, -effect), np.full(USEFUL, effect)])[:, None]
        ours, five, best, sequential = Plan(), Plan(), Plan(), Plan()
        for _ in range(CAMPAIGNS):
            control = grid(0.5 + noise.draw(rng, (PAIRS,)))
            d = grid(0.5 + shift + noise.draw(rng, (IDEAS, PAIRS))) - control
            ring = np.stack([control[:5], grid(0.5 + noise.draw(rng, (5,)))], axis=1)[None]
            pooled = np.repeat(pooled_sd_from_ring(ring), IDEAS)
            crossed, ended = interim_results(d, pooled, rule).outcome()
            ours.add(crossed, float(np.where(crossed, np.maximum(ended, GUARD_PAIRS), ended).sum()))
            t = t_statistics(d, 0.0, np.full(IDEAS, 0.5 / ITEMS))
            for plan, n in ((five, 5), (best, best_n)):
                plan.add(t[:, n - 1] >= stats.t.ppf(1 - ALPHA / IDEAS, n - 1), n * IDEAS)
            promoted, pairs = group_sequential(t, (4, 8, 12))
            sequential.add(promoted, float(pairs.sum()))
        for name, plan in (("ours", ours), ("fixed", five), ("best_fixed", best), ("group_sequential", sequential)):
            figures[f"power_{name}_at_{effect}"] = plan.power
            figures[f"pairs_{name}_at_{effect}"] = plan.pairs_per_idea
            figures[f"wrong_{name}_at_{effect}"] = plan.campaigns_with_errors / plan.campaigns
    figures["power_ours"], figures["power_fixed"] = figures["power_ours_at_4"], figures["power_fixed_at_4"]
    figures["builds_ratio"] = figures["pairs_fixed_at_4"] / figures["pairs_ours_at_4"]
    publish(
        figures,
        {
            "builds_ratio": "at least 2.2",
            "power_ours": "no less than power_fixed",
            **{f"wrong_ours_at_{e}": "at most .05" for e in (2, 3, 4)},
        },
        options.json,
    )
    return 0 if figures["builds_ratio"] >= 2.2 and figures["power_ours"] >= figures["power_fixed"] else 1


if __name__ == "__main__":
    sys.exit(main())
