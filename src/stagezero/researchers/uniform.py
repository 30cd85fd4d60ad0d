"""The baseline: ideas drawn from the recipe language with equal chances at every choice. Every other researcher is held against it.

It is told what all are told and makes nothing of it, so what it finds is what luck finds.
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
    """Proposes ``ideas`` patches a stage."""

    name = "uniform"
    repeatable = True

    def __init__(self, ideas: int, seed: int) -> None:
        self.wanted = ideas
        self.seed = seed

    def propose(self, brief: Brief) -> Sequence[Idea]:
        def chooser(i: int, attempt: int) -> Uniform:
            return Uniform(derive_seed(self.seed, self.name, brief.stage, i, attempt))

        return propose(brief, self.name, self.wanted, chooser)
