"""Ideas that people wrote, one Markdown file each.

Every idea is proposed at every stage until it is adopted. Under a new control it is a new
hypothesis, and replicates from earlier stages do not count for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from stagezero.ideas.brief import Brief
from stagezero.ideas.idea import Idea, load_ideas
from stagezero.researchers.base import Researcher


class PeopleResearcher(Researcher):
    """Proposes the ideas in a folder of idea files."""

    name = "people"
    repeatable = True

    def __init__(self, folder: Path) -> None:
        """Read and validate every file, so that a mistake is found before anything is built.

        Raises:
            IdeaError: a file is not a valid idea; names the file and the field.
        """
        self.ideas_on_file = load_ideas(folder, self.name)

    def propose(self, brief: Brief) -> Sequence[Idea]:
        """Return the ideas that no earlier stage has adopted."""
        adopted = {outcome.idea.digest() for outcome in brief.history if outcome.fate == "adopted"}
        return [idea for idea in self.ideas_on_file if idea.digest() not in adopted]
