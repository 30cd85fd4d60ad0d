"""Measure how often 2,000 campaigns of 100 null ideas promote one of them.

The noise is that of real pocket builds (``_noise``), smoothed and rounded to the grid of the
scores. The ideas of a campaign share their control builds, and each campaign estimates its noise
from only five calibration builds. Guards are left out, which can only raise the error.

Two other rules are measured for comparison: promoting the best of single runs, and the best of
five-seed means. Three negative controls must exceed the limit that the campaign's rule must not
exceed.
"""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
from _common import arguments, publish
from _noise import ITEMS, Noise, collect
from _simulate import Floats, binomial_interval, pooled_sd_from_ring
from scipy import stats

from stagezero.evidence import StoppingRule, interim_results, t_statistics
from stagezero.project import Trial

CAMPAIGNS, IDEAS, ALPHA, PAIRS = 2000, 100, 0.05, 25
MAX_ERROR = 0.06
WORTH = Trial().worth


def grid(scores: Floats) -> Floats:
    """Round scores to the values of a balanced accuracy over ITEMS traps and ITEMS twins."""
    return np.asarray(np.round(scores * 2 * ITEMS) / (2 * ITEMS))


def campaign(rng: np.random.Generator, noise: list[Noise]) -> tuple[Floats, Floats, Floats]:
    """Simulate the paired differences of one campaign.

    Args:
        rng: random number generator.
        noise: one per property; the ideas are divided equally among the properties.

    Returns:
        The differences, shape (ideas, pairs); the offsets that the same items in every pair would
        add, same shape; the pooled standard deviation for each idea, shape (ideas,).
    """
    differences, offsets, pooled = [], [], []
    for of_property in noise:
        n = IDEAS // len(noise)
        control = grid(0.5 + of_property.draw(rng, (PAIRS,)))
        candidates = grid(0.5 + of_property.draw(rng, (n, PAIRS)))
        differences.append(candidates - control)
        offsets.append(np.repeat(rng.standard_normal((n, 1)) * of_property.items_sd, PAIRS, axis=1))
        ring = np.stack([control[:5], grid(0.5 + of_property.draw(rng, (5,)))], axis=1)[None]
        pooled.append(np.repeat(pooled_sd_from_ring(ring), n))
    return np.concatenate(differences), grid(np.concatenate(offsets)), np.concatenate(pooled)


def main() -> int:
    """Run the benchmark; return 1 if the rule or a negative control is on the wrong side."""
    options = arguments(__doc__ or "").parse_args()
    noise = list(collect().values())
    rng = np.random.default_rng(2026)
    rule = StoppingRule(Trial(alpha=ALPHA).level(1, 1, IDEAS), 0.0, ITEMS, WORTH)
    rule_without_futility = replace(rule, smallest_effect=0.0)
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
        counts["familywise_error_never_giving_up"] += bool(interim_results(d, sd, rule_without_futility).outcome()[0].any())
        single, five = d[:, 0].max(), d[:, :5].mean(1).max()
        counts["naive_single"] += bool(single > 0)
        counts["naive_five_seed_means"] += bool(five > 0)
        claimed_single += single / CAMPAIGNS
        claimed_five += five / CAMPAIGNS
        counts["negative_fixed_items"] += bool(interim_results(d + offset, sd, rule).outcome()[0].any())
        counts["negative_peeked_t_test"] += bool((t_statistics(d, 0.0, np.zeros(len(d))) >= quantiles).any())
        counts["negative_no_floor"] += bool(interim_results(d, sd, rule, floor=np.zeros(len(d))).outcome()[0].any())
    residuals = np.concatenate([n.residuals / n.sd for n in noise])
    figures = {
        "residuals": float(len(residuals)),
        "residual_skewness": float(stats.skew(residuals)),
        "residual_excess_kurtosis": float(stats.kurtosis(residuals)),
    }
    figures |= {f"seed_sd_{i}": n.sd for i, n in enumerate(noise)}
    figures["pairs_an_idea"] = pairs / (CAMPAIGNS * IDEAS)
    for name, count in counts.items():
        figures[name] = count / CAMPAIGNS
        figures[f"{name}_low"], figures[f"{name}_high"] = binomial_interval(count, CAMPAIGNS)
    figures["naive_single_claimed_gain"], figures["naive_five_claimed_gain"] = float(claimed_single), float(claimed_five)
    anchors = {
        "residuals": "at least 200",
        "familywise_error_high": f"below {MAX_ERROR}",
        "familywise_error_never_giving_up_high": f"below {MAX_ERROR}",
    }
    anchors |= {"naive_single_claimed_gain": "the true gain is 0", "naive_five_claimed_gain": "the true gain is 0"}
    anchors |= {f"{name}_low": f"negative control: above {MAX_ERROR}" for name in controls}
    publish(figures, anchors, options.json)
    rules_hold = all(figures[f"{name}_high"] < MAX_ERROR for name in names[:2])
    return 0 if rules_hold and all(figures[f"{name}_low"] > MAX_ERROR for name in controls) else 1


if __name__ == "__main__":
    sys.exit(main())
