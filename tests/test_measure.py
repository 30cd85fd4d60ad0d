"""Scores, and the intervals that a measurement reports beside them."""

from __future__ import annotations

from stagezero.measure import Measurement, tally_answers
from stagezero.tasks.atlas import Atlas


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
