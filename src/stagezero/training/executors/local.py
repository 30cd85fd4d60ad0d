"""Worker processes on this machine, one torch thread each, which serve many jobs.

Importing TRL costs seconds and hundreds of megabytes. A fork server therefore imports it once, and
every worker forks from there. Jobs and results are plain data. Only a worker process may touch
torch's global generator.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from stagezero.errors import MemoryShortError, WorkerError
from stagezero.processes import start_fork_server, without_main_module
from stagezero.training.executors import worker_process
from stagezero.training.executors.jobs import Job, Result, Speed

R = TypeVar("R")
WORKER_DIED_MESSAGE = (
    "a worker process died (killed, or out of memory); finished builds are stored: "
    "run the same command again, with fewer workers if memory is short."
)
KILLED_TWICE_MESSAGE = (
    "a worker process was killed, and again while it was the only one; finished builds are stored: "
    "free memory, then run the same command again."
)
DIED_TWICE_MESSAGE = (
    "a worker process ended ({}), and again while it was the only one; finished builds are stored: "
    "check this machine's limits (ulimit -a), then run the same command again."
)
POOL_CLOSED_MESSAGE = "the workers have been stopped; finished builds are stored: run the same command again."


class _Waiting(NamedTuple):
    """A call that a worker is to run, and the future of its result."""

    function: Callable[..., Any]
    arguments: tuple[object, ...]
    result: Future[Any]


class LocalPool:
    """A pool of ``workers`` processes that run until ``close``. Use it as a context manager.

    If a worker is killed, or a job has too little memory, every job that was running is run once
    more, each while no other job runs. A job that is killed then, too, has failed with a
    ``MemoryShortError``. The results of a job do not depend on when it runs.
    """

    def __init__(self, workers: int) -> None:
        worker_process.set_environment()
        self.workers = workers
        self._context = start_fork_server(["stagezero.training.executors.worker"])
        self._lock = threading.RLock()
        self._pool = self._start(workers)
        self._running: list[_Waiting] = []
        self._suspects: list[_Waiting] = []
        """Jobs to run alone."""
        self._held: list[_Waiting] = []
        """Jobs that wait until the suspects have run."""
        self._recovery: threading.Thread | None = None
        self._closed = False

    def _start(self, workers: int) -> ProcessPoolExecutor:
        return ProcessPoolExecutor(workers, mp_context=self._context, initializer=worker_process.start_worker)

    def submit(self, job: Job, alone: bool = False) -> Future[Result]:
        """Queue a job. Jobs may finish in any order.

        Args:
            job: the job.
            alone: run it while no other job runs.

        Raises:
            WorkerError: the pool is closed.
        """
        return self._submit(worker_process.run_job, job, alone=alone)

    def _submit(self, function: Callable[..., R], *arguments: object, alone: bool = False) -> Future[R]:
        call = _Waiting(function, arguments, Future())
        call.result.set_running_or_notify_cancel()
        if not alone:
            self._run(call)
            return call.result
        with self._lock:
            if self._closed:
                raise WorkerError(POOL_CLOSED_MESSAGE)
            self._suspects.append(call)
            self._recover()
        return call.result

    def _run(self, call: _Waiting) -> None:
        """Give a call to a worker, or hold it while other calls run alone.

        The lock is free while the executor is called: its callbacks wait for the lock while they
        hold the executor's own.

        Raises:
            WorkerError: the pool is closed.
        """
        with self._lock:
            if self._closed:
                raise WorkerError(POOL_CLOSED_MESSAGE)
            if self._recovery is not None:
                self._held.append(call)
                return
            self._running.append(call)
            pool = self._pool
        try:
            with without_main_module():
                inner = pool.submit(call.function, *call.arguments)
        except Exception:  # a broken pool, one that has been replaced since, or no worker could be started
            with self._lock:
                self._suspect(call)
        else:
            inner.add_done_callback(lambda done: self._finish(call, done))

    def _finish(self, call: _Waiting, done: Future[Any]) -> None:
        """Pass on the outcome of a call, unless it is to run again."""
        error = None if done.cancelled() else done.exception()
        with self._lock:
            if not self._closed and isinstance(error, BrokenProcessPool | MemoryShortError):
                self._suspect(call)
                return
            if call in self._running:
                self._running.remove(call)
        _set_outcome(call.result, done)

    def _suspect(self, call: _Waiting) -> None:
        if call in self._running:
            self._running.remove(call)
        self._suspects.append(call)
        self._recover()

    def _recover(self) -> None:
        """Start to run the suspects, one after another."""
        if self._recovery is None:
            self._recovery = threading.Thread(target=self._run_suspects, daemon=True)
            self._recovery.start()

    def _run_suspects(self) -> None:
        while (call := self._next_suspect()) is not None:
            with self._lock:
                alone = self._start(1)
                self._pool, before = alone, self._pool
            before.shutdown(wait=False, cancel_futures=True)
            self._run_alone(alone, call)

    def _next_suspect(self) -> _Waiting | None:
        """Return the next job to run alone, when no other job runs.

        After the last one, start the workers again and give them the jobs that have waited.
        """
        while True:
            with self._lock:
                running = [call.result for call in self._running]
            wait(running, timeout=0.1)
            with self._lock:
                if self._closed:
                    return None
                if self._running:
                    continue  # jobs that still run; a broken pool adds its jobs to the suspects
                if self._suspects:
                    return self._suspects.pop(0)
                self._pool, before = self._start(self.workers), self._pool
                self._recovery, held, self._held = None, self._held, []
            before.shutdown(wait=False)
            for call in held:
                try:
                    self._run(call)
                except WorkerError as error:
                    call.result.set_exception(error)
            return None

    def _run_alone(self, alone: ProcessPoolExecutor, call: _Waiting) -> None:
        processes: list[BaseProcess] = []
        try:
            with without_main_module():
                done = alone.submit(call.function, *call.arguments)
            processes = list((alone._processes or {}).values())
            wait([done])
        except BrokenProcessPool:
            call.result.set_exception(_death_of(alone, processes))
        except Exception as error:  # the fork server died while it started a worker
            message = f"a worker process could not be started ({type(error).__name__}); run the same command again."
            call.result.set_exception(WorkerError(message))
        else:
            if not done.cancelled() and isinstance(done.exception(), BrokenProcessPool):
                call.result.set_exception(_death_of(alone, processes))
            else:
                _set_outcome(call.result, done)

    def measure_speed(self, job: Job) -> Future[Speed]:
        """Estimate, in a worker, how long a job takes; see ``probe``.

        Raises:
            WorkerError: the pool is closed.
        """
        return self._submit(worker_process.measure_speed, job)

    def environment(self) -> dict[str, Any]:
        """Return what the workers' builds depend on besides recipe and seed.

        Raises:
            WorkerError: a worker process died, alone too.
        """
        return wait_for_result(self._submit(worker_process.environment))

    def materialise(self, name: str, progress_file: Path, chat_template: str | None = None) -> Future[Path]:
        """Make a base in a worker.

        Args:
            name: the model's name.
            progress_file: receives the number of steps done and the total number, as two integers.
            chat_template: replaces the model's own chat template; None leaves it.

        Raises:
            WorkerError: the pool is closed.
        """
        return self._submit(worker_process.materialise, name, progress_file, chat_template)

    def close(self, now: bool = False) -> None:
        """Stop every worker.

        Args:
            now: terminate running jobs; otherwise wait until they have finished.
        """
        with self._lock:
            self._closed = True
            pool = self._pool
            unfinished = [*self._suspects, *self._held]
        for call in unfinished:
            call.result.set_exception(WorkerError(POOL_CLOSED_MESSAGE))
        processes = list((pool._processes or {}).values())
        try:
            pool.shutdown(wait=not now, cancel_futures=True)
        except BaseException:  # Ctrl-C while it waits
            now = True
            raise
        finally:
            if now:
                _terminate(processes)

    def __enter__(self) -> LocalPool:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        # A job that still runs at the end was speculative: nothing waits for its result.
        self.close(now=True)


def _death_of(broken: ProcessPoolExecutor, processes: Sequence[BaseProcess]) -> WorkerError:
    """Return the error for a job whose worker died while it was the only one.

    Only a kill may be a lack of memory. Any other signal, such as that of a limit on CPU time, and
    a process that ended by itself, are faults of the machine or of a library.
    """
    broken.shutdown(wait=True)  # its own thread reads the exit codes, and only one thread can
    for process in processes:
        code = process.exitcode
        if code is not None and code != -signal.SIGKILL:
            name = signal.Signals(-code).name if code < 0 and -code in set(signal.Signals) else f"exit code {code}"
            return WorkerError(DIED_TWICE_MESSAGE.format(name))
    return MemoryShortError(KILLED_TWICE_MESSAGE)


def _terminate(processes: Sequence[BaseProcess]) -> None:
    for process in processes:
        with contextlib.suppress(OSError, ValueError):
            process.terminate()
    for process in processes:
        with contextlib.suppress(OSError, ValueError, AssertionError):
            process.join(5)


def _set_outcome(result: Future[Any], done: Future[Any]) -> None:
    """Copy the outcome of one future to another."""
    if done.cancelled():
        result.set_exception(WorkerError(POOL_CLOSED_MESSAGE))
    elif (error := done.exception()) is not None:
        result.set_exception(error)
    else:
        result.set_result(done.result())


def wait_for_result(future: Future[R], timeout: float | None = None) -> R:
    """Wait for a job and return its result.

    Args:
        future: the job's future.
        timeout: seconds to wait; None waits without a limit.

    Raises:
        WorkerError: the worker process died; finished builds are stored.
        TimeoutError: the job has not finished in time.
    """
    try:
        return future.result(timeout)
    except BrokenProcessPool:
        raise WorkerError(WORKER_DIED_MESSAGE) from None
