"""The airlock: decides which ideas a campaign may try.

Each refused idea gets a code and a reason.

An admitted idea is typed, canonical, and limited and measured in bits. ``content_checks.py`` checks
what its text may contain. This module runs no program and builds no model.

Ideas with the same canonical form are one hypothesis. A hypothesis that has been decided is never
admitted again: a new name or another formatting gives no second trial.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from rfc8785 import CanonicalizationError

from stagezero.errors import IdeaError, RecipeError
from stagezero.ideas import content_checks
from stagezero.ideas.idea import MAX_IDEA_BYTES, Idea
from stagezero.tasks import Suite
from stagezero.training import Recipe, apply_patch
from stagezero.training.data import meaning_of, portable_form
from stagezero.training.recipes import Code, Command, Step
from stagezero.trials.hypothesis import Entrant, Hypothesis, hypothesis, recipe_digest


@dataclass(frozen=True, slots=True)
class Admitted:
    """An idea that the campaign may try."""

    idea: Idea
    hypothesis: Hypothesis
    near_duplicates: tuple[str, ...] = ()
    """Titles of the ideas on the same control that differ from this one by small numbers only.

    "the control" stands for the control.
    """
    review: Mapping[str, Any] | None = None
    """The reviewer's signed decision and name; None for an idea that no person reviewed."""

    @property
    def entrant(self) -> Entrant:
        """The hypothesis with its title and researcher, as a trial takes it."""
        return Entrant(self.idea.title, self.idea.researcher, self.hypothesis)

    def entry(self) -> dict[str, Any]:
        """Return the idea's part of the ledger entry ``registration``.

        The campaign appends that entry before it builds anything.
        """
        return {
            "hypothesis": self.hypothesis.digest(), "idea": self.idea.digest(), "title": self.idea.title,
            "researcher": self.idea.researcher, "reason": self.idea.reason, "property": self.idea.property,
            "claimed_effect": self.idea.claimed_effect, "bits": self.idea.bits(), "author": self.idea.author or self.idea.researcher,
            "let_in": dict(self.review) if self.review is not None else None, "patch": self.idea.technique()["patch"],
            "candidate": portable_form(self.hypothesis.candidate.canonical()), "near": list(self.near_duplicates),
        }  # fmt: skip


class Refusal(StrEnum):
    """Codes of refusal. Programs branch on the code; the sentence beside it is for people."""

    UNKNOWN_PROPERTY = "unknown property"
    TOO_LARGE = "too large"
    CONTENT = "content"
    NO_SANDBOX = "no sandbox"
    DOES_NOT_FIT = "does not fit"
    CHANGES_NOTHING = "changes nothing"
    DECIDED_BEFORE = "decided before"
    DUPLICATE = "duplicate"
    NOT_REVIEWED = "not reviewed"
    REJECTED = "rejected"


@dataclass(frozen=True, slots=True)
class Refused:
    """An idea that the campaign may not try, with the code and the reason."""

    idea: Idea
    code: Refusal
    why: str

    def entry(self) -> dict[str, Any]:
        """Return the idea's part of the ledger entry ``registration``."""
        return {"title": self.idea.title, "researcher": self.idea.researcher, "why": self.why}


def admit(
    ideas: Sequence[Idea],
    control: Recipe,
    suite: Suite,
    margin: float,
    decided: Sequence[tuple[str, Hypothesis]] = (),
    channels: Mapping[str, str] | None = None,
    no_sandbox_reason: str | None = None,
    max_program_seconds: int | None = None,
) -> tuple[list[Admitted], list[Refused]]:
    """Sort ideas into those that the campaign may try on a control and those that it may not.

    Args:
        margin: the effect that each hypothesis must exceed.
        decided: titles and hypotheses that were decided before.
        channels: sources of labels or weights that the project declares: name in ideas → path.
        no_sandbox_reason: why the programs of ideas cannot run here; None if they can.
        max_program_seconds: limit on the timeout of an idea's programs; a longer one is shortened
            to it. None: no limit.

    Returns:
        Admitted ideas, sorted by their hypotheses' digests whatever their order in ``ideas``, and
        refused ideas, sorted by title.
    """
    admitted: dict[str, Admitted] = {}
    refused: list[Refused] = []
    decided_digests = {h.digest() for _, h in decided}
    control_digest = recipe_digest(control, suite)
    for idea in sorted(ideas, key=lambda i: (i.title, i.researcher)):
        result = _admit_one(idea, control, suite, margin, control_digest, channels or {}, no_sandbox_reason, max_program_seconds)
        if isinstance(result, Refused):
            refused.append(result)
        elif (key := result.hypothesis.digest()) in decided_digests:
            refused.append(Refused(idea, Refusal.DECIDED_BEFORE, "this hypothesis was decided before; a new name gives no second trial"))
        elif key in admitted:
            refused.append(Refused(idea, Refusal.DUPLICATE, f"is the same hypothesis as {admitted[key].idea.title!r}"))
        else:
            admitted[key] = result
    ordered = [admitted[key] for key in sorted(admitted)]
    others = [(a.idea.title, a.hypothesis) for a in ordered]
    others += [(f"{title!r}, decided before", h) for title, h in decided if h.control_does == control_digest]
    marked = [replace(a, near_duplicates=_near_duplicates(a.hypothesis, others)) for a in ordered]
    return marked, sorted(refused, key=lambda r: (r.idea.title, r.why))


def _admit_one(
    idea: Idea, control: Recipe, suite: Suite, margin: float, control_digest: str, channels: Mapping[str, str],
    no_sandbox_reason: str | None, max_program_seconds: int | None,
) -> Admitted | Refused:  # fmt: skip
    """Admit or refuse one idea, independently of the others.

    Args:
        control_digest: ``recipe_digest`` of the control.
    """
    if idea.property not in suite.properties:
        return Refused(idea, Refusal.UNKNOWN_PROPERTY, f"property {idea.property!r} is not one of {', '.join(suite.properties)}")
    try:
        if (size := idea.size()) > MAX_IDEA_BYTES:
            why = f"contains {8 * size:,} bits, its files included; at most {8 * MAX_IDEA_BYTES:,} may cross"
            return Refused(idea, Refusal.TOO_LARGE, why)
        content_checks.check_idea(idea)
        content_checks.check_suite_questions(idea, suite)
        candidate = apply_idea(idea, control, channels, max_program_seconds)
        if no_sandbox_reason is not None and _adds_program(candidate, control):
            return Refused(idea, Refusal.NO_SANDBOX, f"contains a program, and there is no sandbox to run it in: {no_sandbox_reason}")
        admitted = Admitted(idea, hypothesis(control, candidate, idea.property, margin, suite, control_digest))
        admitted.hypothesis.digest()
    except IdeaError as error:
        return Refused(idea, Refusal.CONTENT, str(error))
    except (RecipeError, CanonicalizationError, OSError, TypeError, ValueError) as error:
        return Refused(idea, Refusal.DOES_NOT_FIT, f"does not fit this stage's recipe: {error}")
    if admitted.hypothesis.same_builds():
        return Refused(idea, Refusal.CHANGES_NOTHING, "changes nothing in this stage's recipe")
    return admitted


def apply_idea(idea: Idea, control: Recipe, channels: Mapping[str, str], max_program_seconds: int | None) -> Recipe:
    """Return the recipe that an idea makes of ``control``.

    The sources of the idea's channels are replaced by their paths, and the timeouts of its programs
    are limited.

    Raises:
        RecipeError: the idea's patch does not fit the recipe.
        IdeaError: the idea opens a channel that the project does not declare.
    """
    candidate = apply_patch(control, idea.operations(), f"idea {idea.title!r}")
    return _limit_timeouts(content_checks.check_channels(candidate, control, channels), control, max_program_seconds)


def _limit_timeouts(candidate: Recipe, control: Recipe, max_seconds: int | None) -> Recipe:
    """Limit the timeouts of a candidate's new programs.

    Without the limit, one idea could ask for a week and delay the whole campaign.
    """

    def limited(step: Step) -> Step:
        if max_seconds is None or not isinstance(step, Code | Command) or step in control.steps:
            return step
        return step.model_copy(update={"timeout": min(step.timeout, max_seconds)})

    return Recipe(steps=tuple(limited(step) for step in candidate.steps))


def _adds_program(candidate: Recipe, control: Recipe) -> bool:
    """Return whether the candidate has a program that is not in the control."""
    return any(isinstance(step, Code | Command) and step not in control.steps for step in candidate.steps)


NEAR_RELATIVE_DIFFERENCE = 0.1
"""Two numbers are near each other if they differ by at most this share of the larger one."""

NEAR_ABSOLUTE_DIFFERENCES = {"weight_decay": 0.02, "warmup": 3}
"""Field → difference up to which its values are near each other, whatever their ratio.

So small a change of these fields has almost no effect.
"""


def nearly_equal(a: object, b: object, name: str = "") -> bool:
    """Return whether two values from ``meaning_of`` are equal, up to numbers that are near.

    Args:
        name: the field that holds the values.
    """
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(nearly_equal(a[key], b[key], key) for key in a)
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(nearly_equal(x, y, name) for x, y in zip(a, b, strict=True))
    if isinstance(a, int | float) and isinstance(b, int | float):
        limit = max(NEAR_RELATIVE_DIFFERENCE * max(abs(a), abs(b)), NEAR_ABSOLUTE_DIFFERENCES.get(name, 0.0))
        return bool(abs(a - b) <= limit)
    return a == b


def _near_duplicates(one: Hypothesis, others: Sequence[tuple[str, Hypothesis]]) -> tuple[str, ...]:
    """Return the titles of hypotheses whose candidates nearly equal the candidate of ``one``.

    "the control" comes first if the control of ``one`` does so too.
    """
    meaning = meaning_of(one.candidate)

    def is_near(recipe: Recipe, digest: str) -> bool:
        return one.candidate_does == digest or nearly_equal(meaning, meaning_of(recipe))

    names = sorted(title for title, other in others if other is not one and is_near(other.candidate, other.candidate_does))
    return (*(("the control",) if is_near(one.control, one.control_does) else ()), *names)
