"""What researchers proposed, kept before it is used: a run that continues must find the same proposals, and a language model asked twice,
or an agent that has left, does not give them again."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from stagezero.errors import RunChangedError
from stagezero.files import write_whole
from stagezero.ideas.brief import Brief
from stagezero.ideas.idea import Idea
from stagezero.researchers.base import Researcher
from stagezero.researchers.external import OutsideResearcher


def proposals(researchers: Sequence[Researcher], brief: Brief, run: Path) -> list[Idea]:
    """All researchers' ideas for a stage, each asked for once.

    Args:
        run: the run's folder.

    Raises:
        RunChangedError: what was kept is damaged.
    """
    for researcher in researchers:
        # Those who take their time are told first, so that they think while others are asked.
        if isinstance(researcher, OutsideResearcher) and not _kept(researcher, brief, run).is_file():
            researcher.open(brief)
    return [idea for researcher in researchers for idea in _proposed(researcher, brief, run)]


def _kept(researcher: Researcher, brief: Brief, run: Path) -> Path:
    return run / "proposals" / f"stage-{brief.stage}-{researcher.name}.json"


def _proposed(researcher: Researcher, brief: Brief, run: Path) -> list[Idea]:
    if researcher.repeatable:
        return list(researcher.propose(brief))
    path = _kept(researcher, brief, run)
    if not path.is_file():
        ideas: Sequence[Idea] = researcher.propose(brief)
        write_whole(path, json.dumps([idea.model_dump(mode="json") for idea in ideas], indent=1))
    try:
        return [Idea.model_validate(value) for value in json.loads(path.read_text(encoding="utf-8"))]
    except (OSError, ValueError, TypeError, ValidationError):
        raise RunChangedError(f"{path}: the proposals kept here are damaged; restore the file, or start anew with --fresh.") from None
