"""Statistics: e-processes, alpha spending, confidence intervals, non-inferiority tests, leakage.

Every function here is pure and takes plain numbers or numpy arrays. This package must not do I/O
and must not import torch.
"""

from stagezero.evidence.assumptions import Cushions, choose_cushions, describe_test
from stagezero.evidence.betting import betting_interval, log_betting_e_values
from stagezero.evidence.boundary import FIRST_PAIR, Spending, critical_values, pairs_until_width
from stagezero.evidence.eprocess import critical_t, difference_sd, e_value, log_e_value, sd_floor, t_statistics
from stagezero.evidence.equivalence import Equivalence, equivalence
from stagezero.evidence.guards import (  # fmt: skip
    LOOK_LEVELS,
    Guard,
    check_guards,
    crosses_harm_boundary,
    gain_established,
    looks_from,
    non_inferiority,
    planned_looks,
)
from stagezero.evidence.intervals import (  # fmt: skip
    DIFFERENCE_BOUNDS,
    SCORE_BOUNDS,
    Estimate,
    clopper_pearson_lower,
    collapse_rate_bound,
    pooled_sd,
    proportion_interval,
    sd_interval,
    sign_test,
    t_interval,
)
from stagezero.evidence.leakage import Allowance, capacity, claim_level, random_vote_gain, required_correct
from stagezero.evidence.sequential import (  # fmt: skip
    RULE_VERSION,
    InterimResults,
    Outcomes,
    StoppingRule,
    Test,
    confidence_interval,
    effect_interval,
    interim_results,
    trial_e_value,
)
from stagezero.evidence.shadow import shadow_finding, shadow_power
from stagezero.evidence.signflip import log_sign_flip_e_values
from stagezero.evidence.spending import e_lond_level, idea_level, stage_level

__all__ = [
    "DIFFERENCE_BOUNDS", "FIRST_PAIR", "LOOK_LEVELS", "RULE_VERSION", "SCORE_BOUNDS", "Allowance", "Cushions",
    "Equivalence", "Estimate", "Guard", "InterimResults", "Outcomes", "Spending", "StoppingRule", "Test",
    "betting_interval", "capacity", "check_guards", "choose_cushions", "claim_level", "clopper_pearson_lower",
    "collapse_rate_bound", "confidence_interval", "critical_t", "critical_values", "crosses_harm_boundary",
    "describe_test", "difference_sd", "e_lond_level", "e_value", "effect_interval",
    "equivalence", "gain_established", "idea_level", "interim_results", "log_betting_e_values", "log_e_value",
    "log_sign_flip_e_values", "looks_from", "non_inferiority", "pairs_until_width", "planned_looks", "pooled_sd",
    "proportion_interval", "random_vote_gain", "required_correct", "sd_floor", "sd_interval", "shadow_finding",
    "shadow_power", "sign_test", "stage_level", "t_interval", "t_statistics", "trial_e_value",
]  # fmt: skip
