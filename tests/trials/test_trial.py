"""One trial alone: the jobs that it requests, their order, and its rulings. No model is built.

Covers: trials/decision.py, trials/capability_control.py, trials/hypothesis.py.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from stagezero.errors import BuildError
from stagezero.measure import BOTH_ANSWERS, ONE_ANSWER, UNPARSEABLE, sign_on_claim, twins_refused
from stagezero.project import Trial
from stagezero.tasks import claims, load_suite
from stagezero.training import Recipe, parse_recipe
from stagezero.training.executors import Result
from stagezero.trials.capability_control import DOSE_REPLICATES
from stagezero.trials.decision import MATCHED, DecisionRule
from stagezero.trials.hypothesis import Entrant, hypothesis
from stagezero.trials.ruling import Fate, Ruling
from stagezero.trials.state import CONTROL as CONTROL_JOB
from stagezero.trials.state import ReplicateJob, Reply, Request, TrialState
from stagezero.trials.trial import TrialSteps

SUITE, PLAN = load_suite("atlas"), Trial(items=50)
OVERALL = (ONE_ANSWER, BOTH_ANSWERS, UNPARSEABLE)
SIGNS = (*map(twins_refused, SUITE.properties), *OVERALL, *(sign_on_claim(sign, p) for sign in OVERALL for p in SUITE.properties))


def recipe(steps: int) -> Recipe:
    return parse_recipe([{"step": "mix", "parts": [{}]}, {"step": "sft", "steps": steps, "learning_rate": 1e-3}], "t")


CONTROL = recipe(100)


def new_trial() -> tuple[TrialState, TrialSteps]:
    entrant = Entrant("idea", "people", hypothesis(CONTROL, recipe(1), "privacy", 0.0, SUITE))
    state = TrialState(entrant, entrant.hypothesis.digest())
    noise = dict.fromkeys([*claims(SUITE), "alignment", *SIGNS], 0.03)
    decision_rule = DecisionRule(entrant.hypothesis, 0.05, PLAN, noise, SUITE.properties, SUITE.capabilities)
    seeds = list(range(100, 100 + PLAN.max_pairs))
    return state, TrialSteps(state, CONTROL, lambda s: ReplicateJob(CONTROL_JOB, CONTROL, s), seeds, SUITE, lambda: decision_rule)


def result(job: ReplicateJob, effects: dict[str, float]) -> Result:
    """Return a job's result: the candidate gains with a small spread, and other scores are 0.5."""
    gain = effects if job.arm != CONTROL_JOB else {}
    scores = {c: 0.5 + gain.get(c, 0.0) + 0.01 * (job.replicate % 3) * bool(gain) for c in claims(SUITE)}
    scores["alignment"] = sum(scores[p] for p in SUITE.properties) / len(SUITE.properties)
    return Result(job.arm, Path(), (scores,), (dict.fromkeys(SIGNS, 0.0),), 0.0, 0.0, 1, 0)


def run(effects: dict[str, float], fails: str | None = None, last_first: bool = False) -> tuple[TrialState, list[Request], Ruling]:
    """Run a trial: send the results of every request, or the failure of a build."""
    state, trial = new_trial()
    steps, requests = trial.steps(), list[Request]()
    request = next(steps)
    while True:
        requests.append(request)
        number = len(request) - 1 if last_first else 0
        jobs = request[number]
        try:
            if fails is not None and any(fails in job.arm for job in jobs):
                request = steps.send(Reply(number, error=BuildError("no such control")))
            else:
                request = steps.send(Reply(number, tuple(result(job, effects if MATCHED not in job.arm else {}) for job in jobs)))
        except StopIteration as end:
            return state, requests, end.value


def test_a_useless_idea_requests_pairs_until_it_is_given_up() -> None:
    state, requests, ruling = run({"privacy": -0.1})
    assert ruling.fate is Fate.GIVEN_UP and len(state.pairs) == len(requests) == 1
    assert [job.arm for job in requests[0][0]] == [CONTROL_JOB, state.key]


def test_a_useful_idea_requests_its_pairs_and_then_other_wordings() -> None:
    state, requests, ruling = run({"privacy": 0.2})
    assert ruling.fate is Fate.PROMOTED and state.crossed and state.in_final_checks
    pairs, wordings = requests[:-1], requests[-1][0]
    assert [r[0][1].replicate for r in pairs] == list(range(1, PLAN.guard_pairs + 1))
    assert {job.reworded for job in wordings} == {"privacy"} and len(wordings) == 2 * PLAN.guard_pairs
    assert len(requests[-1]) == 1, "without a gain in capability, no matched control is requested"


@pytest.mark.parametrize("last_first", [False, True])
def test_a_gain_in_capability_requests_a_matched_control_at_the_same_time(last_first: bool) -> None:
    state, requests, ruling = run({"privacy": 0.2, "facts": 0.2}, last_first=last_first)
    checks = requests[PLAN.guard_pairs :]
    wordings, dose = checks[0]
    assert len(wordings) == 2 * PLAN.guard_pairs and {job.reworded for job in wordings} == {"privacy"}
    assert len(dose) == DOSE_REPLICATES and all(MATCHED in job.arm for job in dose)
    assert all(len(request) == (2 if last_first else 1) for request in checks[1:-1])
    assert ruling == run({"privacy": 0.2, "facts": 0.2}, last_first=not last_first)[2], "the order of the checks must not matter"
    assert ruling.fate is Fate.GUARD and "the control could not be made as capable as the candidate" in ruling.why and state.in_final_checks


@pytest.mark.parametrize("last_first", [False, True])
def test_a_matched_control_that_cannot_be_built_stops_the_idea(last_first: bool) -> None:
    _, _, ruling = run({"privacy": 0.2, "facts": 0.2}, fails=MATCHED, last_first=last_first)
    assert ruling.fate is Fate.GUARD and ruling.guards[-1].established == "not shown" and ruling.guards[-1].n == 0


def test_a_failed_build_of_the_candidate_is_raised_to_the_scheduler() -> None:
    state, trial = new_trial()
    steps = trial.steps()
    next(steps)
    with pytest.raises(BuildError, match="no luck"):
        steps.send(Reply(0, error=BuildError("no luck")))
    assert not state.pairs and state.decision is None
