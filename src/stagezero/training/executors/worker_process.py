"""What a worker process runs: its start, its end, and the calls that it is given.

The imports of ``worker`` are inside the functions, so that the process that submits the jobs needs
neither torch nor TRL: their import takes it seconds and half a gigabyte.
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import re
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from stagezero.training.executors.jobs import Job, Result, Speed

_RESULT_CHANGING = re.compile(
    r"(ACCELERATE|FSDP|DEEPSPEED|TORCHELASTIC|TORCHINDUCTOR|TORCHDYNAMO|TORCH_COMPILE|TORCH_ALLOW|MKL|ONEDNN|DNNL|CUBLAS|NVIDIA_TF32)_.*"
    r"|(LOCAL_|GROUP_|ROLE_)?(RANK|WORLD_SIZE|LOCAL_RANK)|MASTER_(ADDR|PORT)"
)
"""Environment variables that change what the libraries compute, and are not in a build's key."""


def set_environment() -> None:
    """Set one thread and no progress bars, and remove the variables that change results.

    This must run before torch is imported.
    """
    for name in [name for name in os.environ if _RESULT_CHANGING.fullmatch(name)]:
        del os.environ[name]
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


class _StoppedError(BaseException):
    """Raised in a job when its worker is told to end, so that the job removes its files."""


_job_runs = False
"""In a worker: whether it runs a job."""


def _stop_job(*_: object) -> None:
    """End this worker (a signal handler)."""
    if not _job_runs:
        os._exit(1)
    raise _StoppedError


def start_worker() -> None:
    """Configure a new worker process."""
    from stagezero.training.executors import worker

    threading.Thread(target=_exit_with_parent, daemon=True).start()
    signal.signal(signal.SIGTERM, _stop_job)
    # The parent handles Ctrl-C, and stops its workers itself.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    worker.configure_process()


@contextmanager
def ends_when_told() -> Iterator[None]:
    """End this worker, after the block has removed its files, if it is told to end meanwhile."""
    global _job_runs
    _job_runs = True
    try:
        yield
    except _StoppedError:
        os._exit(1)
    finally:
        _job_runs = False


def run_job(job: Job) -> Result:
    """Run a job; see ``worker.run_job``."""
    from stagezero.training.executors import worker

    with ends_when_told():
        return worker.run_job(job)


def measure_speed(job: Job) -> Speed:
    """Estimate the time that a job takes; see ``probe``."""
    from stagezero.training.executors import probe

    with ends_when_told():
        return probe.measure_speed(job)


def environment() -> dict[str, Any]:
    """Return what this worker's builds depend on besides recipe and seed."""
    from stagezero.training.build import environment

    return environment()


def materialise(name: str, progress_file: Path, chat_template: str | None) -> Path:
    """Make a base; see ``worker.materialise``."""
    from stagezero.training.executors import worker

    with ends_when_told():
        return worker.materialise(name, progress_file, chat_template)
