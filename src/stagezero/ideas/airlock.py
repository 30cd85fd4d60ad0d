"""Lets ideas in, and nothing else: typed, canonical, capped and measured in bits, each with a reason when refused (``content_checks.py``).

An idea that canonicalises to a hypothesis that was decided before is the same hypothesis for ever: a new name or
another formatting buys no second chance.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from rfc8785 import CanonicalizationError

from stagezero.errors import IdeaError, RecipeError
from stagezero.ideas import content_checks
from stagezero.ideas.idea import MAX_BYTES, Idea
from stagezero.tasks import Suite
from stagezero.training import Recipe, apply_patch
from stagezero.training.data import meaning_of, portable
from stagezero.training.recipes import Code, Command, Step
from stagezero.trials.hypothesis import Entrant, Hypothesis, hypothesis, recipe_digest


@dataclass(frozen=True, slots=True)
class Admitted:
    """An idea that may be tried."""

    idea: Idea
    hypothesis: Hypothesis
    near: tuple[str, ...] = ()
    """What it hardly differs from: the control, or other ideas on the same control, by title."""
    let_in: Mapping[str, Any] | None = None
    """Who let it in, where a person did: the reviewer and what they signed."""

    @property
    def entrant(self) -> Entrant:
        return Entrant(self.idea.title, self.idea.researcher, self.hypothesis)

    def entry(self) -> dict[str, Any]:
        """What the ledger says of it at registration, before anything is built."""
        return {
            "hypothesis": self.hypothesis.digest(), "idea": self.idea.digest(), "title": self.idea.title,
            "researcher": self.idea.researcher, "reason": self.idea.reason, "property": self.idea.property,
            "claimed_effect": self.idea.claimed_effect, "bits": self.idea.bits(), "author": self.idea.author or self.idea.researcher,
            "let_in": dict(self.let_in) if self.let_in is not None else None, "patch": self.idea.technique()["patch"],
            "candidate": portable(self.hypothesis.candidate.canonical()), "near": list(self.near),
        }  # fmt: skip


class Refusal(StrEnum):
    """Why an idea may not be tried: what programs go by. The sentence beside it is for people."""

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
    """An idea that may not be tried, and why."""

    idea: Idea
    code: Refusal
    why: str

    def entry(self) -> dict[str, Any]:
        return {"title": self.idea.title, "researcher": self.idea.researcher, "why": self.why}


def admit(
    ideas: Sequence[Idea],
    control: Recipe,
    suite: Suite,
    margin: float,
    decided: Sequence[tuple[str, Hypothesis]] = (),
    channels: Mapping[str, str] | None = None,
    no_code: str | None = None,
    seconds: int | None = None,
) -> tuple[list[Admitted], list[Refused]]:
    """Sort ideas into those that may be tried on a control and those that may not.

    Args:
        decided: titles and hypotheses that were decided before.
        channels: sources of labels or weights that the project declares: name in ideas → where it is.
        no_code: why code cannot be run here, where it cannot.
        seconds: the most that a program of an idea's may take, whatever it asks for.

    Returns:
        Admitted ideas in the order of their hypotheses' digests, whatever order they came in, and the refused ones.
    """
    admitted: dict[str, Admitted] = {}
    refused: list[Refused] = []
    known = {h.digest() for _, h in decided}
    ours = recipe_digest(control, suite)
    for idea in sorted(ideas, key=lambda i: (i.title, i.researcher)):
        found = _admit_one(idea, control, suite, margin, ours, channels or {}, no_code, seconds)
        if isinstance(found, Refused):
            refused.append(found)
        elif (key := found.hypothesis.digest()) in known:
            refused.append(Refused(idea, Refusal.DECIDED_BEFORE, "this hypothesis was decided before; a new name buys no second chance"))
        elif key in admitted:
            refused.append(Refused(idea, Refusal.DUPLICATE, f"the same hypothesis as {admitted[key].idea.title!r}"))
        else:
            admitted[key] = found
    ordered = [admitted[key] for key in sorted(admitted)]
    others = [(a.idea.title, a.hypothesis) for a in ordered] + [(f"{t!r}, decided before", h) for t, h in decided if h.control_does == ours]
    near = [replace(a, near=_near(a.hypothesis, others)) for a in ordered]
    return near, sorted(refused, key=lambda r: (r.idea.title, r.why))


def _admit_one(
    idea: Idea, control: Recipe, suite: Suite, margin: float, ours: str, channels: Mapping[str, str], no_code: str | None,
    seconds: int | None,
) -> Admitted | Refused:  # fmt: skip
    """One idea, whatever others there are. ``ours``: what the control does."""
    if idea.property not in suite.properties:
        return Refused(idea, Refusal.UNKNOWN_PROPERTY, f"property {idea.property!r} is not one of {', '.join(suite.properties)}")
    try:
        if (size := idea.size()) > MAX_BYTES:
            return Refused(idea, Refusal.TOO_LARGE, f"{8 * size:,} bits, its files included; at most {8 * MAX_BYTES:,} may cross")
        content_checks.check(idea)
        content_checks.check_items(idea, suite)
        candidate = applied(idea, control, channels, seconds)
        if no_code is not None and _runs_programs(candidate, control):
            return Refused(idea, Refusal.NO_SANDBOX, f"brings a program along, and there is no sandbox to run it in: {no_code}")
        found = Admitted(idea, hypothesis(control, candidate, idea.property, margin, suite, ours))
        found.hypothesis.digest()
    except IdeaError as error:
        return Refused(idea, Refusal.CONTENT, str(error))
    except (RecipeError, CanonicalizationError, OSError, TypeError, ValueError) as error:
        return Refused(idea, Refusal.DOES_NOT_FIT, f"does not fit this stage's recipe: {error}")
    if found.hypothesis.same_builds():
        return Refused(idea, Refusal.CHANGES_NOTHING, "changes nothing in this stage's recipe")
    return found


def applied(idea: Idea, control: Recipe, channels: Mapping[str, str], seconds: int | None) -> Recipe:
    """What an idea makes of a recipe: its channels resolved to where their sources are, its programs held to their time.

    Raises:
        RecipeError: its patch does not fit.
        IdeaError: it opens a channel that is not declared.
    """
    candidate = apply_patch(control, idea.operations(), f"idea {idea.title!r}")
    return _in_time(content_checks.check_channels(candidate, control, channels), control, seconds)


def _in_time(candidate: Recipe, control: Recipe, seconds: int | None) -> Recipe:
    """A candidate whose new programs take no longer than they may: an idea that asks for a week would hold the campaign for as long."""

    def bounded(step: Step) -> Step:
        if seconds is None or not isinstance(step, Code | Command) or step in control.steps:
            return step
        return step.model_copy(update={"timeout": min(step.timeout, seconds)})

    return Recipe(steps=tuple(bounded(step) for step in candidate.steps))


def _runs_programs(candidate: Recipe, control: Recipe) -> bool:
    """Whether a candidate has a program that the control has not."""
    return any(isinstance(step, Code | Command) and step not in control.steps for step in candidate.steps)


TRIVIAL = 0.1
"""Numbers that differ by less than this share of the larger are near."""

TRIVIAL_BY = {"weight_decay": 0.02, "warmup": 3}
"""Numbers of which a small change does next to nothing, however large a share it is."""


def hardly_differs(a: object, b: object, name: str = "") -> bool:
    """Are two meanings the same but for trivial parameters?"""
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(hardly_differs(a[key], b[key], key) for key in a)
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(hardly_differs(x, y, name) for x, y in zip(a, b, strict=True))
    if isinstance(a, int | float) and isinstance(b, int | float):
        return bool(abs(a - b) <= max(TRIVIAL * max(abs(a), abs(b)), TRIVIAL_BY.get(name, 0.0)))
    return a == b


def _near(one: Hypothesis, others: Sequence[tuple[str, Hypothesis]]) -> tuple[str, ...]:
    mine = meaning_of(one.candidate)

    def close(recipe: Recipe, does: str) -> bool:
        return one.candidate_does == does or hardly_differs(mine, meaning_of(recipe))

    names = sorted(title for title, other in others if other is not one and close(other.candidate, other.candidate_does))
    return (*(("the control",) if close(one.control, one.control_does) else ()), *names)
