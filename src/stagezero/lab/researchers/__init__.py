"""Whoever proposes ideas. One file per kind; all get the same brief, and none sees an item."""

from __future__ import annotations

from pathlib import Path

from stagezero.lab.researchers.base import Brief, Outcome, Researcher
from stagezero.project import Optuna, People
from stagezero.project import Researcher as Configured

__all__ = ["Brief", "Outcome", "Researcher", "make"]


def make(configured: Configured, folder: Path) -> Researcher:
    """The researcher a project file asks for; paths are seen from ``folder``."""
    match configured:
        case People():
            from stagezero.lab.researchers.people import PeopleResearcher

            return PeopleResearcher((folder / configured.ideas).resolve())
        case Optuna():
            from stagezero.lab.researchers.optuna import OptunaResearcher

            return OptunaResearcher(configured.ideas, configured.seed)
