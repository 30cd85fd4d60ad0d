"""Ideas that people wrote, one Markdown file each. Every idea is offered at every stage until it is adopted:
under a new control it is a new hypothesis, with none of the old replicates."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from stagezero.ideas.brief import Brief
from stagezero.ideas.idea import Idea, load_ideas
from stagezero.researchers.base import Researcher


class PeopleResearcher(Researcher):
    """Reads a folder of idea files."""

    name = "people"
    repeatable = True

    def __init__(self, folder: Path) -> None:
        """Check every file now, so that a mistake shows before anything is built.

        Raises:
            IdeaError: naming the file and the field.
        """
        self.ideas_on_file = load_ideas(folder, self.name)

    def propose(self, brief: Brief) -> Sequence[Idea]:
        adopted = {o.idea.digest() for o in brief.history if o.fate == "adopted"}
        return [idea for idea in self.ideas_on_file if idea.digest() not in adopted]
