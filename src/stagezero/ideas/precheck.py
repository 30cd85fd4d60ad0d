"""Checks that a submission can fail before the campaign applies it to the current recipe.

The text comes from someone outside, so these checks open no file that it names. An idea that passes
may still fail the airlock (``airlock.py``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from rfc8785 import CanonicalizationError

from stagezero.errors import IdeaError, RecipeError
from stagezero.ideas import content_checks
from stagezero.ideas.brief import Brief
from stagezero.ideas.idea import MAX_IDEA_BYTES, Idea, parse_idea
from stagezero.training import Recipe, apply_patch, parse_recipe

MAX_SUBMISSION_BYTES = 64 * 1024
"""Bytes of a submitted file; at most an eighth of that is an idea (``MAX_IDEA_BYTES``)."""
MAX_FRONT_MATTER_CHARACTERS = 2 * MAX_IDEA_BYTES
"""Characters of front matter. YAML is slow to parse."""


@dataclass(frozen=True, slots=True)
class SubmissionLimits:
    """The part of a brief that limits submissions.

    ``recipe`` is None if the brief's recipe cannot be parsed here. Patches are then not applied
    before the campaign does it.
    """

    properties: tuple[str, ...]
    channels: tuple[str, ...]
    recipe: Recipe | None

    @classmethod
    def from_brief(cls, brief: Brief) -> SubmissionLimits:
        """Return the limits in a brief."""
        return cls(brief.properties, brief.channels, brief.control)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> SubmissionLimits:
        """Return the limits in ``brief.json``.

        There, digests replace the files that a recipe names.
        """
        try:
            recipe = parse_recipe(data["recipe"], "brief.json")
        except (RecipeError, KeyError):
            recipe = None
        return cls(tuple(map(str, data.get("properties", ()))), tuple(map(str, data.get("channels", ()))), recipe)


def parse_submission(text: str, where: str, researcher: str, limits: SubmissionLimits | None = None) -> Idea:
    """Parse and check an idea that someone outside wrote. No file that it names is opened.

    Args:
        where: the source of the text, for messages.
        researcher: the researcher's name in the project; it becomes the idea's researcher and
            author.
        limits: the limits of the current brief; None if they are not known.

    Raises:
        IdeaError: why the idea would not be admitted, in one sentence.
    """
    try:
        size = len(text.encode("utf-8"))
        if size > MAX_SUBMISSION_BYTES:
            raise IdeaError(
                f"{where}: expected at most {MAX_SUBMISSION_BYTES:,} bytes, of which {MAX_IDEA_BYTES:,} may cross, got {size:,}; "
                "write less."
            )
        text = text.replace("\r\n", "\n")
        if len(front := text.partition("---\n")[2].partition("\n---")[0]) > MAX_FRONT_MATTER_CHARACTERS:
            raise IdeaError(
                f"{where}: expected at most {MAX_FRONT_MATTER_CHARACTERS:,} characters of front matter, got {len(front):,}; write less: "
                f"at most {MAX_IDEA_BYTES:,} bytes may cross."
            )
        idea = parse_idea(text, where, researcher, researcher)
        if path := next(_absolute_paths(idea.patch), None):
            raise IdeaError(f"{where}: {path[:40]!r} is a path on some machine, which an idea may not name; leave it out.")
        if idea.size() > MAX_IDEA_BYTES:
            raise IdeaError(f"{where}: the idea has {idea.size():,} bytes, and at most {MAX_IDEA_BYTES:,} may cross; write less.")
        content_checks.check_idea(idea)
        if limits is not None:
            _check_limits(idea, limits, where)
    except (RecipeError, CanonicalizationError, OSError, TypeError, ValueError, RecursionError) as error:
        raise IdeaError(f"{where}: {' '.join(str(error).split()) or 'nested too deep'}") from None
    return idea


def _absolute_paths(value: Any) -> Iterator[str]:
    """Yield the strings of a patch that are absolute paths.

    A channel's source that is a path would be read whole, to compute the idea's digest.
    """
    if isinstance(value, str) and value.startswith("/"):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from _absolute_paths(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _absolute_paths(inner)


def _check_limits(idea: Idea, limits: SubmissionLimits, where: str) -> None:
    """Reject an idea that does not fit the brief.

    It must be for a known property, and its patch must apply to the brief's recipe and change it.

    Raises:
        IdeaError, RecipeError: the field, the reason and the fix.
    """
    if idea.property not in limits.properties:
        known = ", ".join(limits.properties)
        raise IdeaError(f"{where}: 'property': expected one of {known}, got {idea.property!r:.60}; name one of them.")
    if limits.recipe is None:
        return
    candidate = apply_patch(limits.recipe, idea.operations(), where)
    candidate = content_checks.check_channels(candidate, limits.recipe, {name: name for name in limits.channels})
    if candidate.digest() == limits.recipe.digest():
        raise IdeaError(f"{where}: 'patch' changes nothing in the current recipe; propose a change.")
