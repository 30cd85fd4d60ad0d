"""One trial, top to bottom: a generator that asks for the jobs it needs, is sent their results, and returns its ruling.

    pairs, one after another ──▶ threshold, guards ──▶ the gain in other wordings ──▶ against a control as capable ──▶ ruling

It decides by its own pairs in the order of their replicates, and so never by which worker was faster. What the pairs mean is
decided in ``decision.py``; when jobs run, in ``batch.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from functools import cached_property

from stagezero.errors import BuildError, RecipeError
from stagezero.evidence import Guard
from stagezero.measure import ALIGNMENT
from stagezero.tasks import Suite
from stagezero.training import Recipe
from stagezero.training.executors import Result
from stagezero.trials.capability_control import DOSES, ENOUGH, matched_recipe
from stagezero.trials.decision import MATCHED, Judge, Pair, Ruling
from stagezero.trials.state import CONTROL, Request, State, Wanted

Steps = Generator[Request, list[Result], Ruling]
Checks = Generator[Request, list[Result], list[Guard]]


class TrialSteps:
    """The steps of one trial.

    Args:
        control: the job of a replicate's control.
        seeds: one a replicate.
        judge: known once the noise is, which is before any result is sent.
    """

    def __init__(
        self, state: State, control: Recipe, control_job: Callable[[int], Wanted], seeds: Sequence[int], suite: Suite,
        judge: Callable[[], Judge],
    ) -> None:  # fmt: skip
        self.state, self.control, self.control_job = state, control, control_job
        self.seeds, self.suite, self._judge = seeds, suite, judge

    @cached_property
    def judge(self) -> Judge:
        return self._judge()

    def steps(self) -> Steps:
        """Pairs until a ruling; an idea with evidence and sound guards gets the last checks."""
        state = self.state
        while True:
            s = state.next
            a, b = yield Request((self.control_job(s), state.candidate(s)))
            pair = Pair(s, self.seeds[s - 1], a.digest, b.digest, a.scores[0], b.scores[0], a.signs[0], b.signs[0])
            state.pairs.append(pair)
            ruling = self.judge.look(state.pairs, state.best)
            state.e_values.append(ruling.e)
            state.crossed = ruling.crossed
            if ruling.fate is not None:
                return ruling
            if ruling.guards:
                state.checking = True
                return (yield from self._last_checks(ruling))

    def _last_checks(self, ruling: Ruling) -> Steps:
        pairs, judge = self.state.pairs, self.judge
        gained = judge.gains(pairs)
        elsewhere = yield from self._other_wordings(gained)
        if any(g.shown != "holds" for g in elsewhere):
            return judge.conclude(pairs, ruling, elsewhere, gained)
        matched = yield from self._against_matched(gained)
        return judge.conclude(pairs, ruling, [*elsewhere, *matched], gained)

    def _other_wordings(self, gained: Sequence[str]) -> Checks:
        """Is the gain there in other wordings too?"""
        own, replicates = self.judge.own, range(1, self.judge.plan.guard_pairs + 1)
        if own not in self.suite.properties or not self.suite.reworded_items(0, 1, own):
            return []
        jobs = (job for s in replicates for job in (Wanted(CONTROL, self.control, s, reworded=own), self.state.candidate(s, own)))
        found = yield Request(tuple(jobs), self._matched_jobs(DOSES[0])[:ENOUGH] if self._is_matched(gained) else ())
        scores = [r.scores[0][own] for r in found]
        return [self.judge.carries_over(self.state.pairs, [b - a for a, b in zip(scores[0::2], scores[1::2], strict=True)])]

    def _is_matched(self, gained: Sequence[str]) -> bool:
        """A control as capable is needed only where capability was gained; ideas tried together have each passed this alone."""
        return bool(gained) and self.judge.own != ALIGNMENT

    def _matched_jobs(self, dose: tuple[int, bool]) -> tuple[Wanted, ...]:
        """Jobs of the control with a dose of capability examples; none where no such control can be made."""
        try:
            recipe = matched_recipe(self.control, self.suite, *dose)
        except RecipeError:
            recipe = None
        if recipe is None:
            return ()
        return tuple(Wanted(f"{MATCHED} {dose}", recipe, s) for s in range(1, self.judge.plan.guard_pairs + 1))

    def _against_matched(self, gained: Sequence[str]) -> Checks:
        """Does the gain survive against a control with as much capability?"""
        pairs, judge = self.state.pairs, self.judge
        if not self._is_matched(gained):
            return []
        candidate = [sum(p.candidate[c] for c in gained) / len(gained) for p in pairs]
        best, nearest = float("-inf"), tuple[Wanted, ...]()
        try:
            for dose in DOSES:
                jobs = self._matched_jobs(dose)
                if not jobs:
                    return [judge.beats([], 0.0, gained)]
                found = yield Request(jobs[:ENOUGH])
                reached = sum(r.scores[0][c] for r in found for c in gained) / (len(gained) * ENOUGH)
                if reached > best:
                    best, nearest = reached, jobs
                if reached >= sum(candidate[:ENOUGH]) / ENOUGH:
                    break
            found = yield Request(nearest)
        except (BuildError, RecipeError):  # no such control can be built, which is not the idea's fault, and shows nothing
            return [judge.beats([], 0.0, gained)]
        over = [p.candidate[judge.own] - r.scores[0][judge.own] for p, r in zip(pairs, found, strict=False)]
        capable = sum(r.scores[0][c] for r in found for c in gained) / len(gained)
        control = sum(p.control[c] for p in pairs[: len(found)] for c in gained) / len(gained)
        gain = sum(candidate[: len(found)]) - control
        return [judge.beats(over, (capable - control) / gain if gain > 0 else 0.0, gained)]
