"""Predicts what a campaign can find and how long it will take, before anything is built.

The power and the number of pairs follow from the project (``evidence/planning.py``). The time is
added for bases whose builds take long: a worker trains and answers for a few seconds.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from stagezero.evidence import StoppingRule
from stagezero.evidence.planning import GuardPlan, predict, smallest_effect
from stagezero.lab.resolved_project import ResolvedProject
from stagezero.models.checkpoint import weight_files
from stagezero.project import Audit, People, Trial
from stagezero.researchers import Researcher
from stagezero.tasks import Suite
from stagezero.training.executors import LocalPool, Speed, wait_for_result
from stagezero.trials.capability_control import DOSE_REPLICATES, DOSES
from stagezero.trials.decision import guarded_claims
from stagezero.trials.jobs import BuildQueue, Progress, materialise_base

SMALL_BASE_BYTES = 40_000_000
"""Weights of a base whose builds take seconds."""
POWER = 0.8
"""Probability with which the smallest effect is found that a plan states."""
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


@dataclass(frozen=True, slots=True)
class Plan:
    """What a campaign can find, and its expected work.

    ``effect`` is the smallest effect that promotes an idea with probability POWER, in standard
    deviations of a paired difference ("sd"); None if no effect does. ``effect_with_twice`` is the
    same with about twice the budget: with ``twice`` as the trial's settings. ``nothing``,
    ``something`` and ``most`` are the expected work if no idea has an effect, if one idea of every
    stage has ``effect``, and the largest possible work.
    """

    ideas: int
    stages: int
    effect: float | None
    twice: Trial
    effect_with_twice: float | None
    nothing: Work
    something: Work
    most: Work

    def sentence(self) -> str:
        """Return the plan in one or two sentences."""
        if self.effect is None:
            found = "with these settings no effect is promoted with probability .8; allow more pairs (trial.max_pairs)"
        else:
            found = f"an idea whose effect is {self.effect:.1f} standard deviations of a paired difference is promoted with probability .8"
            if self.effect_with_twice is not None and round(self.effect_with_twice, 1) < round(self.effect, 1):
                settings = f"max_pairs: {self.twice.max_pairs} and patience: {self.twice.patience:g}"
                found += f" (with about twice the budget, {settings}: {self.effect_with_twice:.1f})"
        return f"{found}; about {self.nothing.builds} models if no idea has an effect, {self.something.builds} if one of each stage has"


def stopping_rule(trial: Trial, level: float) -> StoppingRule:
    """Return the stopping rule of an idea, before calibration."""
    test = trial.test
    return StoppingRule(
        level, trial.max_pairs, trial.items, trial.margin, trial.worth, trial.patience, test, calibration=trial.calibration
    )  # fmt: skip


def plan_campaign(trial: Trial, stages: int, ideas: int, suite: Suite) -> Plan:
    """Return the plan of a campaign whose stages have this number of ideas each.

    Args:
        trial: the trial's settings.
        stages: number of stages after stage 0.
        ideas: number of ideas in a stage.
        suite: the suite, whose claims are guarded.
    """
    level = trial.level(1, stages, ideas)
    guards = GuardPlan(len(guarded_claims(suite.properties, suite.capabilities, suite.properties[0])), trial.guard_pairs)
    rule = stopping_rule(trial, level)
    twice = trial.model_copy(update={"max_pairs": min(200, 2 * trial.max_pairs), "patience": min(20.0, 2 * trial.patience)})
    effect, longer = smallest_effect(rule, POWER, guards), smallest_effect(stopping_rule(twice, level), POWER, guards)
    null = predict(rule, 0.0, guards).pairs
    useful = predict(rule, effect, guards).pairs if effect is not None else float(trial.max_pairs)
    stage0 = Work(trial.confirm, trial.confirm)  # the base is measured on the same items
    controls = max(trial.calibration, math.ceil(useful))
    nothing = Work(trial.calibration + math.ceil(ideas * null), trial.calibration)
    something = Work(
        controls + math.ceil((ideas - 1) * null + useful) + 2 * trial.confirm, trial.calibration + 2 * math.ceil(useful)
    )  # fmt: skip
    together = ideas > 1
    matched = min(ideas, 2) * (len(DOSES) * DOSE_REPLICATES + trial.max_pairs)  # controls of the same capability
    most = Work(
        trial.max_pairs * (1 + ideas + 2 * together) + matched + 2 * trial.confirm,
        # A promoted idea answers other wordings, together with its control.
        trial.calibration + min(ideas, 2) * 2 * trial.max_pairs,
    )

    def whole(stage: Work) -> Work:
        return Work(stage0.builds + stages * stage.builds, stage0.measurements + stages * stage.measurements)

    return Plan(ideas, stages, effect, twice, longer, whole(nothing), whole(something), whole(most))


def ideas_in_a_stage(resolved: ResolvedProject, researchers: Sequence[Researcher]) -> int:
    """Return the largest number of ideas in one stage. People's files are all proposed in each."""
    return sum(
        len(researcher.ideas_on_file) if isinstance(entry, People) else entry.ideas
        for entry, researcher in zip(resolved.project.researchers, researchers, strict=True)
    )


def report_plan(resolved: ResolvedProject, researchers: Sequence[Researcher], pool: LocalPool, queue: BuildQueue) -> None:
    """Print what the campaign can find and how long it will take, unless it is continued.

    Args:
        resolved: the project.
        researchers: its researchers, in the project's order.
        pool: the workers, one of which measures the speed, unless the base is small.
        queue: the queue of builds; its progress gets the message.
    """
    if queue.costs.steps_made:
        return
    plan = plan_campaign(resolved.project.trial, resolved.project.stages, ideas_in_a_stage(resolved, researchers), resolved.suite)
    queue.progress.message(f"plan: {plan.sentence()}")
    if sum(path.stat().st_size for path in weight_files(queue.base)) < SMALL_BASE_BYTES:
        return
    queue.progress.status("measuring how fast this machine trains and answers", 0, 1, None)
    speed = wait_for_result(pool.measure_speed(queue.job(resolved.stage0, 0, ())))
    low, high, most = (format_minutes(seconds) for seconds in expected_seconds(plan, resolved, speed, pool.workers))
    queue.progress.message(
        f"this machine needs about {speed.train_seconds:.0f} s to train a model and {speed.measure_seconds:.0f} s to measure it; "
        f"this run will take about {low} if no idea has an effect, {high} if one of each stage has, and at most about {most}. "
        "Ctrl-C interrupts it at any time, and the same command goes on"
    )


def expected_seconds(plan: Plan, resolved: ResolvedProject, speed: Speed, workers: int) -> tuple[float, float, float]:
    """Return the seconds of the campaign: with nothing to find, with something, and at most."""
    seconds = [work.seconds(speed, workers) for work in (plan.nothing, plan.something, plan.most)]
    audit, suite = resolved.project.audit, resolved.suite
    if isinstance(audit, Audit):  # it shares the machine; at least stage 0 is audited
        answers = audit.items * (KINDS * len(suite.properties) + len(suite.capabilities))
        audits = (1, 1 + plan.stages, 1 + plan.stages)
        seconds = [s + n * answers * speed.answer_seconds for s, n in zip(seconds, audits, strict=True)]
    return seconds[0], seconds[1], seconds[2]


def measured_seconds(plan: Plan, resolved: ResolvedProject, progress: Progress) -> tuple[float, float, float]:
    """Measure this machine and return the seconds of the campaign, as ``expected_seconds`` does."""
    with tempfile.TemporaryDirectory() as scratch, LocalPool(1) as pool:
        base = materialise_base(pool, resolved.base, Path(scratch), progress, resolved.chat_template)
        queue = BuildQueue(
            pool, base, resolved.suite_name, resolved.project.trial.items, Path(scratch), None, progress, resolved.confinement,
            max_tokens=resolved.project.answer_tokens,
        )  # fmt: skip
        progress.status("measuring how fast this machine trains and answers", 0, 1, None)
        speed = wait_for_result(pool.measure_speed(queue.job(resolved.stage0, 0, ())))
    return expected_seconds(plan, resolved, speed, resolved.project.workers)


def format_minutes(seconds: float) -> str:
    """Format a duration for people: minutes below two hours, hours above."""
    minutes = max(1, round(seconds / 60))
    return f"{minutes} min" if minutes < 120 else f"{seconds / 3600:.1f} h"
