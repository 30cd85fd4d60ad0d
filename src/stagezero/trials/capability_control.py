"""A control that is as capable as the candidate, without the idea: is it alignment, or just a better model?

Most ways of making a model more able lift its property scores too, since a twin must be answered rightly. Where a candidate gains
on a capability, its gain on the property must survive against the control's own technique with plain capability examples
mixed in, as many as it takes to be equally capable.
"""

from __future__ import annotations

from stagezero.errors import RecipeError
from stagezero.tasks import Suite
from stagezero.training import Recipe
from stagezero.training.data import datasets_before
from stagezero.training.recipes import SFT, Mix, Part, Trained

DOSES = ((60, True), (240, True), (60, False), (240, False))
"""Examples of each capability that are mixed in, and whether the step grows with them; the first that reaches the candidate is
the control, or else the one that comes nearest. Grown, the step sees the technique's own examples as often as before, which is
the stronger control; but training longer on those can be what costs the capability, and then only a mix of the old length is as
capable."""

ENOUGH = 3
"""Replicates that choose the dose."""

PASSES = 3
"""How often a step of its own, put in front, sees each example."""

MANNER = ("learning_rate", "schedule", "batch_size", "weight_decay", "lora")


def _source(recipe: Recipe, position: int) -> int | None:
    """Where the mix stands that the training step at ``position`` draws on, through any filters."""
    step = recipe.steps[position]
    name = getattr(step, "data", None)
    for i in range(position - 1, -1, -1):
        earlier = recipe.steps[i]
        if getattr(earlier, "name", None) != name:
            continue
        if isinstance(earlier, Mix):
            return i
        if earlier.step == "filter":
            name = earlier.data
    return None


def matched_recipe(control: Recipe, suite: Suite, each: int, grown: bool) -> Recipe | None:
    """The control with ``each`` training examples of every capability mixed into the data of its first supervised step.

    ``grown``: the step grows in proportion, else it stays as long as it was. A control that has no supervised step, or none that
    would see them, gets one in front, which learns in the manner of the control's own first step. None where the suite has no
    capability items to train on.
    """
    capabilities = tuple(sorted({i.property for i in suite.train_items() if i.kind == "capability"}))
    if not capabilities:
        return None
    part = Part(claims=capabilities, kinds=("capability",), each=each)
    for position, step in enumerate(control.steps):
        if not isinstance(step, SFT):
            continue
        at = _source(control, position)
        if at is None:
            continue
        mix = control.steps[at]
        assert isinstance(mix, Mix)
        widened = mix.model_copy(update={"parts": (*mix.parts, part)})
        wider = Recipe(steps=(*control.steps[:at], widened, *control.steps[at + 1 :]))
        try:
            before = len(datasets_before(control, position, suite, 0)[step.data])
            after = len(datasets_before(wider, position, suite, 0)[step.data])
        except RecipeError:
            continue
        if after == before:  # a filter takes them out again
            continue
        longer = step.model_copy(update={"steps": -(-step.steps * after // before)}) if grown else step
        return Recipe(steps=(*wider.steps[:position], longer, *wider.steps[position + 1 :]))
    # It learns as the control does, adapters and all: a rate that is right for one base ruins another.
    like = next((s for s in control.steps if isinstance(s, SFT)), None) or next((s for s in control.steps if isinstance(s, Trained)), None)
    manner = {name: getattr(like, name) for name in MANNER} if like is not None else {"learning_rate": 1e-3}
    once = SFT(step="sft", name="capable-first", data="capabilities-first", steps=1, **manner)
    longer = once.model_copy(update={"steps": max(1, PASSES * each * len(capabilities) // once.batch_size)})
    return Recipe(steps=(Mix(step="mix", name="capabilities-first", parts=(part,)), longer, *control.steps))
