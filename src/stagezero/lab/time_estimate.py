"""Estimates how long a campaign will take on this machine, before anything is built.

Small bases take minutes, and need no estimate. For others, a worker trains and answers for a few
seconds, and the number of models follows from the project.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from stagezero.lab.resolved_project import ResolvedProject
from stagezero.models.checkpoint import weight_files
from stagezero.project import Audit, People, Trial
from stagezero.researchers import Researcher
from stagezero.training.executors import LocalPool, Speed, wait_for_result
from stagezero.trials.jobs import BuildQueue

SMALL_BASE_BYTES = 40_000_000
"""Weights of a base whose builds take seconds."""
FEWEST_PAIRS = 3
"""Pairs after which an idea without an effect is often given up."""
KINDS = 2
"""Kinds of items of a property: traps and twins."""


@dataclass(frozen=True, slots=True)
class Work:
    """The jobs of a campaign, as numbers of builds (each measured once) and more measurements."""

    builds: int
    measurements: int

    def seconds(self, speed: Speed, workers: int) -> float:
        """Return the time that the jobs take on this machine."""
        return (self.builds * (speed.train_seconds + speed.measure_seconds) + self.measurements * speed.measure_seconds) / workers


def expected_work(trial: Trial, stages: int, ideas: int) -> tuple[Work, Work]:
    """Return the least and the most work that a campaign is expected to need.

    At least: every idea is given up after a few pairs. At most: in every stage, every idea needs
    all pairs, two ideas are promoted and then tested together, and the stage is rebuilt.

    Args:
        trial: the trial's settings.
        stages: number of stages after stage 0.
        ideas: number of ideas in a stage.
    """
    stage0 = Work(trial.confirm, trial.confirm)  # the base is measured on the same items
    controls = max(trial.calibration, FEWEST_PAIRS)
    least = Work(controls + ideas * FEWEST_PAIRS, trial.calibration)
    together = ideas > 1
    most = Work(
        trial.max_pairs * (1 + ideas + 2 * together) + 2 * trial.confirm,
        trial.calibration + min(ideas, 2) * 2 * trial.guard_pairs,  # a promoted idea answers other wordings
    )
    return (
        Work(stage0.builds + stages * least.builds, stage0.measurements + stages * least.measurements),
        Work(stage0.builds + stages * most.builds, stage0.measurements + stages * most.measurements),
    )


def ideas_in_a_stage(resolved: ResolvedProject, researchers: Sequence[Researcher]) -> int:
    """Return the largest number of ideas in one stage. People's files are all proposed in each."""
    return sum(
        len(researcher.ideas_on_file) if isinstance(entry, People) else entry.ideas
        for entry, researcher in zip(resolved.project.researchers, researchers, strict=True)
    )


def report_expected_duration(resolved: ResolvedProject, researchers: Sequence[Researcher], pool: LocalPool, queue: BuildQueue) -> None:
    """Print how long the campaign will take, unless its base is small or the run is continued.

    Args:
        resolved: the project.
        researchers: its researchers, in the project's order.
        pool: the workers, one of which measures the speed.
        queue: the queue of builds; its progress gets the message.
    """
    if queue.costs.steps_made or sum(path.stat().st_size for path in weight_files(queue.base)) < SMALL_BASE_BYTES:
        return
    queue.progress.status("measuring how fast this machine trains and answers", 0, 1, None)
    speed = wait_for_result(pool.measure_speed(queue.job(resolved.stage0, 0, ())))
    trial, stages, ideas = resolved.project.trial, resolved.project.stages, ideas_in_a_stage(resolved, researchers)
    bounds = [work.seconds(speed, pool.workers) for work in expected_work(trial, stages, ideas)]
    audit = resolved.project.audit
    if isinstance(audit, Audit):  # it shares the machine; at least stage 0 is audited
        suite = resolved.suite
        answers = audit.items * (KINDS * len(suite.properties) + len(suite.capabilities))
        bounds = [seconds + audits * answers * speed.answer_seconds for seconds, audits in zip(bounds, (1, 1 + stages), strict=True)]
    low, high = (format_minutes(seconds) for seconds in bounds)
    queue.progress.message(
        f"this machine needs about {speed.train_seconds:.0f} s to train a model and {speed.measure_seconds:.0f} s to measure it; "
        f"this run will take about {low} if its ideas are given up early, and up to {high}. "
        "Ctrl-C interrupts it at any time, and the same command goes on"
    )


def format_minutes(seconds: float) -> str:
    """Format a duration for people: minutes below two hours, hours above."""
    minutes = max(1, round(seconds / 60))
    return f"{minutes} min" if minutes < 120 else f"{seconds / 3600:.1f} h"
