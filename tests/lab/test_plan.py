"""What a campaign can find, and how long it will take, is predicted beforehand.

Covers: training/executors/probe.py, evidence/planning.py, trials/noise.py, cli/plan.py.
"""

from __future__ import annotations

import json
import shutil
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from conftest import stagezero, write_project

from stagezero.evidence import StoppingRule, interim_results
from stagezero.evidence.planning import GuardPlan, predict, smallest_effect
from stagezero.lab import plan as planning
from stagezero.lab.plan import Work, format_minutes, plan_campaign, report_plan
from stagezero.lab.resolved_project import ResolvedProject
from stagezero.ledger import read
from stagezero.project import Trial
from stagezero.researchers import make_researcher
from stagezero.tasks import load_suite
from stagezero.training.build import StepInputs
from stagezero.training.executors import Job, Speed, probe
from stagezero.training.recipes import Trained
from stagezero.trials.jobs import BuildQueue, NoProgress
from stagezero.trials.noise import noise_of_runs


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
    monkeypatch.setattr(planning, "SMALL_BASE_BYTES", 10**9 if small else 0)
    path = write_project(tmp_path, base)
    (tmp_path / "stage0.yaml").write_text(
        "steps:\n  - {step: mix, parts: [{kinds: [trap], each: 16}]}\n  - {step: sft, steps: 80, batch_size: 8, learning_rate: 0.005}\n"
        "  - {step: dpo, steps: 40, batch_size: 8, learning_rate: 0.001}\n  - {step: command, run: [sleep, '60']}\n"
    )
    resolved, progress, pool = ResolvedProject(path), Recorded(), InProcessPool()
    researchers = [make_researcher(r, tmp_path, tmp_path) for r in resolved.project.researchers]
    queue = BuildQueue(pool, base, "atlas", 10, tmp_path / "store", None, progress)  # type: ignore[arg-type]
    report_plan(resolved, researchers, pool, queue)  # type: ignore[arg-type]
    assert len(progress.messages) == (1 if small else 2) and progress.messages[0].startswith("plan: an idea whose effect is")
    if not small:
        assert "s to train a model" in progress.messages[1] and "the same command goes on" in progress.messages[1]
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
    trial, suite = Trial(max_pairs=12, guard_pairs=10, calibration=3, confirm=3, items=8), load_suite("atlas")
    plan = plan_campaign(trial, 1, 2, suite)
    # 12 controls, 2 x 12 candidates, 2 x 12 for both ideas together, for each idea 12 + 12 controls
    # of the same capability, and six models of the rebuild; stage 0 has three models.
    assert plan.most == Work(3 + 12 + 24 + 24 + 2 * (12 + 12) + 6, 3 + 3 + 48)
    assert plan_campaign(trial, 1, 1, suite).most.builds == 3 + 12 + 12 + (12 + 12) + 6
    assert 3 + 3 + 2 < plan.nothing.builds < plan.something.builds < plan.most.builds
    one: Any = Work(10, 5).seconds(Speed(2.0, 3.0, 0.1), workers=2)
    assert one == (10 * 5 + 5 * 3) / 2


def test_more_pairs_and_fewer_ideas_find_smaller_effects() -> None:
    suite = load_suite("atlas")
    few, many = (plan_campaign(Trial(max_pairs=pairs), 1, ideas, suite) for pairs, ideas in ((40, 2), (12, 60)))
    assert few.effect is not None and many.effect is not None and few.effect < many.effect
    assert many.effect_with_twice is not None and many.effect_with_twice < many.effect and "twice the budget" in many.sentence()
    assert "no effect is promoted" in plan_campaign(Trial(max_pairs=10, alpha=1e-9), 1, 60, suite).sentence()


@pytest.mark.parametrize("effect", [0.0, 1.0])
def test_a_prediction_agrees_with_other_random_numbers(effect: float) -> None:
    """The same rule on 2,000 other trials, with unlimited items and a known noise of 1."""
    rule = StoppingRule(0.05 / 12, 25, 10**9, worth=1.0)
    predicted, rng = predict(rule, effect), np.random.default_rng(3)
    outcomes = interim_results(rng.normal(effect, 1.0, (2000, 25)), np.full(2000, 1.0), replace(rule, bounds=(-99.0, 99.0))).outcomes()
    assert outcomes.better.mean() == pytest.approx(predicted.found, abs=0.05)
    assert outcomes.pairs.mean() == pytest.approx(predicted.pairs, abs=0.8)


def test_guards_lower_the_power_and_cost_pairs() -> None:
    rule = StoppingRule(0.05 / 12, 25, 100, worth=1.0)
    free, guarded = predict(rule, 3.0), predict(rule, 3.0, GuardPlan(25, margin_sds=0.8))
    assert guarded.found == free.found and 0.1 < guarded.promoted < guarded.found and guarded.pairs > free.pairs
    assert smallest_effect(rule, guards=GuardPlan(25, margin_sds=0.1)) is None


def test_the_noise_of_a_run_gives_effects_in_score() -> None:
    run = Path(__file__).parent.parent / "fixtures" / "ledgers" / "2" / "finished"
    noise = {n.claim: n for n in noise_of_runs([run])}
    sds = [e.body["pooled_sd"]["privacy"] for e in read(run / "ledger.jsonl") if e.kind == "calibration"]
    assert min(sds) <= noise["privacy"].paired_sd.mean <= max(sds) and noise["privacy"].builds > 3
    assert noise["privacy"].paired_sd.low < noise["privacy"].paired_sd.mean < noise["privacy"].paired_sd.high
    assert noise_of_runs([run, run / "ledger.jsonl", run]) != [] and noise_of_runs([run, run]) == noise_of_runs([run])


def test_the_plan_verb(base: Path, tmp_path: Path) -> None:
    run = Path(__file__).parent.parent / "fixtures" / "ledgers" / "2" / "finished"
    printed = stagezero("plan", "first", "--from", run)
    assert printed.returncode == 0 and "is promoted with probability .8" in printed.stdout and "privacy" in printed.stdout
    as_json = json.loads(stagezero("plan", "first", "--ideas", "3", "--json").stdout)
    assert as_json["ideas"] == 3 and as_json["models"]["nothing"] < as_json["models"]["most"]
    timed = stagezero("plan", write_project(tmp_path / "own", base), "--time", "--json")
    seconds = json.loads(timed.stdout)["seconds"]
    assert timed.returncode == 0 and 0 < seconds["nothing"] < seconds["something"] < seconds["most"]
    for arguments, message in (
        ((), "expected a project, or earlier runs"),
        (("--from", tmp_path), "ledger"),
        (("nowhere.yaml",), "nowhere.yaml"),
        (("first", "--ideas", "0"), "--ideas: expected a number from 1"),
    ):
        wrong = stagezero("plan", *arguments)
        assert wrong.returncode == 2 and message in wrong.stderr and "Traceback" not in wrong.stderr


@pytest.mark.parametrize(("seconds", "text"), [(4, "1 min"), (1500, "25 min"), (7100, "118 min"), (9000, "2.5 h")])
def test_durations_in_words(seconds: float, text: str) -> None:
    assert format_minutes(seconds) == text
