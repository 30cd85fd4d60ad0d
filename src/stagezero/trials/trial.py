"""One trial, top to bottom: a generator that asks for the jobs it needs, is sent their results, and returns its ruling.

    pairs, one after another ──▶ threshold, guards ──▶ the gain in other wordings, and against a control as capable ──▶ ruling

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
from stagezero.trials.state import CONTROL, Reply, Request, State, Wanted

Steps = Generator[Request, Reply, Ruling]
Check = Generator[tuple[Wanted, ...], tuple[Result, ...], list[Guard]]
"""One of the last checks: it asks for jobs, is sent their results, and returns its guards."""


def side_by_side(first: Check, second: Check) -> Generator[Request, Reply, list[Guard]]:
    """Run two checks at once; the guards of both, or of the first alone if one of those does not hold.

    The clock decides which check goes on first, and nothing else: neither sees the other's results.
    """
    checks, asked, guards = (first, second), dict[int, tuple[Wanted, ...]](), dict[int, list[Guard]]()

    def advance(i: int, reply: Reply | None = None) -> None:
        try:
            if reply is None:
                asked[i] = next(checks[i])
            else:
                asked[i] = checks[i].send(reply.results) if reply.error is None else checks[i].throw(reply.error)
        except StopIteration as end:
            asked.pop(i, None)
            guards[i] = end.value

    advance(0)
    advance(1)
    while asked and all(g.shown == "holds" for g in guards.get(0, [])):
        order = sorted(asked)
        reply = yield tuple(asked[i] for i in order)
        advance(order[reply.question], reply)
    return guards[0] if any(g.shown != "holds" for g in guards[0]) else [*guards[0], *guards[1]]


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
            reply = yield ((self.control_job(s), state.candidate(s)),)
            if reply.error is not None:
                raise reply.error
            a, b = reply.results
            pair = Pair(s, self.seeds[s - 1], a.digest, b.digest, a.scores[0], b.scores[0], a.signs[0], b.signs[0])
            state.pairs.append(pair)
            ruling = self.judge.look(state.pairs, state.best)
            state.e_values.append(ruling.e)
            state.crossed = ruling.crossed
            if ruling.fate is not None:
                return ruling
            if ruling.guards:
                state.checking = True
                gained = self.judge.gains(state.pairs)
                last = yield from side_by_side(self._other_wordings(), self._against_matched(gained))
                return self.judge.conclude(state.pairs, ruling, last, gained)

    def _other_wordings(self) -> Check:
        """Is the gain there in other wordings too?"""
        own, replicates = self.judge.own, range(1, self.judge.plan.guard_pairs + 1)
        if own not in self.suite.properties or not self.suite.reworded_items(0, 1, own):
            return []
        jobs = (job for s in replicates for job in (Wanted(CONTROL, self.control, s, reworded=own), self.state.candidate(s, own)))
        found = yield tuple(jobs)
        scores = [r.scores[0][own] for r in found]
        return [self.judge.carries_over(self.state.pairs, [b - a for a, b in zip(scores[0::2], scores[1::2], strict=True)])]

    def _against_matched(self, gained: Sequence[str]) -> Check:
        """Does the gain survive against a control with as much capability? Asked only where capability was gained."""
        pairs, judge = self.state.pairs, self.judge
        if not gained or judge.own == ALIGNMENT:  # ideas tried together have each passed this alone
            return []
        candidate = [sum(p.candidate[c] for c in gained) / len(gained) for p in pairs]
        best, nearest = float("-inf"), tuple[Wanted, ...]()
        try:
            for dose in DOSES:
                recipe = matched_recipe(self.control, self.suite, *dose)
                if recipe is None:
                    return [judge.beats([], 0.0, gained)]
                jobs = tuple(Wanted(f"{MATCHED} {dose}", recipe, s) for s in range(1, judge.plan.guard_pairs + 1))
                found = yield jobs[:ENOUGH]
                reached = sum(r.scores[0][c] for r in found for c in gained) / (len(gained) * ENOUGH)
                if reached > best:
                    best, nearest = reached, jobs
                if reached >= sum(candidate[:ENOUGH]) / ENOUGH:
                    break
            found = yield nearest
        except (BuildError, RecipeError):  # no such control can be built, which is not the idea's fault, and shows nothing
            return [judge.beats([], 0.0, gained)]
        over = [p.candidate[judge.own] - r.scores[0][judge.own] for p, r in zip(pairs, found, strict=False)]
        capable = sum(r.scores[0][c] for r in found for c in gained) / len(gained)
        control = sum(p.control[c] for p in pairs[: len(found)] for c in gained) / len(gained)
        gain = sum(candidate[: len(found)]) - control
        return [judge.beats(over, (capable - control) / gain if gain > 0 else 0.0, gained)]
