"""What a worker is asked and what it answers: plain data, so that any backend can carry it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from stagezero.training.recipes import Recipe


@dataclass(frozen=True, slots=True)
class Job:
    """Build one recipe with one seed, then measure it on some draws of fresh items.

    ``suite_digest`` and ``inputs`` (file → digest) are what was registered; a worker that finds other bytes refuses.
    """

    base: Path
    recipe: Recipe
    suite: str
    suite_digest: str
    inputs: Mapping[str, str]
    seed: int
    draws: tuple[int, ...]
    items: int
    store: Path


@dataclass(frozen=True, slots=True)
class Result:
    """What a job found.

    ``scores`` has one mapping per draw: claim → score; ``twins_refused`` likewise: property → share of twins refused.
    """

    digest: str
    folder: Path
    scores: tuple[dict[str, float], ...]
    twins_refused: tuple[dict[str, float], ...]
    train_seconds: float
    generate_seconds: float
    steps_made: int
    steps_reused: int
