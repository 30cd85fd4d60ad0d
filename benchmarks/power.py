"""Pairs spent and power, against plans with a fixed number of seeds and a group-sequential one.

60 ideas: 80 % do nothing, 10 % harm as much as the useful ones help, 10 % are useful by 2, 3 or 4 standard deviations of a
paired difference. Noise is that of real pocket builds, smoothed. Everyone has a familywise error of .05 (ours keeps one share more,
for trying promoted ideas together), and everyone builds controls anew; a promoted idea of ours is charged the ten pairs that its
guards need, of the others nothing beyond their own.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

import numpy as np
from _common import arguments, publish
from _noise import ITEMS, collect
from _simulate import Floats, pooled_from_five
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
    """What one way of testing cost and found."""

    pairs: float = 0.0
    found: int = 0
    wrong: int = 0
    campaigns: int = 0

    def add(self, promoted: NDArray[np.bool_], pairs: float) -> None:
        self.pairs += pairs
        self.found += int(promoted[NULL + HARMFUL :].sum())
        self.wrong += bool(promoted[: NULL + HARMFUL].any())
        self.campaigns += 1

    @property
    def power(self) -> float:
        return self.found / (USEFUL * self.campaigns)

    @property
    def pairs_an_idea(self) -> float:
        return self.pairs / (IDEAS * self.campaigns)


def fixed_n_for(effect: float, power: float) -> int:
    """Least number of pairs at which a one-sided t-test at α/N has the power."""
    n = 3
    while 1 - stats.nct.cdf(stats.t.ppf(1 - ALPHA / IDEAS, n - 1), n - 1, effect * np.sqrt(n)) < power:
        n += 1
    return n


def group_sequential(t: Floats, looks: tuple[int, ...]) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """O'Brien-Fleming-like spending of α/N over three looks (increments used as they are: conservative), futility at t < 0.5 √(k)."""
    level = ALPHA / IDEAS
    share = np.array(looks) / looks[-1]
    spent = 2 - 2 * stats.norm.cdf(stats.norm.ppf(1 - level / 2) / np.sqrt(share))
    nominal = np.diff(np.concatenate([[0.0], spent * level / spent[-1]]))
    promoted, ended = np.zeros(len(t), dtype=bool), np.zeros(len(t), dtype=np.int64)
    for k, alpha in zip(looks, nominal, strict=True):
        alive = ended == 0
        yes = alive & (t[:, k - 1] >= stats.t.ppf(1 - alpha, k - 1))
        no = alive & ~yes & (t[:, k - 1] < 0.5 * np.sqrt(k))
        promoted |= yes
        ended[yes | no] = k
    ended[ended == 0] = looks[-1]
    return promoted, ended


def main() -> int:
    options = arguments(__doc__ or "").parse_args()
    noise = collect()["privacy"]
    rng = np.random.default_rng(3)
    rule = StoppingRule(Trial(alpha=ALPHA).level(1, 1, IDEAS), 0.0, ITEMS, WORTH)
    best_n = fixed_n_for(2.0, 0.8)
    sd = noise.sd * np.sqrt(2)
    figures: dict[str, float] = {"best_fixed_n_at_effect_2": float(best_n)}
    for effect in (2, 3, 4):
        shift = sd * np.concatenate([np.zeros(NULL), np.full(HARMFUL, -effect), np.full(USEFUL, effect)])[:, None]
        ours, five, best, sequence = Plan(), Plan(), Plan(), Plan()
        for _ in range(CAMPAIGNS):
            control = grid(0.5 + noise.draw(rng, (PAIRS,)))
            d = grid(0.5 + shift + noise.draw(rng, (IDEAS, PAIRS))) - control
            ring = np.stack([control[:5], grid(0.5 + noise.draw(rng, (5,)))], axis=1)[None]
            known = np.repeat(pooled_from_five(rng, ring), IDEAS)
            crossed, ended = interim_results(d, known, rule).outcome()
            ours.add(crossed, float(np.where(crossed, np.maximum(ended, GUARD_PAIRS), ended).sum()))
            t = t_statistics(d, 0.0, np.full(IDEAS, 0.5 / ITEMS))
            for plan, n in ((five, 5), (best, best_n)):
                plan.add(t[:, n - 1] >= stats.t.ppf(1 - ALPHA / IDEAS, n - 1), n * IDEAS)
            promoted, at = group_sequential(t, (4, 8, 12))
            sequence.add(promoted, float(at.sum()))
        for name, plan in (("ours", ours), ("fixed", five), ("best_fixed", best), ("group_sequential", sequence)):
            figures[f"power_{name}_at_{effect}"] = plan.power
            figures[f"pairs_{name}_at_{effect}"] = plan.pairs_an_idea
            figures[f"wrong_{name}_at_{effect}"] = plan.wrong / plan.campaigns
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
