"""Promoted ideas together, near-duplicates, and controls that are as capable."""

from __future__ import annotations

from typing import Any

from stagezero.ideas.airlock import admit, nearly_equal
from stagezero.ideas.composition import compose
from stagezero.ideas.idea import Idea
from stagezero.tasks import load_suite
from stagezero.training import parse_recipe
from stagezero.training.data import datasets_before
from stagezero.training.recipes import SFT, Mix
from stagezero.trials.capability_control import matched_recipe

SUITE = load_suite("atlas")
CONTROL = parse_recipe(
    [{"step": "mix", "parts": [{"kinds": ["trap"], "each": 9}]}, {"step": "sft", "steps": 6, "learning_rate": 1e-3}], "control"
)
TWINS: list[dict[str, Any]] = [{"op": "extend", "at": "data", "parts": [{"kinds": ["twin"], "each": 9}]}]
FASTER: list[dict[str, Any]] = [{"op": "set", "at": "sft", "values": {"learning_rate": 2e-3}}]
SLOWER: list[dict[str, Any]] = [{"op": "set", "at": "sft", "values": {"learning_rate": 5e-4}}]
LONGER: list[dict[str, Any]] = [{"op": "set", "at": "sft", "values": {"steps": 20}}]
OTHER: list[dict[str, Any]] = [{"op": "remove", "at": "sft"}, {"op": "append", "step": {"step": "dpo", "steps": 6, "learning_rate": 1e-3}}]


def idea(title: str, patch: list[dict[str, Any]]) -> Idea:
    return Idea(title=title, property="privacy", claimed_effect=0.1, reason="because", patch=tuple(patch), researcher="people")


def admitted(*patches: list[dict[str, Any]]) -> list[Any]:
    """In the order given: best first."""
    names = [f"idea {i}" for i in range(len(patches))]
    found, refused = admit([idea(n, p) for n, p in zip(names, patches, strict=True)], CONTROL, SUITE, 0.0)
    assert not refused
    return sorted(found, key=lambda a: names.index(a.idea.title))


def test_ideas_that_go_together_make_one_recipe() -> None:
    found = compose(admitted(TWINS, FASTER, LONGER))
    assert len(found.parts) == 3 and not found.left_out
    mix, sft = found.recipe.steps
    assert isinstance(mix, Mix) and isinstance(sft, SFT)
    assert len(mix.parts) == 2 and sft.learning_rate == 2e-3 and sft.steps == 20


def test_an_idea_that_contradicts_a_better_one_is_left_out() -> None:
    found = compose(admitted(FASTER, SLOWER, TWINS))
    assert [p.idea.title for p in found.parts] == ["idea 0", "idea 2"]
    assert found.left_out == (("idea 1", "sets a value to something else than 'idea 0' does"),)


def test_an_idea_that_no_longer_applies_is_left_out() -> None:
    found = compose(admitted(OTHER, FASTER))
    assert len(found.parts) == 1 and "no longer applies" in found.left_out[0][1]


def test_near_duplicates_are_shown_as_such() -> None:
    found = admitted(
        [{"op": "set", "at": "sft", "values": {"learning_rate": 1.5e-3}}],
        [{"op": "set", "at": "sft", "values": {"learning_rate": 1.45e-3}}],
        [{"op": "set", "at": "sft", "values": {"weight_decay": 0.01}}],
        TWINS,
    )
    assert [a.near_duplicates for a in found] == [("idea 1",), ("idea 0",), ("the control",), ()]
    assert not nearly_equal({"steps": 60}, {"steps": 90}) and not nearly_equal({"a": 1}, {"b": 1})


def test_a_matched_control_adds_capability_and_nothing_else() -> None:
    found = matched_recipe(CONTROL, SUITE, 30, grow_step=True)
    assert found is not None
    before, after = datasets_before(CONTROL, 1, SUITE, 3)["data"], datasets_before(found, 1, SUITE, 3)["data"]
    added = [i for i in after if i not in before]
    assert len(added) == 90 and all(i.kind == "capability" for i in added) and len(after) == len(before) + 90
    sft = found.steps[1]
    assert isinstance(sft, SFT) and sft.steps * len(before) >= 6 * len(after), "each example of the technique is seen as often as before"
    shorter = matched_recipe(CONTROL, SUITE, 30, grow_step=False)
    assert shorter is not None and shorter.steps == (found.steps[0], CONTROL.steps[1])


def test_a_control_without_a_supervised_step_gets_one_in_front() -> None:
    dpo = parse_recipe([{"step": "mix", "parts": [{}]}, {"step": "dpo", "steps": 6, "learning_rate": 1e-3}], "dpo")
    found = matched_recipe(dpo, SUITE, 30, grow_step=True)
    assert found is not None and [s.step for s in found.steps] == ["mix", "sft", "mix", "dpo"]


def test_the_step_in_front_learns_as_the_control_does() -> None:
    mix = {"step": "mix", "parts": [{}]}
    manner = {"learning_rate": 5e-5, "batch_size": 8, "lora": {"rank": 4, "alpha": 8}}
    filtered = [
        mix,
        {"step": "filter", "kinds": ["trap"]},
        {"step": "dpo", "steps": 6, "learning_rate": 1e-6},
        {"step": "sft", "steps": 6, **manner},
    ]
    for steps in (filtered, [mix, {"step": "dpo", "steps": 6, **manner}]):
        found = matched_recipe(parse_recipe(steps, "t"), SUITE, 30, grow_step=True)
        assert found is not None
        first = found.steps[1]
        assert isinstance(first, SFT) and first.learning_rate == 5e-5 and first.batch_size == 8 and first.steps == 3 * 90 // 8
        assert first.lora is not None and first.lora.rank == 4
