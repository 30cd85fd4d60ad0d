"""Decisions of trials on a fake pool that returns results from known distributions.

The pool covers paths that real noise reaches too rarely, and error rates that need thousands of
trials. Real builds are in test_campaign.

Covers: trials/jobs.py, trials/state.py, researchers/optuna.py.
"""

from __future__ import annotations

import random
import shutil
import threading
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from stagezero.errors import BuildError, MemoryShortError, WorkerError
from stagezero.ledger import Ledger, read
from stagezero.measure import BOTH_ANSWERS, ONE_ANSWER, UNPARSEABLE, sign_on_claim, twins_refused
from stagezero.project import Trial
from stagezero.tasks import claims, load_suite
from stagezero.training import Recipe, parse_recipe
from stagezero.training.executors import Job, Result
from stagezero.trials.batch import Batch
from stagezero.trials.capability_control import DOSES, matched_recipe
from stagezero.trials.decision import MATCHED
from stagezero.trials.hypothesis import Entrant, hypothesis
from stagezero.trials.jobs import BuildQueue, NoProgress
from stagezero.trials.ruling import Fate
from stagezero.trials.state import Decision

SUITE = load_suite("atlas")
SEED_SD = 0.03
OVERALL = (ONE_ANSWER, BOTH_ANSWERS, UNPARSEABLE)
SIGNS = (*map(twins_refused, SUITE.properties), *OVERALL, *(sign_on_claim(sign, p) for sign in OVERALL for p in SUITE.properties))


def recipe(steps: int) -> Recipe:
    return parse_recipe([{"step": "mix", "parts": [{}]}, {"step": "sft", "steps": steps, "learning_rate": 1e-3}], "t")


CONTROL = recipe(100)


@pytest.fixture(autouse=True)
def empty_base(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the current folder the base of the queues. It is hashed, and never loaded."""
    folder = tmp_path_factory.mktemp("base")
    (folder / "config.json").write_text("{}")
    monkeypatch.chdir(folder)


Effects = dict[str, float]


@cache
def entrant(number: int) -> Entrant:
    return Entrant(f"idea {number}", "people", hypothesis(CONTROL, recipe(number + 1), "privacy", 0.0, SUITE))


class FakePool:
    """A pool that returns results from a table of effects, optionally in a scrambled order."""

    workers = 2

    def __init__(self, effects: dict[str, Effects], scramble: int | None = None, failing: str | None = None) -> None:
        self.effects = effects
        self.failing = failing
        self.failing_seed = -1
        self.waiting: list[tuple[Job, Future[Result]]] = []
        self.rng = random.Random(scramble)
        self.scramble = scramble
        self.lock = threading.Lock()
        self.alone: list[Job] = []

    def submit(self, job: Job, alone: bool = False) -> Future[Result]:
        self.alone += [job] if alone else []
        future: Future[Result] = Future()
        if self.scramble is None:
            self._answer(job, future)
        else:
            # A timer answers a random waiting job, so that results arrive in a scrambled order.
            with self.lock:
                self.waiting.append((job, future))
                self.rng.shuffle(self.waiting)
            threading.Timer(self.rng.random() * 0.004, self._answer_random).start()
        return future

    def _answer_random(self) -> None:
        with self.lock:
            waiting = self.waiting.pop()
        self._answer(*waiting)

    def _answer(self, job: Job, future: Future[Result]) -> None:
        key = job.recipe.digest()
        if key == self.failing:
            future.set_exception(BuildError("sft step 'sft' failed: no reason"))
            return
        effects = self.effects.get(key, {})
        results = []
        for draw in job.draws:
            rng = np.random.default_rng([job.seed, draw.seed, draw.reworded is not None, int(key[:8], 16)])
            noise = SEED_SD * rng.standard_normal(len(claims(SUITE)))
            scores = {c: round(0.5 + effects.get(c, 0.0) + float(e), 2) for c, e in zip(claims(SUITE), noise, strict=True)}
            if draw.reworded is not None:
                scores = {draw.reworded: scores[draw.reworded] - effects.get("only here", 0.0)}
            else:
                scores["alignment"] = sum(scores[p] for p in SUITE.properties) / len(SUITE.properties)
            results.append(scores)
        signs = {name: max(0.0, effects.get(name, 0.0)) for name in SIGNS}
        future.set_result(Result(key, Path(), tuple(results), tuple(signs for _ in results), 0.0, 0.0, 1, 0))


def run_trial(
    tmp_path: Path,
    effects: list[Effects],
    plan: Trial | None = None,
    secret: bytes = b"s",
    scramble: int | None = None,
    failing: int | None = None,
) -> tuple[list[Decision], Path]:
    """Run one batch on a fake pool; return its decisions and its ledger's path."""
    plan = plan or Trial(items=50)
    candidates = [recipe(i + 1) for i in range(len(effects))]
    pool = FakePool(
        {c.digest(): e for c, e in zip(candidates, effects, strict=True)},
        scramble,
        candidates[failing].digest() if failing is not None else None,
    )
    queue = BuildQueue(pool, Path(), "atlas", plan.items, Path(), None, NoProgress())
    ledger = Ledger(tmp_path / f"{secret.hex()}-{scramble}" / "ledger.jsonl")
    entrants = [entrant(number) for number in range(len(candidates))]
    decisions = Batch(entrants, CONTROL, queue, plan, 0.05 / len(effects), secret, ledger).run()
    ledger.close()
    return decisions, ledger.path


@pytest.mark.parametrize(
    ("effects", "fate", "reason"),
    [
        ({"privacy": 0.2}, Fate.PROMOTED, "every guard holds"),
        ({"privacy": -0.2}, Fate.GIVEN_UP, "over 1 pair"),
        ({"privacy": 0.2, "facts": -0.3}, Fate.GUARD, "facts -0."),
        ({"privacy": 0.2, "sycophancy": -0.2}, Fate.GUARD, "sycophancy -0."),
        ({"privacy": 0.2, twins_refused("privacy"): 0.4}, Fate.GUARD, "twins of privacy refused"),
        ({"privacy": 0.2, ONE_ANSWER: 0.3}, Fate.GUARD, ONE_ANSWER),
        ({"privacy": 0.2, BOTH_ANSWERS: 0.3}, Fate.GUARD, BOTH_ANSWERS),
        ({"privacy": 0.2, UNPARSEABLE: 0.3}, Fate.GUARD, UNPARSEABLE),
        ({"privacy": 0.2, sign_on_claim(BOTH_ANSWERS, "privacy"): 0.3}, Fate.GUARD, sign_on_claim(BOTH_ANSWERS, "privacy")),
        ({"privacy": 0.2, twins_refused("injection"): 0.3}, Fate.GUARD, "twins of injection refused"),
        ({"privacy": 0.2, "only here": 0.18}, Fate.GUARD, "gain in other wordings minus half of the gain"),
    ],
)
def test_every_effect_has_its_fate(tmp_path: Path, effects: Effects, fate: Fate, reason: str) -> None:
    decisions, _ = run_trial(tmp_path, [effects])
    assert decisions[0].fate is fate and reason in decisions[0].why, decisions[0].why


def test_an_idea_that_cannot_be_built_does_not_stop_the_others(tmp_path: Path) -> None:
    decisions, _ = run_trial(tmp_path, [{"privacy": 0.2}, {"privacy": 0.2}], failing=1)
    assert [d.fate for d in decisions] == [Fate.PROMOTED, Fate.FAILED]
    assert "no reason" in decisions[1].why


def test_a_worker_failure_is_no_decision(tmp_path: Path) -> None:
    class FakeDyingPool(FakePool):
        def _answer(self, job: Job, future: Future[Result]) -> None:
            if job.recipe.digest() == CONTROL.digest():
                super()._answer(job, future)
            else:
                future.set_exception(BrokenProcessPool())

    ledger = Ledger(tmp_path / "l.jsonl")
    entrant = Entrant("idea", "people", hypothesis(CONTROL, recipe(1), "privacy", 0.0, SUITE))
    queue = BuildQueue(FakeDyingPool({}), Path(), "atlas", 50, Path(), None, NoProgress())
    with pytest.raises(WorkerError, match="finished builds are stored"):
        Batch([entrant], CONTROL, queue, Trial(items=50), 0.05, b"s", ledger).run()
    assert not any(e.kind == "decision" for e in ledger.entries)


@pytest.mark.parametrize("control_dies", [False, True])
def test_a_candidate_that_is_killed_alone_has_failed_only_if_the_control_is_not(tmp_path: Path, control_dies: bool) -> None:
    class FakeShortMemory(FakePool):
        def _answer(self, job: Job, future: Future[Result]) -> None:
            if job.recipe.digest() == recipe(1).digest() or (job in self.alone and control_dies):
                future.set_exception(MemoryShortError("killed twice"))
            else:
                super()._answer(job, future)

    ledger = Ledger(tmp_path / "l.jsonl")
    entrants = [Entrant(f"idea {i}", "people", hypothesis(CONTROL, recipe(i), "privacy", 0.0, SUITE)) for i in (1, 2)]
    pool = FakeShortMemory({recipe(2).digest(): {"privacy": 0.2}})
    batch = Batch(
        entrants, CONTROL, BuildQueue(pool, Path(), "atlas", 50, tmp_path / "s", None, NoProgress()), Trial(items=50), 0.025, b"s", ledger
    )
    if control_dies:
        with pytest.raises(MemoryShortError, match="killed twice"):
            batch.run()
        assert not any(e.kind == "decision" for e in ledger.entries)
    else:
        first, second = batch.run()
        assert (first.fate, second.fate) == (Fate.FAILED, Fate.PROMOTED)
        assert "needs more memory than this machine gives" in first.why
        assert [job.recipe for job in pool.alone] == [CONTROL] and pool.alone[0].store != tmp_path / "s"
        healthy = FakePool({recipe(2).digest(): {"privacy": 0.2}})  # a continued run has enough memory, and finds the same
        ledger.close()
        ledger = Ledger(tmp_path / "l.jsonl")
        again = BuildQueue(healthy, Path(), "atlas", 50, tmp_path / "s", None, NoProgress())
        assert [d.fate for d in Batch(entrants, CONTROL, again, Trial(items=50), 0.025, b"s", ledger).run()] == [Fate.FAILED, Fate.PROMOTED]
    assert not list((tmp_path / "s").glob("alone-*"))


def test_a_failure_during_a_trial_is_recorded_at_the_same_position_in_any_order(tmp_path: Path) -> None:
    class FakeLateBreak(FakePool):
        def _answer(self, job: Job, future: Future[Result]) -> None:
            if job.recipe.digest() == recipe(1).digest() and job.seed == self.failing_seed:
                future.set_exception(BuildError("no luck"))
            else:
                super()._answer(job, future)

    chains = []
    for scramble in (None, 1, 2, 3):
        pool = FakeLateBreak({recipe(i).digest(): {"privacy": 0.1} for i in (1, 2)}, scramble)
        ledger = Ledger(tmp_path / f"{scramble}.jsonl")
        entrants = [Entrant(f"idea {i}", "people", hypothesis(CONTROL, recipe(i), "privacy", 0.0, SUITE)) for i in (1, 2)]
        batch = Batch(
            entrants, CONTROL, BuildQueue(pool, Path(), "atlas", 50, Path(), None, NoProgress()), Trial(items=50), 0.025, b"s", ledger
        )
        pool.failing_seed = batch.seeds[2]
        assert batch.run()[0].fate is Fate.FAILED
        chains.append([e.hash for e in ledger.entries])
    assert all(chain == chains[0] for chain in chains)


def matched_trial(tmp_path: Path, effects: list[Effects], matched: Effects) -> Decision:
    """Decide one idea that gains on facts, against a matched control with its own effects."""
    candidate, number = recipe(1), len(list(tmp_path.iterdir()))
    doses = [matched_recipe(CONTROL, SUITE, *dose) for dose in DOSES]
    pool = FakePool({candidate.digest(): effects[0], **{d.digest(): matched for d in doses if d is not None}})
    ledger = Ledger(tmp_path / f"{number}.jsonl")
    entrant = Entrant("idea", "people", hypothesis(CONTROL, candidate, "privacy", 0.0, SUITE))
    return Batch(
        [entrant], CONTROL, BuildQueue(pool, Path(), "atlas", 50, Path(), None, NoProgress()), Trial(items=50), 0.05, b"s", ledger
    ).run()[0]


def test_a_gain_that_capability_alone_explains_is_stopped_by_a_guard(tmp_path: Path) -> None:
    idea = {"privacy": 0.15, "facts": 0.2}
    unexplained = matched_trial(tmp_path, [idea], {"facts": 0.25})
    assert unexplained.fate is Fate.PROMOTED and "facts improved too" in unexplained.why
    explained = matched_trial(tmp_path, [idea], {"facts": 0.25, "privacy": 0.15})
    assert explained.fate is Fate.GUARD and "gain over a capability-matched control" in explained.why
    unmatched = matched_trial(tmp_path, [idea], {})
    assert unmatched.fate is Fate.GUARD and "the control could not be made as capable as the candidate" in unmatched.why
    alone = matched_trial(tmp_path, [{"privacy": 0.15}], {"privacy": 0.15})
    assert alone.fate is Fate.PROMOTED, "without a gain in capability, no matched control is needed"


def test_if_no_dose_matches_the_nearest_dose_is_the_control(tmp_path: Path) -> None:
    candidate = recipe(1)
    doses = [matched_recipe(CONTROL, SUITE, *dose) for dose in DOSES]
    # Only the second dose comes near, and it explains the gain. The last one has no gain.
    gains = [{"facts": 0.05}, {"facts": 0.18, "privacy": 0.15}, {"facts": 0.1}, {}]
    effects = {d.digest(): e for d, e in zip(doses, gains, strict=True) if d is not None}
    for scramble in (None, 1):
        pool = FakePool({candidate.digest(): {"privacy": 0.15, "facts": 0.25}, **effects}, scramble)
        ledger = Ledger(tmp_path / f"{scramble}.jsonl")
        entrant = Entrant("idea", "people", hypothesis(CONTROL, candidate, "privacy", 0.0, SUITE))
        queue = BuildQueue(pool, Path(), "atlas", 50, Path(), None, NoProgress())
        decision = Batch([entrant], CONTROL, queue, Trial(items=50), 0.05, b"s", ledger).run()[0]
        guard = decision.guards[-1]
        assert decision.fate is Fate.GUARD and MATCHED in guard.name and guard.n == 10 and abs(guard.mean) < 0.05, decision.why


def test_the_other_tests_decide_too(tmp_path: Path) -> None:
    decisions, _ = run_trial(tmp_path, [{"privacy": 0.2}], Trial(items=50, test="sign-flip"))
    assert decisions[0].fate is Fate.PROMOTED
    large, _ = run_trial(tmp_path, [{"privacy": 0.3}], Trial(items=50, test="betting", worth=0.0), secret=b"b")
    small, _ = run_trial(tmp_path, [{"privacy": 0.08}], Trial(items=50, test="betting", worth=0.0), secret=b"c")
    assert large[0].fate is Fate.PROMOTED and small[0].fate is Fate.UNDECIDED, "25 pairs are few for a test without assumptions"


def test_a_collapse_after_the_threshold_prevents_promotion(tmp_path: Path) -> None:
    class FakeCollapse(FakePool):
        def _answer(self, job: Job, future: Future[Result]) -> None:
            super()._answer(job, future)
            if job.recipe.digest() != CONTROL.digest() and job.seed == self.failing_seed:
                future.result().scores[0]["privacy"] = 0.0

    for collapses, fate in ((True, Fate.COLLAPSED), (False, Fate.PROMOTED)):
        pool = FakeCollapse({recipe(1).digest(): {"privacy": 0.4}})
        ledger = Ledger(tmp_path / f"{collapses}.jsonl")
        entrant = Entrant("idea", "people", hypothesis(CONTROL, recipe(1), "privacy", 0.0, SUITE))
        queue = BuildQueue(pool, Path(), "atlas", 50, Path(), None, NoProgress())
        batch = Batch([entrant], CONTROL, queue, Trial(items=50), 0.05, b"s", ledger)
        if collapses:
            pool.failing_seed = batch.seeds[8]
        decision = batch.run()[0]
        assert decision.fate is fate, decision.why
        assert max(decision.e_values) > 1 / decision.level


def test_the_order_in_which_results_arrive_changes_no_decision_and_no_entry(tmp_path: Path) -> None:
    effects: list[Effects] = [{"privacy": 0.15}, {}, {"privacy": -0.1}, {"privacy": 0.04}, {}]
    expected, path = run_trial(tmp_path, effects)
    chain = [(e.kind, e.hash) for e in read(path)]
    for scramble in range(5):
        decisions, other = run_trial(tmp_path, effects, scramble=scramble)
        assert [(e.kind, e.hash) for e in read(other)] == chain
        assert [(d.fate, d.pairs) for d in decisions] == [(d.fate, d.pairs) for d in expected]


def test_pairs_are_recorded_in_order_of_replicates(tmp_path: Path) -> None:
    _, path = run_trial(tmp_path, [{"privacy": 0.15}, {}, {"privacy": 0.15}])
    order = [e.body["replicate"] for e in read(path) if e.kind == "pair"]
    assert order == sorted(order)
    assert next(e.kind for e in read(path)) == "calibration"
    assert sum(e.kind == "decision" for e in read(path)) == 3


def test_useless_ideas_are_promoted_at_most_at_the_stated_rate(tmp_path: Path) -> None:
    runs = 100
    promoted = sum(any(d.promoted for d in run_trial(tmp_path, [{}] * 4, secret=f"run {i}".encode())[0]) for i in range(runs))
    assert stats.binomtest(promoted, runs, 0.05, "greater").pvalue > 1e-3


def test_an_effect_of_four_seed_sds_is_detected(tmp_path: Path) -> None:
    runs = 25
    decisions = [run_trial(tmp_path, [{"privacy": 0.17}], secret=f"p {i}".encode())[0][0] for i in range(runs)]
    assert sum(d.promoted for d in decisions) >= 0.8 * runs


@pytest.mark.parametrize("arm", ["control", "candidate"])
def test_an_idea_is_not_blamed_for_the_memory_of_its_control(tmp_path: Path, arm: str) -> None:
    """In the final checks, both answer other wordings. The record is of the killed job."""
    killed = CONTROL if arm == "control" else recipe(1)

    class FakeShortMemory(FakePool):
        def _answer(self, job: Job, future: Future[Result]) -> None:
            if job.recipe.digest() == killed.digest() and any(draw.reworded for draw in job.draws):
                future.set_exception(MemoryShortError("killed twice"))
            else:
                super()._answer(job, future)

    effects: dict[str, Effects] = {recipe(1).digest(): {"privacy": 0.2}}
    costs = tmp_path / "run" / "costs.json"

    def run(pool: FakePool, ledger: Ledger) -> list[Decision]:
        queue = BuildQueue(pool, Path(), "atlas", 50, tmp_path / "store", costs, NoProgress())
        entrant_ = Entrant("idea", "people", hypothesis(CONTROL, recipe(1), "privacy", 0.0, SUITE))
        return Batch([entrant_], CONTROL, queue, Trial(items=50), 0.05, b"s", ledger).run()

    ledger = Ledger(tmp_path / "l.jsonl")
    if arm == "control":
        with pytest.raises(MemoryShortError):
            run(FakeShortMemory(effects), ledger)
        assert not any(e.kind == "decision" for e in ledger.entries)
        return
    (decision,) = run(FakeShortMemory(effects), ledger)
    assert decision.fate is Fate.FAILED and len(decision.pairs) >= 10
    ledger.close()
    # The same job as before fails, and the pairs of the same recipe and seed do not.
    (again,) = run(FakePool(effects), Ledger(tmp_path / "l.jsonl"))
    assert again == decision
    # The record belongs to the run: another one tries again.
    shutil.rmtree(costs.parent)
    assert run(FakePool(effects), Ledger(tmp_path / "other.jsonl"))[0].fate is Fate.PROMOTED


def test_the_trial_with_the_most_evidence_comes_first(tmp_path: Path) -> None:
    plan = Trial(items=50, calibration=3)
    queue = BuildQueue(FakePool({}), Path(), "atlas", plan.items, Path(), None, NoProgress())
    ledger = Ledger(tmp_path / "ledger.jsonl")
    batch = Batch([entrant(0), entrant(1), entrant(2)], CONTROL, queue, plan, 0.05 / 3, b"s", ledger)
    batch.trials[1].e_values.append(5.0)
    jobs = [job for job in batch._jobs_in_order() if job.arm != "control"]
    assert [job.arm for job in jobs[:3]] == [batch.trials[i].key for i in (1, 0, 2)]
    ledger.close()
