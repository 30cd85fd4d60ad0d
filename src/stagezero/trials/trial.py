"""The steps of one trial, as a generator: it yields requests for jobs and returns a ruling.

    pairs, one after another ──▶ boundary and guards ──▶ final checks ──▶ ruling

The final checks test the gain in other wordings and against a capability-matched control.

A trial uses only its own pairs, in the order of their replicates. Its ruling therefore does not
depend on which worker was faster. ``decision.py`` holds the decision rule, and ``batch.py``
schedules the jobs.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from functools import cached_property
from itertools import chain

from stagezero.errors import BuildError, RecipeError
from stagezero.evidence import Guard
from stagezero.measure import ALIGNMENT
from stagezero.tasks import Suite
from stagezero.training import Recipe
from stagezero.training.executors import Result
from stagezero.trials.capability_control import DOSE_REPLICATES, DOSES, matched_recipe
from stagezero.trials.decision import MATCHED, DecisionRule
from stagezero.trials.hypothesis import ONE_SIDED, Question
from stagezero.trials.ruling import Failure, Fate, Pair, Ruling
from stagezero.trials.state import CONTROL, ReplicateJob, Reply, Request, TrialState

Steps = Generator[Request, Reply, Ruling]
MAX_FIRST_FAILURES = 3
"""A trial whose first replicates all fail ends after this many."""
Check = Generator[tuple[ReplicateJob, ...], tuple[Result, ...], list[Guard]]
"""One of the final checks: it yields jobs, receives their results and returns its guards."""


def run_concurrently(first: Check, second: Check) -> Generator[Request, Reply, list[Guard]]:
    """Run two checks concurrently.

    The checks do not see each other's results. The clock determines only which one continues first.

    Returns:
        The guards of both checks, or only those of the first if one of them does not hold.
    """
    checks, pending, guards = (first, second), dict[int, tuple[ReplicateJob, ...]](), dict[int, list[Guard]]()

    def advance(i: int, reply: Reply | None = None) -> None:
        try:
            if reply is None:
                pending[i] = next(checks[i])
            else:
                pending[i] = checks[i].send(reply.results) if reply.error is None else checks[i].throw(reply.error)
        except StopIteration as end:
            pending.pop(i, None)
            guards[i] = end.value

    advance(0)
    advance(1)
    while pending and all(g.established == "holds" for g in guards.get(0, [])):
        order = sorted(pending)
        reply = yield tuple(pending[i] for i in order)
        advance(order[reply.group], reply)
    return guards[0] if any(g.established != "holds" for g in guards[0]) else [*guards[0], *guards[1]]


class TrialSteps:
    """The steps of one trial.

    Args:
        state: the trial's state; the steps update it.
        control: the control's recipe.
        control_job: returns the control's job of a replicate.
        seeds: one per replicate.
        suite: the suite that the models are measured on.
        decision_rule: returns the decision rule. It is called when the first results arrive; the
            pooled noise, which the rule needs, is known by then.
        question: what the trial asks.
    """

    def __init__(
        self, state: TrialState, control: Recipe, control_job: Callable[[int], ReplicateJob], seeds: Sequence[int], suite: Suite,
        decision_rule: Callable[[], DecisionRule], question: Question = ONE_SIDED,
    ) -> None:  # fmt: skip
        self.state, self.control, self.control_job = state, control, control_job
        self.seeds, self.suite, self._decision_rule, self.question = seeds, suite, decision_rule, question

    @cached_property
    def decision_rule(self) -> DecisionRule:
        """The decision rule."""
        return self._decision_rule()

    def steps(self) -> Steps:
        """Yield requests for pairs until a ruling, then for the final checks if they are needed.

        The final checks are needed if "better" is established and every guard holds.

        Raises:
            BuildError, RecipeError, SuiteError: a build of a pair failed, and that ends the trial.
        """
        state = self.state
        while True:
            s = state.next_replicate
            reply = yield ((self.control_job(s), state.candidate_job(s)),)
            if reply.error is not None and self.question.failures == "end":
                raise reply.error
            pair = self._pair(s, reply.partial or reply.results)
            if pair is None:
                arms = tuple(arm for arm, result in zip(("control", "candidate"), reply.partial, strict=True) if result is None)
                state.failures.append(Failure(s, arms, str(reply.error)))
                ruling = self._after_failure()
                if ruling is None:
                    continue
            else:
                state.pairs.append(pair)
                ruling = self.decision_rule.evaluate(state.pairs, state.max_e_value, state.failure_counts)
                state.e_values.append(ruling.e_value)
            state.crossed = ruling.crossed
            if ruling.fate is not None:
                return ruling
            if ruling.guards:
                state.in_final_checks = True
                gained = self.decision_rule.capability_gains(state.pairs)
                guards = yield from run_concurrently(self._check_other_wordings(), self._check_matched_control(gained))
                return self.decision_rule.conclude(state.pairs, ruling, guards, gained)

    def _built_pairs(self) -> list[Pair]:
        """Return the pairs of which both models exist; others have a score that was given."""
        return [p for p in self.state.pairs if p.control_model and p.candidate_model]

    def _pair(self, s: int, results: Sequence[Result | None]) -> Pair | None:
        """Return the pair of a replicate, or None if a build failed and has no score.

        If the question gives a score for failures, one failed build has that score on every claim.
        """
        succeeded = next((r for r in results if r is not None), None)
        if succeeded is None or (None in results and self.question.failure_score is None):
            return None
        failed_scores = dict.fromkeys(succeeded.scores[0], self.question.failure_score or 0.0)
        no_signs = dict.fromkeys(succeeded.signs[0], 0.0)
        a, b = ((r.digest, r.scores[0], r.signs[0]) if r is not None else ("", failed_scores, no_signs) for r in results)
        return Pair(s, self.seeds[s - 1], a[0], b[0], a[1], b[1], a[2], b[2])

    def _after_failure(self) -> Ruling | None:
        """Return the ruling after a failed replicate; None if the trial goes on."""
        state, limit = self.state, self.decision_rule.last_pair
        e = state.e_values[-1] if state.e_values else 1.0
        if not state.pairs and len(state.failures) >= MAX_FIRST_FAILURES:
            first = state.failures[0]
            return Ruling(
                e, False, Fate.FAILED, f"the first {len(state.failures)} replicates failed ({', '.join(first.arms)}): {first.why}"
            )
        if state.done < limit:
            return None
        if not state.pairs:
            return Ruling(e, False, Fate.UNDECIDED, f"no replicate has two builds; {state.failure_counts}")
        return self.decision_rule.evaluate(state.pairs, state.max_e_value, state.failure_counts, out_of_pairs=True)

    def _check_other_wordings(self) -> Check:
        """Check that the gain also exists in other wordings.

        Return no guard if the suite has no other wordings of the claimed property.
        """
        rule = self.decision_rule
        claimed, pairs = rule.claimed, self._built_pairs()
        replicates = [pair.replicate for pair in pairs]
        if claimed not in self.suite.properties or not self.suite.reworded_items(0, 1, claimed):
            return []
        controls = (ReplicateJob(CONTROL, self.control, s, reworded=claimed) for s in replicates)
        candidates = (self.state.candidate_job(s, claimed) for s in replicates)
        results = yield tuple(chain.from_iterable(zip(controls, candidates, strict=True)))
        scores = [r.scores[0][claimed] for r in results]
        differences = [b - a for a, b in zip(scores[0::2], scores[1::2], strict=True)]
        return [rule.other_wordings_guard(pairs, differences)]

    def _check_matched_control(self, gained: Sequence[str]) -> Check:
        """Check that the gain survives against a capability-matched control.

        Return no guard if no capability gain is established.
        """
        pairs, rule = self._built_pairs(), self.decision_rule
        if not gained or rule.claimed == ALIGNMENT:  # ideas that are tried together have each passed this check
            return []
        candidate = [sum(p.candidate[c] for c in gained) / len(gained) for p in pairs]
        best, best_jobs = float("-inf"), tuple[ReplicateJob, ...]()
        try:
            for dose in DOSES:
                recipe = matched_recipe(self.control, self.suite, *dose)
                if recipe is None:
                    return [rule.matched_control_guard([], 0.0, gained)]
                jobs = tuple(ReplicateJob(f"{MATCHED} {dose}", recipe, p.replicate) for p in pairs)
                results = yield jobs[:DOSE_REPLICATES]
                capability = sum(r.scores[0][c] for r in results for c in gained) / (len(gained) * DOSE_REPLICATES)
                if capability > best:
                    best, best_jobs = capability, jobs
                if capability >= sum(candidate[:DOSE_REPLICATES]) / DOSE_REPLICATES:
                    break
            results = yield best_jobs
        except (BuildError, RecipeError):  # no matched control can be built: not the idea's fault, but no evidence either
            return [rule.matched_control_guard([], 0.0, gained)]
        over_matched = [p.candidate[rule.claimed] - r.scores[0][rule.claimed] for p, r in zip(pairs, results, strict=False)]
        matched = sum(r.scores[0][c] for r in results for c in gained) / len(gained)
        control = sum(p.control[c] for p in pairs[: len(results)] for c in gained) / len(gained)
        gain = sum(candidate[: len(results)]) - control
        return [rule.matched_control_guard(over_matched, (matched - control) / gain if gain > 0 else 0.0, gained)]
