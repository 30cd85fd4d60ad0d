"""The workbench: hands jobs to the workers once each, remembers what they cost, and tells how long is left."""

from __future__ import annotations

import json
import time
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures import TimeoutError as NotYet
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, Protocol

from stagezero.files import write_whole
from stagezero.isolation import Confinement
from stagezero.tasks import load_suite
from stagezero.training import Recipe
from stagezero.training.executors import Draw, Job, LocalPool, Result, outcome


class Pool(Protocol):
    """What a backend must offer."""

    workers: int

    def submit(self, job: Job) -> Future[Result]: ...


@dataclass
class Costs:
    """Where the time went, in seconds, over every session of a run."""

    train_seconds: float = 0.0
    generate_seconds: float = 0.0
    wall_seconds: float = 0.0
    decision_seconds: float = 0.0
    steps_made: int = 0
    steps_reused: int = 0

    @staticmethod
    def load(path: Path) -> Costs:
        try:
            return Costs(**json.loads(path.read_text()))
        except (OSError, ValueError, TypeError):
            return Costs()


class Tell(Protocol):
    """Who is told how a run is going."""

    def say(self, text: str) -> None:
        """Something a person will want to keep."""
        ...

    def doing(self, text: str, done: int, expected: int, seconds_left: float | None) -> None:
        """What is being done now; replaces what was said before."""
        ...


class Silent:
    """Tells nobody."""

    def say(self, text: str) -> None: ...

    def doing(self, text: str, done: int, expected: int, seconds_left: float | None) -> None: ...


class Bench:
    """Builds and measures recipes on one base and one suite."""

    def __init__(
        self, pool: Pool, base: Path, suite: str, items: int, store: Path, costs_file: Path | None, tell: Tell,
        confinement: Confinement | None = None, trainer: Literal["first", "second"] = "first",
    ) -> None:  # fmt: skip
        self.pool, self.base, self.items, self.store, self.tell = pool, base, items, store, tell
        self.suite_name, self.suite = suite, load_suite(suite)
        self.confinement, self.trainer = confinement or Confinement(), trainer
        self.costs = Costs.load(costs_file) if costs_file is not None else Costs()
        self._costs_file = costs_file
        self._jobs: dict[tuple[str, int, tuple[Draw, ...]], Future[Result]] = {}
        self._inputs: dict[str, dict[str, str]] = {}
        self._counted: set[int] = set()
        self._last = time.perf_counter()
        self._durations: list[float] = []

    def submit(self, recipe: Recipe, seed: int, draws: tuple[Draw, ...]) -> Future[Result]:
        """The job's future; the same job is never queued twice."""
        key = (recipe.digest(), seed, draws)
        if key not in self._jobs:
            inputs = self._inputs.setdefault(recipe.digest(), recipe.inputs_digest())
            job = Job(
                self.base, recipe, self.suite_name, self.suite.digest(), inputs, seed, draws, self.items, self.store, self.confinement,
                self.trainer,
            )  # fmt: skip
            self._jobs[key] = self.pool.submit(job)
        return self._jobs[key]

    def settle(self, future: Future[Result]) -> Result:
        """A finished job's result, its cost counted once.

        Raises:
            StagezeroError: as the job did.
        """
        result = outcome(future)
        if id(future) not in self._counted:
            self._counted.add(id(future))
            self.costs.train_seconds += result.train_seconds
            self.costs.generate_seconds += result.generate_seconds
            self.costs.steps_made += result.steps_made
            self.costs.steps_reused += result.steps_reused
            if result.train_seconds + result.generate_seconds > 0:
                self._durations.append(result.train_seconds + result.generate_seconds)
        return result

    def gather(self, futures: list[Future[Result]], what: str) -> list[Result]:
        """Results of several jobs, in order, with progress."""
        waiting = set(futures)
        while waiting:
            done, waiting = wait(waiting, timeout=1.0, return_when=FIRST_COMPLETED)
            finished = len(futures) - len(waiting)
            self.tell.doing(what, finished, len(futures), self.seconds_left(len(waiting)))
            for future in done:
                self.settle(future)
        return [self.settle(future) for future in futures]

    def seconds_left(self, jobs: int) -> float | None:
        """A guess from what jobs have cost so far."""
        if not self._durations:
            return None
        recent = self._durations[-20:]
        return jobs * sum(recent) / len(recent) / self.pool.workers

    def save_costs(self) -> None:
        """Write down the cost so far, jobs that were run ahead and not needed included."""
        for future in self._jobs.values():
            if future.done() and not future.cancelled() and future.exception() is None:
                self.settle(future)
        now = time.perf_counter()
        self.costs.wall_seconds += now - self._last
        self._last = now
        if self._costs_file is not None:
            write_whole(self._costs_file, json.dumps(asdict(self.costs)))


def materialise_base(pool: LocalPool, name: str, folder: Path, tell: Tell) -> Path:
    """A base's folder. A pocket base is trained in a worker, with its progress shown; ``folder`` is where the worker reports it."""
    start, report = time.perf_counter(), folder / "base-progress"
    future = pool.materialise(name, report)
    while True:
        try:
            found = outcome(future, timeout=1.0)
            report.unlink(missing_ok=True)
            return found
        except NotYet:
            try:
                done, total = (int(n) for n in report.read_text().split())
                left = (time.perf_counter() - start) / done * (total - done)
                tell.doing(f"training the base {name}", done, total, left)
            except (OSError, ValueError, ZeroDivisionError):
                tell.doing(f"getting the base {name} ready", 0, 1, None)
