"""Version 1 of the decision rule, for ledgers that name it. It must not change.

A ledger's decisions are recomputed by the version that its first entry names. Ledgers of release
0.1 and of the commits before rule 2 name version 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar

from stagezero.evidence import Guard, check_guards, crosses_harm_boundary, difference_sd
from stagezero.evidence.rule_1 import StoppingRule1, Test1, interim_results_1, trial_e_value_1
from stagezero.trials.decision import COLLAPSE_SDS, DecisionRule
from stagezero.trials.ruling import NO_FAILURES, FailureCounts, Fate, Pair, Ruling, differences


@dataclass(frozen=True)
class DecisionRule1(DecisionRule):
    """Version 1 of the decision rule: one-sided, with one look at the guards."""

    VERSION: ClassVar[int] = 1

    @cached_property
    def stopping_rule_1(self) -> StoppingRule1:
        """The stopping rule for the claimed property."""
        test: Test1 = self.plan.test if self.plan.test in ("sign-flip", "betting") else "t"
        return StoppingRule1(self.level, self.hypothesis.margin, self.plan.items, self.plan.worth, test)

    def guards(self, pairs: Sequence[Pair], looks: int = 0) -> tuple[Guard, ...]:
        """Return the paired non-inferiority test of every guarded claim and warning sign."""
        names = self.guarded
        return check_guards(names, differences(pairs, names), self.margins(names), self._sd_floors(names), self.plan.guard_pairs)

    def evaluate(
        self, pairs: Sequence[Pair], max_e_value: float, failures: FailureCounts = NO_FAILURES, out_of_pairs: bool = False
    ) -> Ruling:  # fmt: skip
        """Apply the rule after the last of these pairs; see ``DecisionRule.evaluate``."""
        claimed, sd = differences(pairs, (self.claimed,)), self._sds((self.claimed,))
        k, mean, threshold = len(pairs), float(claimed.mean()), 1 / self.level
        e = float(f"{trial_e_value_1(claimed, float(sd[0]), self.stopping_rule_1):.6g}")
        max_e_value = max(max_e_value, e)
        results, difference_noise = interim_results_1(claimed, sd, self.stopping_rule_1), float(difference_sd(sd, self.plan.items)[0])
        crossed = bool(results.crossed[0, -1])
        change = f"mean difference in {self.claimed} {mean:+.3f} over {k} pair{'s' if k > 1 else ''}"
        guard_noise = difference_sd(self._sds(self.guarded), self.plan.items)
        harmed = crosses_harm_boundary(differences(pairs, self.guarded), self.margins(self.guarded), guard_noise)
        if harmed.any():
            # The t-bound of two or three pairs is too wide to show that a guard fails. The harm
            # boundary, which uses the pooled standard deviation, is crossed.
            failed = tuple(replace(g, established="fails") for g, harm in zip(self.guards(pairs), harmed, strict=True) if harm)
            return Ruling(e, crossed, Fate.GUARD, f"{change}, but {self._describe(failed)}; the trial stopped early for harm", failed)
        if results.futile[0, -1]:
            smallest_effect = self.plan.worth * difference_noise
            why = f"{change}; the pairs are evidence that the effect is below the smallest effect of interest, {smallest_effect:.3f}"
            return Ruling(e, False, Fate.GIVEN_UP, why)
        if not crossed and k >= self.plan.max_pairs:
            why = f"{change}; the largest e-value, {max_e_value:.3g}, is below the threshold of {threshold:.0f}"
            return Ruling(e, False, Fate.UNDECIDED, why)
        if not crossed or k < self.plan.guard_pairs:
            return Ruling(e, crossed)
        worst = float(claimed.min())
        if worst < self.hypothesis.margin - COLLAPSE_SDS * difference_noise:
            why = f"{change}, but one paired difference is {worst:+.3f}, more than {COLLAPSE_SDS:g} standard deviations below the margin"
            return Ruling(e, crossed, Fate.COLLAPSED, why)
        guards = self.guards(pairs)
        not_held = [g for g in guards if g.established != "holds"]
        if not_held:
            return Ruling(e, crossed, Fate.GUARD, f"{change}, but {self._describe(not_held)}", guards)
        return Ruling(e, crossed, None, f"{change}; e = {max_e_value:.3g} ({threshold:.0f} needed); every guard holds", guards)
