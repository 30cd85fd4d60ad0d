"""Bounds on how much a door may disclose about sealed items, and the confidence that this costs.

A transcript of verdicts is a message about the sealed items. Under any adaptive strategy, a lab can
end in at most 2^B transcripts. If a confidence bound holds at level δ/2^B for each transcript, then
by the union bound it holds at level δ for the transcript that the lab chose (union over
descriptions; Dwork, Feldman, Hardt, Pitassi, Reingold, Roth 2015, "Generalization in adaptive data
analysis and holdout reuse"). Four kinds of ``Allowance`` limit the number of transcripts:

    counted     At most b passes in k submissions: B = log₂ Σ_{i ≤ b} C(k, i).
    flat        One bit per reply.
    kraft       A transcript costs −log₂ Q, where Q is a probability fixed in advance. By Kraft's
                inequality at most 2^B transcripts cost B or less. Q is half uniform and half
                Krichevsky–Trofimov (1981), so replies that are nearly all alike cost little.
    randomised  Each verdict is flipped with probability q. A reply has a maximal leakage of
                log₂ 2(1 − q) bits. Maximal leakage adds up under adaptive use, and B bits multiply
                the probability of a bad event by at most 2^B (Esposito, Gastpar, Issa 2019).

All bit counts are rounded up. This module stores nothing; the auditor's budget meter counts replies
durably.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from scipy.special import betainc, ndtr

from stagezero.evidence.intervals import clopper_pearson_lower

Kind = Literal["counted", "flat", "kraft", "randomised"]
MAX_CAPACITY = 10**9
"""Largest number of submissions that ``capacity`` considers."""


def _log2_up(numerator: int, denominator: int = 1) -> float:
    """Return log₂ of a ratio of positive integers: exact for powers of 2, otherwise rounded up."""
    scaled = -((-numerator << 64) // denominator)
    whole = scaled.bit_length() - 1
    bits = math.log2(scaled / (1 << whole)) + (whole - 64)
    if scaled & (scaled - 1) == 0:
        return bits
    return math.nextafter(math.nextafter(bits, math.inf), math.inf)  # one step for the logarithm, one for the sum


def _transcripts(submissions: int, passes: int) -> int:
    """Return the number of transcripts with at most ``passes`` passes."""
    if submissions < 0 or passes < 0:
        raise ValueError(f"submissions, passes: expected non-negative numbers, got {submissions} and {passes}")
    term = total = 1
    for i in range(1, min(passes, submissions) + 1):
        term = term * (submissions - i + 1) // i
        total += term
    return total


def counted_bits(submissions: int, passes: int) -> float:
    """Return log₂ Σ_{i ≤ passes} C(submissions, i): the bits of a counted door.

    This is log₂ of the number of transcripts with at most ``passes`` passes. (12, 3) gives 8.2
    bits, (52, 3) gives 14.5.

    Raises:
        ValueError: a count is negative.
    """
    return _log2_up(_transcripts(submissions, passes))


def kraft_bits(replies: int, passes: int) -> float:
    """Return −log₂ Q of a transcript with these counts, at most ``replies`` + 1.

    Q does not depend on the order of the replies. With a passes and c fails in n replies,

        Q = ½ · 2^−n + ½ · C(2a, a) C(2c, c) / (4^n C(n, a)),

    computed in exact integers.

    Raises:
        ValueError: the counts are impossible.
    """
    if not 0 <= passes <= replies:
        raise ValueError(f"replies, passes: expected 0 ≤ passes ≤ replies, got {replies} and {passes}")
    orders = math.comb(replies, passes)
    fails = replies - passes
    mixed = (orders << replies) + math.comb(2 * passes, passes) * math.comb(2 * fails, fails)
    return _log2_up(orders << (2 * replies + 1), mixed)


@dataclass(frozen=True, slots=True)
class Allowance:
    """The total that a door may disclose about one pool of sealed items.

    Args:
        kind: how replies are charged; see the module docstring.
        submissions: maximum number of replies, for every kind.
        passes: maximum number of passes, for ``counted``. The other kinds do not limit passes.
        bits: budget of ``flat``, ``kraft`` and ``randomised``. For ``counted`` it is None, because
            the counts determine it.
        flip: probability q that a verdict is flipped, 0 < q < ½, for ``randomised``; otherwise 0.
        extra: bits reserved for another disclosure about the same items, such as burning a shadow
            suite.

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
            raise ValueError(f"passes: expected at least 1, got {self.passes}; set the maximum number of passes of this door")
        if not (math.isfinite(self.extra) and self.extra >= 0):
            raise ValueError(f"extra: expected bits of 0 or more, got {self.extra}; leave it out if nothing else is disclosed")
        if self.kind == "randomised" and not 0 < self.flip < 0.5:
            raise ValueError(
                f"flip: expected a probability between 0 and 1/2, got {self.flip}; use kind flat if verdicts are never flipped"
            )
        if self.kind != "randomised" and self.flip != 0:
            raise ValueError(f"flip: expected 0 for kind {self.kind}, got {self.flip}; only randomised verdicts are flipped")
        if self.kind == "counted":
            if self.bits is not None:
                raise ValueError(f"bits: expected None for kind counted, got {self.bits}; submissions and passes determine the bits")
        elif self.bits is None or not math.isfinite(self.bits) or self.bits < self._worst(0, 0, 1):
            raise ValueError(
                f"bits: expected room for at least one reply of {self._worst(0, 0, 1):.3g} bits, got {self.bits}; "
                f"set the budget of a {self.kind} allowance"
            )

    def bits_spent(self, replies: int, passes: int) -> float:
        """Return the bits that these replies disclose, without ``extra``.

        Raises:
            ValueError: the counts are impossible.
        """
        if not 0 <= passes <= replies:
            raise ValueError(f"replies, passes: expected 0 ≤ passes ≤ replies, got {replies} and {passes}; check both counts")
        match self.kind:
            case "counted":  # log₂ of the number of transcripts that are possible so far
                return counted_bits(replies, self.passes)
            case "flat":
                return float(replies)
            case "kraft":
                return kraft_bits(replies, passes)
            case "randomised":
                return math.nextafter(replies * math.log2(2.0 * (1.0 - self.flip)), math.inf) if replies else 0.0

    def _worst(self, replies: int, passes: int, more: int) -> float:
        """Return the largest possible total cost, in bits, after ``more`` further replies."""
        n = replies + more
        # Only kraft depends on the outcomes. Because ln Γ is convex, Q is smallest where the share
        # of passes is nearest to one half.
        nearest = {min(max(half, passes), passes + more) for half in (n // 2, n - n // 2)}
        return max(self.bits_spent(n, p) for p in nearest)

    def total_bits(self) -> float:
        """Return B, the maximum disclosure in bits, including ``extra``.

        The level of every verdict is divided by 2^B.
        """
        match self.kind:
            case "counted":
                maximum = counted_bits(self.submissions, self.passes)
            case "flat" | "randomised":
                replies = self.guaranteed_replies(0, 0)
                maximum = self.bits_spent(replies, 0)
            case "kraft":
                assert self.bits is not None
                maximum = min(self.bits, self._worst(0, 0, self.submissions))
        return math.nextafter(maximum + self.extra, math.inf) if self.extra else maximum

    def allows_submission(self, replies: int, passes: int, pending: int = 0) -> bool:
        """Return whether another submission fits into the allowance.

        Every pending submission is charged at its worst outcome. Because a submission is charged
        before it is examined, no order of replies can exceed the total.

        Args:
            replies: number of replies so far.
            passes: number of passes among them.
            pending: number of accepted submissions without a reply.

        Raises:
            ValueError: the counts are impossible.
        """
        if pending < 0:
            raise ValueError(f"pending: expected 0 or more, got {pending}; count the submissions without a reply")
        if not 0 <= passes <= replies:
            raise ValueError(f"replies, passes: expected 0 ≤ passes ≤ replies, got {replies} and {passes}; check both counts")
        if replies + pending >= self.submissions:
            return False
        if self.kind == "counted":
            return passes + pending < self.passes
        assert self.bits is not None
        return self._worst(replies, passes, pending + 1) <= self.bits

    def guaranteed_replies(self, replies: int, passes: int) -> int:
        """Return how many further replies fit into the allowance at their worst outcomes."""
        # allows_submission with m pending returns whether m + 1 more replies fit at their worst
        # outcomes. The worst cost increases with m, so bisection finds the largest number.
        low, high = 0, max(self.submissions - replies, 0)
        while low < high:
            middle = (low + high) // 2
            if self.allows_submission(replies, passes, middle):
                low = middle + 1
            else:
                high = middle
        return low


def claim_level(delta: float, claims: int, bits: float) -> float:
    """Return the level of each claim's confidence bound.

    At this level all bounds hold together with probability 1 − δ, for every strategy of the lab.

    Args:
        delta: δ, the total error probability.
        claims: number of claims.
        bits: B, the maximum disclosure.
    """
    return delta / claims * math.exp2(-bits)  # may underflow to 0, a level at which no model passes


def required_correct(n: int, bar: float, level: float) -> int:
    """Return the smallest number of right answers that passes a claim.

    It is the smallest number whose Clopper–Pearson lower bound reaches the bar, or n + 1 if there
    is none.

    Args:
        n: number of independent clusters.
        bar: required accuracy.
        level: level of the confidence bound.
    """
    low, high = 0, n + 1
    while low < high:
        middle = (low + high) // 2
        if clopper_pearson_lower(middle, n, level) >= bar:
            high = middle
        else:
            low = middle + 1
    return low


def pass_probability(n: int, bar: float, level: float, mean: float) -> float:
    """Return the probability that a model passes one claim.

    Args:
        n, bar, level: as in ``required_correct``.
        mean: true accuracy of the model.
    """
    correct = required_correct(n, bar, level)
    return float(betainc(correct, n - correct + 1, mean)) if correct <= n else 0.0  # P(X ≥ correct), X ~ Bin(n, mean)


def capacity(n: int, bar: float, mean: float, claims: int, delta: float, passes: int, power: float = 0.8) -> int:
    """Return the largest number of submissions at which a model still passes a counted door.

    The model passes all claims together with probability at least ``power``, under any dependence
    between claims (union bound over the probabilities of failing).

    Args:
        n: number of independent clusters of each claim.
        bar: required accuracy of each claim.
        mean: true accuracy of the model on each claim.
        claims: number of claims.
        delta: δ, the total error probability.
        passes: maximum number of passes of the door.
        power: required probability.

    Returns:
        0 if one submission is already too many; ``MAX_CAPACITY`` if the suite supports at least
        that many.
    """

    def has_power(submissions: int) -> bool:
        level = claim_level(delta, claims, counted_bits(submissions, passes))
        return claims * (1.0 - pass_probability(n, bar, level, mean)) <= 1.0 - power

    if has_power(MAX_CAPACITY):
        return MAX_CAPACITY
    low, high = 0, MAX_CAPACITY
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if has_power(middle) else (low, middle)
    return low


def random_vote_gain(submissions: int, n: int) -> float:
    """Return the expected accuracy gain of a known attack on the sealed items.

    The attack submits k random classifiers, inverts each one whose one-bit reply is unfavourable,
    and takes a majority vote. With n items the gain is Φ(√(2k/πn)) − ½, in the limit of many
    submissions and items.
    """
    return float(ndtr(math.sqrt(2.0 * submissions / (math.pi * n)))) - 0.5
