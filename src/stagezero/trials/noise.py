"""The noise of recorded runs: how much each score varies between builds of one recipe."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stagezero.errors import InputError
from stagezero.evidence import Estimate, sd_interval
from stagezero.evidence.variance import NoiseParts, best_items_factor
from stagezero.ledger import read
from stagezero.trials.jobs import Costs


@dataclass(frozen=True, slots=True)
class ClaimNoise:
    """The noise of one score.

    ``paired_sd`` is the standard deviation of a paired difference of two builds of one recipe on
    the same items, with a 95 % interval; its ``n`` counts the differences behind it. ``score_sd``
    is the standard deviation of a score over seeds and fresh items; None with fewer than two
    builds. ``parts`` takes the noise apart; None for ledgers of rule 1. ``mean`` is the mean score,
    and ``builds`` the number of builds.
    """

    claim: str
    paired_sd: Estimate
    score_sd: float | None
    parts: NoiseParts | None
    mean: float
    builds: int


def noise_of_runs(runs: Sequence[Path]) -> list[ClaimNoise]:
    """Return the noise of every claim, from the controls of recorded runs.

    Every registered batch calibrates its control; the variances of all batches are averaged,
    weighted by their degrees of freedom. Scores are compared within a batch only, since different
    batches have different controls.

    Args:
        runs: folders of campaigns or comparisons.

    Raises:
        InputError: a run has no calibration yet.
    """
    paired: dict[str, list[tuple[float, int]]] = {}
    scores: dict[str, list[list[float]]] = {}
    parts: dict[str, list[list[float]]] = {}
    for run in dict.fromkeys(path.resolve() for path in runs):
        differences = max(3, round(_calibration_runs(run) / 1.5))  # each run is part of two A/A differences
        for calibration, controls in _batches(run):
            for claim, values in _columns(controls).items():
                scores.setdefault(claim, []).append(values)
                paired.setdefault(claim, []).append((calibration["pooled_sd"][claim], differences))
                if "parts" in calibration:
                    parts.setdefault(claim, []).append(calibration["parts"][claim])
    if not paired:
        raise InputError(
            f"--from: expected a run with at least one calibrated trial, got {', '.join(map(str, runs))}; give the folder of a run."
        )
    return [_claim_noise(claim, paired[claim], scores[claim], parts.get(claim, [])) for claim in paired]


def _calibration_runs(run: Path) -> int:
    """Return the number of calibration builds of each batch of a run."""
    body = next(iter(read(run if run.is_file() else run / "ledger.jsonl"))).body
    return int((body.get("trial") or body["project"]["trial"])["calibration"])


def _claim_noise(
    claim: str, paired: Sequence[tuple[float, int]], scores: Sequence[Sequence[float]], parts: Sequence[Sequence[float]]
) -> ClaimNoise:  # fmt: skip
    """Combine the noise of several batches."""
    weight = sum(n for _, n in paired)
    sd = math.sqrt(sum(n * s * s for s, n in paired) / weight)
    means = [sum(values) / len(values) for values in scores]
    squares = sum((v - m) ** 2 for values, m in zip(scores, means, strict=True) for v in values)
    df = sum(len(values) - 1 for values in scores)
    builds = sum(len(values) for values in scores)
    mean = sum(sum(values) for values in scores) / builds
    means_of_parts = [math.sqrt(sum(x * x for x in column) / len(parts)) for column in zip(*parts, strict=True)]
    return ClaimNoise(
        claim, sd_interval(sd, weight), math.sqrt(squares / df) if df > 0 else None, NoiseParts(*means_of_parts) if parts else None,
        mean, builds,
    )  # fmt: skip


def _batches(run: Path) -> Iterable[tuple[Mapping[str, Any], list[Mapping[str, float]]]]:
    """Yield the calibration entry and the control's scores of every batch of a run."""
    calibration: Mapping[str, Any] | None = None
    controls: dict[int, Mapping[str, float]] = {}
    for entry in read(run if run.is_file() else run / "ledger.jsonl"):
        if entry.kind == "calibration":
            if calibration is not None and controls:
                yield calibration, list(controls.values())
            calibration, controls = entry.body, {}
        elif entry.kind == "pair" and entry.body["control_model"]:  # a failed build has a given score
            controls[entry.body["replicate"]] = entry.body["control"]
    if calibration is not None and controls:
        yield calibration, list(controls.values())


def _columns(rows: Sequence[Mapping[str, float]]) -> dict[str, list[float]]:
    """Return the scores of each claim."""
    return {claim: [row[claim] for row in rows] for claim in rows[0]}


@dataclass(frozen=True, slots=True)
class ItemsAdvice:
    """How many items of each kind buy the most evidence for the time.

    ``now`` is the number in the run, and ``best`` the advised one. ``saved`` is the share of the
    time that ``best`` saves for the same evidence, averaged over the properties.
    """

    now: int
    best: int
    saved: float

    def sentence(self) -> str:
        """Return the advice in one sentence."""
        if self.best == self.now:
            return f"items: {self.now} buys the most evidence for the time"
        return f"items: {self.best} instead of {self.now} would buy the same evidence in {1 - self.saved:.0%} of the time"


def items_advice(runs: Sequence[Path], noise: Sequence[ClaimNoise]) -> ItemsAdvice | None:
    """Return how many items to use, from the noise and the costs of the last of these runs.

    None if the run has no costs yet, or if its ledger does not take the noise apart.

    Args:
        runs: folders of runs.
        noise: their noise.
    """
    run = runs[-1] if runs else Path()
    folder = run.parent if run.is_file() else run
    costs = Costs.load(folder / "costs.json")
    parts = [n.parts for n in noise if n.parts is not None]
    if not parts or costs.train_seconds <= 0 or costs.generate_seconds <= 0:
        return None
    body = next(iter(read(folder / "ledger.jsonl"))).body
    now = int((body.get("trial") or body["project"]["trial"])["items"])
    train, answer = costs.train_seconds, costs.generate_seconds
    factor = math.exp(sum(math.log(best_items_factor(p, train, answer)) for p in parts) / len(parts))
    best = max(2, round(now * factor, -1 if now * factor >= 20 else 0))
    time_ratio = (train + answer * best / now) / (train + answer)
    ratios = [(p.paired_sd(best / now) / p.paired_sd()) ** 2 * time_ratio for p in parts if p.paired_sd() > 0]
    saved = 1 - sum(ratios) / len(ratios) if ratios else 0.0
    return ItemsAdvice(now, int(best) if saved > 0.02 else now, max(0.0, saved))
