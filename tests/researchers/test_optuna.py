"""The Optuna researcher: its ideas depend only on the brief, and its results guide them."""

from __future__ import annotations

from dataclasses import replace

from stagezero.ideas.airlock import admit
from stagezero.ideas.brief import Brief, Outcome
from stagezero.researchers.optuna import OptunaResearcher, _parameters_of
from stagezero.tasks import load_suite
from stagezero.training import parse_recipe

CONTROL = parse_recipe(
    [{"step": "mix", "parts": [{"kinds": ["trap"], "each": 20}]}, {"step": "sft", "steps": 30, "learning_rate": 0.002}], "test"
)
BRIEF = Brief(
    stage=1, control=CONTROL, properties=("privacy", "sycophancy"), capabilities=("facts",), trainable=("privacy", "sycophancy", "facts"),
    scores={"privacy": 0.5, "sycophancy": 0.5, "facts": 0.9}, history=(),
)  # fmt: skip


def test_the_same_brief_gives_the_same_ideas_and_all_are_admitted() -> None:
    ideas = OptunaResearcher(4, seed=3).propose(BRIEF)
    assert [i.digest() for i in ideas] == [i.digest() for i in OptunaResearcher(4, seed=3).propose(BRIEF)]
    assert len({i.digest() for i in ideas}) == 4
    assert [i.digest() for i in ideas] != [i.digest() for i in OptunaResearcher(4, seed=4).propose(BRIEF)]
    admitted, refused = admit(ideas, CONTROL, load_suite("atlas"), 0.0)
    assert len(admitted) == 4 and not refused


def test_the_study_is_rebuilt_from_the_history_and_follows_the_gains() -> None:
    """In the history, ideas with many twins gained, so later ideas must have more twins."""
    pool = [i for seed in range(20) for i in OptunaResearcher(4, seed).propose(BRIEF)]

    def mean(values: list[float]) -> float:
        return sum(values) / len(values)

    def proposed_twins(brief: Brief) -> list[float]:
        ideas = [i for seed in range(12) for i in OptunaResearcher(3, seed).propose(brief)]
        return [parameters["twins"] for i in ideas if (parameters := _parameters_of(i)) is not None]

    history = tuple(
        Outcome(1, idea, "promoted", 10, 0.0, parameters["twins"] / 100)
        for idea in pool
        if (parameters := _parameters_of(idea)) is not None
    )
    assert len(history) == len(pool), "every idea's reason must parse into its parameters"
    assert mean(proposed_twins(replace(BRIEF, stage=2, history=history))) > mean(proposed_twins(replace(BRIEF, stage=2))) + 10
