"""Disclosure of a door: transcript counts, exact costs, and the total under any order of events."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.special import gammaln

from stagezero.evidence import Allowance, capacity, claim_level, clopper_pearson_lower, random_vote_gain, required_correct
from stagezero.evidence.leakage import MAX_CAPACITY, Kind, counted_bits, kraft_bits, pass_probability


def counted(submissions: int, passes: int, extra: float = 0.0) -> Allowance:
    return Allowance("counted", submissions, passes, extra=extra)


def complete_transcripts(allowance: Allowance) -> list[tuple[int, ...]]:
    """Return all transcripts of a lab that submits single models until the budget is spent."""
    finished: list[tuple[int, ...]] = []
    unfinished: list[tuple[int, ...]] = [()]
    while unfinished:
        transcript = unfinished.pop()
        if allowance.allows_submission(len(transcript), sum(transcript)):
            unfinished += [(*transcript, 0), (*transcript, 1)]
        else:
            finished.append(transcript)
    return finished


def test_counted_figures_of_the_design() -> None:
    assert counted(12, 3).total_bits() == pytest.approx(8.2, abs=0.05)
    assert counted(52, 3).total_bits() == pytest.approx(14.5, abs=0.05)
    assert 2 ** counted(12, 3).total_bits() == pytest.approx(1 + 12 + 66 + 220)
    assert counted(12, 12).total_bits() == 12.0, "if all transcripts are possible, a submission costs one bit"
    assert counted(3, 8).total_bits() == 3.0
    assert counted(12, 3, extra=1.0).total_bits() == pytest.approx(counted(12, 3).total_bits() + 1)


@pytest.mark.parametrize("allowance", [
    counted(10, 3), counted(6, 6), counted(9, 1),
    Allowance("flat", 12, 0, bits=8.5), Allowance("flat", 7, 0, bits=30.0),
    Allowance("kraft", 14, 0, bits=7.0), Allowance("kraft", 14, 0, bits=3.3), Allowance("kraft", 9, 0, bits=99.0),
])  # fmt: skip
def test_the_number_of_complete_transcripts_is_at_most_two_to_the_total_bits(allowance: Allowance) -> None:
    assert len(complete_transcripts(allowance)) <= 2 ** allowance.total_bits() * (1 + 1e-12)


def test_bits_are_never_rounded_down() -> None:
    for k, b in itertools.product((5, 12, 52, 400), (1, 3, 4, 5)):
        transcripts = sum(math.comb(k, i) for i in range(b + 1))
        assert Fraction(counted_bits(k, b)) >= Fraction(math.log2(transcripts))
    assert counted_bits(2000, 1000) < 2000, "a count larger than any float must still be exact"
    assert counted(12, 3, extra=0.1).total_bits() >= counted(12, 3).total_bits() + 0.1


def test_a_code_has_at_most_unit_mass() -> None:
    for n in range(11):
        mass = sum(Fraction(2.0 ** -kraft_bits(n, sum(t))) for t in itertools.product((0, 1), repeat=n))
        assert 1 - 1e-12 < mass <= 1 + 1e-15


@pytest.mark.parametrize("n", [1, 5, 12])
def test_at_most_two_to_the_b_transcripts_cost_at_most_b_bits(n: int) -> None:
    costs = sorted(kraft_bits(n, sum(t)) for t in itertools.product((0, 1), repeat=n))
    for i, cost in enumerate(costs, start=1):
        assert i <= 2**cost * (1 + 1e-12)


def test_the_code_is_the_stated_mixture() -> None:
    for n, a in ((1, 0), (7, 3), (52, 3), (300, 0), (300, 150)):
        kt = gammaln(a + 0.5) + gammaln(n - a + 0.5) - math.log(math.pi) - gammaln(n + 1)
        mixed = np.logaddexp(-n * math.log(2), kt) + math.log(0.5)
        assert kraft_bits(n, a) == pytest.approx(-mixed / math.log(2), rel=1e-10)
        assert kraft_bits(n, a) <= n + 1
    assert kraft_bits(0, 0) == 0.0 and kraft_bits(1, 1) == 1.0
    assert kraft_bits(300, 0) < 7 < 300, "equal replies must be nearly free"


def maximal_leakage(channel: np.ndarray) -> float:
    """log₂ Σ_y max_x p(y | x), for rows p(· | x): Esposito, Gastpar and Issa 2019, equation 7."""
    return math.log2(channel.max(axis=0).sum())


@pytest.mark.parametrize("flip", [0.1, 0.25, 0.4])
def test_a_randomised_verdict_costs_the_maximal_leakage_of_its_channel(flip: float) -> None:
    allowance = Allowance("randomised", 40, 0, bits=30.0, flip=flip)
    channel = np.array([[1 - flip, flip], [flip, 1 - flip]])
    assert allowance.bits_spent(1, 0) == pytest.approx(maximal_leakage(channel), rel=1e-12)
    together = np.array([[math.prod(channel[x, y] for x, y in zip(xs, ys, strict=True)) for ys in itertools.product((0, 1), repeat=4)]
                         for xs in itertools.product((0, 1), repeat=4)])  # fmt: skip
    assert allowance.bits_spent(4, 2) == pytest.approx(maximal_leakage(together), rel=1e-12)
    assert allowance.bits_spent(4, 2) < 4


KINDS: tuple[Kind, ...] = ("counted", "flat", "kraft", "randomised")


@st.composite
def allowances(draw: st.DrawFn) -> Allowance:
    kind, submissions = draw(st.sampled_from(KINDS)), draw(st.integers(1, 40))
    extra = draw(st.sampled_from([0.0, 0.3, 2.0]))
    if kind == "counted":
        return Allowance(kind, submissions, draw(st.integers(1, 10)), extra=extra)
    flip = draw(st.floats(0.01, 0.49)) if kind == "randomised" else 0.0
    return Allowance(kind, submissions, 0, bits=draw(st.floats(1.0, 30.0)), flip=flip, extra=extra)


@settings(max_examples=400, deadline=None)
@given(allowances(), st.lists(st.sampled_from(["ask", "pass", "fail"]), max_size=120))
def test_no_order_of_submissions_and_answers_exceeds_the_total(allowance: Allowance, events: list[str]) -> None:
    replies = passes = pending = 0
    for event in [*events, *["pass"] * 40]:
        if event == "ask":
            pending += allowance.allows_submission(replies, passes, pending)
        elif pending:
            replies, passes, pending = replies + 1, passes + (event == "pass"), pending - 1
        assert allowance.bits_spent(replies, passes) + allowance.extra <= allowance.total_bits()
        assert replies + pending <= allowance.submissions
        if allowance.kind == "counted":
            assert passes <= allowance.passes


@settings(max_examples=200, deadline=None)
@given(allowances(), st.integers(0, 12), st.integers(0, 12), st.lists(st.booleans(), max_size=60))
def test_the_guaranteed_replies_are_always_available(allowance: Allowance, replies: int, passes: int, outcomes: list[bool]) -> None:
    passes = min(passes, replies)
    guaranteed = allowance.guaranteed_replies(replies, passes)
    for passed in outcomes[:guaranteed]:
        assert allowance.allows_submission(replies, passes)
        replies, passes = replies + 1, passes + passed
    assert allowance.guaranteed_replies(0, 0) >= 1
    if guaranteed == 0:
        assert not allowance.allows_submission(replies, passes)


def test_the_guaranteed_replies_of_each_kind() -> None:
    assert [counted(12, 3).guaranteed_replies(*counts) for counts in ((0, 0), (11, 0), (5, 3))] == [3, 1, 0]
    assert Allowance("flat", 52, 0, bits=8.9).guaranteed_replies(3, 1) == 5
    kraft = Allowance("kraft", 52, 0, bits=10.0)
    assert kraft.guaranteed_replies(0, 0) == 9 and kraft.allows_submission(9, 0), "equal replies cost less than was reserved for them"
    assert Allowance("kraft", 52, 0, bits=14.5).allows_submission(40, 0), "a flat budget would allow only 14 submissions"
    assert Allowance("randomised", 52, 0, bits=5.0, flip=0.4).guaranteed_replies(0, 0) == math.floor(5 / math.log2(1.2))


def test_an_inconsistent_allowance_is_rejected() -> None:
    with pytest.raises(ValueError, match=r"^kind"):
        Allowance("guessed", 1, 1)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"^submissions"):
        counted(0, 1)
    with pytest.raises(ValueError, match=r"^passes"):
        counted(4, 0)
    with pytest.raises(ValueError, match=r"^extra"):
        counted(4, 1, extra=-1.0)
    with pytest.raises(ValueError, match=r"^flip"):
        Allowance("randomised", 4, 0, bits=4.0)
    with pytest.raises(ValueError, match=r"^bits"):
        Allowance("flat", 4, 0)
    with pytest.raises(ValueError, match=r"^bits"):
        Allowance("counted", 4, 1, bits=3.0)
    with pytest.raises(ValueError, match=r"^bits"):
        Allowance("kraft", 4, 0, bits=0.5)
    with pytest.raises(ValueError, match=r"^flip"):
        Allowance("flat", 4, 0, bits=3.0, flip=0.1)
    with pytest.raises(ValueError, match=r"^replies"):
        counted(4, 1).bits_spent(1, 2)
    with pytest.raises(ValueError, match=r"^pending"):
        counted(4, 1).allows_submission(0, 0, -1)


def test_the_required_number_of_correct_answers_follows_the_verdict_rule() -> None:
    for n, bar, level in ((200, 0.8, 1e-3), (50, 0.5, 0.05), (1000, 0.8, 1e-6)):
        needed = required_correct(n, bar, level)
        assert clopper_pearson_lower(needed, n, level) >= bar > clopper_pearson_lower(needed - 1, n, level)
        # The dual form: a model exactly at the bar reaches it with probability at most the level.
        assert pass_probability(n, bar, level, bar) <= level
    assert required_correct(10, 0.99, 1e-9) == 11 and pass_probability(10, 0.99, 1e-9, 1.0) == 0.0


def test_a_bar_of_80_requires_851_correct_answers() -> None:
    """1,000 clusters, δ = .05, 12 submissions, 3 passes: 7 or 8 claims need .851, 4 claims .849."""
    b = counted(12, 3).total_bits()
    assert [required_correct(1000, 0.80, claim_level(0.05, claims, b)) for claims in (4, 6, 7, 8)] == [849, 850, 851, 851]
    assert required_correct(1000, 0.80, claim_level(0.05, 8, counted(52, 3).total_bits())) == 862


def test_an_infinite_number_of_bits_leaves_no_level() -> None:
    assert claim_level(0.05, 4, 5000.0) == 0.0
    assert required_correct(1000, 0.8, 0.0) == 1001


def test_the_capacity_is_the_largest_number_of_submissions_with_enough_power() -> None:
    largest = capacity(1000, 0.80, 0.87, 4, 0.05, 3)
    assert largest == 18

    def failing(submissions: int) -> float:
        return 4 * (1 - pass_probability(1000, 0.80, claim_level(0.05, 4, counted_bits(submissions, 3)), 0.87))

    assert failing(largest) <= 0.2 < failing(largest + 1)
    assert capacity(1000, 0.80, 0.82, 4, 0.05, 3) == 0
    assert capacity(1000, 0.80, 0.99, 4, 0.05, 3) == MAX_CAPACITY


def test_the_level_covers_every_choice_among_the_possible_transcripts() -> None:
    """With B bits a lab can choose among at most 2^B models; here all are exactly at the bar."""
    rng, n, bar, runs = np.random.default_rng(5), 300, 0.8, 2000
    bits = counted(8, 2).total_bits()
    best = rng.binomial(n, bar, (runs, round(2**bits))).max(axis=1)
    wrong = int((best >= required_correct(n, bar, claim_level(0.05, 1, bits))).sum())
    assert stats.binomtest(wrong, runs, 0.05, "greater").pvalue > 1e-3
    wrong_at_level = int((best >= required_correct(n, bar, 0.05)).sum())
    assert stats.binomtest(wrong_at_level, runs, 0.05, "greater").pvalue < 1e-6, "negative control: a level that ignores the bits"


def test_the_matching_attack_has_the_stated_gain() -> None:
    assert random_vote_gain(52, 1000) == pytest.approx(0.072, abs=5e-4)
    rng, n, k, gains = np.random.default_rng(6), 1000, 53, []
    for _ in range(300):
        right = rng.integers(0, 2, (k, n))
        vote = np.where(2 * right.sum(1, keepdims=True) >= n, right, 1 - right)
        gains.append((2 * vote.sum(0) > k).mean() - 0.5)
    assert np.mean(gains) == pytest.approx(random_vote_gain(k, n), abs=0.003)
