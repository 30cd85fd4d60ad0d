"""Measure how often 2,000 campaigns of 100 null ideas promote one of them, and how rivals do.

The noise is that of real pocket builds (``_noise``), smoothed and rounded to the grid of the
scores. The ideas of a campaign share their control builds, and each campaign estimates its noise
and chooses its test from its ten calibration builds. Guards are left out, which can only raise the
error.

Four negative controls must exceed the limit that the campaign's rule must not exceed. The rivals
(``_rivals``) are measured on the same noise: how often they keep at least one of 100 null ideas,
how often they find the one useful idea among 99 null ones, and how many builds they need.
"""

from __future__ import annotations

import sys

import numpy as np
from _common import arguments, publish
from _noise import ITEMS, Noise, collect, grid
from _rivals import Rule, fixed_n, fixed_n_for, greedy, group_sequential_rule, likely_real, seeds_t, two_sigma
from _simulate import CALIBRATION, Floats, binomial_interval, calibrated_sd, run_trials
from scipy import stats

from stagezero.evidence import StoppingRule, t_statistics
from stagezero.evidence.rule_1 import StoppingRule1, interim_results_1
from stagezero.project import Trial

CAMPAIGNS, SESSIONS, IDEAS, ALPHA = 2000, 1000, 100, 0.05
PLAN = Trial(alpha=ALPHA)
PAIRS = PLAN.max_pairs
MAX_ERROR = 0.06
EFFECTS = {"half_sd": 0.5, "1sd": 1.0, "2sd": 2.0}
FIXED_N = fixed_n_for(1.0, 0.8, ALPHA / IDEAS)
RIVALS: dict[str, Rule] = {
    "greedy": greedy, "two_sigma": two_sigma, "likely_real": likely_real, "three_seeds": seeds_t(3), "five_seeds": seeds_t(5),
    "fixed_n": fixed_n(FIXED_N), "group_sequential": group_sequential_rule((FIXED_N // 2, FIXED_N * 3 // 4, FIXED_N)),
}  # fmt: skip


def rule_with(**changes: object) -> StoppingRule:
    """Return the rule of one idea of a campaign, with changes."""
    settings = {"worth": PLAN.worth, "patience": PLAN.patience, "calibration": CALIBRATION, **changes}
    return StoppingRule(PLAN.level(1, 1, IDEAS), PAIRS, ITEMS, **settings)  # type: ignore[arg-type]


def draw_scores(rng: np.random.Generator, noise: list[Noise], ideas: int = IDEAS) -> tuple[Floats, Floats, Floats]:
    """Draw the scores of one campaign.

    Args:
        rng: random number generator.
        noise: one per property; the ideas are divided equally among the properties.
        ideas: number of ideas.

    Returns:
        The control's scores, repeated for the ideas of each property, and the candidates' scores,
        shape (ideas, pairs); and the offsets that the same items in every pair would add.
    """
    controls, candidates, offsets = [], [], []
    for of_property in noise:
        n = ideas // len(noise)
        controls.append(np.repeat(grid(0.5 + of_property.draw(rng, (1, PAIRS))), n, axis=0))
        candidates.append(grid(0.5 + of_property.draw(rng, (n, PAIRS))))
        offsets.append(np.repeat(rng.standard_normal((n, 1)) * of_property.items_sd, PAIRS, axis=1))
    return np.concatenate(controls), np.concatenate(candidates), grid(np.concatenate(offsets))


def measure_ours(figures: dict[str, float], noise: list[Noise]) -> None:
    """Add the familywise error of the campaign's rule, and the negative controls."""
    rng = np.random.default_rng(2026)
    names = ("familywise_error", "familywise_error_never_giving_up", "naive_single", "naive_five_seed_means")
    negative = ("negative_fixed_items", "negative_peeked_t_test", "negative_no_floor", "negative_unadjusted_level")
    counts, pairs = dict.fromkeys((*names, *negative), 0), 0
    claimed_single = claimed_five = 0.0
    quantiles = np.array([np.inf, *stats.t.ppf(1 - ALPHA / IDEAS, np.arange(1, PAIRS))])
    old = StoppingRule1(PLAN.level(1, 1, IDEAS), 0.0, ITEMS, 0.0)
    unadjusted = StoppingRule(ALPHA, PAIRS, ITEMS, worth=0.0, calibration=CALIBRATION)
    for _ in range(CAMPAIGNS):
        control, candidates, offset = draw_scores(rng, noise)
        d = candidates - control
        found = run_trials(control, candidates, rule_with())
        pairs += int(found.pairs.sum())
        counts["familywise_error"] += bool(found.better.any())
        counts["familywise_error_never_giving_up"] += bool(run_trials(control, candidates, rule_with(worth=0.0)).better.any())
        single, five = d[:, 0].max(), d[:, :5].mean(1).max()
        counts["naive_single"] += bool(single > 0)
        counts["naive_five_seed_means"] += bool(five > 0)
        claimed_single += single / CAMPAIGNS
        claimed_five += five / CAMPAIGNS
        counts["negative_fixed_items"] += bool(run_trials(control, candidates + offset, rule_with()).better.any())
        counts["negative_peeked_t_test"] += bool((t_statistics(d, 0.0, np.zeros(len(d))) >= quantiles).any())
        no_floor = interim_results_1(d[:, :25], calibrated_sd(control), old, floor=np.zeros(len(d)))
        counts["negative_no_floor"] += bool(no_floor.outcome()[0].any())
        counts["negative_unadjusted_level"] += bool(run_trials(control, candidates, unadjusted).better.any())
    figures["pairs_an_idea"] = pairs / (CAMPAIGNS * IDEAS)
    for name, count in counts.items():
        figures[name] = count / CAMPAIGNS
        figures[f"{name}_low"], figures[f"{name}_high"] = binomial_interval(count, CAMPAIGNS)
    figures["naive_single_claimed_gain"], figures["naive_five_claimed_gain"] = float(claimed_single), float(claimed_five)


def measure_rivals(figures: dict[str, float], noise: list[Noise]) -> None:
    """Add the false promotions, the power and the builds of the rivals, and of the own rule."""
    rng = np.random.default_rng(2027)
    ours = dict.fromkeys(("null", *EFFECTS), 0)
    kept_null, kept_useful, builds = dict.fromkeys(RIVALS, 0), {(r, e): 0 for r in RIVALS for e in EFFECTS}, dict.fromkeys(RIVALS, 0.0)
    our_builds = 0.0
    for session in range(SESSIONS):
        one = [noise[session % len(noise)]]
        sd = one[0].sd * np.sqrt(2)
        control, candidates, _ = draw_scores(rng, one)
        position = int(rng.integers(IDEAS))
        for label, effect in (("null", 0.0), *EFFECTS.items()):
            shifted = candidates.copy()
            shifted[position] = grid(shifted[position] + effect * sd)
            found = run_trials(control, shifted, rule_with())
            ours[label] += bool(found.better.any() if label == "null" else found.better[position])
            our_builds += (float(found.pairs.sum()) + found.pairs.max()) * (label == "null")
            for name, rule in RIVALS.items():
                kept, runs = rule(control[0], shifted)
                if label == "null":
                    kept_null[name] += bool(kept.any())
                    builds[name] += runs
                else:
                    kept_useful[name, label] += bool(kept[position])
    for name in RIVALS:
        figures[f"rival_{name}"] = kept_null[name] / SESSIONS
        for label in EFFECTS:
            figures[f"rival_{name}_power_{label}"] = kept_useful[name, label] / SESSIONS
        figures[f"rival_{name}_builds_an_idea"] = builds[name] / (SESSIONS * IDEAS)
    figures["ours_false_promotion"] = ours["null"] / SESSIONS
    for label in EFFECTS:
        figures[f"ours_power_{label}"] = ours[label] / SESSIONS
    figures["ours_builds_an_idea"] = our_builds / (SESSIONS * IDEAS)


def main() -> int:
    """Run the benchmark; return 1 if the rule or a negative control is on the wrong side."""
    options = arguments(__doc__ or "").parse_args()
    noise = list(collect().values())
    residuals = np.concatenate([n.residuals / n.sd for n in noise])
    figures = {
        "residuals": float(len(residuals)),
        "residual_skewness": float(stats.skew(residuals)),
        "residual_excess_kurtosis": float(stats.kurtosis(residuals)),
    }
    figures |= {f"seed_sd_{i}": n.sd for i, n in enumerate(noise)}
    figures["calibrated_sd"] = float(np.mean([calibrated_sd(n.draw(np.random.default_rng(1), (1, CALIBRATION)))[0] for n in noise]))
    measure_ours(figures, noise)
    measure_rivals(figures, noise)
    negative = [name for name in figures if name.startswith("negative_") and not name.endswith(("_low", "_high"))]
    anchors = {
        "residuals": "at least 200",
        "familywise_error_high": f"below {MAX_ERROR}",
        "familywise_error_never_giving_up_high": f"below {MAX_ERROR}",
        "naive_single_claimed_gain": "the true gain is 0",
        "naive_five_claimed_gain": "the true gain is 0",
        "rival_fixed_n": f"{FIXED_N} seeds: power .8 at 1 sd",
    }
    anchors |= {f"{name}_low": f"negative control: above {MAX_ERROR}" for name in negative}
    publish(figures, anchors, options.json)
    rule_holds = all(figures[f"{name}_high"] < MAX_ERROR for name in ("familywise_error", "familywise_error_never_giving_up"))
    return 0 if rule_holds and all(figures[f"{name}_low"] > MAX_ERROR for name in negative) else 1


if __name__ == "__main__":
    sys.exit(main())
