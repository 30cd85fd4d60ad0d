"""Attacks on the statistics of a door, simulated in memory, and the bound of the certificate.

The lab may ask as it likes. A sealed suite has n items with secret, uniformly random labels, so
every model that the lab can construct has a true mean of ½. A score above ½ on the sealed items is
overfitting. Each attack asks through a ``Door`` that enforces an ``Allowance``, and ends with one
model. The simulation is the best case for the lab: a real door compares with a bar that random
answers hardly ever reach, but this one compares with any count of right answers that the lab
chooses, so that every reply is as informative as it can be.

    PRF-majority  random answers derived from a key, each with the sign of its reply; weighted
                  majority vote
    boosting      the same, but each new question is uncorrelated with the ensemble so far
    read-out      a vector on the boundary, found by bisection; then one item is flipped at a time:
                  N + 1 + log₂ N one-bit questions read N labels (of exact scores, N + 1 would be
                  enough)
    Sybil         PRF-majority from ten accounts that share the key

The certificate allows a gain of (least count of right answers whose Clopper–Pearson bound at δ/2^B
reaches ½)/n − ½. A larger gain in more than δ of the runs would refute it. All vectors are ±1; each
row is a run.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from stagezero.evidence import Allowance, claim_level, required_correct

Signs = NDArray[np.int8]
Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
DELTA, ITEMS = 0.05, 1000
PASS, FAIL, CLOSED = 1, 0, -1

ALLOWANCES: dict[str, Allowance] = {
    "counted": Allowance("counted", 52, 3),
    "flat": Allowance("flat", 52, 0, bits=52.0),
    "kraft": Allowance("kraft", 400, 0, bits=52.0),
}


def random_signs(rng: np.random.Generator, runs: int, n: int) -> Signs:
    """Draw uniform signs, shape (runs, n)."""
    bits = np.unpackbits(rng.integers(0, 256, (runs, -(-n // 8)), dtype=np.uint8), axis=1, count=n)
    return (2 * bits.view(np.int8) - 1).astype(np.int8)


class Door:
    """One pool of sealed items per run, and its budget.

    Every question is charged to the same items, from any account and under any name.
    """

    def __init__(self, labels: Signs, allowance: Allowance, required: int) -> None:
        """Create the door.

        Args:
            labels: the secret labels, shape (runs, n).
            allowance: the budget of each run.
            required: count of right answers at which a model passes.
        """
        self.allowance, self.required = allowance, required
        self._labels = labels
        self.runs, self.n = labels.shape
        self.replies: Ints = np.zeros(self.runs, dtype=np.int64)
        self.passes: Ints = np.zeros(self.runs, dtype=np.int64)
        self.highest: Ints = np.zeros(self.runs, dtype=np.int64)
        """Largest count of right answers among the models with a reply; shape (runs,)."""
        self._open: dict[tuple[int, int], bool] = {}

    def right(self, models: Signs) -> Ints:
        """Return the right answers of one model per run; shape (runs,)."""
        return np.asarray(np.count_nonzero(models == self._labels, axis=1))

    def _may_ask(self) -> NDArray[np.bool_]:
        """Return which runs have budget left; one reply is reserved for the lab's last model."""
        counts = list(zip(self.replies.tolist(), self.passes.tolist(), strict=True))
        for key in set(counts) - self._open.keys():
            self._open[key] = self.allowance.allows_submission(*key, pending=1)
        return np.array([self._open[key] for key in counts])

    def ask(self, models: Signs) -> Ints:
        """Return PASS, FAIL or CLOSED for each run.

        A closed door makes no charge and reads no label.
        """
        is_open = self._may_ask()
        right = self.right(models)
        verdicts = np.where(right >= self.required, PASS, FAIL)
        self.highest = np.maximum(self.highest, np.where(is_open, right, 0))
        self.replies += is_open
        self.passes += is_open & (verdicts == PASS)
        return np.asarray(np.where(is_open, verdicts, CLOSED))


Attack = Callable[[Door, np.random.Generator], Signs]


def _weights(door: Door) -> Floats:
    """Return the information of one reply about every item, indexed by FAIL, PASS and CLOSED.

    It is the mean of an answer's sign times its label, given the reply; 0 for CLOSED.
    """
    n, required = door.n, door.required
    passing = float(stats.binom.sf(required - 1, n, 0.5))
    given_pass = float(stats.binom.sf(required - 2, n - 1, 0.5)) / passing - 1.0
    return np.array([-given_pass * passing / (1.0 - passing), given_pass, 0.0], dtype=np.float32)


def _vote(door: Door, rng: np.random.Generator, adaptive: bool, questions: int) -> Signs:
    """Return the weighted majority vote of random models; a tie is random.

    Args:
        door: the door to ask.
        rng: random number generator.
        adaptive: make each question uncorrelated with the ensemble so far.
        questions: number of questions, if the door does not close before.
    """
    weights, votes = _weights(door), np.zeros((door.runs, door.n), dtype=np.float32)
    for _ in range(questions):
        guess = random_signs(rng, door.runs, door.n)
        if adaptive:  # in each pair of items, one agrees with the ensemble
            first, second = rng.permutation(door.n)[: door.n // 2 * 2].reshape(2, -1)
            agree = guess[:, first] * np.where(votes[:, first] >= 0, 1, -1).astype(np.int8)
            guess[:, second] = -agree * np.where(votes[:, second] >= 0, 1, -1).astype(np.int8)
        replies = door.ask(guess)
        if (replies == CLOSED).all():
            break
        votes += weights[replies][:, None] * guess
    return np.where(votes > 0, 1, np.where(votes < 0, -1, random_signs(rng, door.runs, door.n))).astype(np.int8)


def prf_majority(door: Door, rng: np.random.Generator) -> Signs:
    """Ask about random models, and return their weighted majority vote."""
    return _vote(door, rng, adaptive=False, questions=door.allowance.submissions)


def boosting(door: Door, rng: np.random.Generator) -> Signs:
    """Ask about models that are uncorrelated with the ensemble, and return the majority vote."""
    return _vote(door, rng, adaptive=True, questions=door.allowance.submissions)


def sybil(door: Door, rng: np.random.Generator, accounts: int = 10) -> Signs:
    """Ask from every account until it is refused.

    The door has one budget, so the tenth account has only what the first one did not spend.
    """
    return _vote(door, rng, adaptive=False, questions=accounts * door.allowance.submissions)


def read_out(door: Door, rng: np.random.Generator) -> Signs:
    """Find a vector on the boundary of passing, then flip one item at a time to read its label."""
    start = random_signs(rng, door.runs, door.n)
    first = door.ask(start)
    base = np.where((first == FAIL)[:, None], -start, start).astype(np.int8)  # passes
    low, high = np.zeros(door.runs, dtype=np.int64), np.full(door.runs, door.n)
    position = np.arange(door.n)
    for _ in range(math.ceil(math.log2(door.n))):
        middle = (low + high) // 2
        replies = door.ask(np.where(position < middle[:, None], -base, base).astype(np.int8))
        low = np.where(replies == PASS, middle, low)
        high = np.where(replies == FAIL, middle, high)
    base = np.where(position < low[:, None], -base, base).astype(np.int8)
    labels = base.copy()
    for i in range(door.n):
        flipped = base.copy()
        flipped[:, i] *= -1
        replies = door.ask(flipped)
        if (replies == CLOSED).all():
            break
        labels[:, i] = np.where(replies == PASS, flipped[:, i], base[:, i])
    return labels


ATTACKS: dict[str, Attack] = {"prf_majority": prf_majority, "boosting": boosting, "read_out": read_out, "sybil": sybil}


@dataclass(frozen=True)
class Outcome:
    """Result of one attack over many runs.

    Args:
        attack: name of the attack.
        meter: kind of allowance.
        replies: mean number of replies.
        gain: mean accuracy above ½.
        error: standard error of the gain.
        allowed: gain that the certificate allows.
        over: share of runs with a gain of at least ``allowed``.
        contained: whether that share is consistent with δ.
    """

    attack: str
    meter: str
    replies: float
    gain: float
    error: float
    allowed: float
    over: float
    contained: bool

    @property
    def ratio(self) -> float:
        """Gain over the allowed gain."""
        return self.gain / self.allowed


def allowed_gain(allowance: Allowance, n: int = ITEMS) -> float:
    """Return how far above its true mean of ½ a model may score according to the certificate."""
    return required_correct(n, 0.5, claim_level(DELTA, 1, allowance.total_bits())) / n - 0.5


def best_bar(allowance: Allowance, attack: str, n: int = ITEMS) -> int:
    """Return the count of right answers that makes the replies most informative.

    A rare pass gives more information for each bit of budget.
    """
    rate = {"counted": allowance.passes / allowance.submissions, "flat": 0.5, "kraft": 0.05, "randomised": 0.5}[allowance.kind]
    return n // 2 if attack == "read_out" else math.ceil(n / 2 + math.sqrt(n) / 2 * float(stats.norm.isf(min(rate, 0.5))))


def outcome(name: str, allowance: Allowance, runs: int, seed: int, per_account: int = 1, n: int = ITEMS) -> Outcome:
    """Run one attack.

    Args:
        name: name of the attack.
        allowance: budget that the certificate states.
        runs: number of independent runs.
        seed: seed of labels and attack.
        per_account: factor by which the door's budget exceeds the stated one. More than 1 simulates
            the mistake of one budget for every account.
        n: number of items.
    """
    rng = np.random.default_rng(seed)
    enforced = allowance
    if per_account > 1:
        k, bits = allowance.submissions * per_account, allowance.bits
        enforced = Allowance(allowance.kind, k, allowance.passes * per_account, bits=None if bits is None else bits * per_account)
    door = Door(random_signs(rng, runs, n), enforced, best_bar(enforced, name, n))
    gains = door.right(ATTACKS[name](door, rng)) / n - 0.5
    allowed = allowed_gain(allowance, n)
    # The event that the certificate bounds: a model of true mean ½ whose count reaches the rule's
    # requirement.
    over = int((np.maximum(gains, door.highest / n - 0.5) >= allowed - 1e-12).sum())
    contained = bool(stats.binomtest(over, runs, DELTA, "greater").pvalue > 1e-3)
    error = float(gains.std(ddof=1)) / math.sqrt(runs)
    return Outcome(name, allowance.kind, float(door.replies.mean()), float(gains.mean()), error, allowed, over / runs, contained)


def statistical_attacks(runs: int = 500, seed: int = 4) -> list[Outcome]:
    """Run every attack under every allowance."""
    return [outcome(attack, allowance, runs, seed) for allowance in ALLOWANCES.values() for attack in ATTACKS]


def unmetered_attacks(runs: int = 200, seed: int = 4) -> list[Outcome]:
    """Run the negative controls, which must not be contained.

    They have a budget for each of ten accounts, and a budget large enough to read out all labels.
    """
    flat = ALLOWANCES["flat"]
    return [outcome("sybil", flat, runs, seed, per_account=10), outcome("read_out", flat, runs, seed, per_account=20)]


def certificate_violations(runs: int = 2000, seed: int = 4) -> dict[str, float]:
    """Return the share of runs in which the strongest attack violates the certificate, by meter.

    A violation is a model with a true mean below the bar that passes the real rule. The bar is
    barely above ½, so any pass is a violation. The other questions of the lab may use any bar.
    """
    violations = {}
    for meter, allowance in ALLOWANCES.items():
        shares = [outcome(attack, allowance, runs, seed).over for attack in ("prf_majority", "boosting")]
        violations[meter] = max(shares)
    return violations


def naive_violations(runs: int = 2000, seed: int = 4) -> float:
    """Return the same share for a bound that is valid for fresh items only, after 52 replies.

    The bound is Hoeffding's at δ. It does not account for the questions.
    """
    rng = np.random.default_rng(seed)
    door = Door(random_signs(rng, runs, ITEMS), ALLOWANCES["flat"], ITEMS // 2)
    gains = door.right(prf_majority(door, rng)) / ITEMS - 0.5
    return float(np.mean(gains > math.sqrt(math.log(1.0 / DELTA) / (2 * ITEMS))))


def main() -> int:
    """Run all attacks; return 1 if one is not contained, or a negative control is."""
    as_expected = True
    for expected, outcomes in ((True, statistical_attacks()), (False, unmetered_attacks())):
        print("with a budget" if expected else "negative controls, without a budget: must not be contained")
        for o in outcomes:
            as_expected = as_expected and o.contained == expected
            print(f"  {o.attack:<13} {o.meter:<8} {o.replies:7.1f} replies  gain {o.gain:.4f} ± {o.error:.4f}  "
                  f"allowed {o.allowed:.4f}  ratio {o.ratio:.2f}  over {o.over:.4f}  "
                  f"{'contained' if o.contained else 'NOT CONTAINED'}")  # fmt: skip
    violations, naive = certificate_violations(), naive_violations()
    print(f"share of runs that violate the certificate: {violations}; the fresh-sample bound: {naive}")
    return 0 if as_expected and max(violations.values()) <= DELTA and naive >= 0.99 else 1


if __name__ == "__main__":
    sys.exit(main())
