"""Measures how fast this machine trains and answers, from a short run of the real thing.

Only ``worker`` processes call it. Nothing that it makes is kept.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from pathlib import Path

from stagezero.errors import BuildError
from stagezero.measure import measure
from stagezero.models import Model
from stagezero.tasks import load_suite
from stagezero.training.build import StepInputs, build, first_trainer
from stagezero.training.executors.jobs import Job, Speed
from stagezero.training.recipes import Code, Command, Trained, TrainStep
from stagezero.training.store import Store

PROBED_ITEMS = 1
"""Items of each kind, for each property and capability, that the base answers."""
PROBED_STEPS = (1, 3)
"""Numbers of updates of the two short runs."""


def measure_speed(job: Job) -> Speed:
    """Estimate the time that one job takes: to build its recipe, and to measure one draw.

    Every gradient step runs twice, for ``PROBED_STEPS`` updates. The difference is the time of an
    update.
    Programs (``command``, ``code``) do not run, and count as nothing.

    Args:
        job: the job; its store is not used.

    Raises:
        ModelError: the base cannot be loaded.
        WorkerError: the machine failed.
    """
    suite, model = load_suite(job.suite), Model(job.base)
    start = time.perf_counter()
    _ = model.network, model.tokenizer
    loading = time.perf_counter() - start
    probed = measure(model, suite, 0, PROBED_ITEMS, max_tokens=job.max_tokens)
    answers = len(suite.fresh_items(0, job.items))
    training = 0.0

    def trainer(step: TrainStep, inputs: StepInputs, out: Path) -> None:
        nonlocal training
        if isinstance(step, Command | Code):
            shutil.copytree(inputs.source, out, dirs_exist_ok=True)
            return
        if not isinstance(step, Trained):
            start = time.perf_counter()
            first_trainer(step, inputs, out)
            training += time.perf_counter() - start
            return
        few, more = (_seconds(step.model_copy(update={"steps": n}), inputs, out) for n in PROBED_STEPS)
        update = max(more - few, 0.0) / (PROBED_STEPS[1] - PROBED_STEPS[0])
        training += few + (step.steps - PROBED_STEPS[0]) * update

    job.store.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=job.store, prefix="probe-") as scratch:
        build(job.base, job.recipe, suite, job.seed, Store(Path(scratch)), job.confinement, trainer, job.max_tokens)
    return Speed(training, loading + probed.seconds / len(probed.items) * answers, probed.seconds / len(probed.items))


def _seconds(step: Trained, inputs: StepInputs, out: Path) -> float:
    """Return the time of a shortened step. It may fail in its own way, since it is short."""
    shutil.rmtree(out, ignore_errors=True)
    start = time.perf_counter()
    try:
        first_trainer(step, inputs, out)  # type: ignore[arg-type]
    except BuildError:
        shutil.copytree(inputs.source, out, dirs_exist_ok=True)
    return time.perf_counter() - start
