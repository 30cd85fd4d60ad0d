"""A hypothesis: this candidate recipe is better than this control on one property by more than a margin. Known by what the recipes do."""

from __future__ import annotations

from dataclasses import dataclass

from stagezero.ledger import digest
from stagezero.tasks import Suite
from stagezero.training import Recipe
from stagezero.training.data import meaning_of


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """This candidate is better than this control on this property by more than the margin; known by its digest.

    The digest is of what the recipes do to the suite's training items: formatting, names, other ways to choose the same examples and
    the place where a file lies change nothing.
    """

    control: Recipe
    candidate: Recipe
    property: str
    margin: float
    suite: str
    control_does: str
    candidate_does: str

    def digest(self) -> str:
        return digest(
            {
                "control": self.control_does, "candidate": self.candidate_does, "property": self.property, "margin": self.margin,
                "suite": self.suite,
            }
        )  # fmt: skip

    def same_builds(self) -> bool:
        """True when control and candidate do the same, so that there is nothing to try."""
        return self.control_does == self.candidate_does


def recipe_digest(recipe: Recipe, suite: Suite) -> str:
    recipe.inputs_digest()
    return digest(meaning_of(recipe, suite))


def hypothesis(control: Recipe, candidate: Recipe, prop: str, margin: float, suite: Suite, control_does: str | None = None) -> Hypothesis:
    """The hypothesis about a candidate and a control.

    Args:
        control_does: what the control does, where that is known already.

    Raises:
        RecipeError: a recipe chooses no training item of the suite, or a command's input does not exist.
    """
    known = recipe_digest(control, suite) if control_does is None else control_does
    return Hypothesis(control, candidate, prop, margin, suite.digest(), known, recipe_digest(candidate, suite))


@dataclass(frozen=True, slots=True)
class Entrant:
    """A hypothesis that a trial decides, and the names it goes by."""

    title: str
    researcher: str
    hypothesis: Hypothesis
