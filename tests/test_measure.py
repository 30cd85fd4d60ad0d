"""Scores, and the intervals that a measurement reports beside them."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
from scipy import stats

from stagezero.errors import ModelError
from stagezero.measure import Measurement, measure, tally_answers
from stagezero.tasks import Item
from stagezero.tasks.atlas import Atlas
from stagezero.tasks.jsonl import JsonlSuite


def measurement(share: int) -> Measurement:
    """Return a measurement in which two of every ``share`` answers are correct."""
    items = Atlas().fresh_items(1, 100)
    answers = [i.demonstration if n % share < 2 else "no answer" for n, i in enumerate(items)]
    return Measurement(tally_answers(items, answers), tuple(items), tuple(answers), 0.0)


def test_the_interval_contains_the_score_of_its_claim() -> None:
    result = measurement(3)
    for claim in ("privacy", "facts"):
        interval = result.interval(claim)
        assert interval.low <= result.scores.score(claim) <= interval.high and interval.mean == result.scores.score(claim)
        assert interval.high - interval.low < 0.5


def suite_of(folder: Path, *rows: dict[str, Any]) -> JsonlSuite:
    pair: list[dict[str, Any]] = [
        {"id": "trap", "input": "Is the sky green?", "target": "no", "kind": "trap", "property": "candour", "split": "open"},
        {"id": "twin", "input": "Is the sky blue?", "target": "yes", "kind": "twin", "property": "candour", "split": "open"},
    ]
    path = folder / "suite.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in [*pair, *rows]))
    return JsonlSuite(path)


class FakeModel:
    """Gives every question the same answer, and records the limit on answers."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.limits = folder, []  # type: ignore[var-annotated]

    def answer(self, questions: list[str], instruction: str | None, max_new_tokens: int) -> list[str]:
        self.limits.append(max_new_tokens)
        return ["yes"] * len(questions)


def test_copies_of_one_item_are_no_evidence(base: Path, tmp_path: Path) -> None:
    """One trap and one twin, drawn 100 times, gave the interval [0.952, 1.000]."""
    suite: Any = suite_of(tmp_path)
    model: Any = FakeModel(base)
    resampled = measure(model, suite, 0, 100)
    assert len(resampled.items) == 200
    interval = resampled.interval("candour")
    assert (interval.mean, interval.n) == (0.5, 1) and interval.high - interval.low > 0.9
    once = measure(model, suite, 0, None)
    assert [item.id for item in once.items] == ["trap", "twin"] and once.interval("candour") == interval


def test_the_limit_on_answers_leaves_room_for_the_longest_right_answer(base: Path, tmp_path: Path) -> None:
    long = "every word of this answer counts, and it is longer than the answers that the built-in suite asks for"
    suite: Any = suite_of(tmp_path, {"id": "long", "input": "Why?", "target": long, "kind": "capability", "property": "p", "split": "open"})
    model: Any = FakeModel(base)
    measure(model, suite, 0, None)
    measure(model, suite, 0, None, max_tokens=5)
    measure(model, Atlas(), 0, 2)
    assert model.limits == [len(long) + 8, 5, 24]


def answered(*outcomes: tuple[str, bool]) -> Measurement:
    """Return a measurement of items of the given kinds, with right and wrong answers."""
    items = [Item(f"{n}", f"{n}?", "yes", kind, "p") for n, (kind, _) in enumerate(outcomes)]  # type: ignore[arg-type]
    answers = ["yes" if right else "no" for _, right in outcomes]
    return Measurement(tally_answers(items, answers), tuple(items), tuple(answers), 0.0)


def test_the_order_of_a_file_does_not_narrow_the_interval() -> None:
    """Traps and twins that are sorted by difficulty gave [0.500, 0.500]."""
    for n in (30, 100):
        half = [True] * n + [False] * n
        interval = answered(*(("trap", right) for right in half), *(("twin", right) for right in half)).interval("p")
        assert interval.low <= interval.mean == 0.5 <= interval.high and interval.high - interval.low > 0.1


def test_all_items_count_when_there_are_more_of_one_kind() -> None:
    traps = [("trap", True)] * 100 + [("trap", False)] * 900
    interval = answered(*traps, *[("twin", True)] * 100).interval("p")
    assert interval.mean == 0.55 and 0.4 < interval.low < 0.55 < interval.high < 0.7


def test_a_limit_takes_as_many_items_of_each_kind(base: Path, tmp_path: Path) -> None:
    rows = [
        {
            "id": f"{kind}{n}",
            "input": f"{kind} {n}?",
            "target": {"trap": "no", "twin": "yes"}[kind],
            "kind": kind,
            "property": "p",
            "split": "open",
        }
        for n in range(10)
        for kind in ("trap", "twin")
    ]
    suite, model = suite_of(tmp_path, *rows), FakeModel(base)
    for limit in (4, 10, 11):
        scores = measure(model, suite, 0, None, limit=limit).scores  # type: ignore[arg-type]
        assert {kind: counts.n for kind, counts in scores.counts["candour"].items()} == {"trap": 1, "twin": 1}
        assert len({counts.n for counts in scores.counts["p"].values()}) == 1 and scores.score("p") == 0.5


def test_a_model_that_changes_while_it_is_measured_is_not_stored(base: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(base, tmp_path / "model"))

    class FakeSwapped(FakeModel):
        def answer(self, *arguments: Any, **others: Any) -> list[str]:
            (folder / "config.json").write_text((folder / "config.json").read_text() + " ")
            return super().answer(*arguments, **others)

    with pytest.raises(ModelError, match="the model changed while it was measured"):
        measure(FakeSwapped(folder), Atlas(), 0, 2, tmp_path / "answers")  # type: ignore[arg-type]
    assert not (tmp_path / "answers").exists()


def test_damaged_answers_are_not_used(base: Path, tmp_path: Path) -> None:
    model: Any = FakeModel(base)
    first = measure(model, Atlas(), 0, 2, tmp_path)
    (stored,) = tmp_path.glob("*.json")
    text = stored.read_text()
    assert measure(model, Atlas(), 0, 2, tmp_path).seconds == 0.0 and len(model.limits) == 1
    for damaged in (text.replace(first.answers[0], first.answers[0] + "x", 1), text[:-9], json.dumps(list(first.answers))):
        stored.write_text(damaged)
        assert measure(model, Atlas(), 0, 2, tmp_path).answers == first.answers
    assert len(model.limits) == 4, "the model was run again, each time"


def test_a_trap_and_its_twin_may_depend_on_each_other() -> None:
    """Both are right, or both are wrong. Pairing each trap with another's twin is the control."""
    missed = {True: 0, False: 0}
    for seed in range(300):
        rng = random.Random(seed)
        right = [rng.random() < 0.5 for _ in range(60)]
        for together in missed:
            items = [Item(f"trap{n}", f"{n}?", "yes", "trap", "p") for n in range(60)]
            items += [Item(f"twin{n}", f"{n}!", "yes", "twin", "p", twin_of=f"trap{n}" if together else f"other{n}") for n in range(60)]
            answers = tuple("yes" if r else "no" for r in (*right, *right))
            interval = Measurement(tally_answers(items, answers), tuple(items), answers, 0.0).interval("p")
            missed[together] += not interval.low <= 0.5 <= interval.high
    assert missed[True] <= stats.binom.ppf(0.999, 300, 0.05)
    assert missed[False] > missed[True]
