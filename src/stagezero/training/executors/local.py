"""Long-lived worker processes on this machine, one torch thread each.

Importing TRL costs seconds and hundreds of megabytes, so it is imported once, in a fork server, and every worker
starts from there. Jobs and results are plain data; a worker is the only process that touches torch's global generator.
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
DIED = (
    "a worker process died (killed, or out of memory); finished builds are kept: "
    "run the same command again, with fewer workers if memory is short."
)


def _quiet() -> None:
    """One thread and no progress bars: set before torch is imported."""
    os.environ.update(
        OMP_NUM_THREADS="1", MKL_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false", TQDM_DISABLE="1", TRANSFORMERS_VERBOSITY="error",
        HF_HUB_DISABLE_PROGRESS_BARS="1", HF_DATASETS_DISABLE_PROGRESS_BARS="1",
    )  # fmt: skip


def _end_with_parent() -> None:
    """Leave when the parent is gone, also by kill -9: an orphan would hold the store's locks and the user's terminal."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    multiprocessing.connection.wait([parent.sentinel])
    os._exit(1)


def _start_worker() -> None:
    import signal

    from stagezero.training.executors import worker

    threading.Thread(target=_end_with_parent, daemon=True).start()
    # Ctrl-C is for the parent, which stops its workers itself.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    worker.prepare()


class LocalPool:
    """``workers`` processes that live until ``close``. Use as a context manager."""

    def __init__(self, workers: int) -> None:
        _quiet()
        self.workers = workers
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["stagezero.training.executors.worker"])
        self._pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker)

    def submit(self, job: Job) -> Future[Result]:
        """Queue a job; results come in any order."""
        from stagezero.training.executors import worker

        return self._submit(worker.run, job)

    def _submit(self, work: Callable[..., R], *arguments: object) -> Future[R]:
        try:
            return self._pool.submit(work, *arguments)
        except BrokenProcessPool:
            raise WorkerError(DIED) from None

    def environment(self) -> dict[str, Any]:
        """What the workers' builds depend on besides recipe and seed."""
        from stagezero.training.build import environment

        return outcome(self._submit(environment))

    def materialise(self, name: str, progress_file: Path) -> Future[Path]:
        """Make a base in a worker; (done, in all) is written to ``progress_file`` as it goes."""
        from stagezero.training.executors import worker

        return self._submit(worker.materialise, name, progress_file)

    def close(self, now: bool = False) -> None:
        """Stop every worker, after the job in hand or ``now``."""
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


def outcome(future: Future[R], timeout: float | None = None) -> R:
    """A job's result.

    Raises:
        WorkerError: the worker process died; finished builds are kept.
        TimeoutError: it is not there yet.
    """
    try:
        return future.result(timeout)
    except BrokenProcessPool:
        raise WorkerError(DIED) from None
