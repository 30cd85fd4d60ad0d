"""The inside of a worker process: importing this module is what makes a worker expensive, so it happens once."""

from __future__ import annotations

import warnings
from pathlib import Path

import datasets
import peft  # noqa: F401  (imported here so that the fork server pays for it, not each worker)
import trl

from stagezero.errors import RunChangedError
from stagezero.files import write_whole
from stagezero.measure import measure
from stagezero.models import Model, loader
from stagezero.tasks import load_suite
from stagezero.training.build import build, first_trainer
from stagezero.training.executors.jobs import Job, Result
from stagezero.training.reference.building import second_trainer
from stagezero.training.steps import common, dpo, grpo, reward, sft  # noqa: F401
from stagezero.training.store import Store

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    # TRL loads its trainers lazily; touch them while the fork server is still alone.
    trl.SFTTrainer, trl.DPOTrainer, trl.RewardTrainer, trl.GRPOTrainer  # noqa: B018


def prepare() -> None:
    """Settle a fresh worker: one thread, quiet libraries."""
    loader.settle_libraries()
    datasets.disable_progress_bars()


def run(job: Job) -> Result:
    """Build and measure."""
    suite = load_suite(job.suite)
    if suite.digest() != job.suite_digest or job.recipe.inputs_digest() != dict(job.inputs):
        raise RunChangedError("the suite or a command step's input changed under the run; undo the change, or start anew with --fresh.")
    store = Store(job.store)
    trainer = first_trainer if job.trainer == "first" else second_trainer
    built = build(job.base, job.recipe, suite, job.seed, store, job.confinement, trainer)
    model = Model(built.folder)
    found = [measure(model, suite, draw.seed, job.items, store.answers, reworded=draw.reworded) for draw in job.draws]
    return Result(
        built.digest,
        built.folder,
        tuple(
            m.scores.with_alignment(suite.properties) if d.reworded is None else m.scores.all()
            for m, d in zip(found, job.draws, strict=True)
        ),
        tuple(dict(m.scores.signs) for m in found),
        built.seconds,
        sum(m.seconds for m in found),
        built.steps_made,
        built.steps_reused,
    )


def materialise(name: str, progress_file: Path) -> Path:
    """Make a base, reporting progress through a file."""

    def report(done: int, total: int) -> None:
        write_whole(progress_file, f"{done} {total}")

    return loader.materialise(name, report)
