"""The queue of builds: it submits each job to the workers once and counts the costs.

Trials, campaigns and rebuilds submit their jobs through one ``BuildQueue``. The queue reports
through ``Progress`` and estimates the time left. It must not decide anything.
"""

from __future__ import annotations

import json
import tempfile
import time
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal, Protocol

from stagezero.errors import BuildError, MemoryShortError
from stagezero.files import write_atomic
from stagezero.isolation import Confinement
from stagezero.ledger import digest
from stagezero.models import checkpoint_digest
from stagezero.tasks import answer_tokens, load_suite
from stagezero.training import Recipe, Store
from stagezero.training.channels import channel_digests
from stagezero.training.executors import Draw, Job, LocalPool, Result, wait_for_result

RECENT_JOBS = 20
"""Number of finished jobs whose mean duration estimates the time left."""


class Pool(Protocol):
    """The interface of a pool of workers."""

    workers: int

    def submit(self, job: Job, alone: bool = False) -> Future[Result]:
        """Start a job, with ``alone`` while no other job runs, and return its future."""
        ...


@dataclass
class Costs:
    """The costs of a run over all its sessions: seconds per activity, and training steps."""

    train_seconds: float = 0.0
    generate_seconds: float = 0.0
    wall_seconds: float = 0.0
    decision_seconds: float = 0.0
    steps_made: int = 0
    steps_reused: int = 0

    @staticmethod
    def load(path: Path) -> Costs:
        """Return the stored costs; zero costs if the file is missing or damaged."""
        try:
            return Costs(**json.loads(path.read_text()))
        except (OSError, ValueError, TypeError):
            return Costs()


class Progress(Protocol):
    """Receives reports on the progress of a run."""

    def message(self, text: str) -> None:
        """Report an event. The message stays visible."""
        ...

    def status(self, text: str, done: int, expected: int, seconds_left: float | None) -> None:
        """Report the current activity. It replaces the previous status.

        Args:
            text: the activity.
            done: number of finished units.
            expected: expected number of units.
            seconds_left: estimated time left; None if unknown.
        """
        ...


class NoProgress:
    """Discards every report."""

    def message(self, text: str) -> None:
        """Discard the message."""

    def status(self, text: str, done: int, expected: int, seconds_left: float | None) -> None:
        """Discard the status."""


class BuildQueue:
    """Builds and measures recipes on one base and one suite.

    Args:
        pool: the workers.
        base: checkpoint folder of the base.
        suite: name of the suite.
        items: number of items of each kind in a draw.
        store: folder of the store of builds.
        costs_file: file of the costs; if None, they are not stored.
        progress: receives reports.
        confinement: how the programs of command and code steps are confined.
        trainer: ``first`` is TRL; ``second`` is the reference trainer.
        max_tokens: most tokens of an answer; None takes what the suite needs.
    """

    def __init__(
        self, pool: Pool, base: Path, suite: str, items: int, store: Path, costs_file: Path | None, progress: Progress,
        confinement: Confinement | None = None, trainer: Literal["first", "second"] = "first", max_tokens: int | None = None,
    ) -> None:  # fmt: skip
        self.pool, self.base, self.items, self.store, self.progress = pool, base, items, store, progress
        self.suite_name, self.suite = suite, load_suite(suite)
        self.confinement, self.trainer, self.max_tokens = confinement or Confinement(), trainer, max_tokens or answer_tokens(self.suite)
        self.costs = Costs.load(costs_file) if costs_file is not None else Costs()
        self._costs_file = costs_file
        self._failures = Store(costs_file.parent if costs_file is not None else store)
        self._jobs: dict[tuple[str, int, tuple[Draw, ...]], Future[Result]] = {}
        self._inputs: dict[str, dict[str, str]] = {}
        self._counted: set[int] = set()
        self._last = time.perf_counter()
        self._durations: list[float] = []
        self._finished_at = time.monotonic()

    def submit(self, recipe: Recipe, seed: int, draws: tuple[Draw, ...]) -> Future[Result]:
        """Submit a job and return its future. The same job is submitted only once.

        Args:
            recipe: the recipe to build.
            seed: the build's seed.
            draws: the draws of items to measure.
        """
        key = (recipe.digest(), seed, draws)
        if key not in self._jobs:
            reason = self._failures.recorded_failure(self._memory_key(recipe, seed, draws))
            if reason is None:
                self._jobs[key] = self.pool.submit(self.job(recipe, seed, draws))
            else:
                self._jobs[key] = Future()
                self._jobs[key].set_exception(BuildError(reason))
        return self._jobs[key]

    def can_build_alone(self, recipe: Recipe, seed: int, draws: tuple[Draw, ...]) -> bool:
        """Build and measure a recipe anew, while no other job runs. False if memory is short.

        Raises:
            StagezeroError: the job failed for another reason.
        """
        self.store.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self.store, prefix="alone-") as scratch:
            job = replace(self.job(recipe, seed, draws), store=Path(scratch))
            try:
                wait_for_result(self.pool.submit(job, alone=True))
            except MemoryShortError:
                return False
        return True

    def record_memory_failure(self, recipe: Recipe, seed: int, draws: tuple[Draw, ...], reason: str) -> None:
        """Record that a job needs too much memory, so that a continued run finds the same.

        The record belongs to the run and not to the store: another run, on a machine or with
        limits of its own, tries again.
        """
        self._failures.record_failure(self._memory_key(recipe, seed, draws), reason)

    @staticmethod
    def _memory_key(recipe: Recipe, seed: int, draws: tuple[Draw, ...]) -> str:
        return digest({"needs memory": recipe.digest(), "seed": seed, "draws": [[draw.seed, draw.reworded] for draw in draws]})

    def job(self, recipe: Recipe, seed: int, draws: tuple[Draw, ...]) -> Job:
        """Return a job of this queue, without submitting it."""
        inputs = self._inputs_of(recipe)
        return Job(
            self.base, recipe, self.suite_name, self.suite.digest(), inputs, seed, draws, self.items, self.store, self.confinement,
            self.trainer, self.max_tokens, self.base_digest,
        )  # fmt: skip

    def _inputs_of(self, recipe: Recipe) -> dict[str, str]:
        """Return the digests of a recipe's files and channels, as they were at its first job."""
        key = recipe.digest()
        if key not in self._inputs:
            self._inputs[key] = recipe.inputs_digest() | channel_digests(recipe)
        return self._inputs[key]

    @cached_property
    def base_digest(self) -> str:
        """The base's digest when the run began."""
        return checkpoint_digest(self.base)

    def result(self, future: Future[Result]) -> Result:
        """Return the result of a finished job. Its cost is counted once.

        Raises:
            StagezeroError: the job failed.
        """
        result = wait_for_result(future)
        if id(future) not in self._counted:
            self._counted.add(id(future))
            self.costs.train_seconds += result.train_seconds
            self.costs.generate_seconds += result.generate_seconds
            self.costs.steps_made += result.steps_made
            self.costs.steps_reused += result.steps_reused
            self._finished_at = time.monotonic()
            if result.train_seconds + result.generate_seconds > 0:
                self._durations.append(result.train_seconds + result.generate_seconds)
        return result

    def gather(self, futures: list[Future[Result]], text: str) -> list[Result]:
        """Wait for several jobs and return their results in the same order.

        Args:
            futures: the jobs.
            text: the activity, for the status report.

        Raises:
            StagezeroError: a job failed.
        """
        return [self.result(future) for future in self._wait_for(futures, text)]

    def gather_successes(
        self, futures: list[Future[Result]], text: str, failures: tuple[type[Exception], ...]
    ) -> list[Result | None]:  # fmt: skip
        """Wait for several jobs and return their results in order, None for a failed build.

        Args:
            futures: the jobs.
            text: the activity, for the status report.
            failures: the errors that count as a failed build.
        """
        return [None if isinstance(future.exception(), failures) else self.result(future) for future in self._wait_for(futures, text)]

    def _wait_for(self, futures: list[Future[Result]], text: str) -> list[Future[Result]]:
        """Wait for several jobs and report the progress. Return the jobs."""
        waiting = set(futures)
        while waiting:
            done, waiting = wait(waiting, timeout=1.0, return_when=FIRST_COMPLETED)
            finished = len(futures) - len(waiting)
            self.progress.status(text, finished, len(futures), self.seconds_left(len(waiting)))
            for future in done:
                if future.exception() is None:
                    self.result(future)
        return futures

    def seconds_left(self, jobs: int) -> float | None:
        """Estimate the time that ``jobs`` jobs take; None if no job has finished yet, or if they
        have taken longer than estimated.

        The time since the last job finished counts as progress on the jobs that run now.
        """
        if not self._durations or not jobs:
            return None
        recent = self._durations[-RECENT_JOBS:]
        left = jobs * sum(recent) / len(recent) / self.pool.workers - (time.monotonic() - self._finished_at)
        return left if left > 0 else None

    def save_costs(self) -> None:
        """Store the costs so far, including those of speculative jobs that were not needed."""
        for future in self._jobs.values():
            if future.done() and not future.cancelled() and future.exception() is None:
                self.result(future)
        now = time.perf_counter()
        self.costs.wall_seconds += now - self._last
        self._last = now
        if self._costs_file is not None:
            write_atomic(self._costs_file, json.dumps(asdict(self.costs)))


def materialise_base(pool: LocalPool, name: str, folder: Path, progress: Progress, chat_template: str | None = None) -> Path:
    """Return the checkpoint folder of a base. A worker loads the base; it trains a pocket base.

    Args:
        pool: the workers.
        name: name of the base.
        folder: the worker writes the progress of the training to a file there.
        progress: receives reports.
        chat_template: replaces the base's own chat template; None leaves it.
    """
    start, report = time.perf_counter(), folder / "base-progress"
    future = pool.materialise(name, report, chat_template)
    while True:
        try:
            base = wait_for_result(future, timeout=1.0)
            report.unlink(missing_ok=True)
            return base
        except FutureTimeoutError:
            try:
                done, total = (int(n) for n in report.read_text().split())
                left = (time.perf_counter() - start) / done * (total - done)
                progress.status(f"training the base {name}", done, total, left)
            except (OSError, ValueError, ZeroDivisionError):
                progress.status(f"getting the base {name} ready", 0, 1, None)
