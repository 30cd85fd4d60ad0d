"""What a pass means, in one exact sentence, with its population, its limits and how tight it is; and the signed attestation of one pass."""

from __future__ import annotations

import math
from typing import Any

from stagezero.auditor.budget_tables import Charge, Suite
from stagezero.auditor.storage import Records, Storage
from stagezero.door.messages import WHAT_IT_STOPS, Separation
from stagezero.door.verify_attestation import PREDICATE
from stagezero.errors import DoorError, InputError
from stagezero.evidence import capacity, claim_level, matching_gain, needed
from stagezero.ledger import seal, statement

ENOUGH_CLUSTERS = 1000
ALPHABET = ("pass", "fail")
ONE_ANSWER = math.log2(len(ALPHABET))
"""The most that one answer discloses, in bits."""
NOT_COVERED = (
    "any other distribution of items than the one named",
    "detectors: an adaptive attacker's chance against one is at best min(1, 2^B times its miss rate)",
    "other suites: of N suites, or draws, of one auditor, some certificate is wrong with probability up to N times delta",
    "a paraphrase of a sealed item that was never registered as one, in another suite",
    "what is learned of the items other than by these answers; see the separation",
)


def certificate(records: Records, suite: Suite, separation: Separation, now: float) -> dict[str, Any]:
    """The certificate of a suite: a function of its published terms and of the answers that have left."""
    terms = suite.terms
    pools = records.meter.pools_of(suite, now)
    bits = records.meter.bits_allowed(suite)
    level = claim_level(terms.delta, len(terms.bars), bits)
    clusters: dict[str, int] = suite.facts["clusters"]
    claims = {}
    for claim, bar in terms.bars.items():
        right = needed(clusters[claim], bar, level)
        reachable = right <= clusters[claim]
        claims[claim] = {
            "bar": bar, "clusters": clusters[claim], "right_answers_needed": right if reachable else None,
            "share_needed": right / clusters[claim] if reachable else None,
        }  # fmt: skip
    replies = sum(p.replies for p in pools)
    asked = max(p.allowance.submissions for p in pools)
    few = [claim for claim, n in clusters.items() if n < ENOUGH_CLUSTERS]
    return {
        "auditor": records.public_key.text(),
        "suite": suite.name,
        "commitment": suite.commitment,
        "sentence": sentence(suite, bits),
        "population": f"the auditor's own item distribution: {suite.facts['generator']}",
        "delta": terms.delta,
        "level_of_each_claim": level,
        "bits": {"meter": terms.meter, "allowed": bits, "used": sum(p.allowance.spent(p.replies, p.passes) for p in pools)},
        "claims": claims,
        "submissions_left": min(p.allowance.submissions - p.replies - p.pending for p in pools),
        "answers_given": replies,
        "floor": {
            "what": "gain on the sealed items that a known attack (a vote of random classifiers) can expect from as many one-bit answers",
            "submissions": asked,
            "gain": matching_gain(asked, min(clusters.values())),
        },
        "not_covered": [
            *NOT_COVERED,
            *([f"{', '.join(few)}: fewer than {ENOUGH_CLUSTERS:,} independent clusters, so that a bar needs a wide margin"] if few else []),
        ],
        "separation": {"level": separation, "what_it_stops": WHAT_IT_STOPS[separation]},
        "closed": records.meter.closed,
    }


def attestation(storage: Storage, charge: Charge, now: float) -> dict[str, Any]:
    """A signed statement of what a submission passed, and of all that was ever disclosed about the items it passed on.

    An in-toto Statement v1 in a DSSE envelope. It names the model by its digest and the suite by its commitment, so that a reader who
    may see neither can check what another lab was tested on, how often that auditor had answered by then, and in which ledger.

    Raises:
        DoorError: the meter randomises its verdicts.
    """
    suite = storage.suite(charge.suite)
    if suite.terms.meter == "randomised":
        raise DoorError(f"submission {charge.number}: no attestation; under randomised verdicts a bad model passes now and then.")
    shown = certificate(storage, suite, storage.separation(), now)
    pools = storage.meter.pools_of(suite, now)
    predicate = {
        "auditor": storage.public_key.text(),
        "suite": {"name": suite.name, "commitment": suite.commitment, **{k: suite.facts[k] for k in ("generator", "clusters")}},
        "passed": {claim: {"true_mean_at_least": bar} for claim, bar in suite.terms.bars.items()},
        "disclosure": {
            "alphabet": list(ALPHABET),
            "bits": {
                "this_time": ONE_ANSWER, "in_all": shown["bits"]["used"], "budget": shown["bits"]["allowed"], "meter": suite.terms.meter,
            },
            "submissions": {"answered": sum(p.replies for p in pools), "allowed": sum(p.allowance.submissions for p in pools)},
            "ledger": storage.ledger.checkpoint(storage.key),
            "certificate": {k: shown[k] for k in ("sentence", "population", "delta", "not_covered")},
            "separation": shown["separation"],
        },
    }  # fmt: skip
    return seal(statement({f"{suite.name}/submission-{charge.number}": charge.model}, PREDICATE, predicate), storage.key)


def budget(records: Records, suite: Suite, bar: float | None, mean: float | None, now: float) -> dict[str, Any]:
    """What a suite has disclosed, and how many submissions it could carry at a bar.

    Args:
        bar: ask about this bar instead of the suite's own.
        mean: true mean of the models that one has in mind; halfway between bar and 1 when None.

    Raises:
        InputError: a bar or mean that is none.
    """
    terms, pools = suite.terms, records.meter.pools_of(suite, now)
    bits = records.meter.bits_allowed(suite)
    claims = {}
    for claim, own in terms.bars.items():
        asked = bar if bar is not None else own
        supposed = mean if mean is not None else (1 + asked) / 2
        if not 0 < asked < supposed < 1:
            raise InputError(f"--bar, --mean: expected 0 < bar < mean < 1, got {asked:g} and {supposed:g}; correct them.")
        n = suite.facts["clusters"][claim]
        right = needed(n, asked, claim_level(terms.delta, len(terms.bars), bits))
        carried = capacity(n, asked, supposed, len(terms.bars), terms.delta, terms.passes)
        claims[claim] = {
            "bar": asked, "mean": supposed, "clusters": n, "share_needed": right / n if right <= n else None, "could_carry": carried,
        }  # fmt: skip
    return {
        "suite": suite.name, "submissions": min(p.allowance.submissions for p in pools),
        "submissions_used": max(p.replies + p.pending for p in pools), "passes_used": max(p.passes for p in pools),
        "bits_used": sum(p.allowance.spent(p.replies, p.passes) for p in pools), "bits_allowed": bits, "claims": claims,
    }  # fmt: skip


def sentence(suite: Suite, bits: float) -> str:
    """The one sentence."""
    terms = suite.terms
    sure = f"With probability at least {1 - terms.delta:g} over the draw of the sealed items, whatever the lab did through this door"
    over = "over the auditor's own item distribution"
    if terms.meter == "randomised":
        return (
            f"Each verdict is turned round with probability {terms.flip:g}, so a pass says nothing certain of one model; what the verdicts "
            f"may disclose in all is {bits:.1f} bits of maximal leakage."
        )
    if terms.step is not None:
        ((claim, bar),) = terms.bars.items()
        return (
            f"{sure}, the first model that was called better has a true mean of at least {bar:g} on {claim}, and every later one of "
            f"at least {terms.step:g} more than was certified of the one before it, {over}."
        )
    bars = ", ".join(f"{claim} {bar:g}" for claim, bar in terms.bars.items())
    return f"{sure}, every model that ever passed has a true mean of at least its bar on every claim ({bars}), {over}."
