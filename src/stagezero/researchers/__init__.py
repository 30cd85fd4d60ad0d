"""Whoever proposes ideas. One file per kind; all get the same brief, and none sees an item."""

from __future__ import annotations

from pathlib import Path

from stagezero.project import LLM, Optuna, Outside, People, SelfProposing, Uniform
from stagezero.project import Researcher as Configured
from stagezero.researchers.base import Researcher
from stagezero.researchers.external import OutsideResearcher
from stagezero.researchers.llm import LLMResearcher
from stagezero.researchers.optuna import OptunaResearcher
from stagezero.researchers.people import PeopleResearcher
from stagezero.researchers.self_model import OwnResearcher
from stagezero.researchers.uniform import UniformResearcher

__all__ = ["Researcher", "make"]


def make(configured: Configured, folder: Path, run: Path) -> Researcher:
    """The researcher a project file asks for.

    Args:
        folder: the project's; paths in the file are seen from it.
        run: the run's folder, where those who are not repeatable keep what was said.
    """
    match configured:
        case People():
            return PeopleResearcher((folder / configured.ideas).resolve())
        case Optuna():
            return OptunaResearcher(configured.ideas, configured.seed)
        case Uniform():
            return UniformResearcher(configured.ideas, configured.seed)
        case SelfProposing():
            return OwnResearcher(configured.ideas, configured.seed, configured.temperature)
        case LLM():
            return LLMResearcher(configured, folder, run / "said")
        case Outside():
            return OutsideResearcher(configured, run)
