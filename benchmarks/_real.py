"""Real comparisons on pocket/262k, of two recipes whose true difference is about one sd.

The candidate has 35 harmless twins for each claim where the control has 20. The effect on privacy
is measured with TRUTH_PAIRS pairs, on seeds and items of their own. Then ``compare`` runs RUNS
times at its default settings, with other seeds each time. Builds come from the store if they exist.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml
from _noise import PrintedProgress
from numpy.typing import NDArray

from stagezero.evidence import Estimate, t_interval
from stagezero.models import home
from stagezero.training import load_recipe
from stagezero.training.executors import Draw, LocalPool
from stagezero.trials.compare import compare
from stagezero.trials.comparison import Comparison
from stagezero.trials.jobs import BuildQueue

Floats = NDArray[np.float64]
BASE, PROPERTY, RUNS, TRUTH_PAIRS, ITEMS = "pocket/262k", "privacy", 10, 60, 100
TWINS = {"control": 20, "candidate": 35}


@contextmanager
def recipes() -> Iterator[tuple[Path, Path]]:
    """Write both recipes into a temporary folder and yield their files."""
    with tempfile.TemporaryDirectory() as folder:
        files = []
        for name, twins in TWINS.items():
            parts = [{"kinds": ["trap"], "each": 100}, {"kinds": ["twin"], "each": twins}]
            steps = [
                {"step": "mix", "name": "data", "parts": parts},
                {"step": "sft", "data": "data", "steps": 60, "batch_size": 16, "learning_rate": 0.001},
            ]
            path = Path(folder) / f"{name}.yaml"
            path.write_text(yaml.safe_dump({"steps": steps}))
            files.append(path)
        yield files[0], files[1]


@dataclass(frozen=True)
class Truth:
    """The true difference: every paired difference, their mean with its interval, and their sd."""

    differences: Floats

    @property
    def mean(self) -> Estimate:
        """The mean difference with a 95 % interval."""
        return t_interval(self.differences.tolist())

    @property
    def sd(self) -> float:
        """The standard deviation of a paired difference."""
        return float(self.differences.std(ddof=1))

    @property
    def effect(self) -> float:
        """The mean difference in sd."""
        return self.mean.mean / self.sd


def measure_truth() -> Truth:
    """Build and measure the pairs that confirm the true difference."""
    with recipes() as files, tempfile.TemporaryDirectory() as scratch, LocalPool(2) as pool:
        base = pool.materialise(BASE, Path(scratch) / "progress").result()
        queue = BuildQueue(pool, base, "atlas", ITEMS, home() / "store", None, PrintedProgress())
        arms = [load_recipe(path) for path in files]
        jobs = [queue.submit(r, 3_000_000 + i, (Draw(4_000_000 + i),)) for i in range(TRUTH_PAIRS) for r in arms]
        scores = [r.scores[0][PROPERTY] for r in queue.gather(jobs, "truth")]
    return Truth(np.array(scores[1::2]) - np.array(scores[0::2]))


def run_comparisons() -> list[Comparison]:
    """Run the comparisons."""
    with recipes() as (control, candidate), tempfile.TemporaryDirectory() as runs:
        return [compare(control, candidate, PROPERTY, BASE, seed=500 + i, runs=Path(runs), progress=PrintedProgress()) for i in range(RUNS)]
