"""How much a door may ever disclose about a sealed suite, and what that costs in confidence.

A transcript of verdicts is a message about the sealed items. At most 2^B transcripts exist, so a bound that holds for each
at level δ/2^B holds for whichever one the lab steered towards (a union bound over descriptions; Dwork et al. 2015).
"""

from __future__ import annotations

import math


def counted_bits(submissions: int, passes: int) -> float:
    """log₂ Σ_{i ≤ passes} C(submissions, i): bits of every transcript with at most so many passes.

    (12, 3) gives 8.2 bits, (52, 3) 14.5.
    """
    if submissions < 0 or passes < 0:
        raise ValueError(f"submissions, passes: expected non-negative numbers, got {submissions} and {passes}")
    return math.log2(sum(math.comb(submissions, i) for i in range(min(passes, submissions) + 1)))


def claim_level(delta: float, claims: int, bits: float) -> float:
    """Level of each claim's bound, so that all hold together with probability 1 − δ whatever crosses the door."""
    return delta / (claims * math.exp2(bits))
