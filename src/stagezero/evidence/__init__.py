"""Numbers that can be believed: e-processes, error spending, intervals, guards, leakage. No I/O, no torch."""

from stagezero.evidence.eprocess import critical_t, e_value, log_e_value, noise_floor, t_statistic
from stagezero.evidence.intervals import (
    Estimate,
    Guard,
    clopper_pearson_lower,
    collapse_rate_bound,
    non_inferiority,
    pooled_sd,
    t_interval,
    worth_continuing,
)
from stagezero.evidence.leakage import claim_level, counted_bits
from stagezero.evidence.spending import idea_level, stage_level

__all__ = [
    "Estimate",
    "Guard",
    "claim_level",
    "clopper_pearson_lower",
    "collapse_rate_bound",
    "counted_bits",
    "critical_t",
    "e_value",
    "idea_level",
    "log_e_value",
    "noise_floor",
    "non_inferiority",
    "pooled_sd",
    "stage_level",
    "t_interval",
    "t_statistic",
    "worth_continuing",
]
