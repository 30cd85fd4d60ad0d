"""A campaign's stages and its result."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stagezero.evidence import DIFFERENCE_BOUNDS, SCORE_BOUNDS, Estimate, t_interval
from stagezero.ideas.idea import Idea
from stagezero.lab.provenance_inputs import channel_entry, program_texts
from stagezero.tasks import Suite
from stagezero.training import Recipe
from stagezero.training.data import portable_form
from stagezero.trials.state import Decision


@dataclass(frozen=True, slots=True)
class Confirmation:
    """Scores of a recipe and of the recipe before it, built on the same fresh seeds.

    No decision has used these seeds. ``before`` and ``after`` have one entry a seed: claim → score.
    ``model`` is the digest of the stage's model, the build of ``after`` on the first seed, and
    ``folder`` is its folder. ``bfloat16`` is the hardware that trained it in bfloat16, if any.
    """

    seeds: tuple[int, ...]
    before: tuple[dict[str, float], ...]
    after: tuple[dict[str, float], ...]
    model: str
    folder: Path
    bfloat16: str | None = None

    def effect(self, claim: str) -> Estimate:
        """Return the mean paired difference with its 95 % confidence interval over seeds."""
        return t_interval([b[claim] - a[claim] for a, b in zip(self.before, self.after, strict=True)], bounds=DIFFERENCE_BOUNDS)


@dataclass(frozen=True, slots=True)
class Stage:
    """A recipe that was rebuilt and audited, and its model."""

    number: int
    recipe: Recipe
    confirmed: Confirmation
    verdict: str
    ideas: tuple[Idea, ...]
    """The ideas in this stage's recipe that the stage before does not have; none for stage 0."""

    @property
    def title(self) -> str:
        """The titles of the stage's ideas."""
        return " + ".join(idea.title for idea in self.ideas) or "stage 0, written by people"

    def score(self, claim: str) -> Estimate:
        """Return the mean score with its 95 % confidence interval over seeds."""
        return t_interval([s[claim] for s in self.confirmed.after], bounds=SCORE_BOUNDS)

    def entry(self, adopted: bool, base: Path, suite: Suite, max_tokens: int) -> dict[str, Any]:
        """Return the stage's ledger entry.

        Args:
            adopted: whether the stage was adopted.
            base: checkpoint folder of the base.
            suite: the suite.
            max_tokens: most tokens of an answer.
        """
        c = self.confirmed
        return {
            "stage": self.number, "adopted": adopted, "ideas": [idea.digest() for idea in self.ideas], "title": self.title,
            "recipe": portable_form(self.recipe.canonical()), "files": program_texts(self.recipe),
            "channels": [channel_entry(step, base, suite, max_tokens) for step in self.recipe.channels()],
            "model": c.model, "seeds": list(c.seeds), "before": list(c.before), "after": list(c.after), "verdict": self.verdict,
            **({} if c.bfloat16 is None else {"bfloat16": c.bfloat16}),
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class CampaignResult:
    """The result of a campaign. The ledger in ``folder`` contains everything in it."""

    folder: Path
    stages: tuple[Stage, ...]
    decisions: tuple[Decision, ...]
