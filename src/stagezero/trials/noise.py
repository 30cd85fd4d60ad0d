"""The noise of recorded runs: how much each score varies between builds of one recipe."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from stagezero.errors import InputError
from stagezero.evidence import Estimate, sd_interval
from stagezero.ledger import read


@dataclass(frozen=True, slots=True)
class ClaimNoise:
    """The noise of one score.

    ``paired_sd`` is the standard deviation of a paired difference of two builds of one recipe on
    the same items, with a 95 % interval; its ``n`` counts the differences behind it. ``score_sd``
    is the standard deviation of a score over seeds and fresh items; None with fewer than two
    builds. ``mean`` is the mean score, and ``builds`` the number of builds.
    """

    claim: str
    paired_sd: Estimate
    score_sd: float | None
    mean: float
    builds: int


def noise_of_runs(runs: Sequence[Path]) -> list[ClaimNoise]:
    """Return the noise of every claim, from the controls of recorded runs.

    Every registered batch calibrates its control; the variances of all batches are averaged,
    weighted by their numbers of builds. Scores are compared within a batch only, since different
    batches have different controls.

    Args:
        runs: folders of campaigns or comparisons.

    Raises:
        InputError: a run has no calibration yet.
    """
    paired: dict[str, list[tuple[float, int]]] = {}
    scores: dict[str, list[list[float]]] = {}
    for run in runs:
        for sds, controls in _batches(run):
            builds = len(controls)
            for claim, values in _columns(controls).items():
                scores.setdefault(claim, []).append(values)
                paired.setdefault(claim, []).append((sds[claim], max(builds, 3)))
    if not paired:
        raise InputError(
            f"--from: expected a run with at least one calibrated trial, got {', '.join(map(str, runs))}; give the folder of a run."
        )
    return [_claim_noise(claim, paired[claim], scores[claim]) for claim in paired]


def _claim_noise(claim: str, paired: Sequence[tuple[float, int]], scores: Sequence[Sequence[float]]) -> ClaimNoise:
    """Combine the noise of several batches."""
    weight = sum(n for _, n in paired)
    sd = math.sqrt(sum(n * s * s for s, n in paired) / weight)
    means = [sum(values) / len(values) for values in scores]
    squares = sum((v - m) ** 2 for values, m in zip(scores, means, strict=True) for v in values)
    df = sum(len(values) - 1 for values in scores)
    builds = sum(len(values) for values in scores)
    mean = sum(sum(values) for values in scores) / builds
    return ClaimNoise(claim, sd_interval(sd, weight), math.sqrt(squares / df) if df > 0 else None, mean, builds)


def _batches(run: Path) -> Iterable[tuple[Mapping[str, float], list[Mapping[str, float]]]]:
    """Yield the A/A standard deviations and the control's scores of every batch of a run."""
    sds: Mapping[str, float] | None = None
    controls: dict[int, Mapping[str, float]] = {}
    for entry in read(run if run.is_file() else run / "ledger.jsonl"):
        if entry.kind == "calibration":
            if sds is not None and controls:
                yield sds, list(controls.values())
            sds, controls = entry.body["pooled_sd"], {}
        elif entry.kind == "pair":
            controls[entry.body["replicate"]] = entry.body["control"]
    if sds is not None and controls:
        yield sds, list(controls.values())


def _columns(rows: Sequence[Mapping[str, float]]) -> dict[str, list[float]]:
    """Return the scores of each claim."""
    return {claim: [row[claim] for row in rows] for claim in rows[0]}
