"""Trials registered together: a scheduler that runs the jobs they ask for, sharing control builds and the error of their stage.

Only the order in which jobs are *run* looks at the clock. What a trial asks for and decides is in ``trial.py``; what is written, and in
which order, in ``record.py``.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from itertools import chain

from stagezero.errors import BuildError, RecipeError, SuiteError
from stagezero.evidence import pooled_sd
from stagezero.ledger import Ledger
from stagezero.project import Trial
from stagezero.training import Recipe
from stagezero.training.executors import Draw, Result
from stagezero.trials.decision import Fate, Judge
from stagezero.trials.hypothesis import Entrant
from stagezero.trials.jobs import Bench
from stagezero.trials.record import record_in_order
from stagezero.trials.seeds import draw_of, replicate_seed
from stagezero.trials.state import CONTROL, Decision, Reply, Request, State, Wanted
from stagezero.trials.trial import TrialSteps

FAULTS = (BuildError, RecipeError, SuiteError)
"""What a recipe can do wrong; anything else is the machine's or the user's, and ends the run."""


class Batch:
    """Ideas registered together."""

    def __init__(
        self, entrants: Sequence[Entrant], control: Recipe, bench: Bench, plan: Trial, level: float, secret: bytes, ledger: Ledger
    ) -> None:
        """Seeds are drawn from the ledger's head, so the registration must already be recorded.

        Args:
            level: error that each of the entrants may spend.
        """
        self.control, self.bench, self.plan, self.level, self.ledger = control, bench, plan, level, ledger
        head = ledger.head
        self.seeds = [replicate_seed(secret, head, "replicate", s) for s in range(1, plan.max_pairs + 1)]
        self.noise: dict[str, float] = {}
        self._jobs: dict[Wanted, Future[Result]] = {}
        self.trials = [State(entrant, entrant.hypothesis.digest()) for entrant in entrants]
        self._steps = {trial.key: self._begin(trial).steps() for trial in self.trials}
        for trial in self.trials:
            trial.request = next(self._steps[trial.key])

    def _begin(self, trial: State) -> TrialSteps:
        suite = self.bench.suite

        def judge() -> Judge:
            return Judge(trial.entrant.hypothesis, self.level, self.plan, self.noise, suite.properties, suite.capabilities)

        return TrialSteps(trial, self.control, self._control, self.seeds, suite, judge)

    def run(self) -> list[Decision]:
        """Run until every idea is decided; decisions in the order of registration."""
        recorder = record_in_order(self.trials, self.ledger, self.plan.max_pairs)
        while True:
            start = time.perf_counter()
            if self._calibrate():
                for trial in self.trials:
                    self._advance(trial)
                next(recorder, None)
            undecided = [trial for trial in self.trials if trial.decision is None]
            if not undecided:
                return [trial.decision for trial in self.trials if trial.decision is not None]
            self._fill()
            self.bench.costs.decision_seconds += time.perf_counter() - start
            self._wait(undecided)

    def _wait(self, undecided: Sequence[State]) -> None:
        """Wait for the next job to end, with progress."""
        done = sum(len(trial.pairs) for trial in self.trials)
        expected = done + sum(max(self.plan.guard_pairs - len(t.pairs), 1) if t.crossed else 2 for t in undecided)
        what = f"trial of {len(self.trials)} ideas, {len(undecided)} open"
        self.bench.tell.doing(what, done, expected, self.bench.seconds_left(expected - done))
        running = [f for f in self._jobs.values() if not f.done()]
        if running:
            wait(running, timeout=1.0, return_when=FIRST_COMPLETED)

    # --- what was found ------------------------------------------------------------------------------------------

    def _calibrate(self) -> bool:
        """Pooled A/A noise of every claim and sign: the same recipe with two seeds on the same items. False while builds are missing."""
        if self.noise:
            return True
        n = self.plan.calibration
        jobs = [self._jobs.get(self._control(s)) for s in range(1, n + 1)]
        if not all(job is not None and job.done() for job in jobs):
            return False
        found = [self.bench.settle(job) for job in jobs if job is not None]
        for values in ("scores", "signs"):
            own = [getattr(r, values)[0] for r in found]
            neighbours = [getattr(r, values)[1] for r in found]  # the items of the next replicate, answered by this one
            for name in own[0]:
                self.noise[name] = pooled_sd([neighbours[s][name] - own[(s + 1) % n][name] for s in range(n)])
        self.ledger.record("calibration", {"pooled_sd": {name: float(f"{sd:.6g}") for name, sd in self.noise.items()}})
        return True

    def _advance(self, trial: State) -> None:
        """Send a trial the results that it asked for, as long as they are there.

        Raises:
            BuildError, RecipeError, SuiteError: a replicate's control failed, and so no idea can be tried.
        """
        while trial.decision is None and (reply := self._reply(trial.request)) is not None:
            try:
                trial.request = self._steps[trial.key].send(reply)
            except StopIteration as end:
                trial.end(self.level, end.value.fate, end.value.why, end.value.guards)
            except FAULTS as error:
                trial.end(self.level, Fate.FAILED, str(error))
            if trial.decision is not None:
                self.bench.tell.say(f"{trial.decision.fate}: {trial.entrant.title} ({trial.decision.why})")

    def _reply(self, request: Request) -> Reply | None:
        """The results of the first question of which every job has ended; None while there is none."""
        for number, jobs in enumerate(request):
            if not all(job in self._jobs and self._jobs[job].done() for job in jobs):
                continue
            for job in jobs:
                if job.who == CONTROL and job.reworded is None:
                    self.bench.settle(self._jobs[job])
            try:
                return Reply(number, tuple(self.bench.settle(self._jobs[job]) for job in jobs))
            except FAULTS as error:
                return Reply(number, error=error)
        return None

    # --- what to run ---------------------------------------------------------------------------------------------

    def _control(self, s: int) -> Wanted:
        """The control of a replicate; calibration replicates also answer their neighbour's items."""
        n = self.plan.calibration
        return Wanted(CONTROL, self.control, s, s % n + 1 if s <= n else None)

    def _wanted(self) -> Iterator[Wanted]:
        """Jobs in order of use: calibration, pairs that can still change a decision, then guesses for idle workers."""
        for s in range(1, self.plan.calibration + 1):
            yield self._control(s)
        undecided = [trial for trial in self.trials if trial.decision is None]
        for trial in undecided:
            if trial.checking:
                yield from chain.from_iterable(trial.request)
        active = [trial for trial in undecided if not trial.checking]
        # After the threshold is crossed the guards' pairs are certain to be needed, or nearly; before, only the next one is.
        reach = [max(trial.next, self.plan.guard_pairs if trial.crossed else 0) for trial in active]
        for s in range(1, max(reach, default=0) + 1):
            yield self._control(s)
            for trial, last in zip(active, reach, strict=True):
                if trial.next <= s <= last:
                    yield trial.candidate(s)
        ahead = max(reach, default=0) + 1
        if active and ahead <= self.plan.max_pairs:
            yield self._control(ahead)
        # Guesses go first to the idea whose next pair is likeliest to be needed: the one with the most evidence so far.
        for trial, last in sorted(zip(active, reach, strict=True), key=lambda x: -x[0].best):
            if last + 1 <= self.plan.max_pairs:
                yield trial.candidate(last + 1)

    def _submit(self, job: Wanted) -> None:
        seed = self.seeds[job.replicate - 1]
        draws = [Draw(draw_of(seed).seed, job.reworded)]
        if job.neighbour is not None:
            draws.append(draw_of(self.seeds[job.neighbour - 1]))
        self._jobs[job] = self.bench.submit(job.recipe, seed, tuple(draws))

    def _fill(self) -> None:
        """Keep every worker busy and one job waiting, no more: what is queued cannot be reconsidered."""
        limit = self.bench.pool.workers + 1
        running = sum(not f.done() for f in self._jobs.values())
        for job in self._wanted():
            if running >= limit:
                return
            control = self._jobs.get(self._control(job.replicate))
            # A candidate may share the control's first steps: it starts when they are in the store.
            if job in self._jobs or (job.who != CONTROL and (control is None or not control.done())):
                continue
            self._submit(job)
            running += 1
