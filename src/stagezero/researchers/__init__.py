"""Whoever proposes ideas. One file per kind; all get the same brief, and none sees an item."""

from __future__ import annotations

from pathlib import Path

from stagezero.ideas.brief import Brief, Outcome, Own
from stagezero.project import LLM, Optuna, Outside, People, SelfProposing, Uniform
from stagezero.project import Researcher as Configured
from stagezero.researchers.base import Researcher

__all__ = ["Brief", "Outcome", "Own", "Researcher", "make"]


def make(configured: Configured, folder: Path, run: Path) -> Researcher:
    """The researcher a project file asks for.

    Args:
        folder: the project's; paths in the file are seen from it.
        run: the run's folder, where those who are not repeatable keep what was said.
    """
    match configured:
        case People():
            from stagezero.researchers.people import PeopleResearcher

            return PeopleResearcher((folder / configured.ideas).resolve())
        case Optuna():
            from stagezero.researchers.optuna import OptunaResearcher

            return OptunaResearcher(configured.ideas, configured.seed)
        case Uniform():
            from stagezero.researchers.uniform import UniformResearcher

            return UniformResearcher(configured.ideas, configured.seed)
        case SelfProposing():
            from stagezero.researchers.self_model import OwnResearcher

            return OwnResearcher(configured.ideas, configured.seed, configured.temperature)
        case LLM():
            from stagezero.researchers.llm import LLMResearcher

            return LLMResearcher(configured, folder, run / "said")
        case Outside():
            from stagezero.researchers.external import OutsideResearcher

            return OutsideResearcher(configured, run)
