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
from stagezero.tasks import load_suite
from stagezero.training import parse_recipe
from stagezero.training.executors import Draw, LocalPool, Result
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


def grid(scores: Floats) -> Floats:
    """Round scores to the values of a balanced accuracy over ITEMS traps and ITEMS twins."""
    return np.asarray(np.round(scores * 2 * ITEMS) / (2 * ITEMS))


class PrintedProgress(NoProgress):
    """Progress that is printed after every twentieth build."""

    def status(self, text: str, done: int, expected: int, seconds_left: float | None) -> None:
        """Print the number of builds and the estimated time left."""
        if done % 20 == 0 and seconds_left:
            print(f"{text}: {done} of {expected}, about {seconds_left:.0f} s left", flush=True)


def _build_all(reworded: str | None = None) -> list[Result]:
    """Return the results of all builds, group by group; build what the store does not contain.

    Args:
        reworded: the property that every build also answers in other wordings, as its third draw.
    """
    recipe = parse_recipe(yaml.safe_load(files("stagezero.examples").joinpath("first/stage0.yaml").read_text()), "stage0")
    with tempfile.TemporaryDirectory() as scratch, LocalPool(2) as pool:
        base = pool.materialise("pocket/65k", Path(scratch) / "progress").result()
        queue = BuildQueue(pool, base, "atlas", ITEMS, home() / "store", None, PrintedProgress())
        jobs = []
        for group in range(GROUPS):
            draws: tuple[Draw, ...] = (Draw(1_000_000 + group), Draw(1_000_000 + (group + 1) % GROUPS))
            if reworded is not None:
                draws = (*draws, Draw(1_000_000 + group, reworded))
            jobs += [queue.submit(recipe, 1 + BUILDS_PER_GROUP * group + i, draws) for i in range(BUILDS_PER_GROUP)]
        return queue.gather(jobs, "noise: builds of one recipe")


def _residuals(values: Floats) -> Floats:
    """Return the residuals of groups of values about their group's mean, of the full variance."""
    grouped = values.reshape(GROUPS, BUILDS_PER_GROUP, *values.shape[1:])
    scale = np.sqrt(BUILDS_PER_GROUP / (BUILDS_PER_GROUP - 1))
    return np.asarray(((grouped - grouped.mean(1, keepdims=True)) * scale).reshape(values.shape))


def collect() -> dict[str, Noise]:
    """Return the noise of every property; build what the store does not contain."""
    results, noise = _build_all(), {}
    for prop in load_suite("atlas").properties:
        own, other = (np.array([r.scores[draw][prop] for r in results]) for draw in (0, 1))
        # The difference of two builds on one draw minus their difference on another draw has twice
        # the variance that is due to the items.
        first, second = (np.diff(values.reshape(GROUPS, BUILDS_PER_GROUP), axis=1)[:, ::2] for values in (own, other))
        noise[prop] = Noise(_residuals(own), float(np.sqrt(np.mean((first - second) ** 2) / 2)))
    return noise


@dataclass(frozen=True)
class BuildNoise:
    """All scores and signs of real builds of one recipe, which vary together.

    Args:
        means: mean of every score and sign.
        residuals: one row for each build, one column for each score and sign.
        claims, signs: names of the columns: first the scores, then the signs, last the score of the
            property in other wordings.
    """

    means: Floats
    residuals: Floats
    claims: tuple[str, ...]
    signs: tuple[str, ...]

    def draw(self, rng: np.random.Generator) -> tuple[dict[str, float], dict[str, float], float]:
        """Draw the scores, the signs and the score in other wordings of one build."""
        row = (self.means + self.residuals[rng.integers(len(self.residuals))]).tolist()
        n = len(self.claims)
        return dict(zip(self.claims, row[:n], strict=True)), dict(zip(self.signs, row[n:-1], strict=True)), row[-1]

    def sd(self, name: str) -> float:
        """Return the standard deviation of a score or a sign over builds."""
        return float(self.residuals[:, (*self.claims, *self.signs).index(name)].std())


def collect_builds(prop: str) -> BuildNoise:
    """Return the noise of whole builds; ``prop`` is also measured in other wordings."""
    results = _build_all(prop)
    claims, signs = tuple(results[0].scores[0]), tuple(results[0].signs[0])
    rows = [[*(r.scores[0][c] for c in claims), *(r.signs[0][s] for s in signs), r.scores[2][prop]] for r in results]
    values = np.array(rows)
    return BuildNoise(values.mean(0), _residuals(values), claims, signs)
