"""The result of ``compare``, as values, as JSON and in words."""

from __future__ import annotations

import builtins
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from stagezero.evidence import Estimate
from stagezero.trials.ruling import FailureCounts, Fate
from stagezero.trials.state import Decision

Verdict = Literal["better", "worse", "the same", "undecided", "failed"]
_VERDICTS: dict[Fate, Verdict] = {
    Fate.PROMOTED: "better", Fate.GUARD: "better", Fate.WORSE: "worse", Fate.SAME: "the same",
    Fate.FAILED: "failed",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Comparison:
    """The result of a comparison.

    ``verdict`` is about the candidate: better or worse than the control on the property, the same
    within the registered width, or undecided. ``interval`` is the mean paired difference on the
    property with the interval of the test that decided; it excludes everything that the verdict
    excludes. ``effects`` maps each claim to its mean paired difference over the pairs of the trial,
    with an interval of the same kind. ``more_pairs`` is the number of further pairs that would
    settle a difference of the given size, with that size; None if the trial is decided. ``test``
    describes the test. ``detectable`` is the smallest difference, in score, that is found with
    probability .8 under the noise of this trial; None if it is unknown. ``confirmed`` is the effect
    on the property, estimated on fresh seeds that the decision did not use; None if neither arm was
    found better. ``finite_suite`` is True if the suite is a fixed file. ``prior_runs`` is the
    number of other runs on this machine that registered the hypothesis earlier.
    """

    control: str
    candidate: str
    property: str
    two_sided: bool
    decision: Decision
    interval: Estimate | None
    effects: dict[str, Estimate]
    test: str
    detectable: float | None
    more_pairs: tuple[int, float] | None
    confirmed: Estimate | None
    finite_suite: bool
    prior_runs: int
    ledger: Path

    @builtins.property
    def verdict(self) -> Verdict:
        """What was found about the candidate on the property."""
        if self.decision.fate is Fate.GUARD and not (self.interval is not None and self.interval.low > self.decision.hypothesis.margin):
            return "undecided"  # stopped early for harm
        return _VERDICTS.get(self.decision.fate, "undecided")

    @builtins.property
    def better(self) -> bool:
        """True if the candidate is better and no guard stops it."""
        return self.decision.promoted

    def __str__(self) -> str:
        return "\n".join(summary_lines(self))

    def as_json(self) -> dict[str, Any]:
        """Return the result as JSON values; infinite bounds are None."""
        d = self.decision
        return {
            "control": self.control, "candidate": self.candidate, "property": self.property, "verdict": self.verdict, "better": self.better,
            "two_sided": self.two_sided, "fate": str(d.fate), "why": d.why, "pairs": len(d.pairs), "interval": _as_list(self.interval),
            "failures": len(d.failures), "level": d.level, "test": self.test, "e_value": max(d.e_values, default=1.0),
            "detectable": self.detectable,
            "more_pairs": None if self.more_pairs is None else self.more_pairs[0],
            "effects": {c: _as_list(e) for c, e in self.effects.items()}, "tried_before": self.prior_runs,
            "confirmed": _as_list(self.confirmed), "ledger": str(self.ledger),
        }  # fmt: skip


def _as_list(estimate: Estimate | None) -> list[float | None] | None:
    """Return mean, low and high; None for an infinite limit."""
    if estimate is None:
        return None
    return [value if abs(value) < 1e9 else None for value in (estimate.mean, estimate.low, estimate.high)]


def format_effect(estimate: Estimate) -> str:
    """Return an effect with its interval; without an upper limit, with its lower limit only."""
    if math.isinf(estimate.high):
        return f"{estimate.mean:+.3f}, at least {estimate.low:+.3f}"
    return f"{estimate.mean:+.3f} [{estimate.low:+.3f}, {estimate.high:+.3f}]"


def summary_lines(c: Comparison) -> list[str]:
    """Return the result in a few lines of plain text."""
    d = c.decision
    a, b, on = c.control, c.candidate, c.property
    verdict = {
        Fate.PROMOTED: f"{b} is better than {a} on {on}.",
        Fate.WORSE: f"{b} is worse than {a} on {on}.",
        Fate.SAME: f"{b} and {a} are the same on {on}, within the width that was asked for.",
        Fate.GIVEN_UP: f"Undecided: a difference of the size of interest between {b} and {a} on {on} is unlikely to be found."
        if c.two_sided
        else f"Undecided: that {b} is better than {a} on {on} by the smallest effect of interest is unlikely to be found.",
        Fate.UNDECIDED: f"Undecided: the pairs do not show which of {b} and {a} is better on {on}."
        if c.two_sided
        else f"Undecided: the pairs do not show that {b} is better than {a} on {on}.",
        Fate.GUARD: f"{b} is better than {a} on {on}, but a guard stops it."
        if c.verdict == "better"
        else f"Undecided on {on}: a guard stops {b}.",
        Fate.COLLAPSED: f"Undecided on {on}: the differences between {b} and {a} are not steady.",
        Fate.FAILS_MORE: f"Undecided on {on}: the better arm fails to build more often.",
        Fate.FAILED: "Undecided: the recipes could not be built.",
    }[d.fate]
    lines = [verdict]
    if c.interval is not None:
        pairs = f"{len(d.pairs)} pair{'' if len(d.pairs) == 1 else 's'}"
        lines.append(
            f"  difference {format_effect(c.interval)} ({b} minus {a}; {pairs}, built fresh from the base; error at most {d.level:g})"
        )
    if c.more_pairs is not None:
        more, width = c.more_pairs
        lines.append(f"  go on      about {more} more pairs would settle a difference of ±{width:.3f}: --go-on {len(d.pairs) + more}")
    if d.failures:
        lines.append(f"  failures   {FailureCounts.of(d.failures, len(d.pairs))}")
    lines.append(f"  why        {d.why}")
    changed = [f"{claim} {e.mean:+.3f}" for claim, e in c.effects.items() if claim != on and (e.low > 0 or e.high < 0)]
    if changed:
        lines.append(f"  elsewhere  {', '.join(changed)} (intervals without 0, not corrected for their number)")
    if c.detectable is not None:
        lines.append(f"  power      a difference of {c.detectable:.3f} is found with probability .8 under this noise")
    if d.pairs:
        lines.append(f"  test       {c.test}; e = {max(d.e_values, default=1.0):.3g}")
    if c.confirmed is not None:
        lines.append(f"  effect     {format_effect(c.confirmed)} on fresh seeds that the decision did not use")
    if c.finite_suite:
        lines.append("  limits     the suite is a fixed file: fresh items are resampled from it, and the result applies to it only")
    if c.prior_runs:
        others = f"{c.prior_runs} other run{'s' if c.prior_runs > 1 else ''}"
        lines.append(
            f"  caution    {others} on this machine registered this hypothesis earlier; the error rate of this run does not include it"
        )
    return lines
