"""The code that runs inside a worker process.

Importing this module is expensive (it imports TRL), so the fork server imports it once. Only
``local`` may import it.
"""

from __future__ import annotations

import gc
import warnings
from pathlib import Path

import datasets
import peft  # noqa: F401  (imported here so that the fork server pays for it, not each worker)
import trl

from stagezero.errors import BuildError, MemoryShortError, NonFiniteScoresError, RunChangedError, StagezeroError
from stagezero.files import write_atomic
from stagezero.machine_faults import is_memory_short
from stagezero.measure import measure
from stagezero.models import Model, loader
from stagezero.models.network import bfloat16_unit
from stagezero.tasks import load_suite
from stagezero.training.build import TOO_LITTLE_MEMORY, build, first_trainer
from stagezero.training.channels import channel_digests
from stagezero.training.executors.jobs import Job, Result
from stagezero.training.reference.building import second_trainer
from stagezero.training.steps import common, dpo, grpo, reward, sft  # noqa: F401
from stagezero.training.store import Store

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    # TRL loads its trainers lazily. Load them in the fork server, before any worker forks.
    trl.SFTTrainer, trl.DPOTrainer, trl.RewardTrainer, trl.GRPOTrainer  # noqa: B018


def configure_process() -> None:
    """Configure a new worker: one thread, no output from libraries, a faster garbage collection."""
    loader.configure_libraries()
    loader.flush_denormals()
    datasets.disable_progress_bars()
    # Every training run ends with a full collection. Without the imported modules, which live as
    # long as the process, it takes milliseconds instead of a fifth of a second.
    gc.freeze()


def run_job(job: Job) -> Result:
    """Build a job's recipe, and measure it.

    Raises:
        RunChangedError: the suite or an input of a command step is not the registered one.
        BuildError, RecipeError, SandboxError, WorkerError: the build failed.
        MemoryShortError: the machine has too little memory.
    """
    try:
        return _build_and_measure(job)
    except StagezeroError:
        raise
    except Exception as error:
        if is_memory_short(error):
            raise MemoryShortError(TOO_LITTLE_MEMORY) from error
        raise


def _build_and_measure(job: Job) -> Result:
    suite = load_suite(job.suite)
    if suite.digest() != job.suite_digest or job.recipe.inputs_digest() | channel_digests(job.recipe) != dict(job.inputs):
        raise RunChangedError(
            "the suite, an input of a command step, or a channel's model changed during the run; undo the change, or start again with "
            "--fresh."
        )
    store = Store(job.store)
    trainer = first_trainer if job.trainer == "first" else second_trainer
    built = build(job.base, job.recipe, suite, job.seed, store, job.confinement, trainer, job.max_tokens, job.base_digest)
    model = Model(built.folder)
    try:
        measurements = [
            measure(model, suite, d.seed, job.items, store.answers, reworded=d.reworded, max_tokens=job.max_tokens) for d in job.draws
        ]
    except NonFiniteScoresError as error:
        raise BuildError(str(error)) from None  # the recipe is the cause
    return Result(
        built.digest,
        built.folder,
        tuple(
            m.scores.with_alignment(suite.properties) if d.reworded is None else m.scores.all()
            for m, d in zip(measurements, job.draws, strict=True)
        ),
        tuple(dict(m.scores.signs) for m in measurements),
        built.seconds,
        sum(m.seconds for m in measurements),
        built.steps_made,
        built.steps_reused,
        bfloat16_unit() if job.recipe.uses_bfloat16() else None,
    )


def materialise(name: str, progress_file: Path, chat_template: str | None = None) -> Path:
    """Make a base, and write the progress to a file.

    Args:
        name: the model's name.
        progress_file: receives the number of steps done and the total number, as two integers.
        chat_template: replaces the model's own chat template; None leaves it.

    Raises:
        ModelError: there is no model of that name, or the template is invalid.
    """

    def write_progress(done: int, total: int) -> None:
        write_atomic(progress_file, f"{done} {total}")

    folder = loader.materialise(name, write_progress)
    return folder if chat_template is None else loader.with_chat_template(folder, chat_template)
