"""Jobs and results: what a worker receives and returns.

Both are plain data, so any executor can carry them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from stagezero.isolation import Confinement
from stagezero.training.recipes import Recipe

DEFAULT_CONFINEMENT = Confinement()


@dataclass(frozen=True, slots=True)
class Draw:
    """One draw of fresh items: of all claims, or of one claim in the suite's other wordings.

    Args:
        seed: determines the draw.
        reworded: the claim to draw in other wordings; None draws all claims.
    """

    seed: int
    reworded: str | None = None


@dataclass(frozen=True, slots=True)
class Job:
    """Build one recipe with one seed, then measure it on some draws of fresh items.

    Args:
        base: checkpoint folder of the base.
        recipe: the recipe to build.
        suite: the suite's name.
        suite_digest: the suite's registered digest. A worker that finds another one fails.
        inputs: file or folder → registered digest, for the inputs of command steps and the models
            of channels. A worker that finds other bytes fails.
        seed: the build's seed.
        draws: the draws to measure.
        items: number of items of each kind, for each property and capability, in a draw.
        store: folder of the store of builds.
        confinement: how programs are confined.
        trainer: ``first`` is TRL; ``second`` is the reference trainer, for comparison in a rebuild.
        max_tokens: most tokens of an answer; None takes what the suite needs.
        base_digest: the base's registered digest. A worker that finds another one fails.
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
    confinement: Confinement = DEFAULT_CONFINEMENT
    trainer: Literal["first", "second"] = "first"
    max_tokens: int | None = None
    base_digest: str | None = None


@dataclass(frozen=True, slots=True)
class Speed:
    """How long this machine takes: to build a recipe, to measure a draw, and to answer an item."""

    train_seconds: float
    measure_seconds: float
    answer_seconds: float


@dataclass(frozen=True, slots=True)
class Result:
    """The result of a job.

    Args:
        digest: the checkpoint's digest.
        folder: the checkpoint's folder.
        scores: one mapping for each draw: claim → score in [0, 1]. If the draw covers all
            properties, ``alignment`` is their mean.
        signs: one mapping for each draw: sign → share of answers, in [0, 1], that indicates a gamed
            score.
        train_seconds: time spent on training steps that were not stored yet.
        generate_seconds: time spent on generating answers that were not stored yet.
        steps_made: number of training steps that were made.
        steps_reused: number of training steps that were already stored.
        bfloat16: the hardware that computed in bfloat16; None if the recipe does not ask for that,
            or the machine has none.
    """

    digest: str
    folder: Path
    scores: tuple[dict[str, float], ...]
    signs: tuple[dict[str, float], ...]
    train_seconds: float
    generate_seconds: float
    steps_made: int
    steps_reused: int
    bfloat16: str | None = None
