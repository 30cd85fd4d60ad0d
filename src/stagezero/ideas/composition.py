"""Several ideas were promoted, each alone. Together they are another technique, which has to be tried as one before it is adopted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from stagezero.errors import RecipeError
from stagezero.ideas.airlock import Admitted, applied
from stagezero.training import Recipe, apply_patch
from stagezero.training.data import meaning_of
from stagezero.training.patches import SetOp


@dataclass(frozen=True, slots=True)
class Composite:
    """Promoted ideas in one recipe, and those that do not go with them."""

    recipe: Recipe
    parts: tuple[Admitted, ...]
    left_out: tuple[tuple[str, str], ...]
    """(title, why)."""


def _still_holds(idea: Admitted, recipe: Recipe) -> bool:
    """Is every value that the idea sets still set?"""
    values = tuple(op for op in idea.idea.operations() if isinstance(op, SetOp))
    return not values or meaning_of(apply_patch(recipe, values, "composition")) == meaning_of(recipe)


def compose(promoted: Sequence[Admitted], channels: Mapping[str, str] | None = None, seconds: int | None = None) -> Composite:
    """Put ideas together, best first: each is added if its patch still applies and it contradicts none before it.

    Args:
        channels, seconds: as they were admitted under (``airlock.admit``).
    """
    lead = promoted[0]
    recipe, parts, left_out = lead.hypothesis.candidate, [lead], []
    for other in promoted[1:]:
        try:
            wider = applied(other.idea, recipe, channels or {}, seconds)
            undone = next((p for p in (*parts, other) if not _still_holds(p, wider)), None)
        except RecipeError as error:
            left_out.append((other.idea.title, f"no longer applies: {error}"))
            continue
        if undone is not None:
            left_out.append((other.idea.title, f"sets a value otherwise than {undone.idea.title!r}"))
        else:
            recipe, parts = wider, [*parts, other]
    return Composite(recipe, tuple(parts), tuple(left_out))
