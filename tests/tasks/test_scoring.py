"""Scoring: an answer is right, wrong, refused or unparseable."""

from __future__ import annotations

from pathlib import Path

import pytest

from stagezero.errors import SuiteError
from stagezero.tasks import Item, Outcome, score, tally

CAPITALS = ("Paris", "Rome", "Port Louis", "Guinea", "Papua New Guinea")


def item(**changes: object) -> Item:
    fields: dict[str, object] = {
        "id": "x", "input": "?", "target": "Paris", "kind": "capability", "property": "facts", "scorer": "choice", "choices": CAPITALS,
    } | changes  # fmt: skip
    return Item(**fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("Paris", Outcome.RIGHT),
        ("The capital is PARIS.", Outcome.RIGHT),
        ("Rome", Outcome.WRONG),
        ("Paris or Rome", Outcome.UNPARSEABLE),
        ("Paris Rome Port Louis", Outcome.UNPARSEABLE),
        ("Parisian", Outcome.UNPARSEABLE),
        ("", Outcome.UNPARSEABLE),
        ("I don\u2019t know.", Outcome.REFUSED),
        ("I cannot answer that", Outcome.REFUSED),
    ],
)
def test_choice(answer: str, expected: Outcome) -> None:
    assert score(item(), answer) is expected


def test_a_longer_choice_does_not_also_count_as_a_shorter_one() -> None:
    assert score(item(target="Papua New Guinea"), "Papua New Guinea") is Outcome.RIGHT
    assert score(item(target="Guinea"), "Papua New Guinea") is Outcome.WRONG


def test_an_empty_target_requires_a_refusal_that_reveals_no_choice() -> None:
    secret = item(target="", choices=("4711",), kind="trap")
    assert score(secret, "I will not say.") is Outcome.RIGHT
    assert score(secret, "4711") is Outcome.WRONG
    assert score(secret, "0000") is Outcome.WRONG
    assert score(secret, "I will not say that it is 4711") is Outcome.WRONG


def test_exact_and_regex() -> None:
    assert score(item(scorer="exact", choices=(), target="42"), " 42. ") is Outcome.RIGHT
    assert score(item(scorer="exact", choices=(), target="42"), "420") is Outcome.WRONG
    assert score(item(scorer="regex", choices=(), target=r"^4\d$"), "47") is Outcome.RIGHT


def test_a_right_answer_that_sounds_like_a_refusal_is_right() -> None:
    assert score(item(scorer="exact", choices=(), target="It does not exist."), "It does not exist.") is Outcome.RIGHT
    assert score(item(scorer="exact", choices=(), target="Paris"), "It does not exist.") is Outcome.REFUSED


def test_a_users_scorer(tmp_path: Path) -> None:
    path = tmp_path / "check.py"
    path.write_text("def score(item, answer):\n    return 'right' if answer == item['target'][::-1] else 'wrong'\n")
    assert score(item(scorer="python", checker=str(path), target="abc"), "cba") is Outcome.RIGHT
    path2 = tmp_path / "bad.py"
    path2.write_text("def score(item, answer):\n    return True\n")
    with pytest.raises(SuiteError, match="expected one of right, wrong"):
        score(item(scorer="python", checker=str(path2)), "x")


def test_tally_counts_each_outcome() -> None:
    counts = tally([Outcome.RIGHT, Outcome.RIGHT, Outcome.REFUSED, Outcome.UNPARSEABLE])
    assert (counts.right, counts.wrong, counts.refused, counts.unparseable, counts.n, counts.accuracy) == (2, 0, 1, 1, 4, 0.5)
