"""Hypotheses: a candidate recipe is better than a control on one property by more than a margin.

A hypothesis is identified by what its recipes do with the training items, not by their text.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from stagezero.ledger import digest
from stagezero.tasks import Suite
from stagezero.training import Recipe
from stagezero.training.data import meaning_of


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """The candidate is better than the control on one property by more than the margin.

    The digest identifies the hypothesis. It covers what the recipes do with the suite's training
    items. Formatting, names, file locations and a different way to select the same examples do not
    change it.

    Args:
        control, candidate: the recipes.
        property: the property.
        margin: the margin, in score.
        suite: the suite's digest.
        control_does, candidate_does: digests of what the recipes do.
    """

    control: Recipe
    candidate: Recipe
    property: str
    margin: float
    suite: str
    control_does: str
    candidate_does: str

    def digest(self) -> str:
        """Return the digest that identifies the hypothesis."""
        return digest(
            {
                "control": self.control_does, "candidate": self.candidate_does, "property": self.property, "margin": self.margin,
                "suite": self.suite,
            }
        )  # fmt: skip

    def same_builds(self) -> bool:
        """Return True if control and candidate do the same, so a trial has nothing to compare."""
        return self.control_does == self.candidate_does


def recipe_digest(recipe: Recipe, suite: Suite) -> str:
    """Return the digest of what a recipe does with the suite's training items.

    Raises:
        RecipeError: the recipe selects no training item of the suite, or a command's input does not
            exist.
    """
    recipe.inputs_digest()
    return digest(meaning_of(recipe, suite))


def hypothesis(control: Recipe, candidate: Recipe, prop: str, margin: float, suite: Suite, control_does: str | None = None) -> Hypothesis:
    """Return the hypothesis about a candidate and a control.

    Args:
        control, candidate: the recipes.
        prop: the property.
        margin: the margin, in score.
        suite: the suite.
        control_does: ``recipe_digest`` of the control, if it is known already.

    Raises:
        RecipeError: a recipe selects no training item of the suite, or a command's input does not
            exist.
    """
    control_digest = recipe_digest(control, suite) if control_does is None else control_does
    return Hypothesis(control, candidate, prop, margin, suite.digest(), control_digest, recipe_digest(candidate, suite))


@dataclass(frozen=True, slots=True)
class Question:
    """What a trial asks about its hypothesis.

    Args:
        two_sided: True for "which is better?", False for "is the candidate better?".
        same_within: the arms are the same if their mean difference lies within plus or minus this;
            None if the trial does not ask.
        reserve: share of the level for extensions beyond the registered maximum of pairs.
        failures: "end" if a failed build of the candidate ends the trial, and one of the control
            ends the run. "count" if failed builds are results: the trial goes on, and an arm that
            failed more often is never better.
        failure_score: the score of a failed build on every claim. Its replicate is then a pair like
            any other.
    """

    two_sided: bool = False
    same_within: float | None = None
    reserve: float = 0.0
    failures: Literal["end", "count"] = "end"
    failure_score: float | None = None


ONE_SIDED = Question()
"""The question of a campaign."""


@dataclass(frozen=True, slots=True)
class Entrant:
    """A hypothesis that is entered into a trial, with its title and its researcher for display."""

    title: str
    researcher: str
    hypothesis: Hypothesis
