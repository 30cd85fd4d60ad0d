"""How much a door may ever disclose about sealed items, and what that costs in confidence.

A transcript of verdicts is a message about the sealed items. Whatever strategy a lab follows, it can end in at most 2^B
transcripts, so a bound that holds for each at level δ/2^B holds for whichever one the lab steered towards (a union over
descriptions; Dwork, Feldman, Hardt, Pitassi, Reingold, Roth 2015, "Generalization in adaptive data analysis and holdout reuse").
Four ways of keeping the number of transcripts down, each of them an ``Allowance``:

    counted     at most b passes in k submissions: B = log₂ Σ_{i ≤ b} C(k, i)
    flat        one bit a reply
    kraft       a transcript costs −log₂ Q, Q a probability fixed beforehand, so at most 2^B transcripts cost B or less (Kraft's
                inequality); Q = ½ uniform + ½ Krichevsky–Trofimov (1981) is cheap where nearly all replies are alike
    randomised  every verdict is turned round with probability q: log₂ 2(1 − q) bits of maximal leakage each, which add up under
                adaptive use and multiply a bad event's probability by at most 2^B (Esposito, Gastpar, Issa 2019)

Rounding is always towards more bits. Nothing here stores anything: who counts replies durably is the auditor's meter.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from scipy import stats

from stagezero.evidence.intervals import clopper_pearson_lower

Kind = Literal["counted", "flat", "kraft", "randomised"]
CAPACITY_LIMIT = 10**9
"""``capacity`` looks no further."""


def _log2_up(numerator: int, denominator: int = 1) -> float:
    """log₂ of a ratio of positive integers, exact for powers of two and otherwise rounded up."""
    scaled = -((-numerator << 64) // denominator)
    whole = scaled.bit_length() - 1
    found = math.log2(scaled / (1 << whole)) + (whole - 64)
    if scaled & (scaled - 1) == 0:
        return found
    return math.nextafter(math.nextafter(found, math.inf), math.inf)  # one for the logarithm, one for the sum


def _transcripts(submissions: int, passes: int) -> int:
    if submissions < 0 or passes < 0:
        raise ValueError(f"submissions, passes: expected non-negative numbers, got {submissions} and {passes}")
    term = total = 1
    for i in range(1, min(passes, submissions) + 1):
        term = term * (submissions - i + 1) // i
        total += term
    return total


def counted_bits(submissions: int, passes: int) -> float:
    """log₂ Σ_{i ≤ passes} C(submissions, i): bits of every transcript with at most so many passes.

    (12, 3) gives 8.2 bits, (52, 3) 14.5.
    """
    return _log2_up(_transcripts(submissions, passes))


def kraft_bits(replies: int, passes: int) -> float:
    """−log₂ Q of any transcript with these counts; the order does not matter, and it never exceeds ``replies`` + 1.

    Q = ½ · 2^−n + ½ · C(2a, a) C(2c, c) / (4^n C(n, a)) for a passes and c fails in n replies, in exact integers.
    """
    if not 0 <= passes <= replies:
        raise ValueError(f"replies, passes: expected 0 ≤ passes ≤ replies, got {replies} and {passes}")
    orders = math.comb(replies, passes)
    fails = replies - passes
    mixed = (orders << replies) + math.comb(2 * passes, passes) * math.comb(2 * fails, fails)
    return _log2_up(orders << (2 * replies + 1), mixed)


@dataclass(frozen=True, slots=True)
class Allowance:
    """How much a door may ever disclose about one pool of sealed items.

    Args:
        kind: how replies are charged; see the module.
        submissions: most replies ever, whatever the kind.
        passes: counted: most passes ever; the other kinds do not limit passes.
        bits: flat, kraft, randomised: the budget; counted: None, it follows from the counts.
        flip: randomised: probability that a verdict is turned round, 0 < q < ½; otherwise 0.
        extra: bits set aside for something else that will be disclosed about the same items, such as a shadow's burn.

    Raises:
        ValueError: the fields do not describe an allowance.
    """

    kind: Kind
    submissions: int
    passes: int
    bits: float | None = None
    flip: float = 0.0
    extra: float = 0.0

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise ValueError(f"kind: expected one of {', '.join(get_args(Kind))}, got {self.kind!r}; counted suits most doors")
        if self.submissions < 1:
            raise ValueError(f"submissions: expected at least 1, got {self.submissions}; a door that never answers needs no allowance")
        if self.passes < (1 if self.kind == "counted" else 0):
            raise ValueError(f"passes: expected at least 1, got {self.passes}; say how many passes the door may ever give")
        if not (math.isfinite(self.extra) and self.extra >= 0):
            raise ValueError(f"extra: expected bits of 0 or more, got {self.extra}; leave it out if nothing else is disclosed")
        if self.kind == "randomised" and not 0 < self.flip < 0.5:
            raise ValueError(f"flip: expected a probability between 0 and 1/2, got {self.flip}; use flat for verdicts never turned")
        if self.kind != "randomised" and self.flip != 0:
            raise ValueError(f"flip: expected 0 for kind {self.kind}, got {self.flip}; only randomised verdicts are turned round")
        if self.kind == "counted":
            if self.bits is not None:
                raise ValueError(f"bits: expected None for kind counted, got {self.bits}; they follow from submissions and passes")
        elif self.bits is None or not math.isfinite(self.bits) or self.bits < self._worst(0, 0, 1):
            raise ValueError(
                f"bits: expected room for at least one reply of {self._worst(0, 0, 1):.3g} bits, got {self.bits}; "
                f"set the budget of a {self.kind} allowance"
            )

    def spent(self, replies: int, passes: int) -> float:
        """Bits disclosed by so many replies, so many of them passes; without ``extra``.

        Raises:
            ValueError: the counts are impossible.
        """
        if not 0 <= passes <= replies:
            raise ValueError(f"replies, passes: expected 0 ≤ passes ≤ replies, got {replies} and {passes}; count them again")
        match self.kind:
            case "counted":  # transcripts that could have been seen by now
                return counted_bits(replies, self.passes)
            case "flat":
                return float(replies)
            case "kraft":
                return kraft_bits(replies, passes)
            case "randomised":
                return math.nextafter(replies * math.log2(2.0 * (1.0 - self.flip)), math.inf) if replies else 0.0

    def _worst(self, replies: int, passes: int, more: int) -> float:
        """The dearest that ``more`` further replies can turn out."""
        n = replies + more
        # Only kraft depends on the outcomes: ln Γ is convex, so Q is least where the passes are nearest to a half.
        nearest = {min(max(half, passes), passes + more) for half in (n // 2, n - n // 2)}
        return max(self.spent(n, p) for p in nearest)

    def total(self) -> float:
        """B, which every verdict's level pays for: the most that may ever be disclosed, ``extra`` included."""
        match self.kind:
            case "counted":
                most = counted_bits(self.submissions, self.passes)
            case "flat" | "randomised":
                replies = self.left(0, 0)
                most = self.spent(replies, 0)
            case "kraft":
                assert self.bits is not None
                most = min(self.bits, self._worst(0, 0, self.submissions))
        return math.nextafter(most + self.extra, math.inf) if self.extra else most

    def may_ask(self, replies: int, passes: int, pending: int = 0) -> bool:
        """May another question be taken, with ``pending`` answers still out and counted at their worst?

        A question is charged when this is asked, so that no order of answers can lead past the total.

        Raises:
            ValueError: the counts are impossible.
        """
        if pending < 0:
            raise ValueError(f"pending: expected 0 or more, got {pending}; count the answers still out")
        if not 0 <= passes <= replies:
            raise ValueError(f"replies, passes: expected 0 ≤ passes ≤ replies, got {replies} and {passes}; count them again")
        if replies + pending >= self.submissions:
            return False
        if self.kind == "counted":
            return passes + pending < self.passes
        assert self.bits is not None
        return self._worst(replies, passes, pending + 1) <= self.bits

    def left(self, replies: int, passes: int) -> int:
        """How many more replies are certain, however they turn out."""
        # may_ask with m pending says whether m + 1 more fit at their worst; the worst only grows with m.
        low, high = 0, max(self.submissions - replies, 0)
        while low < high:
            middle = (low + high) // 2
            if self.may_ask(replies, passes, middle):
                low = middle + 1
            else:
                high = middle
        return low


def claim_level(delta: float, claims: int, bits: float) -> float:
    """Level of each claim's bound, so that all hold together with probability 1 − δ whatever crosses the door."""
    return delta / claims * math.exp2(-bits)  # underflows to 0, a level at which nothing passes


def needed(n: int, bar: float, level: float) -> int:
    """The least right answers of ``n`` whose Clopper–Pearson lower bound at ``level`` reaches ``bar``; n + 1 if none does."""
    low, high = 0, n + 1
    while low < high:
        middle = (low + high) // 2
        if clopper_pearson_lower(middle, n, level) >= bar:
            high = middle
        else:
            low = middle + 1
    return low


def pass_probability(n: int, bar: float, level: float, mean: float) -> float:
    """Chance that a model of true mean ``mean`` passes one claim of ``n`` independent clusters."""
    return float(stats.binom.sf(needed(n, bar, level) - 1, n, mean))


def capacity(n: int, bar: float, mean: float, claims: int, delta: float, passes: int, power: float = 0.8) -> int:
    """The most submissions a counted door of ``passes`` could allow so that a model of true mean ``mean`` still passes.

    It passes all claims together with probability at least ``power``, under any dependence between them (the chances of failing are
    added up). 0 if one submission is already too many; ``CAPACITY_LIMIT`` where the suite could carry at least that.
    """

    def carries(submissions: int) -> bool:
        level = claim_level(delta, claims, counted_bits(submissions, passes))
        return claims * (1.0 - pass_probability(n, bar, level, mean)) <= 1.0 - power

    if carries(CAPACITY_LIMIT):
        return CAPACITY_LIMIT
    low, high = 0, CAPACITY_LIMIT
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if carries(middle) else (low, middle)
    return low


def matching_gain(submissions: int, n: int) -> float:
    """Φ(√(2k/πn)) − ½: the same attack's expected optimism, in the limit of many submissions and items."""
    return float(stats.norm.cdf(math.sqrt(2.0 * submissions / (math.pi * n)))) - 0.5
