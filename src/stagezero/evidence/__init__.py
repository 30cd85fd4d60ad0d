"""Statistics: e-processes, alpha spending, confidence intervals, non-inferiority tests, leakage.

Every function here is pure and takes plain numbers or numpy arrays. This package must not do I/O
and must not import torch.
"""

from stagezero.evidence.betting import betting_interval, log_betting_e_values
from stagezero.evidence.eprocess import critical_t, e_value, log_e_value, sd_floor, t_statistics
from stagezero.evidence.equivalence import Equivalence, equivalence
from stagezero.evidence.guards import Guard, check_guards, crosses_harm_boundary, gain_established, non_inferiority
from stagezero.evidence.intervals import (  # fmt: skip
    DIFFERENCE_BOUNDS,
    SCORE_BOUNDS,
    Estimate,
    clopper_pearson_lower,
    collapse_rate_bound,
    pooled_sd,
    proportion_interval,
    t_interval,
)
from stagezero.evidence.leakage import Allowance, capacity, claim_level, random_vote_gain, required_correct
from stagezero.evidence.sequential import RULE_VERSION, InterimResults, StoppingRule, Test, difference_sd, interim_results, trial_e_value
from stagezero.evidence.shadow import shadow_finding, shadow_power
from stagezero.evidence.signflip import log_sign_flip_e_values
from stagezero.evidence.spending import e_lond_level, idea_level, stage_level

__all__ = [
    "DIFFERENCE_BOUNDS", "RULE_VERSION", "SCORE_BOUNDS", "Allowance", "Equivalence", "Estimate", "Guard", "InterimResults",
    "StoppingRule", "Test", "betting_interval", "capacity", "check_guards", "claim_level", "clopper_pearson_lower",
    "collapse_rate_bound", "critical_t", "crosses_harm_boundary", "difference_sd", "e_lond_level", "e_value", "equivalence",
    "gain_established", "idea_level", "interim_results", "log_betting_e_values", "log_e_value", "log_sign_flip_e_values",
    "non_inferiority", "pooled_sd", "proportion_interval", "random_vote_gain", "required_correct", "sd_floor", "shadow_finding",
    "shadow_power", "stage_level", "t_interval", "t_statistics", "trial_e_value",
]  # fmt: skip
