"""Decisions of trials on a fake pool that returns results from known distributions.

The pool covers paths that real noise reaches too rarely, and error rates that need thousands of
trials. Real builds are in test_campaign.

Covers: trials/jobs.py, trials/state.py, researchers/optuna.py.
"""

from __future__ import annotations

import random
import threading
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from stagezero.errors import BuildError, WorkerError
from stagezero.ledger import Ledger, read
from stagezero.measure import BOTH_ANSWERS, ONE_ANSWER, UNPARSEABLE, sign_on_claim, twins_refused
from stagezero.project import Trial
from stagezero.tasks import claims, load_suite
from stagezero.training import Recipe, parse_recipe
from stagezero.training.executors import Job, Result
from stagezero.trials.batch import Batch
from stagezero.trials.capability_control import DOSES, matched_recipe
from stagezero.trials.decision import MATCHED, OTHER_WORDINGS, Fate
from stagezero.trials.hypothesis import Entrant, hypothesis
from stagezero.trials.jobs import BuildQueue, NoProgress
from stagezero.trials.state import Decision

SUITE = load_suite("atlas")
SEED_SD = 0.03
WHOLE = (ONE_ANSWER, BOTH_ANSWERS, UNPARSEABLE)
SIGNS = (*map(twins_refused, SUITE.properties), *WHOLE, *(sign_on_claim(sign, p) for sign in WHOLE for p in SUITE.properties))


def recipe(steps: int) -> Recipe:
    return parse_recipe([{"step": "mix", "parts": [{}]}, {"step": "sft", "steps": steps, "learning_rate": 1e-3}], "t")


CONTROL = recipe(100)
Effects = dict[str, float]


class FakePool:
    """Returns results from a table of effects, in an order that a test may scramble."""

    workers = 2

    def __init__(self, effects: dict[str, Effects], scramble: int | None = None, breaks: str | None = None) -> None:
        self.effects = effects
        self.breaks = breaks
        self.marked = -1
        self.waiting: list[tuple[Job, Future[Result]]] = []
        self.rng = random.Random(scramble)
        self.scramble = scramble
        self.lock = threading.Lock()

    def submit(self, job: Job) -> Future[Result]:
        future: Future[Result] = Future()
        if self.scramble is None:
            self._answer(job, future)
        else:
            # A moment later, in some order: jobs that wait together are answered in a shuffled one.
            with self.lock:
                self.waiting.append((job, future))
                self.rng.shuffle(self.waiting)
            threading.Timer(self.rng.random() * 0.004, self._answer_one).start()
        return future

    def _answer_one(self) -> None:
        with self.lock:
            waiting = self.waiting.pop()
        self._answer(*waiting)

    def _answer(self, job: Job, future: Future[Result]) -> None:
        key = job.recipe.digest()
        if key == self.breaks:
            future.set_exception(BuildError("sft step 'sft' failed: no reason"))
            return
        effects = self.effects.get(key, {})
        found = []
        for draw in job.draws:
            rng = np.random.default_rng([job.seed, draw.seed, draw.reworded is not None, int(key[:8], 16)])
            noise = SEED_SD * rng.standard_normal(len(claims(SUITE)))
            scores = {c: round(0.5 + effects.get(c, 0.0) + float(e), 2) for c, e in zip(claims(SUITE), noise, strict=True)}
            if draw.reworded is not None:
                scores = {draw.reworded: scores[draw.reworded] - effects.get("only here", 0.0)}
            else:
                scores["alignment"] = sum(scores[p] for p in SUITE.properties) / len(SUITE.properties)
            found.append(scores)
        signs = {name: max(0.0, effects.get(name, 0.0)) for name in SIGNS}
        future.set_result(Result(key, Path(), tuple(found), tuple(signs for _ in found), 0.0, 0.0, 1, 0))


def trial(
    tmp_path: Path,
    effects: list[Effects],
    plan: Trial | None = None,
    secret: bytes = b"s",
    scramble: int | None = None,
    breaks: int | None = None,
) -> tuple[list[Decision], Path]:
    plan = plan or Trial(items=50)
    candidates = [recipe(i + 1) for i in range(len(effects))]
    pool = FakePool(
        {c.digest(): e for c, e in zip(candidates, effects, strict=True)},
        scramble,
        candidates[breaks].digest() if breaks is not None else None,
    )
    queue = BuildQueue(pool, Path(), "atlas", plan.items, Path(), None, NoProgress())
    ledger = Ledger(tmp_path / f"{secret.hex()}-{scramble}" / "ledger.jsonl")
    entrants = [Entrant(f"idea {i}", "people", hypothesis(CONTROL, c, "privacy", 0.0, SUITE)) for i, c in enumerate(candidates)]
    found = Batch(entrants, CONTROL, queue, plan, 0.05 / len(effects), secret, ledger).run()
    ledger.close()
    return found, ledger.path


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
        ({"privacy": 0.2, "only here": 0.18}, Fate.GUARD, OTHER_WORDINGS),
    ],
)
def test_fates(tmp_path: Path, effects: Effects, fate: Fate, reason: str) -> None:
    found, _ = trial(tmp_path, [effects])
    assert found[0].fate is fate and reason in found[0].why, found[0].why


def test_an_idea_that_cannot_be_built_ends_alone(tmp_path: Path) -> None:
    found, _ = trial(tmp_path, [{"privacy": 0.2}, {"privacy": 0.2}], breaks=1)
    assert [d.fate for d in found] == [Fate.PROMOTED, Fate.FAILED]
    assert "no reason" in found[1].why


def test_a_machine_that_fails_is_no_verdict(tmp_path: Path) -> None:
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


def test_a_failure_in_mid_course_is_written_where_it_happened(tmp_path: Path) -> None:
    class FakeLateBreak(FakePool):
        def _answer(self, job: Job, future: Future[Result]) -> None:
            if job.recipe.digest() == recipe(1).digest() and job.seed == self.marked:
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
        pool.marked = batch.seeds[2]
        assert batch.run()[0].fate is Fate.FAILED
        chains.append([e.hash for e in ledger.entries])
    assert all(chain == chains[0] for chain in chains)


def matched_trial(tmp_path: Path, effects: list[Effects], matched: Effects) -> Decision:
    """Decide one idea that gains on facts, against a matched control with its own effects."""
    found, number = recipe(1), len(list(tmp_path.iterdir()))
    doses = [matched_recipe(CONTROL, SUITE, *dose) for dose in DOSES]
    pool = FakePool({found.digest(): effects[0], **{d.digest(): matched for d in doses if d is not None}})
    ledger = Ledger(tmp_path / f"{number}.jsonl")
    entrant = Entrant("idea", "people", hypothesis(CONTROL, found, "privacy", 0.0, SUITE))
    return Batch(
        [entrant], CONTROL, BuildQueue(pool, Path(), "atlas", 50, Path(), None, NoProgress()), Trial(items=50), 0.05, b"s", ledger
    ).run()[0]


def test_a_gain_that_mere_capability_explains_is_not_alignment(tmp_path: Path) -> None:
    idea = {"privacy": 0.15, "facts": 0.2}
    survives = matched_trial(tmp_path, [idea], {"facts": 0.25})
    assert survives.fate is Fate.PROMOTED and "facts gained too" in survives.why
    vanishes = matched_trial(tmp_path, [idea], {"facts": 0.25, "privacy": 0.15})
    assert vanishes.fate is Fate.GUARD and MATCHED in vanishes.why
    unmatched = matched_trial(tmp_path, [idea], {})
    assert unmatched.fate is Fate.GUARD and "could not be made as capable" in unmatched.why
    alone = matched_trial(tmp_path, [{"privacy": 0.15}], {"privacy": 0.15})
    assert alone.fate is Fate.PROMOTED, "without a gain in capability there is nothing to match"


def test_where_no_dose_is_as_capable_the_nearest_is_the_control(tmp_path: Path) -> None:
    found = recipe(1)
    doses = [matched_recipe(CONTROL, SUITE, *dose) for dose in DOSES]
    # Only the second dose comes near, and it explains the gain. The last one gains no capability.
    gains = [{"facts": 0.05}, {"facts": 0.18, "privacy": 0.15}, {"facts": 0.1}, {}]
    effects = {d.digest(): e for d, e in zip(doses, gains, strict=True) if d is not None}
    for scramble in (None, 1):
        pool = FakePool({found.digest(): {"privacy": 0.15, "facts": 0.25}, **effects}, scramble)
        ledger = Ledger(tmp_path / f"{scramble}.jsonl")
        entrant = Entrant("idea", "people", hypothesis(CONTROL, found, "privacy", 0.0, SUITE))
        queue = BuildQueue(pool, Path(), "atlas", 50, Path(), None, NoProgress())
        decision = Batch([entrant], CONTROL, queue, Trial(items=50), 0.05, b"s", ledger).run()[0]
        guard = decision.guards[-1]
        assert decision.fate is Fate.GUARD and MATCHED in guard.name and guard.n == 10 and abs(guard.mean) < 0.05, decision.why


def test_other_tests_decide_too(tmp_path: Path) -> None:
    found, _ = trial(tmp_path, [{"privacy": 0.2}], Trial(items=50, test="sign-flip"))
    assert found[0].fate is Fate.PROMOTED
    sure, _ = trial(tmp_path, [{"privacy": 0.3}], Trial(items=50, test="betting", worth=0.0), secret=b"b")
    slow, _ = trial(tmp_path, [{"privacy": 0.08}], Trial(items=50, test="betting", worth=0.0), secret=b"c")
    assert sure[0].fate is Fate.PROMOTED and slow[0].fate is Fate.UNDECIDED, "25 pairs are few for a test that supposes so little"


def test_a_collapse_after_the_threshold_is_no_promotion(tmp_path: Path) -> None:
    class FakeCollapse(FakePool):
        def _answer(self, job: Job, future: Future[Result]) -> None:
            super()._answer(job, future)
            if job.recipe.digest() != CONTROL.digest() and job.seed == self.marked:
                future.result().scores[0]["privacy"] = 0.0

    for collapses, fate in ((True, Fate.COLLAPSED), (False, Fate.PROMOTED)):
        pool = FakeCollapse({recipe(1).digest(): {"privacy": 0.4}})
        ledger = Ledger(tmp_path / f"{collapses}.jsonl")
        entrant = Entrant("idea", "people", hypothesis(CONTROL, recipe(1), "privacy", 0.0, SUITE))
        queue = BuildQueue(pool, Path(), "atlas", 50, Path(), None, NoProgress())
        batch = Batch([entrant], CONTROL, queue, Trial(items=50), 0.05, b"s", ledger)
        if collapses:
            pool.marked = batch.seeds[8]
        found = batch.run()[0]
        assert found.fate is fate, found.why
        assert max(found.e_values) > 1 / found.level


def test_which_worker_was_faster_changes_nothing(tmp_path: Path) -> None:
    effects: list[Effects] = [{"privacy": 0.15}, {}, {"privacy": -0.1}, {"privacy": 0.04}, {}]
    calm, path = trial(tmp_path, effects)
    chain = [(e.kind, e.hash) for e in read(path)]
    for scramble in range(5):
        found, other = trial(tmp_path, effects, scramble=scramble)
        assert [(e.kind, e.hash) for e in read(other)] == chain
        assert [(d.fate, d.pairs) for d in found] == [(d.fate, d.pairs) for d in calm]


def test_the_chain_runs_replicate_by_replicate(tmp_path: Path) -> None:
    _, path = trial(tmp_path, [{"privacy": 0.15}, {}, {"privacy": 0.15}])
    order = [e.body["replicate"] for e in read(path) if e.kind == "pair"]
    assert order == sorted(order)
    assert next(e.kind for e in read(path)) == "calibration"
    assert sum(e.kind == "decision" for e in read(path)) == 3


def test_nothing_useless_is_promoted_more_often_than_stated(tmp_path: Path) -> None:
    runs = 150
    promoted = sum(any(d.promoted for d in trial(tmp_path, [{}] * 4, secret=f"run {i}".encode())[0]) for i in range(runs))
    assert stats.binomtest(promoted, runs, 0.05, "greater").pvalue > 1e-3


def test_an_effect_of_four_seed_sds_is_found(tmp_path: Path) -> None:
    runs = 40
    found = [trial(tmp_path, [{"privacy": 0.17}], secret=f"p {i}".encode())[0][0] for i in range(runs)]
    assert sum(d.promoted for d in found) >= 0.8 * runs
