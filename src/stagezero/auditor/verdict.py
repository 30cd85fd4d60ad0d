"""Pass or fail: every claim's exact lower bound, at a level that pays for all the door may ever disclose."""

from __future__ import annotations

import hashlib
import hmac
import math
from collections.abc import Mapping, Sequence

from stagezero.door.messages import Terms, Word
from stagezero.evidence import claim_level, clopper_pearson_lower
from stagezero.tasks import Item, Outcome, score


def lower_bounds(right: Mapping[str, tuple[int, int]], terms: Terms, bits: float) -> dict[str, float]:
    """Claim → the least true mean that the answers are consistent with, at a level that pays for ``bits``.

    Args:
        right: claim → (right answers, clusters).
        terms: bars and δ.
        bits: the total allowance of the door, not what was used so far.
    """
    level = claim_level(terms.delta, len(terms.bars), bits)
    return {claim: clopper_pearson_lower(k, n, level) for claim, (k, n) in right.items()}


def passes(right: Mapping[str, tuple[int, int]], terms: Terms, bits: float) -> bool:
    """The verdict rule: every claim's lower bound reaches its bar."""
    return all(low >= terms.bars[claim] for claim, low in lower_bounds(right, terms, bits).items())


def rung(right: Mapping[str, tuple[int, int]], terms: Terms, bits: float) -> float | None:
    """How far up the ladder a model has shown itself to be: the highest rung at or below its lower bound; None below the first."""
    assert terms.step is not None
    ((claim, bar),) = terms.bars.items()
    steps = math.floor((lower_bounds(right, terms, bits)[claim] - bar) / terms.step + 1e-9)
    return bar + steps * terms.step if steps >= 0 else None


def decide(right: Mapping[str, tuple[int, int]], terms: Terms, bits: float, best: float | None) -> tuple[Word, float | None]:
    """The verdict, and on a ladder how far up the model has come.

    A ladder's pass says: above the best so far by a step, at the certificate's confidence (after Blum & Hardt 2015, who say
    so of the score on the sealed items; here it is said of the true mean).

    Args:
        best: the highest rung that an earlier model has reached; None for none.
    """
    if terms.step is None:
        return ("pass" if passes(right, terms, bits) else "fail"), None
    found = rung(right, terms, bits)
    if found is None or (best is not None and found < best + terms.step / 2):
        return "fail", None
    return "pass", found


def tally(sealed: Mapping[str, Sequence[Item]], answers: Sequence[str]) -> dict[str, tuple[int, int]]:
    """Score the answers to all sealed items, in the order of the claims: claim → (right answers, clusters)."""
    found = {claim: [0, 0] for claim in sealed}
    owner = [(claim, item) for claim, chosen in sealed.items() for item in chosen]
    for (claim, item), answer in zip(owner, answers, strict=True):
        found[claim][0] += score(item, answer) is Outcome.RIGHT
        found[claim][1] += 1
    return {claim: (k, n) for claim, (k, n) in found.items()}


def marks(sealed: Mapping[str, Sequence[Item]], answers: Sequence[str]) -> list[float]:
    """1 for each right answer and 0 for any other, in the order of the claims."""
    items = [item for chosen in sealed.values() for item in chosen]
    return [float(score(item, answer) is Outcome.RIGHT) for item, answer in zip(items, answers, strict=True)]


def turned(word: Word, flip: float, secret: bytes, suite: str, model: str) -> Word:
    """A randomised verdict: turned round with probability ``flip``, always the same way for the same model."""
    drawn = int.from_bytes(hmac.new(secret, f"flip/{suite}/{model}".encode(), hashlib.sha256).digest()[:8]) / 2**64
    if drawn >= flip:
        return word
    return "fail" if word == "pass" else "pass"
