"""Compare what the planner predicts with what trials then do.

200 simulated comparisons, each with settings and a true effect of its own, on scores with a grid:
predicted against observed power and pairs. Then the ten real comparisons of ``real_comparison.py``,
with the true effect of its 60 pairs: predicted against observed, guards included. The prediction is
also made at both ends of the 95 % interval of that effect.
"""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
from _common import arguments, publish
from _real import measure_truth, run_comparisons
from _simulate import run_trials
from power import campaign_rule, comparison_rule, normal_scores

from stagezero.evidence.planning import GuardPlan, predict
from stagezero.tasks import load_suite
from stagezero.trials.decision import guarded_claims

SIMULATED, MAX_Z = 200, 3.0


def measure_simulated(figures: dict[str, float]) -> None:
    """Add predicted and observed power and pairs of the simulated comparisons."""
    rng = np.random.default_rng(77)
    found_predicted, found_observed = np.zeros(SIMULATED), np.zeros(SIMULATED)
    pairs_predicted, pairs_observed = np.zeros(SIMULATED), np.zeros(SIMULATED)
    for i in range(SIMULATED):
        rule = (comparison_rule(True), comparison_rule(False), campaign_rule(100, int(rng.integers(2, 100))))[i % 3]
        rule = replace(rule, max_pairs=int(rng.integers(12, 41)), worth=float(rng.uniform(0.5, 2.0)), patience=float(rng.uniform(1.0, 2.5)))
        effect = float(rng.uniform(0.0, 2.0))
        predicted = predict(rule, effect, trials=300)
        outcome = run_trials(*normal_scores(rng, 1, rule.max_pairs, effect), rule)
        found_predicted[i], pairs_predicted[i] = predicted.found, predicted.pairs
        found_observed[i], pairs_observed[i] = outcome.better[0], outcome.pairs[0]
    figures["simulated"] = float(SIMULATED)
    figures["power_predicted"], figures["power_observed"] = float(found_predicted.mean()), float(found_observed.mean())
    sd = np.sqrt((found_predicted * (1 - found_predicted)).sum() + SIMULATED * 0.022**2)
    figures["power_z"] = float((found_observed.sum() - found_predicted.sum()) / sd)
    figures["pairs_predicted"], figures["pairs_observed"] = float(pairs_predicted.mean()), float(pairs_observed.mean())
    difference = pairs_observed - pairs_predicted
    figures["pairs_z"] = float(difference.mean() / difference.std(ddof=1) * np.sqrt(SIMULATED))
    high = found_predicted > np.median(found_predicted)
    figures["power_observed_where_high"], figures["power_predicted_where_high"] = found_observed[high].mean(), found_predicted[high].mean()
    figures["power_observed_where_low"], figures["power_predicted_where_low"] = found_observed[~high].mean(), found_predicted[~high].mean()


def measure_real(figures: dict[str, float]) -> None:
    """Add predicted and observed power and pairs of the real comparisons."""
    truth, comparisons, suite = measure_truth(), run_comparisons(), load_suite("atlas")
    guards = GuardPlan(len(guarded_claims(suite.properties, suite.capabilities, "privacy")))
    rule = comparison_rule(two_sided=True)
    pairs = np.array([len(c.decision.pairs) for c in comparisons], dtype=np.float64)
    ends = [truth.effect, truth.mean.low / truth.sd, truth.mean.high / truth.sd]
    middle, *limits = (predict(rule, max(0.0, effect), guards) for effect in ends)
    figures["real_found_predicted"] = middle.found
    figures["real_found_predicted_low"], figures["real_found_predicted_high"] = (p.found for p in limits)
    figures["real_found"] = float(np.mean([c.verdict == "better" for c in comparisons]))
    figures["real_pairs_predicted"], figures["real_pairs"] = middle.pairs, float(pairs.mean())
    figures["real_pairs_predicted_from"] = min(p.pairs for p in (middle, *limits))
    figures["real_pairs_predicted_to"] = max(p.pairs for p in (middle, *limits))
    figures["real_pairs_se"] = float(pairs.std(ddof=1) / np.sqrt(len(pairs)))


def main() -> int:
    """Run the benchmark; return 1 if predictions and observations disagree."""
    options = arguments(__doc__ or "").parse_args()
    figures: dict[str, float] = {}
    measure_simulated(figures)
    measure_real(figures)
    publish(
        figures,
        {
            "power_z": f"within {MAX_Z:g} standard errors",
            "pairs_z": f"within {MAX_Z:g} standard errors",
            "real_pairs": "within 3 standard errors of the predicted range",
        },
        options.json,
    )
    slack = 3 * figures["real_pairs_se"]
    agrees = figures["real_pairs_predicted_from"] - slack <= figures["real_pairs"] <= figures["real_pairs_predicted_to"] + slack
    return 0 if agrees and abs(figures["power_z"]) < MAX_Z and abs(figures["pairs_z"]) < MAX_Z else 1


if __name__ == "__main__":
    sys.exit(main())
