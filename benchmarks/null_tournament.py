"""2,000 campaigns of 100 ideas that do nothing: how often is anything promoted?

Noise is that of real pocket builds (``_noise``), smoothed and rounded to the grid that scores lie on; the ideas of a campaign share
their control builds, and each campaign knows its noise from five calibration builds only. Guards are left out, which can
only raise the figure. Beside it, what is promoted by keeping the best of single runs or of five-seed means, and three negative
controls that must fail the same check.
"""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
from _common import arguments, publish
from _noise import ITEMS, Noise, collect
from _simulate import Floats, binomial_interval, pooled_from_five
from scipy import stats

from stagezero.evidence import StoppingRule, interim_results, t_statistics
from stagezero.project import Trial

CAMPAIGNS, IDEAS, ALPHA, PAIRS = 2000, 100, 0.05, 25
LIMIT = 0.06
WORTH = Trial().worth


def grid(scores: Floats) -> Floats:
    """Balanced accuracy over ITEMS traps and ITEMS twins."""
    return np.asarray(np.round(scores * 2 * ITEMS) / (2 * ITEMS))


def campaign(rng: np.random.Generator, noise: list[Noise]) -> tuple[Floats, Floats, Floats]:
    """D of every idea (ideas, pairs), the offsets that fixed items would add, and the pooled noise that each is judged by."""
    differences, offsets, known = [], [], []
    for one in noise:
        n = IDEAS // len(noise)
        control = grid(0.5 + one.draw(rng, (PAIRS,)))
        candidates = grid(0.5 + one.draw(rng, (n, PAIRS)))
        differences.append(candidates - control)
        offsets.append(np.repeat(rng.standard_normal((n, 1)) * one.of_items, PAIRS, axis=1))
        ring = np.stack([control[:5], grid(0.5 + one.draw(rng, (5,)))], axis=1)[None]
        known.append(np.repeat(pooled_from_five(rng, ring), n))
    return np.concatenate(differences), grid(np.concatenate(offsets)), np.concatenate(known)


def main() -> int:
    options = arguments(__doc__ or "").parse_args()
    noise = list(collect().values())
    rng = np.random.default_rng(2026)
    rule = StoppingRule(Trial(alpha=ALPHA).level(1, 1, IDEAS), 0.0, ITEMS, WORTH)
    patient = replace(rule, smallest_effect=0.0)
    names = ("familywise_error", "familywise_error_never_giving_up", "naive_single", "naive_five_seed_means")
    controls = ("negative_fixed_items", "negative_peeked_t_test", "negative_no_floor")
    counts = dict.fromkeys((*names, *controls), 0)
    pairs = 0
    claimed_single = claimed_five = 0.0
    quantiles = np.array([np.inf, *stats.t.ppf(1 - ALPHA / IDEAS, np.arange(1, PAIRS))])
    for _ in range(CAMPAIGNS):
        d, offset, sd = campaign(rng, noise)
        crossed, ended = interim_results(d, sd, rule).outcome()
        pairs += int(ended.sum())
        counts["familywise_error"] += bool(crossed.any())
        counts["familywise_error_never_giving_up"] += bool(interim_results(d, sd, patient).outcome()[0].any())
        single, five = d[:, 0].max(), d[:, :5].mean(1).max()
        counts["naive_single"] += bool(single > 0)
        counts["naive_five_seed_means"] += bool(five > 0)
        claimed_single += single / CAMPAIGNS
        claimed_five += five / CAMPAIGNS
        counts["negative_fixed_items"] += bool(interim_results(d + offset, sd, rule).outcome()[0].any())
        counts["negative_peeked_t_test"] += bool((t_statistics(d, 0.0, np.zeros(len(d))) >= quantiles).any())
        counts["negative_no_floor"] += bool(interim_results(d, sd, rule, floor=np.zeros(len(d))).outcome()[0].any())
    every = np.concatenate([n.residuals / n.sd for n in noise])
    figures = {
        "residuals": float(len(every)),
        "residual_skewness": float(stats.skew(every)),
        "residual_excess_kurtosis": float(stats.kurtosis(every)),
    }
    figures |= {f"seed_sd_{i}": n.sd for i, n in enumerate(noise)}
    figures["pairs_an_idea"] = pairs / (CAMPAIGNS * IDEAS)
    for name, count in counts.items():
        figures[name] = count / CAMPAIGNS
        figures[f"{name}_low"], figures[f"{name}_high"] = binomial_interval(count, CAMPAIGNS)
    figures["naive_single_claimed_gain"], figures["naive_five_claimed_gain"] = float(claimed_single), float(claimed_five)
    anchors = {
        "residuals": "at least 200",
        "familywise_error_high": f"below {LIMIT}",
        "familywise_error_never_giving_up_high": f"below {LIMIT}",
    }
    anchors |= {"naive_single_claimed_gain": "truth: 0", "naive_five_claimed_gain": "truth: 0"}
    anchors |= {f"{name}_low": f"must fail: above {LIMIT}" for name in controls}
    publish(figures, anchors, options.json)
    sound = all(figures[f"{name}_high"] < LIMIT for name in names[:2]) and all(figures[f"{name}_low"] > LIMIT for name in controls)
    return 0 if sound else 1


if __name__ == "__main__":
    sys.exit(main())
