"""The baseline researcher: ideas drawn from the recipe language, with equal odds at every choice.

Every other researcher is compared with this one. It gets the same brief as all researchers and uses
no score or result to choose, so it measures what chance alone finds.
"""

from __future__ import annotations

from collections.abc import Sequence

from stagezero.ideas.brief import Brief
from stagezero.ideas.idea import Idea
from stagezero.models.constrained import Uniform
from stagezero.researchers.base import Researcher
from stagezero.researchers.grammar import propose
from stagezero.training.data import derive_seed


class UniformResearcher(Researcher):
    """Proposes ``ideas`` random patches a stage."""

    name = "uniform"
    repeatable = True

    def __init__(self, ideas: int, seed: int) -> None:
        self.max_ideas = ideas
        self.seed = seed

    def propose(self, brief: Brief) -> Sequence[Idea]:
        """Draw ideas from the grammar; the same seed and brief give the same ideas."""

        def chooser(number: int, attempt: int) -> Uniform:
            return Uniform(derive_seed(self.seed, self.name, brief.stage, number, attempt))

        return propose(brief, self.name, self.max_ideas, chooser)
