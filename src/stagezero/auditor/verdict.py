"""The verdict rule: a model passes if the exact lower bound of every claim reaches its bar.

The confidence level of the bounds accounts for everything that the door may ever disclose. These
are pure functions; ``auditor`` and ``shadow`` call them.
"""

from __future__ import annotations

import hashlib
import hmac
import math
from collections.abc import Mapping, Sequence

from stagezero.door.messages import Terms, Verdict
from stagezero.evidence import claim_level, clopper_pearson_lower
from stagezero.tasks import Item, Outcome, score


def lower_bounds(right: Mapping[str, tuple[int, int]], terms: Terms, bits: float) -> dict[str, float]:
    """Return the Clopper–Pearson lower bound of each claim's true mean.

    Args:
        right: claim → (right answers, clusters).
        terms: the bars and δ.
        bits: the total allowance of the door, not the bits used so far; the level accounts for it.
    """
    level = claim_level(terms.delta, len(terms.bars), bits)
    return {claim: clopper_pearson_lower(k, n, level) for claim, (k, n) in right.items()}


def passes(right: Mapping[str, tuple[int, int]], terms: Terms, bits: float) -> bool:
    """Return whether every claim's lower bound reaches its bar; arguments as ``lower_bounds``."""
    return all(low >= terms.bars[claim] for claim, low in lower_bounds(right, terms, bits).items())


def ladder_rung(right: Mapping[str, tuple[int, int]], terms: Terms, bits: float) -> float | None:
    """Return the highest rung at or below the model's lower bound; None if it is below the first.

    Arguments as in ``lower_bounds``; the terms must have a ``step``.
    """
    assert terms.step is not None
    ((claim, bar),) = terms.bars.items()
    steps = math.floor((lower_bounds(right, terms, bits)[claim] - bar) / terms.step + 1e-9)
    return bar + steps * terms.step if steps >= 0 else None


def decide(right: Mapping[str, tuple[int, int]], terms: Terms, bits: float, best: float | None) -> tuple[Verdict, float | None]:
    """Return the verdict, and on a ladder the rung that the model reached.

    A pass on a ladder certifies, at the certificate's confidence, that the model is better than the
    best earlier one by at least a step. The statement is about the true mean.

    Args:
        right: claim → (right answers, clusters).
        terms: the bars, δ and the step.
        bits: the total allowance of the door.
        best: the highest rung that an earlier model has reached; None if none has.

    Source:
        Blum & Hardt 2015, who make the statement about the score on the sealed items.
    """
    if terms.step is None:
        return ("pass" if passes(right, terms, bits) else "fail"), None
    rung = ladder_rung(right, terms, bits)
    if rung is None or (best is not None and rung < best + terms.step / 2):
        return "fail", None
    return "pass", rung


def count_right(items_by_claim: Mapping[str, Sequence[Item]], answers: Sequence[str]) -> dict[str, tuple[int, int]]:
    """Score the answers to all sealed items; return claim → (right answers, clusters).

    Args:
        items_by_claim: the sealed items, one of each cluster.
        answers: one per item, in the order of the claims.
    """
    counts = {claim: [0, 0] for claim in items_by_claim}
    claimed_items = [(claim, item) for claim, items in items_by_claim.items() for item in items]
    for (claim, item), answer in zip(claimed_items, answers, strict=True):
        counts[claim][0] += score(item, answer) is Outcome.RIGHT
        counts[claim][1] += 1
    return {claim: (k, n) for claim, (k, n) in counts.items()}


def item_scores(items_by_claim: Mapping[str, Sequence[Item]], answers: Sequence[str]) -> list[float]:
    """Return 1 for each right answer and 0 for any other, in the order of the claims."""
    flat = [item for items in items_by_claim.values() for item in items]
    return [float(score(item, answer) is Outcome.RIGHT) for item, answer in zip(flat, answers, strict=True)]


def randomise(verdict: Verdict, flip: float, secret: bytes, suite: str, model: str) -> Verdict:
    """Flip a verdict with probability ``flip``; the result is always the same for one model.

    Args:
        verdict: the verdict before randomisation.
        flip: the probability of a flip.
        secret: the auditor's lifetime secret, from which the flip is derived.
        suite: the suite's name.
        model: the model's digest.
    """
    draw = int.from_bytes(hmac.new(secret, f"flip/{suite}/{model}".encode(), hashlib.sha256).digest()[:8]) / 2**64
    if draw >= flip:
        return verdict
    return "fail" if verdict == "pass" else "pass"
