"""Measure how often ``compare`` finds a real effect of about one sd on pocket/262k.

The true effect is confirmed with 60 pairs. ``compare`` runs ten times at its default settings with
other seeds. Beside it stands the former default, rule 1 with ``worth`` 1.5, on the same pairs;
where it needs more pairs than the comparison built, those of the confirmation follow.
"""

from __future__ import annotations

import sys

import numpy as np
from _common import arguments, publish
from _real import ITEMS, PROPERTY, RUNS, measure_truth, run_comparisons

from stagezero.evidence.rule_1 import StoppingRule1, interim_results_1


def main() -> int:
    """Run the benchmark; return 1 if fewer than eight of ten runs find the effect."""
    options = arguments(__doc__ or "").parse_args()
    truth = measure_truth()
    comparisons = run_comparisons()
    old, old_found, covered = StoppingRule1(0.05, 0.0, ITEMS, 1.5), 0, 0
    for i, comparison in enumerate(comparisons):
        own = [pair.difference(PROPERTY) for pair in comparison.decision.pairs]
        row = np.array([[*own, *np.roll(truth.differences, -6 * i)][:25]])
        crossed, _ = interim_results_1(row, np.array([truth.sd]), old).outcome()
        old_found += bool(crossed[0])
        interval = comparison.interval
        covered += interval is not None and interval.low <= truth.mean.mean <= interval.high
        print(f"run {i + 1}: {comparison.verdict} ({comparison.decision.fate}), {len(own)} pairs, {interval}")
    found = sum(c.verdict == "better" for c in comparisons)
    figures = {
        "true_effect": truth.mean.mean, "true_effect_low": truth.mean.low, "true_effect_high": truth.mean.high,
        "true_effect_sd": truth.effect, "runs": float(RUNS), "found": float(found), "found_by_rule_1": float(old_found),
        "found_worse": float(sum(c.verdict == "worse" for c in comparisons)), "promoted": float(sum(c.better for c in comparisons)),
        "pairs": float(np.mean([len(c.decision.pairs) for c in comparisons])), "intervals_that_cover": float(covered),
    }  # fmt: skip
    publish(figures, {"true_effect_sd": "about 1", "found": "at least 8 of 10", "found_by_rule_1": "the former default"}, options.json)
    return 0 if found >= 8 else 1


if __name__ == "__main__":
    sys.exit(main())
