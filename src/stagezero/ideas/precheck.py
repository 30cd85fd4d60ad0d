"""What an idea that comes as text from elsewhere is held against, as far as that can be told before a campaign looks at it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from rfc8785 import CanonicalizationError

from stagezero.errors import IdeaError, RecipeError
from stagezero.ideas import content_checks
from stagezero.ideas.brief import Brief
from stagezero.ideas.idea import MAX_BYTES, Idea, parse_idea
from stagezero.training import Recipe, apply_patch, parse_recipe

LONGEST = 64 * 1024
"""Bytes of a submitted file; an idea has at most an eighth of that."""
FRONT = 2 * MAX_BYTES
"""Characters of front matter that are read as YAML, which is slow."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What of a brief an idea is held against. No recipe: it cannot be made out from here, and the campaign will look."""

    properties: tuple[str, ...]
    channels: tuple[str, ...]
    recipe: Recipe | None

    @classmethod
    def by(cls, brief: Brief) -> Asked:
        return cls(brief.properties, brief.channels, brief.control)

    @classmethod
    def read(cls, told: Mapping[str, Any]) -> Asked:
        """From ``brief.json``, where files that a recipe names stand by their digests."""
        try:
            recipe = parse_recipe(told["recipe"], "brief.json")
        except (RecipeError, KeyError):
            recipe = None
        return cls(tuple(map(str, told.get("properties", ()))), tuple(map(str, told.get("channels", ()))), recipe)


def check(text: str, where: str, researcher: str, asked: Asked | None = None) -> Idea:
    """Read an idea that somebody outside wrote; nothing that it names is opened.

    Raises:
        IdeaError: why it would not get in, in one sentence. That it gets in here does not promise that it passes the airlock.
    """
    try:
        size = len(text.encode("utf-8"))
        if size > LONGEST:
            raise IdeaError(f"{where}: {size:,} bytes; at most {LONGEST:,} are read, and {MAX_BYTES:,} may cross, so write less.")
        text = text.replace("\r\n", "\n")
        if len(front := text.partition("---\n")[2].partition("\n---")[0]) > FRONT:
            raise IdeaError(f"{where}: {len(front):,} characters of front matter; at most {MAX_BYTES:,} bytes may cross, so write less.")
        idea = parse_idea(text, where, researcher, researcher)
        if path := next(_paths(idea.patch), None):
            raise IdeaError(f"{where}: {path[:40]!r} is a path of some machine, and an idea names none; leave it out.")
        if idea.size() > MAX_BYTES:
            raise IdeaError(f"{where}: {idea.size():,} bytes would cross; at most {MAX_BYTES:,} may, so write less.")
        content_checks.check(idea)
        if asked is not None:
            _hold_against(idea, asked, where)
    except (RecipeError, CanonicalizationError, OSError, TypeError, ValueError, RecursionError) as error:
        raise IdeaError(f"{where}: {' '.join(str(error).split()) or 'nested too deep'}") from None
    return idea


def _paths(value: Any) -> Iterator[str]:
    """Texts of a patch that are absolute paths: a channel's source that is one would be read, all of it, for the idea's digest."""
    if isinstance(value, str) and value.startswith("/"):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from _paths(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _paths(inner)


def _hold_against(idea: Idea, asked: Asked, where: str) -> None:
    if idea.property not in asked.properties:
        known = ", ".join(asked.properties)
        raise IdeaError(f"{where}: 'property': expected one of {known}, got {idea.property!r:.60}; name one of them.")
    if asked.recipe is None:
        return
    candidate = apply_patch(asked.recipe, idea.operations(), where)
    candidate = content_checks.check_channels(candidate, asked.recipe, {name: name for name in asked.channels})
    if candidate.digest() == asked.recipe.digest():
        raise IdeaError(f"{where}: 'patch' changes nothing in the recipe as it stands; propose a change.")
