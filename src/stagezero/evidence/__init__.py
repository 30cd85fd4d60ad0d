"""Numbers that can be believed: e-processes, error spending, intervals, guards, leakage. No I/O, no torch."""

from stagezero.evidence.betting import betting_interval, log_betting_e_values
from stagezero.evidence.eprocess import critical_t, e_value, log_e_value, noise_floor, t_statistics
from stagezero.evidence.equivalence import Equivalence, equivalence
from stagezero.evidence.guards import Guard, beyond_hope, check_guards, gain_shown, non_inferiority
from stagezero.evidence.intervals import Estimate, clopper_pearson_lower, collapse_rate_bound, pooled_sd, proportion, t_interval
from stagezero.evidence.leakage import Allowance, capacity, claim_level, matching_gain, needed
from stagezero.evidence.sequential import RULE_VERSION, Looks, Rule, Test, looks, noise_of, trial_e_value
from stagezero.evidence.shadow import shadow_finding, shadow_power
from stagezero.evidence.signflip import log_sign_flip_e_values
from stagezero.evidence.spending import e_lond_level, idea_level, stage_level

__all__ = [
    "RULE_VERSION", "Allowance", "Equivalence", "Estimate", "Guard", "Looks", "Rule", "Test", "betting_interval", "beyond_hope",
    "capacity", "check_guards", "claim_level", "clopper_pearson_lower", "collapse_rate_bound", "critical_t", "e_lond_level",
    "e_value", "equivalence", "gain_shown", "idea_level", "log_betting_e_values", "log_e_value", "log_sign_flip_e_values", "looks",
    "matching_gain", "needed", "noise_floor", "noise_of", "non_inferiority", "pooled_sd", "proportion", "shadow_finding",
    "shadow_power", "stage_level", "t_interval", "t_statistics", "trial_e_value",
]  # fmt: skip
