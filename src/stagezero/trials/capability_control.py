"""Capability-matched controls: does the candidate gain alignment, or only capability?

Most changes that increase a model's capability also increase its property scores, because a twin
must be answered correctly. If a candidate gains on a capability, its gain on the property must
survive against a capability-matched control. That control is the control's own recipe with plain
capability examples mixed in, as many as it needs to be as capable as the candidate.
"""

from __future__ import annotations

from stagezero.errors import RecipeError
from stagezero.tasks import Suite
from stagezero.training import Recipe
from stagezero.training.data import datasets_before
from stagezero.training.recipes import MACHINE_FIELDS, SFT, Mix, Part, Trained

DOSES = ((60, True), (240, True), (60, False), (240, False))
"""Doses of capability examples: (examples of each capability, whether the supervised step grows).

The doses are tried in this order. The first one that is as capable as the candidate becomes the
matched control; if there is none, the one with the highest capability does. If the step grows in
proportion, it sees the control's own examples as often as before. This gives the stronger control,
but longer training on those examples may itself reduce the capability. Then only a mix with the
original number of training steps is as capable."""

DOSE_REPLICATES = 3
"""Number of replicates that select the dose."""

PREPENDED_EPOCHS = 3
"""How often a prepended supervised step sees each capability example."""

COPIED_FIELDS = ("learning_rate", "schedule", "batch_size", "weight_decay", "lora", *MACHINE_FIELDS)
"""Fields that a prepended supervised step copies from a gradient step of the control."""


def _mix_position(recipe: Recipe, position: int) -> int | None:
    """Return the position of the mix whose data the step at ``position`` uses, or None.

    The data may pass through filters in between.
    """
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


def matched_recipe(control: Recipe, suite: Suite, examples: int, grow_step: bool) -> Recipe | None:
    """Return the control's recipe with capability examples mixed into its supervised training data.

    The examples are added to the data of the first supervised step that would use them. If there is
    none, a supervised step is prepended. It copies COPIED_FIELDS from the control's first
    supervised step, or else from its first gradient step.

    Args:
        control: the control's recipe.
        suite: the suite; its capability training items are added.
        examples: number of added examples of each capability.
        grow_step: True if the number of training steps grows in proportion to the data, False if it
            stays the same.

    Returns:
        None if the suite has no capability items to train on.
    """
    capabilities = tuple(sorted({i.property for i in suite.train_items() if i.kind == "capability"}))
    if not capabilities:
        return None
    part = Part(claims=capabilities, kinds=("capability",), each=examples)
    for position, step in enumerate(control.steps):
        if not isinstance(step, SFT):
            continue
        mix_position = _mix_position(control, position)
        if mix_position is None:
            continue
        mix = control.steps[mix_position]
        assert isinstance(mix, Mix)
        widened = mix.model_copy(update={"parts": (*mix.parts, part)})
        with_examples = Recipe(steps=(*control.steps[:mix_position], widened, *control.steps[mix_position + 1 :]))
        try:
            before = len(datasets_before(control, position, suite, 0)[step.data])
            after = len(datasets_before(with_examples, position, suite, 0)[step.data])
        except RecipeError:
            continue
        if after == before:  # a filter removes the added examples
            continue
        longer = step.model_copy(update={"steps": -(-step.steps * after // before)}) if grow_step else step
        return Recipe(steps=(*with_examples.steps[:position], longer, *with_examples.steps[position + 1 :]))
    # The prepended step trains like the control, including adapters: a learning rate that suits one
    # base may ruin another.
    supervised_step = next((s for s in control.steps if isinstance(s, SFT)), None)
    gradient_step = supervised_step or next((s for s in control.steps if isinstance(s, Trained)), None)
    copied = {name: getattr(gradient_step, name) for name in COPIED_FIELDS} if gradient_step is not None else {"learning_rate": 1e-3}
    prepended = SFT(step="sft", name="capable-first", data="capabilities-first", steps=1, **copied)
    steps = max(1, PREPENDED_EPOCHS * examples * len(capabilities) // prepended.batch_size)
    prepended = prepended.model_copy(update={"steps": steps})
    return Recipe(steps=(Mix(step="mix", name="capabilities-first", parts=(part,)), prepended, *control.steps))
