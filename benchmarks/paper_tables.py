"""Repeat three published attacks on reused holdouts, and compare the results with the papers.

**Ladder** (Blum & Hardt 2015, "The Ladder: a reliable leaderboard for machine learning
competitions", and the authors' published data files): n = 4,000 uniformly random labels, k
uniformly random submissions. The lab selects the submissions for which the leaderboard displays at
least half right, and submits their majority vote. The figure is the error of that vote on the same
4,000 labels (.5 on any others). The *exact* leaderboard displays five decimals, the *rounded* one
two. Under the parameter-free *Ladder* the lab selects the submissions that changed the score. The
score changes only if the gain over the best exceeds one paired standard error.

**Thresholdout** (Dwork, Feldman, Hardt, Pitassi, Reingold, Roth 2015, "The reusable holdout", and
its supplement): the data have no signal, n = d = 1,000. A feature is selected if its correlation
with the label exceeds 1/√n in the training set and, with the same sign, in the holdout; the 100
strongest in training vote. Thresholdout returns a holdout correlation only if it differs from the
training set's by more than 4/√n (plus noise 1/√n), and then with noise. The final accuracy is
subject to the same rule. The published figures are those of an earlier run of this project with 40
repetitions. The paper has n = d = 10,000, and also reports .63, .63, .50 for naive reuse.

**One-bit matching**: k random classifiers on n = 1,000 items; the reply to each is whether it has
at least half right; the lab submits the majority vote with the signs of the replies. The gain is
Φ(√(2k/πn)) − ½ in the limit.

A published mean of r repetitions also has a Monte Carlo error, which is not published. It is
assumed to be the error measured here for one repetition, over √r. The tolerance is three standard
errors of the difference of the two means, plus half a unit of the last digit of the published
figure. The exit status is 1 if a figure is outside its tolerance.
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
    # name: (figure, half a unit of its last digit, number of repetitions; 0 for a formula)
    "exact_100": (0.4670, 5e-5, 5), "exact_200": (0.4523, 5e-5, 5), "exact_400": (0.4275, 5e-5, 5),
    "rounded_100": (0.4753, 5e-5, 5), "rounded_200": (0.4668, 5e-5, 5), "rounded_400": (0.4507, 5e-5, 5),
    "ladder_100": (0.4904, 5e-5, 5), "ladder_200": (0.4864, 5e-5, 5), "ladder_400": (0.4843, 5e-5, 5),
    "naive_train": (0.636, 5e-4, 40), "naive_holdout": (0.633, 5e-4, 40), "naive_fresh": (0.499, 5e-4, 40),
    "thresholdout_train": (0.734, 5e-4, 40), "thresholdout_holdout": (0.515, 5e-4, 40), "thresholdout_fresh": (0.501, 5e-4, 40),
    "matching_52": (0.072, 5e-4, 0),
}  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One figure and the published one; ``runs`` contains one value per repetition."""

    name: str
    runs: Floats

    @property
    def measured(self) -> float:
        """Mean over the repetitions."""
        return float(self.runs.mean())

    @property
    def error(self) -> float:
        """Standard error of the mean."""
        return float(self.runs.std(ddof=1)) / math.sqrt(len(self.runs))

    @property
    def published(self) -> float:
        """Figure in the paper."""
        return PUBLISHED[self.name][0]

    @property
    def tolerance(self) -> float:
        """Largest difference that is consistent with the published figure."""
        _, digit, repetitions = PUBLISHED[self.name]
        published_error = float(self.runs.std(ddof=1)) / math.sqrt(repetitions) if repetitions else 0.0
        return 3.0 * math.hypot(self.error, published_error) + digit

    @property
    def within(self) -> bool:
        """Whether the figure is within its tolerance."""
        return abs(self.measured - self.published) <= self.tolerance


def ladder_updates(labels: Bits, submissions: Bits) -> list[int]:
    """Return the submissions that changed the score of the parameter-free Ladder.

    The first submission is included only if it is better than half right.

    Args:
        labels: shape (n,).
        submissions: shape (n, k).

    Source: Blum & Hardt 2015, algorithm 3.
    """
    wrong = (submissions != labels[:, None]).astype(np.float64)
    loss, n = wrong.mean(axis=0), len(labels)
    updates, score, best = [], math.inf, -1
    for i in range(len(loss)):
        change = wrong[:, i] if best < 0 else wrong[:, i] - wrong[:, best]
        if loss[i] < score - float(change.std(ddof=1)) / math.sqrt(n):
            if best >= 0 or loss[i] < 0.5:
                updates.append(i)
            score, best = float(loss[i]), i
    return updates


def majority_error(labels: Bits, submissions: Bits, selected: list[int]) -> float:
    """Return the error of the selected submissions' majority vote; a tie votes 1.

    It is measured on the labels by which the submissions were selected.
    """
    votes = submissions[:, selected].sum(axis=1, dtype=np.int64)
    return float(np.mean((2 * votes >= len(selected)) != labels))


def ladder_tables(rng: np.random.Generator) -> list[Row]:
    """Repeat the attack on the exact and the rounded leaderboard and on the Ladder."""
    errors: dict[str, list[float]] = {f"{board}_{k}": [] for board in ("exact", "rounded", "ladder") for k in QUERIES}
    for _ in range(LADDER_RUNS):
        for k in QUERIES:
            labels = rng.integers(0, 2, LABELS, dtype=np.int8)
            submissions = rng.integers(0, 2, (LABELS, k), dtype=np.int8)
            loss = (submissions != labels[:, None]).mean(axis=0)
            for board, digits in (("exact", 5), ("rounded", 2)):
                selected = np.flatnonzero(np.round(loss, digits) <= 0.5).tolist()
                errors[f"{board}_{k}"].append(majority_error(labels, submissions, selected))
            errors[f"ladder_{k}"].append(majority_error(labels, submissions, ladder_updates(labels, submissions)))
    return [Row(name, np.array(values)) for name, values in errors.items()]


def thresholdout_once(rng: np.random.Generator, n: int, d: int, k: int) -> dict[str, float]:
    """Return accuracies of the vote of the k strongest features in one repetition.

    The features are selected naively and through Thresholdout. The accuracy is measured on the
    training, the holdout and fresh data.

    Args:
        rng: random number generator.
        n: examples in each of the three data sets.
        d: features.
        k: features that vote.
    """
    least, threshold, tolerance = 1.0 / math.sqrt(n), 4.0 / math.sqrt(n), 1.0 / math.sqrt(n)
    x = {part: rng.standard_normal((n, d)) for part in ("train", "holdout", "fresh")}
    y = {part: 2.0 * rng.integers(0, 2, n) - 1.0 for part in x}
    train, holdout = x["train"].T @ y["train"] / n, x["holdout"].T @ y["holdout"] / n

    def accuracies(answered: Floats) -> dict[str, float]:
        """Select features by the holdout correlations that were answered."""
        agree = (np.sign(train) == np.sign(answered)) & (np.abs(train) > least) & (np.abs(answered) > least)
        strongest = np.argsort(np.where(agree, np.abs(train), 0.0))[-k:]
        weights = np.zeros(d)
        weights[strongest] = np.where(agree, np.sign(train), 0.0)[strongest]
        return {part: float(np.mean(np.sign(x[part] @ weights) == y[part])) for part in x}

    naive = accuracies(holdout)
    differs = np.abs(train - holdout) > threshold + tolerance * rng.standard_normal(d)
    thresholdout = accuracies(np.where(differs, holdout + tolerance * rng.standard_normal(d), train))
    if abs(thresholdout["train"] - thresholdout["holdout"]) < threshold + tolerance * rng.standard_normal():
        thresholdout["holdout"] = thresholdout["train"]
    else:
        thresholdout["holdout"] += tolerance * rng.standard_normal()
    return {f"naive_{part}": v for part, v in naive.items()} | {f"thresholdout_{part}": v for part, v in thresholdout.items()}


def thresholdout_tables(rng: np.random.Generator) -> list[Row]:
    """Repeat the attack on a naively reused holdout and on Thresholdout."""
    runs = [thresholdout_once(rng, HOLDOUT, HOLDOUT, 100) for _ in range(THRESHOLDOUT_RUNS)]
    return [Row(name, np.array([run[name] for run in runs])) for name in runs[0]]


def matching_table(rng: np.random.Generator, n: int = 1000, k: int = 52, runs: int = 2000) -> Row:
    """Repeat the one-bit matching attack with k classifiers on n items."""
    gains = []
    for _ in range(runs):
        right = rng.integers(0, 2, (k, n), dtype=np.int8)
        signs = np.where(2 * right.sum(axis=1, dtype=np.int64) >= n, 1, -1)
        votes = signs @ (2 * right.astype(np.int64) - 1)
        gains.append(float(np.mean(votes > 0) + 0.5 * np.mean(votes == 0)) - 0.5)
    return Row("matching_52", np.array(gains))


def main() -> int:
    """Run the benchmark; return 1 if a figure is outside its tolerance."""
    options = arguments(__doc__ or "").parse_args()
    rng = np.random.default_rng(2015)
    rows = [*ladder_tables(rng), *thresholdout_tables(rng), matching_table(rng)]
    figures: dict[str, float] = {}
    anchors: dict[str, str] = {}
    for row in rows:
        figures |= {row.name: row.measured, f"{row.name}_se": row.error}
        result = "ok" if row.within else "OUTSIDE"
        difference = abs(row.measured - row.published)
        anchors[row.name] = f"published {row.published:.4f}, difference {difference:.4f} of at most {row.tolerance:.4f}: {result}"
    figures["matching_52_formula"] = random_vote_gain(52, 1000)
    figures["outside"] = float(sum(not row.within for row in rows))
    anchors["outside"] = "0"
    publish(figures, anchors, options.json)
    return 0 if not figures["outside"] else 1


if __name__ == "__main__":
    sys.exit(main())
