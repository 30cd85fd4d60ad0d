"""Seed noise of real pocket builds, and smoothed draws from it.

The same recipe (the shipped stage 0) is built from pocket/65k with 210 seeds, in ten groups. All
builds of a group answer the same draw of items, and the residual of a build is its score minus the
mean of its group. Each build also answers the items of the next group. This measures how much of a
difference between two builds is due to the items. The store caches the builds, so that a second run
takes seconds.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import numpy as np
import yaml
from numpy.typing import NDArray

from stagezero.models import home
from stagezero.training import parse_recipe
from stagezero.training.executors import Draw, LocalPool
from stagezero.trials.jobs import BuildQueue, NoProgress

Floats = NDArray[np.float64]
GROUPS, BUILDS_PER_GROUP, ITEMS = 10, 21, 80


@dataclass(frozen=True)
class Noise:
    """Residuals of one property, in score units.

    Args:
        residuals: one per build.
        items_sd: standard deviation of a persistent offset: how much a difference between two fixed
            builds changes with the items that they answer.
    """

    residuals: Floats
    items_sd: float

    @property
    def sd(self) -> float:
        """Standard deviation of the residuals."""
        return float(self.residuals.std())

    def draw(self, rng: np.random.Generator, shape: tuple[int, ...]) -> Floats:
        """Draw residuals by a smoothed bootstrap.

        The residuals are resampled with a Gaussian kernel of Silverman's width, and shrunk so that
        their variance does not change.
        """
        h = 1.06 * len(self.residuals) ** -0.2
        kernel = rng.standard_normal(shape) * h * self.sd
        return np.asarray((rng.choice(self.residuals, shape) + kernel) / np.sqrt(1 + h * h))


class PrintedProgress(NoProgress):
    """Progress that is printed after every twentieth build."""

    def status(self, text: str, done: int, expected: int, seconds_left: float | None) -> None:
        """Print the number of builds and the estimated time left."""
        if done % 20 == 0 and seconds_left:
            print(f"{text}: {done} of {expected}, about {seconds_left:.0f} s left", flush=True)


def collect() -> dict[str, Noise]:
    """Build what the store does not contain, and return the noise of every property."""
    recipe = parse_recipe(yaml.safe_load(files("stagezero.examples").joinpath("first/stage0.yaml").read_text()), "stage0")
    with tempfile.TemporaryDirectory() as scratch, LocalPool(2) as pool:
        base = pool.materialise("pocket/65k", Path(scratch) / "progress").result()
        queue = BuildQueue(pool, base, "atlas", ITEMS, home() / "store", None, PrintedProgress())
        jobs = []
        for group in range(GROUPS):
            draws = (Draw(1_000_000 + group), Draw(1_000_000 + (group + 1) % GROUPS))
            jobs += [queue.submit(recipe, 1 + BUILDS_PER_GROUP * group + i, draws) for i in range(BUILDS_PER_GROUP)]
        results = queue.gather(jobs, "noise: builds of one recipe")
        properties = queue.suite.properties
    noise = {}
    for prop in properties:
        own = np.array([r.scores[0][prop] for r in results]).reshape(GROUPS, BUILDS_PER_GROUP)
        other = np.array([r.scores[1][prop] for r in results]).reshape(GROUPS, BUILDS_PER_GROUP)
        residuals = (own - own.mean(1, keepdims=True)) * np.sqrt(BUILDS_PER_GROUP / (BUILDS_PER_GROUP - 1))
        # The difference of two builds on one draw minus their difference on another draw has twice
        # the variance that is due to the items.
        first, second = np.diff(own, axis=1)[:, ::2], np.diff(other, axis=1)[:, ::2]
        noise[prop] = Noise(residuals.ravel(), float(np.sqrt(np.mean((first - second) ** 2) / 2)))
    return noise
