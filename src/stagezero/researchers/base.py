"""The interface that every researcher implements."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from stagezero.ideas.brief import Brief
from stagezero.ideas.idea import Idea


class Researcher(Protocol):
    """Proposes ideas for one stage at a time."""

    name: str
    """The researcher's name in the project file and in the report."""
    ideas_on_file: Sequence[Idea] = ()
    """Ideas that exist before the campaign begins. The ledger's entry 0 contains their digests, so
    that a continued run detects an edited idea."""
    repeatable: bool = False
    """True if the proposals are a pure function of the brief and the settings. A continued run then
    calls ``propose`` again. The proposals of all other researchers are stored in the run's folder
    before they are used (``researchers/proposal_cache.py``)."""

    def propose(self, brief: Brief) -> Sequence[Idea]:
        """Return ideas for the stage that the brief describes."""
        ...
