"""Three published attacks on reused holdouts, run again: does our machinery see what their authors saw?

**Ladder** (Blum & Hardt 2015, "The Ladder: a reliable leaderboard for machine learning competitions", and the authors' published
data files): n = 4,000 uniformly random labels, k uniformly random submissions. The lab keeps those that the leaderboard
showed to be no worse than half right, and submits their majority; the figure is that vector's error on the same 4,000 labels (.5
on any others). The *exact* leaderboard shows five decimals, the *rounded* one two; under the parameter-free *Ladder* the lab
keeps the submissions that moved the score, which happens only where the gain exceeds one paired standard error over the best.

**Thresholdout** (Dwork, Feldman, Hardt, Pitassi, Reingold, Roth 2015, "The reusable holdout", and its supplement): no signal,
n = d = 1,000; features are kept whose correlation with the label exceeds 1/√n in the training set and, with the same sign, in the
holdout; the 100 strongest in training vote. Thresholdout shows the holdout's correlation only where it is further than 4/√n (plus
noise 1/√n) from the training set's, and then noisily; the accuracy that it shows at the end goes through the same rule. The
published figures are of an earlier run of ours, 40 repetitions; the paper has n = d = 10,000, and .63, .63, .50 for naive reuse there too.

**One-bit matching**: k random classifiers on n = 1,000 items, "at least half right?" of each, majority with the signs: the gain is
Φ(√(2k/πn)) − ½ in the limit.

A published mean of r repetitions has a Monte-Carlo error too, which is not published: it is taken to be ours for one repetition,
over √r. The tolerance is three standard errors of the difference of the two means, plus half a unit of the published figure's
last digit. Exit 1 if a figure is outside.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass

import numpy as np
from _common import arguments, publish
from numpy.typing import NDArray

from stagezero.evidence import random_vote_gain

Floats = NDArray[np.float64]
Bits = NDArray[np.int8]

LABELS, QUERIES, LADDER_RUNS = 4000, (100, 200, 400), 200
HOLDOUT, THRESHOLDOUT_RUNS = 1000, 200
PUBLISHED: dict[str, tuple[float, float, int]] = {
    # name: (figure, half a unit of its last digit, repetitions behind it)
    "exact_100": (0.4670, 5e-5, 5), "exact_200": (0.4523, 5e-5, 5), "exact_400": (0.4275, 5e-5, 5),
    "rounded_100": (0.4753, 5e-5, 5), "rounded_200": (0.4668, 5e-5, 5), "rounded_400": (0.4507, 5e-5, 5),
    "ladder_100": (0.4904, 5e-5, 5), "ladder_200": (0.4864, 5e-5, 5), "ladder_400": (0.4843, 5e-5, 5),
    "naive_train": (0.636, 5e-4, 40), "naive_holdout": (0.633, 5e-4, 40), "naive_fresh": (0.499, 5e-4, 40),
    "thresholdout_train": (0.734, 5e-4, 40), "thresholdout_holdout": (0.515, 5e-4, 40), "thresholdout_fresh": (0.501, 5e-4, 40),
    "matching_52": (0.072, 5e-4, 0),
}  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One figure beside the published one; ``runs`` hold one value a repetition."""

    name: str
    runs: Floats

    @property
    def ours(self) -> float:
        return float(self.runs.mean())

    @property
    def error(self) -> float:
        return float(self.runs.std(ddof=1)) / math.sqrt(len(self.runs))

    @property
    def published(self) -> float:
        return PUBLISHED[self.name][0]

    @property
    def tolerance(self) -> float:
        _, digit, repetitions = PUBLISHED[self.name]
        theirs = float(self.runs.std(ddof=1)) / math.sqrt(repetitions) if repetitions else 0.0
        return 3.0 * math.hypot(self.error, theirs) + digit

    @property
    def within(self) -> bool:
        return abs(self.ours - self.published) <= self.tolerance


def moved_ladder(labels: Bits, submissions: Bits) -> list[int]:
    """Submissions that moved the parameter-free Ladder's score; the first only if it is better than half (algorithm 3 of the paper)."""
    wrong = (submissions != labels[:, None]).astype(np.float64)
    loss, n = wrong.mean(axis=0), len(labels)
    moved, shown, best = [], math.inf, -1
    for i in range(len(loss)):
        change = wrong[:, i] if best < 0 else wrong[:, i] - wrong[:, best]
        if loss[i] < shown - float(change.std(ddof=1)) / math.sqrt(n):
            if best >= 0 or loss[i] < 0.5:
                moved.append(i)
            shown, best = float(loss[i]), i
    return moved


def majority_error(labels: Bits, submissions: Bits, kept: list[int]) -> float:
    """Error of the majority of the kept ones on the labels that chose them; a tie votes 1."""
    votes = submissions[:, kept].sum(axis=1, dtype=np.int64)
    return float(np.mean((2 * votes >= len(kept)) != labels))


def ladder_tables(rng: np.random.Generator) -> list[Row]:
    found: dict[str, list[float]] = {f"{board}_{k}": [] for board in ("exact", "rounded", "ladder") for k in QUERIES}
    for _ in range(LADDER_RUNS):
        for k in QUERIES:
            labels = rng.integers(0, 2, LABELS, dtype=np.int8)
            submissions = rng.integers(0, 2, (LABELS, k), dtype=np.int8)
            loss = (submissions != labels[:, None]).mean(axis=0)
            for board, digits in (("exact", 5), ("rounded", 2)):
                kept = np.flatnonzero(np.round(loss, digits) <= 0.5).tolist()
                found[f"{board}_{k}"].append(majority_error(labels, submissions, kept))
            found[f"ladder_{k}"].append(majority_error(labels, submissions, moved_ladder(labels, submissions)))
    return [Row(name, np.array(values)) for name, values in found.items()]


def thresholdout_once(rng: np.random.Generator, n: int, d: int, k: int) -> dict[str, float]:
    """Accuracy on training, holdout and fresh data of the vote of the k strongest features, chosen naively and through Thresholdout."""
    least, threshold, tolerance = 1.0 / math.sqrt(n), 4.0 / math.sqrt(n), 1.0 / math.sqrt(n)
    x = {part: rng.standard_normal((n, d)) for part in ("train", "holdout", "fresh")}
    y = {part: 2.0 * rng.integers(0, 2, n) - 1.0 for part in x}
    train, holdout = x["train"].T @ y["train"] / n, x["holdout"].T @ y["holdout"] / n

    def accuracies(shown: Floats) -> dict[str, float]:
        agree = (np.sign(train) == np.sign(shown)) & (np.abs(train) > least) & (np.abs(shown) > least)
        strongest = np.argsort(np.where(agree, np.abs(train), 0.0))[-k:]
        weights = np.zeros(d)
        weights[strongest] = np.where(agree, np.sign(train), 0.0)[strongest]
        return {part: float(np.mean(np.sign(x[part] @ weights) == y[part])) for part in x}

    naive = accuracies(holdout)
    differs = np.abs(train - holdout) > threshold + tolerance * rng.standard_normal(d)
    careful = accuracies(np.where(differs, holdout + tolerance * rng.standard_normal(d), train))
    if abs(careful["train"] - careful["holdout"]) < threshold + tolerance * rng.standard_normal():
        careful["holdout"] = careful["train"]
    else:
        careful["holdout"] += tolerance * rng.standard_normal()
    return {f"naive_{part}": v for part, v in naive.items()} | {f"thresholdout_{part}": v for part, v in careful.items()}


def thresholdout_tables(rng: np.random.Generator) -> list[Row]:
    runs = [thresholdout_once(rng, HOLDOUT, HOLDOUT, 100) for _ in range(THRESHOLDOUT_RUNS)]
    return [Row(name, np.array([run[name] for run in runs])) for name in runs[0]]


def matching_table(rng: np.random.Generator, n: int = 1000, k: int = 52, runs: int = 2000) -> Row:
    gains = []
    for _ in range(runs):
        right = rng.integers(0, 2, (k, n), dtype=np.int8)
        signs = np.where(2 * right.sum(axis=1, dtype=np.int64) >= n, 1, -1)
        votes = signs @ (2 * right.astype(np.int64) - 1)
        gains.append(float(np.mean(votes > 0) + 0.5 * np.mean(votes == 0)) - 0.5)
    return Row("matching_52", np.array(gains))


def main() -> int:
    options = arguments(__doc__ or "").parse_args()
    rng = np.random.default_rng(2015)
    rows = [*ladder_tables(rng), *thresholdout_tables(rng), matching_table(rng)]
    figures: dict[str, float] = {}
    anchors: dict[str, str] = {}
    for row in rows:
        figures |= {row.name: row.ours, f"{row.name}_se": row.error}
        verdict = "ok" if row.within else "OUTSIDE"
        anchors[row.name] = (
            f"published {row.published:.4f}, apart {abs(row.ours - row.published):.4f} of at most {row.tolerance:.4f}: {verdict}"
        )
    figures["matching_52_formula"] = random_vote_gain(52, 1000)
    figures["outside"] = float(sum(not row.within for row in rows))
    anchors["outside"] = "must be 0"
    publish(figures, anchors, options.json)
    return 0 if not figures["outside"] else 1


if __name__ == "__main__":
    sys.exit(main())
