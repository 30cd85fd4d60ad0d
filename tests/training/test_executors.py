"""Worker processes: after a kill, the jobs that were running run once more, each alone.

Covers: training/executors/jobs.py, training/executors/local.py, training/executors/worker.py,
training/executors/worker_process.py, processes.py.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from stagezero.errors import MemoryShortError, WorkerError
from stagezero.training.executors import LocalPool, wait_for_result, worker_process


@pytest.fixture(scope="module")
def pool() -> Iterator[LocalPool]:
    with LocalPool(2) as pool:
        yield pool


def attempt(marks: Path, kills: int, shortages: int = 0) -> str:
    """Die, or lack memory, at the first attempts; return how often it was tried."""
    with marks.open("a") as file:
        file.write(f"{os.getpid()}\n")
    tried = len(marks.read_text().splitlines())
    time.sleep(0.2)
    if tried <= kills:
        os.kill(os.getpid(), signal.SIGKILL)
    if tried <= shortages:
        raise MemoryShortError("too little")
    return str(tried)


def test_a_killed_job_and_its_neighbours_are_run_again(pool: LocalPool, tmp_path: Path) -> None:
    first, *others = (pool._submit(attempt, tmp_path / str(n), 1 if n == 0 else 0) for n in range(5))
    assert wait_for_result(first, 60) == "2"
    assert {wait_for_result(other, 60) for other in others} <= {"1", "2"}
    assert wait_for_result(pool._submit(attempt, tmp_path / "later", 0), 60) == "1", "the pool works as before"


@pytest.mark.parametrize(("kills", "shortages", "message"), [(9, 0, "again while it was the only one"), (0, 9, "too little")])
def test_a_job_that_dies_alone_too_has_failed(pool: LocalPool, tmp_path: Path, kills: int, shortages: int, message: str) -> None:
    bad, good = (pool._submit(attempt, tmp_path / name, *dies) for name, dies in (("bad", (kills, shortages)), ("good", (0, 0))))
    with pytest.raises(MemoryShortError, match=message):
        wait_for_result(bad, 60)
    assert len((tmp_path / "bad").read_text().splitlines()) == 2, "tried once more, alone"
    assert wait_for_result(good, 60) in ("1", "2")


def test_a_fork_server_that_dies_during_the_recovery_loses_no_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class FakeDeadServer(ProcessPoolExecutor):
        def submit(self, *_: object, **__: object) -> Future[Any]:
            raise EOFError("unexpected EOF")

    with LocalPool(1) as pool:
        start = pool._start
        monkeypatch.setattr(pool, "_start", lambda workers: FakeDeadServer(1))
        dead = pool._submit(attempt, tmp_path / "dead", 0, alone=True)
        with pytest.raises(WorkerError, match=r"could not be started \(EOFError\); run the same command again"):
            wait_for_result(dead, 60)
        monkeypatch.setattr(pool, "_start", start)
        assert wait_for_result(pool._submit(attempt, tmp_path / "good", 0, alone=True), 60) == "1"


def test_ctrl_c_while_the_pool_closes_stops_its_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = LocalPool(1)
    assert wait_for_result(pool._submit(halve, 1.0), 60) == 0.5
    (process,) = (pool._pool._processes or {}).values()

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(pool._pool, "shutdown", interrupt)
    with pytest.raises(KeyboardInterrupt):
        pool.close()
    assert not process.is_alive()


def test_a_job_can_be_run_alone(pool: LocalPool, tmp_path: Path) -> None:
    """It starts when the running jobs have ended, and later jobs wait for it."""
    times = tmp_path / "times"

    def submit(name: str, alone: bool) -> object:
        return pool._submit(log_times, times, name, alone=alone)

    futures = [submit("before", False), submit("alone", True), submit("after", False)]
    for future in futures:
        wait_for_result(future, 60)  # type: ignore[arg-type]
    assert [line.split()[0] for line in times.read_text().splitlines()] == ["before", "before", "alone", "alone", "after", "after"]


def log_times(path: Path, name: str) -> None:
    for _ in range(2):
        with path.open("a") as file:
            file.write(f"{name} {time.monotonic()}\n")
        time.sleep(0.3)


def halve(number: float) -> float:
    import torch

    return float(torch.tensor([number]) * 0.5)


def test_workers_take_denormal_numbers_as_zero(pool: LocalPool) -> None:
    """With denormal weights a measurement took tens of times as long, without a limit."""
    assert wait_for_result(pool._submit(halve, 1e-38), 60) == 0 != halve(1e-38)


def test_a_closed_pool_takes_no_jobs(tmp_path: Path) -> None:
    pool = LocalPool(1)
    pool.close()
    with pytest.raises(WorkerError, match="have been stopped"):
        pool._submit(attempt, tmp_path / "x", 0)


def ends_by(number: int) -> None:
    os.kill(os.getpid(), number)


def test_only_a_kill_may_be_a_lack_of_memory(pool: LocalPool) -> None:
    """A limit on CPU time sends SIGXCPU; a library may end the process."""
    with pytest.raises(WorkerError, match=r"ended \(SIGXCPU\), and again while it was the only one.*ulimit -a") as caught:
        wait_for_result(pool._submit(ends_by, signal.SIGXCPU), 60)
    assert not isinstance(caught.value, MemoryShortError)
    with pytest.raises(WorkerError, match=r"ended \(exit code 3\)"):
        wait_for_result(pool._submit(os._exit, 3), 60)


def write_and_wait(job: Any) -> None:
    staging = Path(job)
    staging.write_text("half")
    try:
        time.sleep(60)
    finally:
        staging.unlink()


def test_a_job_that_nothing_waits_for_ends_with_the_run_and_removes_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    start, staging = time.monotonic(), tmp_path / "staging"
    with LocalPool(1) as pool:
        pool._submit(run_as_job, staging)
        while not staging.exists():
            assert time.monotonic() < start + 60
            time.sleep(0.05)
        end = time.monotonic()
    assert time.monotonic() < end + 30 and not staging.exists()


def run_as_job(staging: Path) -> None:
    with worker_process.ends_when_told():
        write_and_wait(staging)


def test_variables_that_change_results_do_not_reach_the_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    changing = ("ACCELERATE_MIXED_PRECISION", "LOCAL_RANK", "RANK", "WORLD_SIZE", "MASTER_ADDR", "MKL_CBWR", "ACCELERATE_DYNAMO_BACKEND")
    for name in (*changing, "CUDA_VISIBLE_DEVICES", "HF_HOME"):
        monkeypatch.setenv(name, "1")
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "TOKENIZERS_PARALLELISM", "TQDM_DISABLE"):
        monkeypatch.setenv(name, os.environ.get(name, "1"))
    worker_process.set_environment()
    assert not any(name in os.environ for name in changing)
    assert os.environ["MKL_NUM_THREADS"] == "1" and "CUDA_VISIBLE_DEVICES" in os.environ and "HF_HOME" in os.environ
