"""What a worker is asked and what it answers: plain data, so that any backend can carry it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from stagezero.isolation import Confinement
from stagezero.training.recipes import Recipe

BOXED = Confinement()


@dataclass(frozen=True, slots=True)
class Draw:
    """One draw of fresh items: all claims, or one claim in the suite's other wordings."""

    seed: int
    reworded: str | None = None


@dataclass(frozen=True, slots=True)
class Job:
    """Build one recipe with one seed, then measure it on some draws of fresh items.

    ``trainer`` chooses who makes its steps: TRL, or the plain implementation that a rebuild is compared with.
    ``suite_digest`` and ``inputs`` (file → digest) are what was registered; a worker that finds other bytes refuses.
    """

    base: Path
    recipe: Recipe
    suite: str
    suite_digest: str
    inputs: Mapping[str, str]
    seed: int
    draws: tuple[Draw, ...]
    items: int
    store: Path
    confinement: Confinement = BOXED
    trainer: Literal["first", "second"] = "first"


@dataclass(frozen=True, slots=True)
class Result:
    """What a job found.

    ``scores`` has one mapping per draw: claim → score, and ``alignment``, the mean of the properties' where all were asked;
    ``signs`` likewise: the shares of answers that tell of a score that was gamed.
    """

    digest: str
    folder: Path
    scores: tuple[dict[str, float], ...]
    signs: tuple[dict[str, float], ...]
    train_seconds: float
    generate_seconds: float
    steps_made: int
    steps_reused: int
