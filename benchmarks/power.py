"""Measure the power, the price and the error of the decision rule, and compare it with other plans.

Three parts, with guards left out:

1. One comparison, 20,000 simulated trials for each effect: normal scores on the grid of 100 items,
   calibration and the choice of the test included. Effects are in standard deviations of a paired
   difference ("sd"). The errors are also measured where differences are not normal, with the choice
   of the test and without it.
2. A campaign of 60 ideas with normal noise: 80 % have no effect, 10 % are harmful by as much as the
   useful ones help, and 10 % are useful.
3. The same campaign on the noise of real pocket builds, beside plans with a fixed number of seeds,
   a group-sequential plan, and the package's former rule 1.

Every plan has a familywise error of .05; the package's rule spends one share of it on the trial of
all promoted ideas together. Every plan builds its controls anew. A promoted idea of the package's
rule is charged the ten pairs that its guards need. The other plans are charged for no guards.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from _common import arguments, publish
from _noise import ITEMS, collect, grid
from _rivals import fixed_n_for, group_sequential
from _simulate import Floats, binomial_interval, calibrated_sd, run_trials
from numpy.typing import NDArray
from scipy import stats

from stagezero.evidence import Spending, StoppingRule, critical_values, interim_results, t_statistics, trial_e_value
from stagezero.evidence.rule_1 import StoppingRule1, interim_results_1
from stagezero.project import Trial
from stagezero.trials.compare import RESERVE, default_plan

TRIALS, IDEAS, CAMPAIGNS, ALPHA = 20_000, 60, 400, 0.05
NULL, HARMFUL, USEFUL = 48, 6, 6
CAMPAIGN, COMPARISON = Trial(), default_plan()
SD, LEVEL = 0.03, 0.6
"""Standard deviation of a score over seeds, and its mean, in the simulations of parts 1 and 2."""
Scores = tuple[Floats, Floats]


def comparison_rule(two_sided: bool) -> StoppingRule:
    """Return the rule of ``compare``."""
    plan = COMPARISON
    return StoppingRule(
        plan.alpha, plan.max_pairs, plan.items, plan.margin, plan.worth, plan.patience, "auto", two_sided, RESERVE,
        calibration=plan.calibration,
    )  # fmt: skip


def campaign_rule(items: int, ideas: int = IDEAS) -> StoppingRule:
    """Return the rule of one idea of a campaign."""
    plan = CAMPAIGN
    level = plan.level(1, 1, ideas)
    return StoppingRule(level, plan.max_pairs, items, plan.margin, plan.worth, plan.patience, calibration=plan.calibration)


def rounded(scores: Floats, items: int = COMPARISON.items) -> Floats:
    """Round scores to the values of a balanced accuracy over ``items`` traps and twins."""
    return np.asarray(np.round(scores * 2 * items) / (2 * items))


def normal_scores(rng: np.random.Generator, trials: int, pairs: int, effect: float) -> Scores:
    """Draw the scores of control and candidate. ``effect`` is in sd of a paired difference."""
    shape = (trials, pairs)
    shift = effect * SD * math.sqrt(2)
    return rounded(LEVEL + SD * rng.standard_normal(shape)), rounded(LEVEL + shift + SD * rng.standard_normal(shape))


# --- scores whose differences are not normal; the true difference is 0 ----------------------------


def skew(rng: np.random.Generator, trials: int, pairs: int) -> Scores:
    """A steady control, and a candidate with many small gains and rare losses (exponential)."""
    shape = (trials, pairs)
    return rounded(LEVEL + 0.05 * SD * rng.standard_normal(shape), 1000), rounded(LEVEL + SD * (1 - rng.exponential(1, shape)), 1000)


def skew_both(rng: np.random.Generator, trials: int, pairs: int) -> Scores:
    """Exponential losses in both arms, twice as large in the candidate."""
    shape = (trials, pairs)
    return rounded(LEVEL + SD * (1 - rng.exponential(1, shape))), rounded(LEVEL + 2 * SD * (1 - rng.exponential(1, shape)))


def skew_hidden(rng: np.random.Generator, trials: int, pairs: int) -> Scores:
    """A normal control, and a candidate with exponential losses that are twice as large."""
    shape = (trials, pairs)
    return rounded(LEVEL + SD * rng.standard_normal(shape)), rounded(LEVEL + 2 * SD * (1 - rng.exponential(1, shape)))


def ceiling(rng: np.random.Generator, trials: int, pairs: int) -> Scores:
    """A steady control at .98, and a candidate whose mean is .98 and which is unsteady."""
    shape = (trials, pairs)
    return rounded(np.minimum(0.98 + 0.005 * rng.standard_normal(shape), 1.0)), rounded(rng.beta(9.8, 0.2, shape))


def collapse(rng: np.random.Generator, trials: int, pairs: int) -> Scores:
    """A candidate of which 5 % of the seeds fall by five standard deviations."""
    shape = (trials, pairs)
    collapsed = rng.random(shape) < 0.05
    return rounded(LEVEL + SD * rng.standard_normal(shape)), rounded(LEVEL + SD * (rng.standard_normal(shape) + 5 * (0.05 - collapsed)))


def correlation(rng: np.random.Generator, trials: int, pairs: int) -> Scores:
    """Differences of successive pairs that are correlated by .3."""

    def series() -> Floats:
        x = rng.standard_normal((trials, pairs))
        for k in range(1, pairs):
            x[:, k] = 0.3 * x[:, k - 1] + math.sqrt(1 - 0.09) * x[:, k]
        return x

    return rounded(LEVEL + SD * series()), rounded(LEVEL + SD * series())


def t3(rng: np.random.Generator, trials: int, pairs: int) -> Scores:
    """Heavy tails: Student's t with three degrees of freedom."""
    shape = (trials, pairs)
    return rounded(LEVEL + SD * rng.standard_t(3, shape) / 2), rounded(LEVEL + SD * rng.standard_t(3, shape) / 2)


def noisier(rng: np.random.Generator, trials: int, pairs: int) -> Scores:
    """A candidate with normal noise that is three times that of the control."""
    shape = (trials, pairs)
    return rounded(LEVEL + SD * rng.standard_normal(shape)), rounded(LEVEL + 3 * SD * rng.standard_normal(shape))


SCENARIOS: dict[str, Callable[[np.random.Generator, int, int], Scores]] = {
    f.__name__: f for f in (skew, skew_both, skew_hidden, ceiling, collapse, correlation, t3, noisier)
}


def measure_comparison(figures: dict[str, float]) -> None:
    """Add the figures of part 1."""
    rng = np.random.default_rng(14)
    for name, two_sided in (("compare", True), ("one_sided", False)):
        rule = comparison_rule(two_sided)
        for label, effect in (("null", 0.0), ("half_sd", 0.5), ("1sd", 1.0), ("2sd", 2.0)):
            found = run_trials(*normal_scores(rng, TRIALS, rule.max_pairs, effect), rule)
            if effect == 0:
                wrong = int((found.better | found.worse).sum())
                figures[f"{name}_error"], (_, figures[f"{name}_error_high"]) = wrong / TRIALS, binomial_interval(wrong, TRIALS)
            else:
                figures[f"{name}_power_{label}"] = float(found.better.mean())
                figures[f"{name}_wrong_direction_{label}"] = float(found.worse.mean())
            figures[f"{name}_pairs_{label}"] = float(found.pairs.mean())
        old = StoppingRule1(ALPHA, 0.0, COMPARISON.items, 1.5)
        for label, effect in (("half_sd", 0.5), ("1sd", 1.0)):
            control, candidate = normal_scores(rng, TRIALS, 25, effect)
            promoted, _ = interim_results_1(candidate - control, calibrated_sd(control, 5), old).outcome()
            figures[f"rule_1_power_{label}"] = float(promoted.mean())
    for name, draw in SCENARIOS.items():
        for label, two_sided in (("compare", True), ("one_sided", False)):
            rule = comparison_rule(two_sided)
            rule = StoppingRule(**{**rule.__dict__, "worth": 0.0, "items": 1000 if name == "skew" else rule.items})
            for suffix, choice in (("", True), ("_without_choice", False)):
                found = run_trials(*draw(np.random.default_rng(41), TRIALS, rule.max_pairs), rule, choice=choice)
                answered = found.better | found.worse
                figures[f"{label}_error_{name}{suffix}"] = float(answered.mean())


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


def effects_of(size: float) -> Floats:
    """Return the effects of a campaign's ideas, in units of the noise, shape (ideas, 1)."""
    return np.concatenate([np.zeros(NULL), np.full(HARMFUL, -size), np.full(USEFUL, size)])[:, None]


def add_ours(plan: Plan, control: Floats, candidates: Floats, rule: StoppingRule) -> None:
    """Run the package's rule on one campaign, whose ideas share their control builds."""
    found = run_trials(np.repeat(control[None, :], len(candidates), axis=0), candidates, rule)
    plan.add(found.better, float(np.where(found.better, np.maximum(found.pairs, CAMPAIGN.guard_pairs), found.pairs).sum()))


def measure_campaign(figures: dict[str, float]) -> None:
    """Add the figures of part 2."""
    rng, rule = np.random.default_rng(15), campaign_rule(CAMPAIGN.items)
    for size in (1, 2):
        ours = Plan()
        for _ in range(CAMPAIGNS):
            control = normal_scores(rng, 1, rule.max_pairs, 0.0)[0][0]
            shifted = LEVEL + SD * (rng.standard_normal((IDEAS, rule.max_pairs)) + effects_of(size) * math.sqrt(2))
            add_ours(ours, control, rounded(shifted), rule)
        figures[f"campaign_power_{size}sd"] = ours.power
        figures[f"campaign_pairs_{size}sd"] = ours.pairs_per_idea
        figures[f"campaign_wrong_{size}sd"] = ours.campaigns_with_errors / ours.campaigns
    figures["campaign_pairs"] = max(figures["campaign_pairs_1sd"], figures["campaign_pairs_2sd"])
    figures["fixed_n_for_our_power_at_1sd"] = float(fixed_n_for(1.0, figures["campaign_power_1sd"], rule.level))
    figures["builds_ratio"] = figures["fixed_n_for_our_power_at_1sd"] / figures["campaign_pairs_1sd"]


def measure_real_noise(figures: dict[str, float]) -> None:
    """Add the figures of part 3."""
    noise = collect()["privacy"]
    rng, rule = np.random.default_rng(3), campaign_rule(ITEMS)
    old = StoppingRule1(rule.level, 0.0, ITEMS, 2.5)
    best_n, sd = fixed_n_for(2.0, 0.8, ALPHA / IDEAS), noise.sd * np.sqrt(2)
    figures["best_fixed_n_at_effect_2"] = float(best_n)
    for effect in (1, 2, 3, 4):
        plans = {name: Plan() for name in ("ours", "fixed", "best_fixed", "group_sequential", "rule_1")}
        for _ in range(CAMPAIGNS):
            control = grid(0.5 + noise.draw(rng, (rule.max_pairs,)))
            candidates = grid(0.5 + sd * effects_of(effect) + noise.draw(rng, (IDEAS, rule.max_pairs)))
            add_ours(plans["ours"], control, candidates, rule)
            d = candidates - control
            crossed, ended = interim_results_1(d[:, :25], np.repeat(calibrated_sd(control[None, :], 5), IDEAS), old).outcome()
            plans["rule_1"].add(crossed, float(np.where(crossed, np.maximum(ended, 10), ended).sum()))
            t = t_statistics(d, 0.0, np.full(IDEAS, 0.5 / ITEMS))
            for name, n in (("fixed", 5), ("best_fixed", best_n)):
                plans[name].add(t[:, n - 1] >= stats.t.ppf(1 - ALPHA / IDEAS, n - 1), n * IDEAS)
            promoted, pairs = group_sequential(t, (4, 8, 12), ALPHA / IDEAS)
            plans["group_sequential"].add(promoted, float(pairs.sum()))
        for name, plan in plans.items():
            figures[f"power_{name}_at_{effect}"] = plan.power
            figures[f"pairs_{name}_at_{effect}"] = plan.pairs_per_idea
            figures[f"wrong_{name}_at_{effect}"] = plan.campaigns_with_errors / plan.campaigns
    figures["power_ours"], figures["power_fixed"] = figures["power_ours_at_4"], figures["power_fixed_at_4"]
    figures["builds_ratio_to_five_seeds"] = figures["pairs_fixed_at_4"] / figures["pairs_ours_at_4"]


def measure_speed(figures: dict[str, float]) -> None:
    """Add the seconds of one new boundary and of one look at one trial."""
    start = time.perf_counter()
    critical_values(Spending(0.0123, 200, True, RESERVE), 200)
    figures["boundary_seconds"] = time.perf_counter() - start
    rule, rng = comparison_rule(two_sided=False), np.random.default_rng(5)
    rows = rng.normal(0.01, SD, (200, 1, 25))
    interim_results(rows[0], np.array([SD]), rule)
    start = time.perf_counter()
    for row in rows:
        interim_results(row, np.array([SD]), rule)
        trial_e_value(row, SD, rule)
    figures["look_ms"] = (time.perf_counter() - start) / len(rows) * 1000


LIMITS: dict[str, tuple[str, float]] = {
    "compare_power_1sd": (">=", 0.95), "compare_pairs_1sd": ("<=", 11.5), "compare_power_half_sd": (">=", 0.45),
    "compare_pairs_null": ("<=", 12.5), "compare_error_high": ("<=", 0.055), "one_sided_power_1sd": (">=", 0.95),
    "one_sided_pairs_1sd": ("<=", 9.5), "one_sided_power_half_sd": (">=", 0.52), "one_sided_error_high": ("<=", 0.055),
    "campaign_power_1sd": (">=", 0.80), "campaign_power_2sd": (">=", 0.97), "campaign_pairs": ("<=", 7.0), "builds_ratio": (">=", 3.0),
    "compare_error_skew": ("<=", 0.06), "compare_error_ceiling": ("<=", 0.06), "boundary_seconds": ("<=", 2.0), "look_ms": ("<=", 1.0),
    "wrong_ours_at_1": ("<=", 0.05), "wrong_ours_at_2": ("<=", 0.05), "wrong_ours_at_3": ("<=", 0.05), "wrong_ours_at_4": ("<=", 0.05),
}  # fmt: skip


def main() -> int:
    """Run the benchmark; return 1 if a figure exceeds its limit."""
    options = arguments(__doc__ or "").parse_args()
    figures: dict[str, float] = {}
    for measure in (measure_speed, measure_comparison, measure_campaign, measure_real_noise):
        measure(figures)
    anchors = {name: f"{'at least' if sign == '>=' else 'at most'} {limit:g}" for name, (sign, limit) in LIMITS.items()}
    publish(figures, anchors, options.json)
    missed = [name for name, (sign, limit) in LIMITS.items() if (figures[name] < limit if sign == ">=" else figures[name] > limit)]
    if missed:
        print(f"missed: {', '.join(missed)}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
