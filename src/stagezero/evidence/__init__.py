"""Numbers that can be believed: e-processes, error spending, intervals, guards, leakage. No I/O, no torch."""

from stagezero.evidence.betting import betting_interval, log_betting_e_value
from stagezero.evidence.eprocess import critical_t, e_value, log_e_value, noise_floor, t_statistic
from stagezero.evidence.equivalence import Equivalence, equivalence
from stagezero.evidence.intervals import (
    Estimate,
    Guard,
    beyond_hope,
    clopper_pearson_lower,
    collapse_rate_bound,
    gain_shown,
    non_inferiority,
    pooled_sd,
    proportion,
    t_interval,
)
from stagezero.evidence.leakage import (
    Allowance,
    capacity,
    claim_level,
    matching_gain,
    needed,
)
from stagezero.evidence.sequential import Look, Rule, Test
from stagezero.evidence.shadow import shadow_finding, shadow_power
from stagezero.evidence.signflip import log_sign_flip_e_value
from stagezero.evidence.spending import e_lond_level, idea_level, stage_level

__all__ = [
    "Allowance",
    "Equivalence",
    "Estimate",
    "Guard",
    "Look",
    "Rule",
    "Test",
    "betting_interval",
    "beyond_hope",
    "capacity",
    "claim_level",
    "clopper_pearson_lower",
    "collapse_rate_bound",
    "critical_t",
    "e_lond_level",
    "e_value",
    "equivalence",
    "gain_shown",
    "idea_level",
    "log_betting_e_value",
    "log_e_value",
    "log_sign_flip_e_value",
    "matching_gain",
    "needed",
    "noise_floor",
    "non_inferiority",
    "pooled_sd",
    "proportion",
    "shadow_finding",
    "shadow_power",
    "stage_level",
    "t_interval",
    "t_statistic",
]
