"""Seed noise as it is: residuals of real pocket builds, and smoothed draws from them.

The same recipe (the shipped stage 0) is built from pocket/65k with 210 seeds, in ten groups; a group answers one draw of items,
and a build's residual is its score less the group's mean. Each build also answers the next group's items, which says how much of
a difference between two builds belongs to the items asked. Builds are kept in the store: a second run costs seconds.
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
GROUPS, EACH, ITEMS = 10, 21, 80


@dataclass(frozen=True)
class Noise:
    """Residuals of one property, in score units.

    ``of_items`` is the standard deviation of a persistent offset: by how much a difference between two fixed builds changes
    with the items they are asked.
    """

    residuals: Floats
    of_items: float

    @property
    def sd(self) -> float:
        return float(self.residuals.std())

    def draw(self, rng: np.random.Generator, shape: tuple[int, ...]) -> Floats:
        """Smoothed bootstrap: resampled with a Gaussian kernel (Silverman's width), shrunk to keep the variance."""
        h = 1.06 * len(self.residuals) ** -0.2
        kernel = rng.standard_normal(shape) * h * self.sd
        return np.asarray((rng.choice(self.residuals, shape) + kernel) / np.sqrt(1 + h * h))


class Dots(NoProgress):
    def status(self, text: str, done: int, expected: int, seconds_left: float | None) -> None:
        if done % 20 == 0 and seconds_left:
            print(f"{text}: {done} of {expected}, about {seconds_left:.0f} s left", flush=True)


def collect() -> dict[str, Noise]:
    """Residuals by property, built or read back."""
    recipe = parse_recipe(yaml.safe_load(files("stagezero.examples").joinpath("first/stage0.yaml").read_text()), "stage0")
    with tempfile.TemporaryDirectory() as scratch, LocalPool(2) as pool:
        base = pool.materialise("pocket/65k", Path(scratch) / "progress").result()
        queue = BuildQueue(pool, base, "atlas", ITEMS, home() / "store", None, Dots())
        jobs = []
        for group in range(GROUPS):
            draws = (Draw(1_000_000 + group), Draw(1_000_000 + (group + 1) % GROUPS))
            jobs += [queue.submit(recipe, 1 + EACH * group + i, draws) for i in range(EACH)]
        found = queue.gather(jobs, "noise: builds of one recipe")
        properties = queue.suite.properties
    noise = {}
    for prop in properties:
        own = np.array([r.scores[0][prop] for r in found]).reshape(GROUPS, EACH)
        other = np.array([r.scores[1][prop] for r in found]).reshape(GROUPS, EACH)
        residuals = (own - own.mean(1, keepdims=True)) * np.sqrt(EACH / (EACH - 1))
        # D of two builds on one draw less D of the same two on another: twice the variance that belongs to the items.
        first, second = np.diff(own, axis=1)[:, ::2], np.diff(other, axis=1)[:, ::2]
        noise[prop] = Noise(residuals.ravel(), float(np.sqrt(np.mean((first - second) ** 2) / 2)))
    return noise
