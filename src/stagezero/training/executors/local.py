"""Worker processes on this machine, one torch thread each, which serve many jobs.

Importing TRL costs seconds and hundreds of megabytes. A fork server therefore imports it once, and
every worker forks from there. Jobs and results are plain data. Only a worker process may touch
torch's global generator.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.connection
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, TypeVar

from stagezero.errors import WorkerError
from stagezero.training.executors.jobs import Job, Result

R = TypeVar("R")
WORKER_DIED_MESSAGE = (
    "a worker process died (killed, or out of memory); finished builds are stored: "
    "run the same command again, with fewer workers if memory is short."
)


def _set_environment() -> None:
    """Set one thread and no progress bars. This must run before torch is imported."""
    os.environ.update(
        OMP_NUM_THREADS="1", MKL_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false", TQDM_DISABLE="1", TRANSFORMERS_VERBOSITY="error",
        HF_HUB_DISABLE_PROGRESS_BARS="1", HF_DATASETS_DISABLE_PROGRESS_BARS="1",
    )  # fmt: skip


def _exit_with_parent() -> None:
    """Exit this process when its parent ends, by kill -9 too.

    An orphan would hold the store's locks and the user's terminal.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None
    multiprocessing.connection.wait([parent.sentinel])
    os._exit(1)


def _start_worker() -> None:
    import signal

    from stagezero.training.executors import worker

    threading.Thread(target=_exit_with_parent, daemon=True).start()
    # The parent handles Ctrl-C, and stops its workers itself.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    worker.configure_process()


# What a worker is asked to run. The imports are inside, so that the process that submits the jobs
# needs neither torch nor TRL: their import takes it seconds and half a gigabyte.


def _run_job(job: Job) -> Result:
    from stagezero.training.executors import worker

    return worker.run_job(job)


def _environment() -> dict[str, Any]:
    from stagezero.training.build import environment

    return environment()


def _materialise(name: str, progress_file: Path) -> Path:
    from stagezero.training.executors import worker

    return worker.materialise(name, progress_file)


class LocalPool:
    """A pool of ``workers`` processes that run until ``close``. Use it as a context manager."""

    def __init__(self, workers: int) -> None:
        _set_environment()
        self.workers = workers
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["stagezero.training.executors.worker"])
        self._pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker)

    def submit(self, job: Job) -> Future[Result]:
        """Queue a job. Jobs may finish in any order.

        Raises:
            WorkerError: a worker process died.
        """
        return self._submit(_run_job, job)

    def _submit(self, function: Callable[..., R], *arguments: object) -> Future[R]:
        try:
            return self._pool.submit(function, *arguments)
        except BrokenProcessPool:
            raise WorkerError(WORKER_DIED_MESSAGE) from None

    def environment(self) -> dict[str, Any]:
        """Return what the workers' builds depend on besides recipe and seed.

        Raises:
            WorkerError: a worker process died.
        """
        return wait_for_result(self._submit(_environment))

    def materialise(self, name: str, progress_file: Path) -> Future[Path]:
        """Make a base in a worker.

        Args:
            name: the model's name.
            progress_file: receives the number of steps done and the total number, as two integers.

        Raises:
            WorkerError: a worker process died.
        """
        return self._submit(_materialise, name, progress_file)

    def close(self, now: bool = False) -> None:
        """Stop every worker.

        Args:
            now: terminate running jobs; otherwise wait until they have finished.
        """
        processes = list((self._pool._processes or {}).values())
        self._pool.shutdown(wait=not now, cancel_futures=True)
        if not now:
            return
        for process in processes:
            with contextlib.suppress(OSError, ValueError):
                process.terminate()
        for process in processes:
            with contextlib.suppress(OSError, ValueError, AssertionError):
                process.join(5)

    def __enter__(self) -> LocalPool:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self.close(now=kind is not None)


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
