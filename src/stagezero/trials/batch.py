"""A trial: paired replicates, built fresh from the base, until each idea of a batch is decided.

Every idea's fate is a function of its own pairs in the order of their replicates, never of which worker was faster; pairs are
written to the ledger replicate by replicate, idea by idea, so that a killed run that continues writes the same
chain. Only the order in which jobs are *run* looks at the clock. What the pairs mean is ``judge``'s to say.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import asdict

from stagezero.errors import BuildError, RecipeError, SuiteError
from stagezero.evidence import Guard, pooled_sd
from stagezero.ledger import Ledger
from stagezero.measure import ALIGNMENT
from stagezero.project import Trial
from stagezero.training import Recipe
from stagezero.training.executors import Draw, Result
from stagezero.trials.capability_control import DOSES, ENOUGH, matched_recipe
from stagezero.trials.decision import MATCHED, Fate, Judge, Pair, Ruling
from stagezero.trials.hypothesis import Entrant
from stagezero.trials.jobs import Bench
from stagezero.trials.seeds import draw_of, replicate_seed
from stagezero.trials.state import Course, Decision, Wanted

CONTROL = "control"


class Batch:
    """Ideas registered together, sharing control builds and the error of their stage."""

    def __init__(
        self, entrants: Sequence[Entrant], control: Recipe, bench: Bench, plan: Trial, level: float, secret: bytes, ledger: Ledger
    ) -> None:
        """Seeds are drawn from the ledger's head, so the registration must already be recorded.

        Args:
            level: error that each of the entrants may spend.
        """
        self.control = control
        self.bench = bench
        self.plan = plan
        self.level = level
        self.ledger = ledger
        self.courses = [Course(entrant, entrant.hypothesis.digest()) for entrant in entrants]
        head = ledger.head
        self.seeds = [replicate_seed(secret, head, "replicate", s) for s in range(1, plan.max_pairs + 1)]
        self.noise: dict[str, float] = {}
        self._jobs: dict[Wanted, Future[Result]] = {}
        self._position = (1, 0)

    # --- what to run ---------------------------------------------------------------------------------------------

    def _control(self, s: int, reworded: str | None = None) -> Wanted:
        """The control of a replicate; calibration replicates also answer their neighbour's items."""
        n = self.plan.calibration
        neighbour = s % n + 1 if s <= n and reworded is None else None
        return Wanted(CONTROL, self.control, s, neighbour, reworded)

    def _wanted(self) -> Iterator[Wanted]:
        """Jobs in order of use: calibration, pairs that can still change a decision, then guesses for idle workers."""
        for s in range(1, self.plan.calibration + 1):
            yield self._control(s)
        open_courses = [c for c in self.courses if c.decision is None]
        for course in open_courses:
            yield from course.awaited
        active = [c for c in open_courses if not c.checking]
        # After the threshold is crossed the guards' pairs are certain to be needed, or nearly; before, only the next one is.
        reach = [max(c.next, self.plan.guard_pairs if c.crossed else 0) for c in active]
        for s in range(1, max(reach, default=0) + 1):
            yield self._control(s)
            for course, last in zip(active, reach, strict=True):
                if course.next <= s <= last:
                    yield course.candidate(s)
        ahead = max(reach, default=0) + 1
        if active and ahead <= self.plan.max_pairs:
            yield self._control(ahead)
        # Guesses go first to the idea whose next pair is likeliest to be needed: the one with the most evidence so far.
        for course, last in sorted(zip(active, reach, strict=True), key=lambda x: -max(x[0].e_values, default=1.0)):
            if last + 1 <= self.plan.max_pairs:
                yield course.candidate(last + 1)

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

    # --- what was found ------------------------------------------------------------------------------------------

    def _calibrate(self) -> bool:
        """Pooled A/A noise of every claim and sign: the same recipe with two seeds on the same items."""
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
        suite = self.bench.suite
        for course in self.courses:
            course.judge = Judge(course.entrant.hypothesis, self.level, self.plan, self.noise, suite.properties, suite.capabilities)
        return True

    def _result(self, job: Wanted) -> Result | None:
        future = self._jobs.get(job)
        return self.bench.settle(future) if future is not None and future.done() else None

    def _pair(self, course: Course, s: int) -> Pair | None:
        a, b = self._result(self._control(s)), self._result(course.candidate(s))
        if a is None or b is None:
            return None
        return Pair(s, self.seeds[s - 1], a.digest, b.digest, a.scores[0], b.scores[0], a.signs[0], b.signs[0])

    def _ask(self, course: Course, jobs: Sequence[Wanted]) -> list[Result] | None:
        """Results of the last checks' jobs; None, and they are put on the list, while any is missing."""
        found = [self._result(job) for job in jobs]
        there = [result for result in found if result is not None]
        if len(there) == len(jobs):
            return there
        course.awaited += [job for job, result in zip(jobs, found, strict=True) if result is None]
        return None

    def _elsewhere(self, course: Course, judge: Judge) -> list[Guard] | None:
        """Is the gain there in other wordings too?"""
        own = judge.own
        if own not in self.bench.suite.properties or not self.bench.suite.reworded_items(0, 1, own):
            return []
        replicates = range(1, self.plan.guard_pairs + 1)
        found = self._ask(course, [job for s in replicates for job in (self._control(s, own), course.candidate(s, own))])
        if found is None:
            return None
        scores = [r.scores[0][own] for r in found]
        return [judge.carries_over(course.pairs, [b - a for a, b in zip(scores[0::2], scores[1::2], strict=True)])]

    def _against_matched(self, course: Course, judge: Judge, gained: Sequence[str]) -> list[Guard] | None:
        """Does the gain survive against a control with as much capability? Asked only where capability was gained."""
        if not gained or judge.own == ALIGNMENT:  # ideas tried together have each passed this alone
            return []
        candidate = [sum(p.candidate[c] for c in gained) / len(gained) for p in course.pairs]
        best, nearest = float("-inf"), list[Wanted]()
        try:
            for dose in DOSES:
                recipe = matched_recipe(self.control, self.bench.suite, *dose)
                if recipe is None:
                    return [judge.beats([], 0.0, gained)]
                jobs = [Wanted(f"{MATCHED} {dose}", recipe, s) for s in range(1, self.plan.guard_pairs + 1)]
                found = self._ask(course, jobs[:ENOUGH])
                if found is None:
                    return None
                reached = sum(r.scores[0][c] for r in found for c in gained) / (len(gained) * ENOUGH)
                if reached > best:
                    best, nearest = reached, jobs
                if reached >= sum(candidate[:ENOUGH]) / ENOUGH:
                    break
            found = self._ask(course, nearest)
        except (BuildError, RecipeError):  # no such control can be built, which is not the idea's fault, and shows nothing
            return [judge.beats([], 0.0, gained)]
        if found is None:
            return None
        over = [p.candidate[judge.own] - r.scores[0][judge.own] for p, r in zip(course.pairs, found, strict=False)]
        capable = sum(r.scores[0][c] for r in found for c in gained) / len(gained)
        control = sum(p.control[c] for p in course.pairs[: len(found)] for c in gained) / len(gained)
        gain = sum(candidate[: len(found)]) - control
        return [judge.beats(over, (capable - control) / gain if gain > 0 else 0.0, gained)]

    def _check(self, course: Course, judge: Judge, ruling: Ruling) -> Ruling | None:
        """The checks that only an idea with evidence and sound guards gets; None while their builds are missing."""
        course.checking, course.awaited = True, []
        gained = judge.gains(course.pairs)
        elsewhere = self._elsewhere(course, judge)
        if elsewhere is not None and any(g.shown != "holds" for g in elsewhere):
            return judge.conclude(course.pairs, ruling, elsewhere, gained)
        matched = self._against_matched(course, judge, gained)
        if elsewhere is None or matched is None:
            return None
        return judge.conclude(course.pairs, ruling, [*elsewhere, *matched], gained)

    def _take_in(self, course: Course) -> bool:
        """Take one step on a course if what it needs is there; False when it is not."""
        judge = course.judge
        assert judge is not None
        if not course.checking:
            pair = self._pair(course, course.next)
            if pair is None:
                return False
            course.pairs.append(pair)
            course.ruling = judge.look(course.pairs, max(course.e_values, default=1.0))
            course.e_values.append(course.ruling.e)
        ruling = course.ruling
        assert ruling is not None
        if ruling.fate is None and ruling.guards:
            final = self._check(course, judge, ruling)
            if final is None:
                return False
            ruling = final
        if ruling.fate is not None:
            self._end(course, ruling.fate, ruling.why, ruling.guards)
        return True

    def _end(self, course: Course, fate: Fate, why: str, guards: tuple[Guard, ...] = ()) -> None:
        course.end(self.level, fate, why, guards)
        self.bench.tell.say(f"{fate}: {course.entrant.title} ({why})")

    def _advance(self) -> None:
        """Take in everything that is complete and next in its own course."""
        if not self._calibrate():
            return
        for course in self.courses:
            while course.decision is None:
                try:
                    if not self._take_in(course):
                        break
                except (BuildError, RecipeError, SuiteError) as error:
                    self._control_is_sound(course.next)
                    self._end(course, Fate.FAILED, str(error))
        self._write()

    def _control_is_sound(self, s: int) -> None:
        """Raise if it was the control that failed: then no idea can be tried."""
        if s <= self.plan.max_pairs:
            self._result(self._control(s))

    def _write(self) -> None:
        """Record what is next in the fixed order: replicate by replicate, and within one, idea by idea."""
        s, i = self._position
        while s <= self.plan.max_pairs + 1:  # one more, for a failure after the last pair
            while i < len(self.courses):
                course = self.courses[i]
                ended = course.decision is not None
                if len(course.pairs) >= s:
                    if len(course.pairs) == s and course.checking and not ended:
                        # Its decision belongs right behind this pair, and is not there yet.
                        self._position = (s, i)
                        return
                    self._write_pair(course, s)
                elif not ended:
                    self._position = (s, i)
                    return
                if course.decision is not None and not course.written and course.decision.decided_at <= s:
                    self._write_decision(course)
                i += 1
            s, i = s + 1, 0
        self._position = (s, 0)

    def _write_pair(self, course: Course, s: int) -> None:
        pair = course.pairs[s - 1]
        body = {"hypothesis": course.key, "e": course.e_values[s - 1], **asdict(pair)}
        self.ledger.record("pair", body)

    def _write_decision(self, course: Course) -> None:
        assert course.decision is not None
        course.written = True
        self.ledger.record("decision", course.decision.entry())

    # --- the loop ------------------------------------------------------------------------------------------------

    def run(self) -> list[Decision]:
        """Run until every idea is decided; decisions in the order of registration."""
        while True:
            start = time.perf_counter()
            self._advance()
            open_courses = [c for c in self.courses if c.decision is None]
            if not open_courses:
                break
            self._fill()
            self.bench.costs.decision_seconds += time.perf_counter() - start
            running = [f for f in self._jobs.values() if not f.done()]
            done = sum(len(c.pairs) for c in self.courses)
            expected = done + sum(max(self.plan.guard_pairs - len(c.pairs), 1) if c.crossed else 2 for c in open_courses)
            self.bench.tell.doing(
                f"trial of {len(self.courses)} ideas, {len(open_courses)} open", done, expected, self.bench.seconds_left(expected - done)
            )
            if running:
                wait(running, timeout=1.0, return_when=FIRST_COMPLETED)
        return [c.decision for c in self.courses if c.decision is not None]
