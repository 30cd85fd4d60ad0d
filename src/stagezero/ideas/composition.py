"""Combines ideas that were each promoted alone into one recipe.

The combination is another technique: it has to pass a trial of its own before it is adopted. This
module only builds the recipe.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from stagezero.errors import RecipeError
from stagezero.ideas.airlock import Admitted, apply_idea
from stagezero.training import Recipe, apply_patch
from stagezero.training.data import meaning_of
from stagezero.training.patches import SetOp


@dataclass(frozen=True, slots=True)
class Composite:
    """Promoted ideas in one recipe, and the promoted ideas that do not fit into it."""

    recipe: Recipe
    parts: tuple[Admitted, ...]
    left_out: tuple[tuple[str, str], ...]
    """(title, why) of each idea that does not fit."""


def _is_still_set(idea: Admitted, recipe: Recipe) -> bool:
    """Return whether the recipe still has every value that the idea sets."""
    values = tuple(op for op in idea.idea.operations() if isinstance(op, SetOp))
    return not values or meaning_of(apply_patch(recipe, values, "composition")) == meaning_of(recipe)


def compose(promoted: Sequence[Admitted], channels: Mapping[str, str] | None = None, max_program_seconds: int | None = None) -> Composite:
    """Combine ideas in the order given.

    An idea is added if its patch still applies and it contradicts no idea before it.

    Args:
        promoted: the ideas, best first; at least one.
        channels: as in ``airlock.admit`` when the ideas were admitted.
        max_program_seconds: as in ``airlock.admit`` when the ideas were admitted.
    """
    lead = promoted[0]
    recipe, parts, left_out = lead.hypothesis.candidate, [lead], []
    for other in promoted[1:]:
        try:
            extended = apply_idea(other.idea, recipe, channels or {}, max_program_seconds)
            contradicted = next((p for p in (*parts, other) if not _is_still_set(p, extended)), None)
        except RecipeError as error:
            left_out.append((other.idea.title, f"no longer applies: {error}"))
            continue
        if contradicted is not None:
            left_out.append((other.idea.title, f"sets a value to something else than {contradicted.idea.title!r} does"))
        else:
            recipe, parts = extended, [*parts, other]
    return Composite(recipe, tuple(parts), tuple(left_out))
