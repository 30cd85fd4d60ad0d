"""Scores and what they cannot hide."""

from __future__ import annotations

from stagezero.measure import Measurement, tally_answers
from stagezero.tasks.atlas import Atlas


def measurement(share: int) -> Measurement:
    """Right on two of ``share`` items."""
    items = Atlas().fresh_items(1, 100)
    answers = [i.demonstration if n % share < 2 else "nothing" for n, i in enumerate(items)]
    return Measurement(tally_answers(items, answers), tuple(items), tuple(answers), 0.0)


def test_the_interval_stands_beside_its_own_score() -> None:
    found = measurement(3)
    for claim in ("privacy", "facts"):
        interval = found.interval(claim)
        assert interval.low <= found.scores.score(claim) <= interval.high and interval.mean == found.scores.score(claim)
        assert interval.high - interval.low < 0.5
