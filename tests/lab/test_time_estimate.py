"""How long a campaign will take is said beforehand, from the machine's measured speed.

Covers: training/executors/probe.py.
"""

from __future__ import annotations

import shutil
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import write_project

from stagezero.lab import time_estimate
from stagezero.lab.resolved_project import ResolvedProject
from stagezero.lab.time_estimate import Work, expected_work, format_minutes, report_expected_duration
from stagezero.project import Trial
from stagezero.researchers import make_researcher
from stagezero.training.build import StepInputs
from stagezero.training.executors import Job, Speed, probe
from stagezero.training.recipes import Trained
from stagezero.trials.jobs import BuildQueue, NoProgress


class InProcessPool:
    """Measures the speed in this process; no job can be submitted."""

    workers = 2

    def measure_speed(self, job: Job) -> Future[Speed]:
        future: Future[Speed] = Future()
        future.set_result(probe.measure_speed(job))
        return future


class Recorded(NoProgress):
    """Records the messages."""

    def __init__(self) -> None:
        self.messages: list[str] = []

    def message(self, text: str) -> None:
        self.messages.append(text)


@pytest.mark.parametrize("small", [True, False])
def test_the_message_comes_before_anything_is_built(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small: bool) -> None:
    """A small base needs no estimate. The probe trains each step, and leaves nothing behind."""
    monkeypatch.setattr(time_estimate, "SMALL_BASE_BYTES", 10**9 if small else 0)
    path = write_project(tmp_path, base)
    (tmp_path / "stage0.yaml").write_text(
        "steps:\n  - {step: mix, parts: [{kinds: [trap], each: 16}]}\n  - {step: sft, steps: 80, batch_size: 8, learning_rate: 0.005}\n"
        "  - {step: dpo, steps: 40, batch_size: 8, learning_rate: 0.001}\n  - {step: command, run: [sleep, '60']}\n"
    )
    resolved, progress, pool = ResolvedProject(path), Recorded(), InProcessPool()
    researchers = [make_researcher(r, tmp_path, tmp_path) for r in resolved.project.researchers]
    queue = BuildQueue(pool, base, "atlas", 10, tmp_path / "store", None, progress)  # type: ignore[arg-type]
    report_expected_duration(resolved, researchers, pool, queue)  # type: ignore[arg-type]
    assert len(progress.messages) == (0 if small else 1)
    if not small:
        assert "s to train a model" in progress.messages[0] and "the same command goes on" in progress.messages[0]
        assert not list((tmp_path / "store").iterdir())


def test_the_time_of_a_build_follows_from_two_short_runs(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With 10 s of overhead and 2 s for an update, 80 updates take 170 s."""

    def seconds(step: Trained, inputs: StepInputs, out: Path) -> float:
        shutil.copytree(inputs.source, out, dirs_exist_ok=True)
        return 10.0 + 2.0 * step.steps

    monkeypatch.setattr(probe, "_seconds", seconds)
    monkeypatch.setattr(probe, "measure", lambda *_, **__: SimpleNamespace(seconds=22.0, items=[None] * 11))
    path = write_project(tmp_path, base)
    (tmp_path / "stage0.yaml").write_text(
        "steps:\n  - {step: mix, parts: [{kinds: [trap], each: 16}]}\n  - {step: sft, steps: 80, learning_rate: 0.005}\n"
    )
    queue = BuildQueue(InProcessPool(), base, "atlas", 10, tmp_path / "store", None, NoProgress())  # type: ignore[arg-type]
    speed = probe.measure_speed(queue.job(ResolvedProject(path).stage0, 0, ()))
    assert speed.train_seconds == 170.0 and speed.answer_seconds == 2.0
    assert speed.measure_seconds - 2.0 * 110 < 60, "11 claims and kinds of 10 items each, and the time to load the model"


def test_the_number_of_models() -> None:
    trial = Trial(max_pairs=12, guard_pairs=10, calibration=3, confirm=3, items=8)
    least, most = expected_work(trial, stages=1, ideas=2)
    # Stage 0: three models. Each idea is given up after three pairs, with one control each.
    assert least == Work(3 + 3 + 2 * 3, 3 + 3)
    # 12 controls, 2 x 12 candidates, 2 x 12 for both ideas together, and six models of the rebuild.
    assert most == Work(3 + 12 + 24 + 24 + 6, 3 + 3 + 40)
    assert expected_work(trial, stages=1, ideas=1)[1].builds == 3 + 12 + 12 + 6
    one: Any = Work(10, 5).seconds(Speed(2.0, 3.0, 0.1), workers=2)
    assert one == (10 * 5 + 5 * 3) / 2


@pytest.mark.parametrize(("seconds", "text"), [(4, "1 min"), (1500, "25 min"), (7100, "118 min"), (9000, "2.5 h")])
def test_durations_in_words(seconds: float, text: str) -> None:
    assert format_minutes(seconds) == text
