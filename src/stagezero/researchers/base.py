"""What a researcher must offer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from stagezero.ideas.brief import Brief
from stagezero.ideas.idea import Idea


class Researcher(Protocol):
    """Proposes ideas for one stage."""

    name: str
    """What it is called in the project and the report."""
    ideas_on_file: Sequence[Idea] = ()
    """Ideas known before the campaign begins, so that editing one under a half-finished run is noticed."""
    repeatable: bool = False
    """True where it is a pure function of the brief and its settings, so that a continued run may simply ask again. What the others
    propose is kept in the run's folder before it is used (``researchers/proposal_cache.py``)."""

    def propose(self, brief: Brief) -> Sequence[Idea]: ...
