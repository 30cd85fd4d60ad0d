"""``compare``: verdicts, intervals, extensions and failed builds, on a fake pool.

Real builds are in tests/cli/test_cli.py. Covers: trials/comparison.py, trials/ruling.py,
trials/decision_1.py.
"""

from __future__ import annotations

from concurrent.futures import Future
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import yaml

from stagezero.errors import BuildError, InputError, MemoryShortError
from stagezero.ledger import read, verify
from stagezero.measure import BOTH_ANSWERS, ONE_ANSWER, UNPARSEABLE, sign_on_claim, twins_refused
from stagezero.tasks import claims, load_suite
from stagezero.training.executors import Job, Result
from stagezero.trials import compare as comparing
from stagezero.trials.compare import compare, default_plan
from stagezero.trials.comparison import Comparison, summary_lines
from stagezero.trials.ruling import Failure, FailureCounts, Fate

SUITE = load_suite("atlas")
OVERALL = (ONE_ANSWER, BOTH_ANSWERS, UNPARSEABLE)
SIGNS = (*map(twins_refused, SUITE.properties), *OVERALL, *(sign_on_claim(sign, p) for sign in OVERALL for p in SUITE.properties))
SD = 0.03


class FakePool:
    """A pool that returns normal scores; ``plan`` gives each recipe's gain and its failing builds.

    A recipe is recognised by the number of its training steps.
    """

    workers = 2
    plan: ClassVar[dict[int, tuple[float, float]]] = {}
    failing: ClassVar[dict[tuple[int, int], type[Exception]]] = {}
    """Errors of single builds, by training steps and by the order in which seeds first occur."""
    seeds: ClassVar[list[int]] = []

    def __init__(self, workers: int) -> None:
        self.builds = 0

    def __enter__(self) -> FakePool:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def environment(self) -> dict[str, str]:
        return {"fake": "1"}

    def submit(self, job: Job, alone: bool = False) -> Future[Result]:
        steps = int(getattr(job.recipe.steps[-1], "steps"))  # noqa: B009
        gain, failing = self.plan[steps]
        future: Future[Result] = Future()
        rng = np.random.default_rng([job.seed, steps])
        if job.seed not in self.seeds:
            self.seeds.append(job.seed)
        planned = self.failing.get((steps, self.seeds.index(job.seed) + 1))
        if planned is not None:
            future.set_exception(planned("planned"))
            return future
        if rng.random() < failing:
            future.set_exception(BuildError("the loss is not a number"))
            return future
        scores = {c: 0.5 + (gain if c == "privacy" else 0.0) + SD * float(rng.standard_normal()) for c in claims(SUITE)}
        scores["alignment"] = sum(scores[p] for p in SUITE.properties) / len(SUITE.properties)
        signs = dict.fromkeys(SIGNS, 0.0)
        future.set_result(Result("d", Path(), (scores,) * len(job.draws), (signs,) * len(job.draws), 0.0, 0.0, 1, 0))
        return future


@pytest.fixture
def arms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, home: Path) -> tuple[Path, Path]:
    """Return two recipe files, a (50 steps) and b (60 steps)."""
    base = tmp_path / "base"
    base.mkdir()
    (base / "config.json").write_text("{}")
    monkeypatch.setattr(comparing, "LocalPool", FakePool)
    monkeypatch.setattr(comparing, "check_model", lambda _: None)
    monkeypatch.setattr(comparing, "materialise_base", lambda *_: base)
    files = []
    for name, steps in (("a", 50), ("b", 60)):
        path = tmp_path / f"{name}.yaml"
        recipe = {
            "steps": [{"step": "mix", "parts": [{"kinds": ["trap"], "each": 10}]}, {"step": "sft", "steps": steps, "learning_rate": 1e-3}]
        }
        path.write_text(yaml.safe_dump(recipe))
        files.append(path)
    return files[0], files[1]


def run(
    arms: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, b: float = 0.0, fail_a: float = 0.0, fail_b: float = 0.0, **more: Any
) -> Comparison:
    """Compare the arms; ``b`` is the true effect."""
    FakePool.seeds.clear()
    monkeypatch.setattr(FakePool, "plan", {50: (0.0, fail_a), 60: (b, fail_b)})
    return compare(*arms, "privacy", **{"plan": default_plan(items=1000), "seed": 1, "runs": arms[0].parent / "runs", **more})


def test_a_difference_is_found_in_either_direction_and_confirmed(arms: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    better = run(arms, monkeypatch, b=0.08)
    assert better.verdict == "better" and better.better and better.interval is not None and better.interval.low > 0
    worse = run(arms, monkeypatch, b=-0.08, seed=2)
    assert worse.verdict == "worse" and not worse.better and worse.interval is not None and worse.interval.high < 0
    assert worse.confirmed is not None and worse.confirmed.high < 0.0 and len(worse.decision.pairs) < 25
    swapped = run((arms[1], arms[0]), monkeypatch, b=-0.08, seed=2)
    assert swapped.verdict == "better", "the order of the arms must not matter"
    text = "\n".join(summary_lines(worse))
    assert "b is worse than a on privacy." in text and "[-" in text
    assert worse.as_json()["verdict"] == "worse" and worse.as_json()["interval"][2] < 0


def test_equal_arms_are_undecided_and_a_longer_trial_may_be_asked_for(arms: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    first = run(arms, monkeypatch)
    assert first.verdict == "undecided" and first.more_pairs is not None and first.confirmed is None
    assert first.interval is not None and first.interval.low < 0 < first.interval.high
    pairs = len(first.decision.pairs)
    assert f"--go-on {pairs + first.more_pairs[0]}" in "\n".join(summary_lines(first))
    longer = run(arms, monkeypatch, go_on=60)
    assert longer.ledger == first.ledger and len(longer.decision.pairs) == 60, "nothing but an answer ends an extension"
    kinds = [entry.kind for entry in read(longer.ledger)]
    assert kinds.count("decision") == 2 and kinds.count("extension") == 1 and verify(longer.ledger, deep=True) == len(kinds)
    entries = longer.ledger.read_bytes()
    assert run(arms, monkeypatch, go_on=60).decision == longer.decision and longer.ledger.read_bytes() == entries
    again = run(arms, monkeypatch)
    assert again.decision.pairs == longer.decision.pairs, "an extension stays"


def test_an_effect_that_the_maximum_did_not_find_may_be_found_later(arms: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    plan = default_plan(items=1000, worth=0.3)
    seeds = [s for s in range(3) if run(arms, monkeypatch, b=0.02, seed=s, plan=plan).verdict == "undecided"]
    found = [run(arms, monkeypatch, b=0.02, seed=s, plan=plan, go_on=150).verdict for s in seeds]
    assert seeds and "better" in found and "worse" not in found


def test_the_same_is_a_question_of_its_own(arms: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    same = run(arms, monkeypatch, same_within=0.06)
    assert same.verdict == "the same" and same.interval is not None and -0.06 < same.interval.low < same.interval.high < 0.06
    assert "the same on privacy" in str(same)


def test_a_one_sided_question_has_no_upper_limit(arms: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    harmful = run(arms, monkeypatch, b=-0.08, two_sided=False)
    assert harmful.verdict == "undecided" and harmful.decision.fate is Fate.GIVEN_UP and len(harmful.decision.pairs) <= 4
    better = run(arms, monkeypatch, b=0.08, two_sided=False, seed=2)
    assert better.verdict == "better" and better.as_json()["interval"][2] is None and "at least +" in str(better)


@pytest.mark.parametrize(("fail_a", "fail_b"), [(0.0, 0.3), (0.3, 0.0)])
def test_an_arm_that_fails_more_often_is_never_better(
    arms: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, fail_a: float, fail_b: float
) -> None:  # fmt: skip
    effect = 0.1 if fail_b else -0.1  # the arm that fails is the better one otherwise
    result = run(arms, monkeypatch, b=effect, fail_a=fail_a, fail_b=fail_b, seed=5)
    assert result.verdict == "undecided" and result.decision.fate is Fate.FAILS_MORE, result
    kinds = [entry.kind for entry in read(result.ledger)]
    assert kinds.count("failure") == len(result.decision.failures) > 0 and "failed builds:" in str(result)
    assert run(arms, monkeypatch, b=effect, fail_a=fail_a, fail_b=fail_b, seed=5).decision == result.decision


def test_the_better_arm_may_be_the_one_that_fails_less(arms: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    result = run(arms, monkeypatch, b=0.1, fail_a=0.3, seed=5)
    assert result.verdict == "better" and result.decision.failures
    assert all("control" in failure.arms for failure in result.decision.failures)


def test_a_score_for_failures_makes_them_pairs(arms: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    result = run(arms, monkeypatch, b=0.1, fail_b=0.4, seed=5, failure_score=0.0)
    failed = [pair for pair in result.decision.pairs if pair.candidate_model == ""]
    assert failed and all(pair.candidate["privacy"] == 0.0 for pair in failed) and not result.decision.failures
    assert result.verdict != "better"


def test_a_recipe_that_never_builds_is_given_up_soon(arms: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    result = run(arms, monkeypatch, fail_b=1.0)
    assert result.verdict == "failed" and len(result.decision.failures) == 3 and "not a number" in str(result)
    with pytest.raises(BuildError, match="not a number"):
        run(arms, monkeypatch, fail_a=1.0)


@pytest.mark.parametrize("steps", [50, 60])
@pytest.mark.parametrize("replicate", [5, 10])
def test_a_failed_build_after_the_answer_does_not_exceed_the_maximum(
    arms: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, steps: int, replicate: int
) -> None:
    monkeypatch.setattr(FakePool, "failing", {(steps, replicate): BuildError})
    result = run(arms, monkeypatch, b=0.1, seed=2, plan=default_plan(items=1000, max_pairs=10))
    expected = Fate.GUARD if steps == 50 else Fate.FAILS_MORE
    assert result.decision.fate is expected and len(result.decision.pairs) == 9, result


def test_a_failed_last_build_still_leads_to_the_final_checks(arms: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakePool, "failing", {(50, n): BuildError for n in range(16, 26)})
    for seed in range(8):
        result = run(arms, monkeypatch, b=0.025, seed=seed, plan=default_plan(items=1000, worth=0.0))
        assert isinstance(result.decision.fate, Fate) and result.as_json()["fate"] != "None" and str(result)


@pytest.mark.parametrize("steps", [50, 60])
def test_the_final_checks_leave_out_builds_that_failed(arms: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    monkeypatch.setattr(FakePool, "failing", {(steps, 3): BuildError})
    result = run(arms, monkeypatch, b=0.1, seed=2, failure_score=0.45)
    assert result.decision.fate is not Fate.FAILED and result.verdict == "better", result


def test_an_arm_that_needs_too_much_memory_fails_as_a_build_does(arms: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakePool, "failing", {(60, 2): MemoryShortError})
    result = run(arms, monkeypatch, b=0.1, seed=2)
    assert result.decision.fate is Fate.FAILS_MORE and "needs more memory" in result.decision.failures[0].why


def test_a_control_that_mostly_fails_is_reported_as_such(arms: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakePool, "failing", {(50, n): BuildError for n in (1, 3, 5, 7, 9)})
    with pytest.raises(BuildError, match="5 of 10 builds of the control failed, so that its noise cannot be estimated"):
        run(arms, monkeypatch)


def test_the_advice_to_go_on_can_be_followed(arms: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    for seed in range(6):
        for two_sided in (True, False):
            first = run(arms, monkeypatch, seed=seed, two_sided=two_sided)
            if first.more_pairs is not None:
                total = len(first.decision.pairs) + first.more_pairs[0]
                assert total > 25 and first.more_pairs[1] > 0
                longer = run(arms, monkeypatch, seed=seed, two_sided=two_sided, go_on=total)
                assert longer.verdict in ("better", "worse") or len(longer.decision.pairs) == total


def test_the_same_has_two_limits_in_a_one_sided_question_too(arms: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    same = run(arms, monkeypatch, two_sided=False, same_within=0.06)
    assert same.verdict == "the same" and same.interval is not None and -0.06 < same.interval.low < same.interval.high < 0.06


def test_failures_are_compared_exactly() -> None:
    failures = [Failure(i, ("candidate",), "") for i in range(5)] + [Failure(9, ("control", "candidate"), "")]
    counts = FailureCounts.of(failures, 10)
    assert (counts.only_candidate, counts.both, counts.replicates) == (5, 1, 16) and counts.p_value == pytest.approx(2 / 32)
    assert FailureCounts.of([], 10).p_value == 1.0


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"same_within": 0.0}, "same_within: expected a number above the margin"),
        ({"go_on": 20}, r"go_on: expected .*max_pairs \(25\)"),
        ({"failure_score": 2.0}, "failure_score: expected a score from 0 to 1"),
    ],
)
def test_wrong_settings_are_reported(arms: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, more: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        run(arms, monkeypatch, **more)
