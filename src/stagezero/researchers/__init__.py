"""The researchers, which propose ideas. Each kind has its own module.

All researchers get the same brief, and no brief contains an item.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from stagezero.project import LLM, Optuna, Outside, People, SelfProposing, Uniform
from stagezero.project import Researcher as Configured
from stagezero.researchers.base import Researcher
from stagezero.researchers.external import OutsideResearcher, ignore
from stagezero.researchers.llm import LLMResearcher
from stagezero.researchers.optuna import OptunaResearcher
from stagezero.researchers.people import PeopleResearcher
from stagezero.researchers.self_model import SelfModelResearcher
from stagezero.researchers.uniform import UniformResearcher

__all__ = ["Researcher", "make_researcher"]


def make_researcher(configured: Configured, folder: Path, run: Path, notify: Callable[[str], None] = ignore) -> Researcher:
    """Make the researcher that an entry of the project file describes.

    Args:
        configured: one entry of the project's ``researchers``.
        folder: the project's folder; paths in the project file are relative to it.
        run: the run's folder, where some researchers store their files.
        notify: displays a message, such as how to submit an idea that the run waits for.
    """
    match configured:
        case People():
            return PeopleResearcher((folder / configured.ideas).resolve())
        case Optuna():
            return OptunaResearcher(configured.ideas, configured.seed)
        case Uniform():
            return UniformResearcher(configured.ideas, configured.seed)
        case SelfProposing():
            return SelfModelResearcher(configured.ideas, configured.seed, configured.temperature)
        case LLM():
            return LLMResearcher(configured, folder, run / "said")
        case Outside():
            return OutsideResearcher(configured, run, notify)
