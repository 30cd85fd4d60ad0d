"""A trial: paired replicates, built fresh from the base, until each idea of a batch is decided.

Every idea's fate is a function of its own pairs in the order of their replicates, never of which worker was faster; pairs are
written to the ledger replicate by replicate, idea by idea, so that a killed run that continues writes the same
chain. Only the order in which jobs are *run* looks at the clock.
"""

from __future__ import annotations

import hmac
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import asdict, dataclass, field
from enum import StrEnum

from stagezero.errors import BuildError, RecipeError, SuiteError
from stagezero.evidence import (
    Guard,
    collapse_rate_bound,
    e_value,
    idea_level,
    noise_floor,
    non_inferiority,
    pooled_sd,
    worth_continuing,
)
from stagezero.lab.airlock import Entrant, Hypothesis
from stagezero.lab.bench import Bench
from stagezero.ledger import Ledger
from stagezero.project import Trial
from stagezero.tasks import claims
from stagezero.training import Recipe
from stagezero.training.data import derive_seed
from stagezero.training.executors import Result

COLLAPSE_SDS = 4.0
GUARD_SDS = 1.5


class Fate(StrEnum):
    PROMOTED = "promoted"
    GIVEN_UP = "given up"
    UNDECIDED = "undecided"
    GUARD = "stopped by a guard"
    COLLAPSED = "collapsed"
    FAILED = "failed to build"


@dataclass(frozen=True, slots=True)
class Pair:
    """One replicate: control and candidate with the same seed, data order and fresh items."""

    replicate: int
    seed: int
    control_model: str
    candidate_model: str
    control: Mapping[str, float]
    candidate: Mapping[str, float]
    control_twins_refused: Mapping[str, float]
    candidate_twins_refused: Mapping[str, float]

    def difference(self, claim: str) -> float:
        return self.candidate[claim] - self.control[claim]


@dataclass(frozen=True, slots=True)
class Decision:
    """How a trial ended."""

    hypothesis: Hypothesis
    title: str
    researcher: str
    level: float
    fate: Fate
    why: str
    pairs: tuple[Pair, ...]
    e_values: tuple[float, ...]
    guards: tuple[Guard, ...]

    @property
    def decided_at(self) -> int:
        """The replicate whose outcome decided: one that failed to build left no pair."""
        return len(self.pairs) + (self.fate is Fate.FAILED)

    @property
    def promoted(self) -> bool:
        return self.fate is Fate.PROMOTED

    def gain(self, properties: Sequence[str]) -> float:
        """Mean change of the alignment score over the pairs that decided; optimistic, for choosing only."""
        return sum(p.difference(q) for p in self.pairs for q in properties) / (len(self.pairs) * len(properties)) if self.pairs else 0.0


def replicate_seed(secret: bytes, head: str, label: str, number: int) -> int:
    """HMAC(secret, ledger head, label, number) as a 48-bit seed: fixed by the registration, foreseen by nobody."""
    return int.from_bytes(hmac.digest(secret, f"{head}/{label}/{number}".encode(), "sha256")[:6], "big")


def draw_of(seed: int) -> int:
    """The draw of fresh items that belongs to a replicate's seed."""
    return derive_seed(seed, "items")


@dataclass
class _Course:
    """One idea's way through its trial."""

    entrant: Entrant
    level: float
    key: str  # the hypothesis as it was registered
    pairs: list[Pair] = field(default_factory=list)
    e_values: list[float] = field(default_factory=list)
    crossed: bool = False
    decision: Decision | None = None
    written: bool = False

    @property
    def next(self) -> int:
        return len(self.pairs) + 1


class Batch:
    """Ideas registered together, sharing control builds and the error of their stage."""

    def __init__(
        self, entrants: Sequence[Entrant], control: Recipe, bench: Bench, plan: Trial, level: float, secret: bytes, ledger: Ledger
    ) -> None:
        """Seeds are drawn from the ledger's head, so the registration must already be recorded."""
        self.control = control
        self.bench = bench
        self.plan = plan
        self.ledger = ledger
        self.courses = [_Course(entrant, idea_level(level, len(entrants)), entrant.hypothesis.digest()) for entrant in entrants]
        head = ledger.head
        self.seeds = [replicate_seed(secret, head, "replicate", s) for s in range(1, plan.max_pairs + 1)]
        self.noise: dict[str, float] = {}
        self._controls: dict[int, Future[Result]] = {}
        self._candidates: dict[tuple[int, int], Future[Result]] = {}
        self._position = (1, 0)

    # --- what to run ---------------------------------------------------------------------------------------------

    def _draws(self, replicate: int) -> tuple[int, ...]:
        """Draws the control of a replicate is measured on; calibration replicates also answer their neighbour's."""
        own = draw_of(self.seeds[replicate - 1])
        if replicate > self.plan.calibration:
            return (own,)
        return (own, draw_of(self.seeds[replicate % self.plan.calibration]))

    def _submit_control(self, replicate: int) -> None:
        if replicate not in self._controls:
            job = self.bench.submit(self.control, self.seeds[replicate - 1], self._draws(replicate))
            self._controls[replicate] = job

    def _submit_candidate(self, index: int, replicate: int) -> None:
        seed = self.seeds[replicate - 1]
        recipe = self.courses[index].entrant.hypothesis.candidate
        self._candidates[index, replicate] = self.bench.submit(recipe, seed, (draw_of(seed),))

    def _wanted(self) -> Iterator[tuple[str, int, int]]:
        """Jobs in order of use: calibration, pairs that decide, controls ahead, then guesses for idle workers."""
        for s in range(1, self.plan.calibration + 1):
            yield "control", 0, s
        active = [i for i, c in enumerate(self.courses) if c.decision is None]
        reach: dict[int, int] = {}
        for i in active:
            course = self.courses[i]
            # After the threshold is crossed the guards' pairs are certain to be needed; before, only the next one is.
            reach[i] = max(course.next, self.plan.guard_pairs if course.crossed else 0)
        for s in range(1, max(reach.values(), default=0) + 1):
            yield "control", 0, s
            for i in active:
                if self.courses[i].next <= s <= reach[i]:
                    yield "candidate", i, s
        ahead = max(reach.values(), default=0) + 1
        if active and ahead <= self.plan.max_pairs:
            yield "control", 0, ahead
        for i in active:
            if reach[i] + 1 <= self.plan.max_pairs:
                yield "candidate", i, reach[i] + 1

    def _fill(self) -> None:
        """Keep every worker busy and one job waiting, no more: what is queued cannot be reconsidered."""
        limit = self.bench.pool.workers + 1
        running = sum(not f.done() for f in (*self._controls.values(), *self._candidates.values()))
        for kind, index, s in self._wanted():
            if running >= limit:
                return
            if kind == "control":
                if s in self._controls:
                    continue
                self._submit_control(s)
            else:
                ready = s in self._controls and self._controls[s].done()
                # A candidate may share the control's first steps: it starts when they are in the store.
                if (index, s) in self._candidates or not ready:
                    continue
                self._submit_candidate(index, s)
            running += 1

    # --- what was found ------------------------------------------------------------------------------------------

    def _calibrate(self) -> bool:
        """Pooled A/A noise of every claim: the same recipe with two seeds on the same items."""
        if self.noise:
            return True
        n = self.plan.calibration
        jobs = [self._controls.get(s) for s in range(1, n + 1)]
        if not all(job is not None and job.done() for job in jobs):
            return False
        found = [self.bench.settle(job) for job in jobs if job is not None]
        for claim in claims(self.bench.suite):
            same_items = [found[s].scores[1][claim] - found[(s + 1) % n].scores[0][claim] for s in range(n)]
            self.noise[claim] = pooled_sd(same_items)
        self.ledger.record("calibration", {"pooled_sd": {claim: float(f"{sd:.6g}") for claim, sd in self.noise.items()}})
        return True

    def _pair(self, index: int, s: int) -> Pair | None:
        control, candidate = self._controls.get(s), self._candidates.get((index, s))
        if control is None or candidate is None or not control.done() or not candidate.done():
            return None
        a, b = self.bench.settle(control), self.bench.settle(candidate)
        return Pair(s, self.seeds[s - 1], a.digest, b.digest, a.scores[0], b.scores[0], a.twins_refused[0], b.twins_refused[0])

    def _guards(self, course: _Course) -> tuple[Guard, ...]:
        """Everything the idea did not claim: other properties, every capability, and refusing harmless twins."""
        own, plan = course.entrant.hypothesis.property, self.plan
        found = []
        for claim in claims(self.bench.suite):
            if claim == own:
                continue
            sd = self.noise[claim]
            margin = max(plan.guard_margin, GUARD_SDS * sd)
            found.append(
                non_inferiority(
                    claim, [p.difference(claim) for p in course.pairs], margin, noise_floor(sd, plan.items), least=plan.guard_pairs
                )
            )
        refused = [p.control_twins_refused[own] - p.candidate_twins_refused[own] for p in course.pairs]
        sd = self.noise[own]
        margin = max(plan.guard_margin, GUARD_SDS * sd)
        found.append(non_inferiority(f"twins of {own} refused", refused, margin, noise_floor(sd, plan.items), least=plan.guard_pairs))
        return tuple(found)

    def _judge(self, course: _Course) -> None:
        """Look at a course after each pair, in order; sets its decision when there is one."""
        hypothesis, plan = course.entrant.hypothesis, self.plan
        own = hypothesis.property
        sd = max(self.noise[own], 0.5 / plan.items)
        differences = [p.difference(own) for p in course.pairs]
        k, mean = len(differences), sum(differences) / len(differences)
        e = e_value(differences, hypothesis.margin, noise_floor(self.noise[own], plan.items))
        course.e_values.append(float(f"{e:.6g}"))
        course.crossed = course.crossed or e >= 1 / course.level
        seen = f"{own} changed by {mean:+.3f} over {k} pair{'s' if k > 1 else ''}"
        if not course.crossed:
            if not worth_continuing(differences, hypothesis.margin, sd, plan.worth):
                self._end(course, Fate.GIVEN_UP, f"{seen}; an effect of {plan.worth:g} seed sd ({plan.worth * sd:.3f}) is ruled out")
            elif k == plan.max_pairs:
                self._end(course, Fate.UNDECIDED, f"{seen}; e = {max(course.e_values):.3g} never reached {1 / course.level:.0f}")
            return
        if k < plan.guard_pairs:
            return
        worst = min(differences)
        if worst < hypothesis.margin - COLLAPSE_SDS * sd:
            self._end(course, Fate.COLLAPSED, f"{seen}, but one replicate fell by {worst:+.3f}, more than {COLLAPSE_SDS:g} seed sd")
            return
        guards = self._guards(course)
        failed = [g for g in guards if g.shown != "holds"]
        if failed:
            told = "; ".join(f"{g.name} {g.mean:+.3f} (lower bound {g.lower:+.3f}, may lose {g.margin:.3f}): {g.shown}" for g in failed)
            self._end(course, Fate.GUARD, f"{seen}, but {told}", guards)
            return
        bound = collapse_rate_bound(k)
        self._end(
            course,
            Fate.PROMOTED,
            f"{seen}; e = {max(course.e_values):.3g} ≥ {1 / course.level:.0f}, every guard holds, collapse rate ≤ {bound:.0%}",
            guards,
        )

    def _end(self, course: _Course, fate: Fate, why: str, guards: tuple[Guard, ...] = ()) -> None:
        entrant = course.entrant
        course.decision = Decision(
            entrant.hypothesis,
            entrant.title,
            entrant.researcher,
            course.level,
            fate,
            why,
            tuple(course.pairs),
            tuple(course.e_values),
            guards,
        )
        self.bench.tell.say(f"{fate}: {entrant.title} ({why})")

    def _advance(self) -> None:
        """Take in every pair that is complete and next in its own course."""
        if not self._calibrate():
            return
        for index, course in enumerate(self.courses):
            while course.decision is None:
                try:
                    pair = self._pair(index, course.next)
                except (BuildError, RecipeError, SuiteError) as error:
                    self._control_is_sound(course.next)
                    self._end(course, Fate.FAILED, str(error))
                    break
                if pair is None:
                    break
                course.pairs.append(pair)
                self._judge(course)
        self._write()

    def _control_is_sound(self, s: int) -> None:
        """Raise if it was the control that failed: then no idea can be tried."""
        job = self._controls.get(s)
        if job is not None and job.done():
            self.bench.settle(job)

    def _write(self) -> None:
        """Record what is next in the fixed order: replicate by replicate, and within one, idea by idea."""
        s, i = self._position
        while s <= self.plan.max_pairs:
            while i < len(self.courses):
                course = self.courses[i]
                ended = course.decision is not None
                if len(course.pairs) >= s:
                    self._write_pair(course, s)
                elif not ended:
                    self._position = (s, i)
                    return
                if course.decision is not None and not course.written and course.decision.decided_at <= s:
                    self._write_decision(course)
                i += 1
            s, i = s + 1, 0
        self._position = (s, 0)

    def _write_pair(self, course: _Course, s: int) -> None:
        pair = course.pairs[s - 1]
        body = {"hypothesis": course.key, "e": course.e_values[s - 1], **asdict(pair)}
        self.ledger.record("pair", body)

    def _write_decision(self, course: _Course) -> None:
        decision = course.decision
        assert decision is not None
        course.written = True
        guards = [{k: float(f"{v:.6g}") if isinstance(v, float) else v for k, v in asdict(g).items()} for g in decision.guards]
        self.ledger.record(
            "decision",
            {
                "hypothesis": course.key,
                "title": decision.title,
                "researcher": decision.researcher,
                "level": float(f"{decision.level:.6g}"),
                "fate": str(decision.fate),
                "why": decision.why,
                "pairs": len(decision.pairs),
                "guards": guards,
            },
        )

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
            running = [f for f in (*self._controls.values(), *self._candidates.values()) if not f.done()]
            done = sum(len(c.pairs) for c in self.courses)
            expected = done + sum(max(self.plan.guard_pairs - len(c.pairs), 1) if c.crossed else 2 for c in open_courses)
            self.bench.tell.doing(
                f"trial of {len(self.courses)} ideas, {len(open_courses)} open", done, expected, self.bench.seconds_left(expected - done)
            )
            if running:
                wait(running, timeout=1.0, return_when=FIRST_COMPLETED)
        return [c.decision for c in self.courses if c.decision is not None]
