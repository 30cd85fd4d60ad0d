"""Stores proposals in the run's folder before the campaign uses them.

A continued run must find the same proposals. A language model does not repeat its replies, and an
agent may have disconnected.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from stagezero.errors import RunChangedError
from stagezero.files import write_atomic
from stagezero.ideas.brief import Brief
from stagezero.ideas.idea import Idea
from stagezero.researchers.base import Researcher
from stagezero.researchers.external import OutsideResearcher


def collect_proposals(researchers: Sequence[Researcher], brief: Brief, run: Path) -> list[Idea]:
    """Return all researchers' ideas for a stage, and query each unrepeatable researcher only once.

    Args:
        researchers: the researchers, in the order of the project file.
        brief: the stage's brief.
        run: the run's folder.

    Raises:
        RunChangedError: a file of stored proposals is damaged.
    """
    for researcher in researchers:
        # Outside researchers take the longest, so they get the brief before the others are queried.
        if isinstance(researcher, OutsideResearcher) and not _cache_file(researcher, brief, run).is_file():
            researcher.open(brief)
    return [idea for researcher in researchers for idea in _ideas_of(researcher, brief, run)]


def _cache_file(researcher: Researcher, brief: Brief, run: Path) -> Path:
    return run / "proposals" / f"stage-{brief.stage}-{researcher.name}.json"


def _ideas_of(researcher: Researcher, brief: Brief, run: Path) -> list[Idea]:
    if researcher.repeatable:
        return list(researcher.propose(brief))
    path = _cache_file(researcher, brief, run)
    if not path.is_file():
        ideas: Sequence[Idea] = researcher.propose(brief)
        write_atomic(path, json.dumps([idea.model_dump(mode="json") for idea in ideas], indent=1))
    try:
        return [Idea.model_validate(value) for value in json.loads(path.read_text(encoding="utf-8"))]
    except (OSError, ValueError, TypeError, ValidationError):
        raise RunChangedError(f"{path}: the stored proposals are damaged; restore the file, or start anew with --fresh.") from None
