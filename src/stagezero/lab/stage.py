"""Stages: an adopted recipe, its rebuilt model, the effect on fresh seeds; and what a campaign leaves behind."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stagezero.evidence import Estimate, t_interval
from stagezero.ideas.idea import Idea
from stagezero.lab.provenance_inputs import channel_entry, texts_of
from stagezero.tasks import Suite
from stagezero.training import Recipe
from stagezero.training.data import portable
from stagezero.trials.state import Decision


@dataclass(frozen=True, slots=True)
class Confirmed:
    """A recipe against the one before it, on fresh seeds that chose nothing."""

    seeds: tuple[int, ...]
    before: tuple[dict[str, float], ...]
    after: tuple[dict[str, float], ...]
    model: str
    folder: Path

    def effect(self, claim: str) -> Estimate:
        """Mean paired difference with its 95 % interval over seeds."""
        return t_interval([b[claim] - a[claim] for a, b in zip(self.before, self.after, strict=True)])


@dataclass(frozen=True, slots=True)
class Stage:
    """An adopted recipe and its rebuilt model."""

    number: int
    recipe: Recipe
    confirmed: Confirmed
    verdict: str
    ideas: tuple[Idea, ...]
    """What was adopted with it; none for stage 0."""

    @property
    def title(self) -> str:
        return " + ".join(idea.title for idea in self.ideas) or "stage 0, written by people"

    def score(self, claim: str) -> Estimate:
        return t_interval([s[claim] for s in self.confirmed.after])

    def entry(self, adopted: bool, base: Path, suite: Suite) -> dict[str, Any]:
        """The ledger's entry."""
        c = self.confirmed
        return {
            "stage": self.number, "adopted": adopted, "ideas": [idea.digest() for idea in self.ideas], "title": self.title,
            "recipe": portable(self.recipe.canonical()), "files": texts_of(self.recipe),
            "channels": [channel_entry(step, base, suite) for step in self.recipe.channels()], "model": c.model, "seeds": list(c.seeds),
            "before": list(c.before), "after": list(c.after), "verdict": self.verdict,
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class Finished:
    """What a campaign leaves behind; everything in it can be read again from the ledger."""

    folder: Path
    stages: tuple[Stage, ...]
    decisions: tuple[Decision, ...]
