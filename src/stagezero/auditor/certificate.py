"""The certificate of a suite, and the signed attestation of one pass.

The certificate states the exact meaning of a pass in one sentence, with its population, its limits
and how tight it is. It depends only on published terms and released answers.
"""

from __future__ import annotations

import math
from typing import Any

from stagezero.auditor.budget_tables import Charge, Suite
from stagezero.auditor.storage import Records, Storage
from stagezero.door.messages import SEPARATION_GUARANTEES, Separation
from stagezero.door.verify_attestation import AUDIT_PREDICATE_TYPE
from stagezero.errors import DoorError, InputError
from stagezero.evidence import capacity, claim_level, random_vote_gain, required_correct
from stagezero.ledger import make_statement, sign_statement

MIN_RECOMMENDED_CLUSTERS = 1000
VERDICT_ALPHABET = ("pass", "fail")
MAX_BITS_PER_ANSWER = math.log2(len(VERDICT_ALPHABET))
NOT_COVERED = (
    "items from any other distribution than the named population",
    "detectors: after B bits of answers, an adaptive attacker evades a detector with probability up to min(1, 2^B times its miss rate)",
    "several suites at once: the probability that any of N certificates is wrong is up to N times that of one certificate",
    "a paraphrase of a sealed item in another suite, unless it was registered as a paraphrase",
    "information about the items that a lab obtains other than through these answers; see the separation",
)


def certificate(records: Records, suite: Suite, separation: Separation, now: float) -> dict[str, Any]:
    """Return the certificate of a suite.

    It is a function of the suite's published terms and of the answers that were released.

    Args:
        records: the auditor's folder.
        suite: the suite.
        separation: the weakest separation that ever held.
        now: seconds since 1970; answers that are due by then are counted.
    """
    terms = suite.terms
    pools = records.meter.visible_pools(suite, now)
    bits = records.meter.bits_allowed(suite)
    level = claim_level(terms.delta, len(terms.bars), bits)
    clusters: dict[str, int] = suite.facts["clusters"]
    claims = {}
    for claim, bar in terms.bars.items():
        right = required_correct(clusters[claim], bar, level)
        reachable = right <= clusters[claim]
        claims[claim] = {
            "bar": bar, "clusters": clusters[claim], "right_answers_needed": right if reachable else None,
            "share_needed": right / clusters[claim] if reachable else None,
        }  # fmt: skip
    replies = sum(p.replies for p in pools)
    submissions = max(p.allowance.submissions for p in pools)
    few = [claim for claim, n in clusters.items() if n < MIN_RECOMMENDED_CLUSTERS]
    return {
        "auditor": records.public_key.text(),
        "suite": suite.name,
        "commitment": suite.commitment,
        "sentence": certificate_sentence(suite, bits),
        "population": f"the auditor's own item distribution: {suite.facts['generator']}",
        "delta": terms.delta,
        "level_of_each_claim": level,
        "bits": {"meter": terms.meter, "allowed": bits, "used": sum(p.allowance.bits_spent(p.replies, p.passes) for p in pools)},
        "claims": claims,
        "submissions_left": min(p.allowance.submissions - p.replies - p.pending for p in pools),
        "answers_given": replies,
        "floor": {
            "what": "expected gain on the sealed items of a known attack (a vote of random classifiers) with as many one-bit answers",
            "submissions": submissions,
            "gain": random_vote_gain(submissions, min(clusters.values())),
        },
        "not_covered": [
            *NOT_COVERED,
            *(
                [
                    f"models that are only a little better than their bar on {', '.join(few)}: with fewer than "
                    f"{MIN_RECOMMENDED_CLUSTERS:,} independent clusters, they may fail"
                ]
                if few
                else []
            ),
        ],
        "separation": {"level": separation, "what_it_stops": SEPARATION_GUARANTEES[separation]},
        "closed": records.meter.closed_reason,
    }


def attestation(storage: Storage, charge: Charge, now: float) -> dict[str, Any]:
    """Return a signed statement of what a submission passed and what was disclosed of its items.

    It is an in-toto Statement v1 in a DSSE envelope. It names the model by its digest and the suite
    by its commitment. A reader who has access to neither can verify on which suite another lab was
    tested, how often the auditor had answered by then, and in which ledger.

    Args:
        storage: the auditor's folder.
        charge: the charge of a submission that passed.
        now: seconds since 1970.

    Raises:
        DoorError: the meter randomises its verdicts.
    """
    suite = storage.suite(charge.suite)
    if suite.terms.meter == "randomised":
        raise DoorError(f"submission {charge.number}: no attestation; under randomised verdicts a bad model passes now and then.")
    suite_certificate = certificate(storage, suite, storage.separation(), now)
    pools = storage.meter.visible_pools(suite, now)
    predicate = {
        "auditor": storage.public_key.text(),
        "suite": {"name": suite.name, "commitment": suite.commitment, **{k: suite.facts[k] for k in ("generator", "clusters")}},
        "passed": {claim: {"true_mean_at_least": bar} for claim, bar in suite.terms.bars.items()},
        "disclosure": {
            "alphabet": list(VERDICT_ALPHABET),
            "bits": {
                "this_time": MAX_BITS_PER_ANSWER, "in_all": suite_certificate["bits"]["used"],
                "budget": suite_certificate["bits"]["allowed"], "meter": suite.terms.meter,
            },
            "submissions": {"answered": sum(p.replies for p in pools), "allowed": sum(p.allowance.submissions for p in pools)},
            "ledger": storage.ledger.checkpoint(storage.key),
            "certificate": {k: suite_certificate[k] for k in ("sentence", "population", "delta", "not_covered")},
            "separation": suite_certificate["separation"],
        },
    }  # fmt: skip
    subject = {f"{suite.name}/submission-{charge.number}": charge.model}
    return sign_statement(make_statement(subject, AUDIT_PREDICATE_TYPE, predicate), storage.key)


def budget_report(records: Records, suite: Suite, bar: float | None, mean: float | None, now: float) -> dict[str, Any]:
    """Return what a suite has disclosed, and how many submissions it could carry at a bar.

    Args:
        records: the auditor's folder.
        suite: the suite.
        bar: report on this bar instead of the suite's own ones.
        mean: the true mean of the models in question; halfway between bar and 1 if None.
        now: seconds since 1970.

    Raises:
        InputError: the bar or the mean is out of range.
    """
    terms, pools = suite.terms, records.meter.visible_pools(suite, now)
    bits = records.meter.bits_allowed(suite)
    claims = {}
    for claim, suite_bar in terms.bars.items():
        claim_bar = bar if bar is not None else suite_bar
        claim_mean = mean if mean is not None else (1 + claim_bar) / 2
        if not 0 < claim_bar < claim_mean < 1:
            raise InputError(f"--bar, --mean: expected 0 < bar < mean < 1, got {claim_bar:g} and {claim_mean:g}; correct them.")
        n = suite.facts["clusters"][claim]
        right = required_correct(n, claim_bar, claim_level(terms.delta, len(terms.bars), bits))
        carried = capacity(n, claim_bar, claim_mean, len(terms.bars), terms.delta, terms.passes)
        claims[claim] = {
            "bar": claim_bar, "mean": claim_mean, "clusters": n, "share_needed": right / n if right <= n else None, "could_carry": carried,
        }  # fmt: skip
    return {
        "suite": suite.name, "submissions": min(p.allowance.submissions for p in pools),
        "submissions_used": max(p.replies + p.pending for p in pools), "passes_used": max(p.passes for p in pools),
        "bits_used": sum(p.allowance.bits_spent(p.replies, p.passes) for p in pools), "bits_allowed": bits, "claims": claims,
    }  # fmt: skip


def certificate_sentence(suite: Suite, bits: float) -> str:
    """Return the one sentence that states the exact meaning of a pass.

    Args:
        suite: the suite.
        bits: the total allowance of the suite.
    """
    terms = suite.terms
    confidence = f"With probability at least {1 - terms.delta:g} over the draw of the sealed items, whatever the lab did through this door"
    population = "over the auditor's own item distribution"
    if terms.meter == "randomised":
        return (
            f"Each verdict is flipped with probability {terms.flip:g}, so a pass certifies nothing about one model; all verdicts together "
            f"disclose at most {bits:.1f} bits of maximal leakage."
        )
    if terms.step is not None:
        ((claim, bar),) = terms.bars.items()
        return (
            f"{confidence}, the first model that was called better has a true mean of at least {bar:g} on {claim}, and every later one "
            f"has a true mean of at least {terms.step:g} more than was certified of the one before it, {population}."
        )
    bars = ", ".join(f"{claim} {bar:g}" for claim, bar in terms.bars.items())
    return (
        f"{confidence}, every model that ever passed has, on every claim, a true mean of at least the claim's bar ({bars}), {population}."
    )
