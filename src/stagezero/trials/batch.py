"""The scheduler for trials that are registered together.

It runs the jobs that the trials request. The trials share their control builds. Each has the same
level: the allowed probability of a false promotion. Jobs may end in any order. That changes neither
what a trial requests and decides (``trial.py``) nor the order of the ledger entries
(``record.py``).
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import asdict
from itertools import chain

from stagezero.errors import BuildError, MemoryShortError, RecipeError, SuiteError
from stagezero.evidence import pooled_sd
from stagezero.evidence.variance import noise_parts
from stagezero.ledger import Ledger
from stagezero.project import Trial
from stagezero.training import Recipe
from stagezero.training.executors import Draw, Result
from stagezero.trials.decision import DecisionRule
from stagezero.trials.hypothesis import ONE_SIDED, Entrant, Question
from stagezero.trials.jobs import BuildQueue
from stagezero.trials.record import record_in_order
from stagezero.trials.ruling import Fate
from stagezero.trials.seeds import draw_for_seed, replicate_seed
from stagezero.trials.state import CONTROL, Decision, ReplicateJob, Reply, Request, TrialState
from stagezero.trials.trial import TrialSteps

RECIPE_ERRORS = (BuildError, RecipeError, SuiteError)
"""Errors that a recipe causes. In a candidate they end its trial; in a control they end the run, as
every other error does."""


EXTENSIBLE = (Fate.UNDECIDED, Fate.GIVEN_UP, Fate.FAILS_MORE)
"""Fates of trials that may be extended."""
MIN_CALIBRATION = 3
"""Smallest number of A/A differences that can estimate the noise."""


class Batch:
    """Trials that are registered together and share their control builds."""

    def __init__(
        self,
        entrants: Sequence[Entrant],
        control: Recipe,
        queue: BuildQueue,
        plan: Trial,
        level: float,
        secret: bytes,
        ledger: Ledger,
        question: Question = ONE_SIDED,
        rule: type[DecisionRule] = DecisionRule,
    ) -> None:
        """Create the trials and draw the seeds of their replicates.

        The seeds are derived from the last entry of the ledger, so record the registration first.

        Args:
            entrants: the hypotheses to test, one per trial, in the order of registration.
            control: the recipe that every candidate is compared with.
            queue: runs the builds and the measurements.
            plan: the trial's settings.
            level: allowed probability of a false promotion, of each entrant.
            secret: the campaign's secret, from which the seeds are derived.
            ledger: receives the noise estimate (the calibration), the pairs and the decisions.
            question: what every trial asks.
            rule: the version of the decision rule.
        """
        self.control, self.queue, self.plan, self.level, self.ledger = control, queue, plan, level, ledger
        self._secret, self._head = secret, ledger.head
        self.last_pair = plan.max_pairs
        self.seeds = self._seeds(1)
        self.question, self.rule = question, rule
        self.noise: dict[str, float] = {}
        self.calibration: dict[str, list[float]] = {}
        self.null_differences = plan.calibration
        self._jobs: dict[ReplicateJob, Future[Result]] = {}
        self.trials = [TrialState(entrant, entrant.hypothesis.digest()) for entrant in entrants]
        self._steps = {trial.key: self._steps_of(trial).steps() for trial in self.trials}
        for trial in self.trials:
            trial.request = next(self._steps[trial.key])

    def _seeds(self, first: int) -> list[int]:
        """Return the seeds of the replicates from ``first`` to the last one."""
        return [replicate_seed(self._secret, self._head, "replicate", s) for s in range(first, self.last_pair + 1)]

    def extend(self, horizon: int) -> list[Decision]:
        """Go on with trials that ended without an answer, and return the decisions of all trials.

        The registered maximum of pairs stays; the level of the further pairs comes from the
        question's reserve. Record the extension first.

        Args:
            horizon: the new maximum of pairs, larger than the one before.

        Raises:
            ValueError: the question has no reserve, or the horizon is not larger.
        """
        if self.question.reserve == 0 or horizon <= self.last_pair:
            raise ValueError(f"horizon: expected a question with a reserve and more than {self.last_pair} pairs, got {horizon}")
        self.last_pair, first = horizon, self.last_pair + 1
        self.seeds += self._seeds(first)
        open_trials = [t for t in self.trials if t.decision is not None and t.decision.fate in EXTENSIBLE]
        for trial in open_trials:
            trial.decision = None
            self._steps[trial.key] = self._steps_of(trial).steps()
            trial.request = next(self._steps[trial.key])
        return self._run(min((trial.done for trial in open_trials), default=horizon) + 1)

    def _steps_of(self, trial: TrialState) -> TrialSteps:
        """Return the steps of one trial. Its decision rule is created after calibration."""
        suite = self.queue.suite

        def decision_rule() -> DecisionRule:
            return self.rule(
                trial.entrant.hypothesis, self.level, self.plan, self.noise, suite.properties, suite.capabilities, self.calibration,
                self.question, self.last_pair if self.last_pair > self.plan.max_pairs else None, self.null_differences,
            )  # fmt: skip

        return TrialSteps(trial, self.control, self._control_job, self.seeds, suite, decision_rule, self.question)

    def decision_rule(self, trial: TrialState) -> DecisionRule:
        """Return the decision rule of a trial, after calibration."""
        return self._steps_of(trial).decision_rule

    def run(self) -> list[Decision]:
        """Run until every trial is decided.

        Returns:
            The decisions, in the order of registration.

        Raises:
            BuildError, RecipeError, SuiteError: a control failed, so no trial can continue.
        """
        return self._run(1)

    def _run(self, first: int) -> list[Decision]:
        """Run until every trial is decided, and record replicates from ``first`` on."""
        recorder = record_in_order(self.trials, self.ledger, self.last_pair, first)
        while True:
            start = time.perf_counter()
            if self._calibrate():
                for trial in self.trials:
                    self._advance(trial)
                next(recorder, None)
            undecided = [trial for trial in self.trials if trial.decision is None]
            if not undecided:
                return [trial.decision for trial in self.trials if trial.decision is not None]
            self._submit_jobs()
            self.queue.costs.decision_seconds += time.perf_counter() - start
            self._wait(undecided)

    def _wait(self, undecided: Sequence[TrialState]) -> None:
        """Report the progress, then wait up to one second for a job to end."""
        done = sum(len(trial.pairs) for trial in self.trials)
        expected = done + sum(max(self.plan.guard_pairs - len(t.pairs), 1) if t.crossed else 2 for t in undecided)
        text = f"{len(self.trials)} trial{'s' if len(self.trials) > 1 else ''}, {len(undecided)} undecided"
        last = max([self.plan.calibration, *(min(t.next_replicate, self.last_pair) for t in undecided)])
        controls = (self._jobs.get(self._control_job(s)) for s in range(1, last + 1))
        missing = sum(control is None or not control.done() for control in controls)
        self.queue.progress.status(text, done, expected, self.queue.seconds_left(expected - done + missing))
        running = [f for f in self._jobs.values() if not f.done()]
        if running:
            wait(running, timeout=1.0, return_when=FIRST_COMPLETED)

    # --- results ----------------------------------------------------------------------------------

    def _calibrate(self) -> bool:
        """Compute the pooled A/A standard deviation of every claim and warning sign.

        An A/A difference compares two builds of the control: different seeds, same items.

        Returns:
            True if the standard deviations are known, False if builds are missing.
        """
        if self.noise:
            return True
        n = self.plan.calibration
        jobs = [self._jobs.get(self._control_job(s)) for s in range(1, n + 1)]
        if not all(job is not None and job.done() for job in jobs):
            return False
        results = self._calibration_results([job for job in jobs if job is not None])
        neighbours = [(a, b) for a, b in zip(results, [*results[1:], results[0]], strict=True) if a is not None and b is not None]
        for values in ("scores", "signs"):
            for name in getattr(neighbours[0][0], values)[0]:
                # The first build answered the items of the second one, too.
                self.noise[name] = pooled_sd([getattr(a, values)[1][name] - getattr(b, values)[0][name] for a, b in neighbours])
        succeeded = [r for r in results if r is not None]
        self.calibration.update({claim: [r.scores[0][claim] for r in succeeded] for claim in succeeded[0].scores[0]})
        body: dict[str, object] = {"pooled_sd": {name: float(f"{sd:.6g}") for name, sd in self.noise.items()}}
        if self.rule.VERSION > 1:
            if len(succeeded) == n:
                body["parts"] = {claim: self._noise_parts(succeeded, claim) for claim in succeeded[0].scores[0]}
            body["tests"] = {trial.entrant.hypothesis.property: self._test_of(trial) for trial in self.trials}
        self.ledger.record("calibration", body)
        return True

    @staticmethod
    def _noise_parts(results: Sequence[Result], claim: str) -> list[float]:
        """Return the noise of builds, of items, and of both together, as the ledger stores it."""
        parts = noise_parts([r.scores[0][claim] for r in results], [r.scores[1][claim] for r in results])
        return [float(f"{sd:.6g}") for sd in (parts.builds, parts.items, parts.both)]

    def _calibration_results(self, jobs: Sequence[Future[Result]]) -> list[Result | None]:
        """Return the results of the calibration builds, None for failed ones if they are counted.

        Raises:
            BuildError, RecipeError, SuiteError: a build failed, and failures are not counted or too
                few builds are left to estimate the noise.
        """
        results, errors = list[Result | None](), list[Exception]()
        for job in jobs:
            try:
                results.append(self.queue.result(job))
            except RECIPE_ERRORS as error:
                results.append(None)
                errors.append(error)
        self.null_differences = sum(a is not None and b is not None for a, b in zip(results, [*results[1:], results[0]], strict=True))
        if errors and self.question.failures == "end":
            raise errors[0]
        if self.null_differences < MIN_CALIBRATION:
            raise BuildError(
                f"{len(errors)} of {len(results)} builds of the control failed, so that its noise cannot be estimated; the first: "
                f"{errors[0]}"
            )
        return results

    def _test_of(self, trial: TrialState) -> dict[str, str]:
        """Return which test a trial uses, and why, as the ledger stores it."""
        cushions = self.decision_rule(trial).cushions
        return {"test": self.plan.test, **(asdict(cushions) if self.plan.test == "auto" else {})}

    def _advance(self, trial: TrialState) -> None:
        """Send a trial the results that it requests, until one of them is not yet available.

        Raises:
            BuildError, RecipeError, SuiteError: the control of a replicate failed, so no trial can
                continue.
        """
        while trial.decision is None and (reply := self._reply(trial.request, trial.in_final_checks)) is not None:
            try:
                trial.request = self._steps[trial.key].send(reply)
            except StopIteration as end:
                interval = self.decision_rule(trial).interval(trial.pairs) if self.rule.VERSION > 1 and trial.pairs else None
                trial.decide(self.level, end.value.fate, end.value.why, end.value.guards, interval)
            except RECIPE_ERRORS as error:
                trial.decide(self.level, Fate.FAILED, str(error))
            if trial.decision is not None:
                self.queue.progress.message(f"{trial.decision.fate}: {trial.entrant.title} ({trial.decision.why})")

    def _reply(self, request: Request, in_final_checks: bool) -> Reply | None:
        """Return the results of the first group whose jobs have all ended; None if there is none.

        A request has one or more groups of jobs; one complete group is enough.
        """
        for number, jobs in enumerate(request):
            if not all(job in self._jobs and self._jobs[job].done() for job in jobs):
                continue
            if self.question.failures == "count" and not in_final_checks:
                return self._reply_with_failures(number, jobs)
            for job in jobs:
                if job.arm == CONTROL:
                    self.queue.result(self._jobs[job])  # raises outside the try below: a failed control ends the run
            try:
                return Reply(number, tuple(self.queue.result(self._jobs[job]) for job in jobs))
            except RECIPE_ERRORS as error:
                return Reply(number, error=error)
            except MemoryShortError as error:
                return Reply(number, error=self._blame(jobs, error))
        return None

    def _reply_with_failures(self, number: int, jobs: Sequence[ReplicateJob]) -> Reply:
        """Return the results of the jobs of a pair, of which each may have failed."""
        results, errors = list[Result | None](), list[Exception]()
        for job in jobs:
            try:
                results.append(self.queue.result(self._jobs[job]))
            except RECIPE_ERRORS as error:
                results.append(None)
                errors.append(error)
            except MemoryShortError as error:
                results.append(None)
                errors.append(self._blame(jobs, error))
        if errors:
            return Reply(number, error=errors[0], partial=tuple(results))
        return Reply(number, tuple(result for result in results if result is not None))

    def _blame(self, jobs: Sequence[ReplicateJob], error: MemoryShortError) -> BuildError:
        """Return the error of a candidate that needs more memory than this machine gives.

        The control of the same replicate is built and measured anew, while no other job runs. If
        that succeeds, memory is short for the candidate alone.

        Raises:
            MemoryShortError: the control fails in the same way, or the candidate itself has not
                failed, so the machine is the cause.
        """
        short = [job for job in jobs if isinstance(self._jobs[job].exception(), MemoryShortError)]
        if not all(job.arm in self._steps for job in short):  # a job that shares nothing with the idea
            raise error
        replicate = max(job.replicate for job in short)
        seed = self.seeds[replicate - 1]
        self.queue.progress.message("a job was killed twice; building the control alone, to see whether this machine is the cause")
        if not self.queue.can_build_alone(self.control, seed, (draw_for_seed(seed),)):
            raise error
        reason = "it needs more memory than this machine gives: it was killed twice, and the control, built alone, was not"
        for job in short:
            self.queue.record_memory_failure(job.recipe, self.seeds[job.replicate - 1], self._draws(job), reason)
        return BuildError(reason)

    # --- jobs -------------------------------------------------------------------------------------

    def _control_job(self, s: int) -> ReplicateJob:
        """Return the job that builds and measures the control of replicate ``s``.

        In the first ``calibration`` replicates the control also answers the items of the next
        replicate.
        """
        n = self.plan.calibration
        return ReplicateJob(CONTROL, self.control, s, s % n + 1 if s <= n else None)

    def _jobs_in_order(self) -> Iterator[ReplicateJob]:
        """Yield the jobs that the trials need, the most urgent first.

        The order is: calibration; final checks; pairs that are needed now; pairs that may be needed
        later, for idle workers. Among pairs, the trial with the most evidence comes first: it is
        the least likely to be given up, so that its next pairs can change the most, and it needs
        the most pairs, so that the batch ends sooner if it does not wait. The order changes no
        decision: each trial is decided by its own pairs.
        """
        for s in range(1, self.plan.calibration + 1):
            yield self._control_job(s)
        undecided = [trial for trial in self.trials if trial.decision is None]
        for trial in undecided:
            if trial.in_final_checks:
                yield from chain.from_iterable(trial.request)
        active = sorted((trial for trial in undecided if not trial.in_final_checks), key=lambda trial: -trial.max_e_value)
        # Once "better" is established, all pairs up to the first look at the guards are almost
        # certainly needed. Before that, only the next pair is.
        last_needed = [max(trial.next_replicate, self.plan.guard_pairs if trial.crossed else 0) for trial in active]
        for trial, last in zip(active, last_needed, strict=True):
            for s in range(trial.next_replicate, last + 1):
                yield self._control_job(s)
                yield trial.candidate_job(s)
        ahead = max(last_needed, default=0) + 1
        if active and ahead <= self.last_pair:
            yield self._control_job(ahead)
        for trial, last in zip(active, last_needed, strict=True):
            if last + 1 <= self.last_pair:
                yield trial.candidate_job(last + 1)

    def _submit(self, job: ReplicateJob) -> None:
        """Submit one job to the queue."""
        self._jobs[job] = self.queue.submit(job.recipe, self.seeds[job.replicate - 1], self._draws(job))

    def _draws(self, job: ReplicateJob) -> tuple[Draw, ...]:
        """Return the draws of items that a job measures."""
        draws = [Draw(draw_for_seed(self.seeds[job.replicate - 1]).seed, job.reworded)]
        if job.neighbour is not None:
            draws.append(draw_for_seed(self.seeds[job.neighbour - 1]))
        return tuple(draws)

    def _submit_jobs(self) -> None:
        """Submit jobs until every worker is busy and one job waits.

        No more jobs are submitted, because a submitted job cannot be withdrawn.
        """
        limit = self.queue.pool.workers + 1
        running = sum(not f.done() for f in self._jobs.values())
        for job in self._jobs_in_order():
            if running >= limit:
                return
            control = self._jobs.get(self._control_job(job.replicate))
            # A candidate may share its first steps with the control. It starts when the control has
            # ended, so that those steps are in the store.
            if job in self._jobs or (job.arm != CONTROL and (control is None or not control.done())):
                continue
            self._submit(job)
            running += 1
