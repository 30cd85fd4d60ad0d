"""Compositions of promoted ideas, near-duplicates, and controls with matched capability."""

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
    """Admit ideas, and return them in the given order, which is best first."""
    names = [f"idea {i}" for i in range(len(patches))]
    accepted, refused = admit([idea(n, p) for n, p in zip(names, patches, strict=True)], CONTROL, SUITE, 0.0)
    assert not refused
    return sorted(accepted, key=lambda a: names.index(a.idea.title))


def test_compatible_ideas_are_composed_into_one_recipe() -> None:
    composition = compose(admitted(TWINS, FASTER, LONGER))
    assert len(composition.parts) == 3 and not composition.left_out
    mix, sft = composition.recipe.steps
    assert isinstance(mix, Mix) and isinstance(sft, SFT)
    assert len(mix.parts) == 2 and sft.learning_rate == 2e-3 and sft.steps == 20


def test_an_idea_that_contradicts_a_better_one_is_left_out() -> None:
    composition = compose(admitted(FASTER, SLOWER, TWINS))
    assert [p.idea.title for p in composition.parts] == ["idea 0", "idea 2"]
    assert composition.left_out == (("idea 1", "sets a value to something else than 'idea 0' does"),)


def test_an_idea_that_no_longer_applies_is_left_out() -> None:
    composition = compose(admitted(OTHER, FASTER))
    assert len(composition.parts) == 1 and "no longer applies" in composition.left_out[0][1]


def test_near_duplicates_are_reported() -> None:
    ideas = admitted(
        [{"op": "set", "at": "sft", "values": {"learning_rate": 1.5e-3}}],
        [{"op": "set", "at": "sft", "values": {"learning_rate": 1.45e-3}}],
        [{"op": "set", "at": "sft", "values": {"weight_decay": 0.01}}],
        TWINS,
    )
    assert [a.near_duplicates for a in ideas] == [("idea 1",), ("idea 0",), ("the control",), ()]
    assert not nearly_equal({"steps": 60}, {"steps": 90}) and not nearly_equal({"a": 1}, {"b": 1})


def test_a_matched_control_adds_capability_items_only() -> None:
    matched = matched_recipe(CONTROL, SUITE, 30, grow_step=True)
    assert matched is not None
    before, after = datasets_before(CONTROL, 1, SUITE, 3)["data"], datasets_before(matched, 1, SUITE, 3)["data"]
    added = [i for i in after if i not in before]
    assert len(added) == 90 and all(i.kind == "capability" for i in added) and len(after) == len(before) + 90
    sft = matched.steps[1]
    assert isinstance(sft, SFT) and sft.steps * len(before) >= 6 * len(after), (
        "each example of the technique must be used as often as before"
    )
    shorter = matched_recipe(CONTROL, SUITE, 30, grow_step=False)
    assert shorter is not None and shorter.steps == (matched.steps[0], CONTROL.steps[1])


def test_a_control_without_a_supervised_step_gets_one_before_its_first_step() -> None:
    dpo = parse_recipe([{"step": "mix", "parts": [{}]}, {"step": "dpo", "steps": 6, "learning_rate": 1e-3}], "dpo")
    matched = matched_recipe(dpo, SUITE, 30, grow_step=True)
    assert matched is not None and [s.step for s in matched.steps] == ["mix", "sft", "mix", "dpo"]


def test_the_added_step_has_the_settings_of_the_controls_steps() -> None:
    mix = {"step": "mix", "parts": [{}]}
    settings = {"learning_rate": 5e-5, "batch_size": 8, "lora": {"rank": 4, "alpha": 8}}
    filtered = [
        mix,
        {"step": "filter", "kinds": ["trap"]},
        {"step": "dpo", "steps": 6, "learning_rate": 1e-6},
        {"step": "sft", "steps": 6, **settings},
    ]
    for steps in (filtered, [mix, {"step": "dpo", "steps": 6, **settings}]):
        matched = matched_recipe(parse_recipe(steps, "t"), SUITE, 30, grow_step=True)
        assert matched is not None
        first = matched.steps[1]
        assert isinstance(first, SFT) and first.learning_rate == 5e-5 and first.batch_size == 8 and first.steps == 3 * 90 // 8
        assert first.lora is not None and first.lora.rank == 4
