"""Attestations: a signed statement of what a model passed, and of all that was ever disclosed about the items it passed on.

An in-toto Statement v1 in a DSSE envelope. It names the model by its digest and the suite by its commitment, so that somebody who may see
neither can check what another lab was tested on, how often that auditor had answered by then, and in which ledger.
"""

from __future__ import annotations

import math
from typing import Any

from stagezero.auditor.auditor import Auditor
from stagezero.auditor.certificate import certificate
from stagezero.door.messages import Reply
from stagezero.door.verify_attestation import PREDICATE
from stagezero.errors import DoorError
from stagezero.ledger import seal, statement

ALPHABET = ("pass", "fail")
ONE_ANSWER = math.log2(len(ALPHABET))
"""The most that one answer discloses, in bits."""


def attestation(auditor: Auditor, number: int, account: str) -> dict[str, Any]:
    """The envelope for a submission of the account's own that passed.

    Raises:
        DoorError: it has not passed, is not due, or the meter randomises its verdicts.
    """
    answer = auditor.reply(number, account)
    if not isinstance(answer, Reply) or answer.verdict != "pass":
        raise DoorError(f"submission {number}: no attestation; only what has passed is attested, once its answer is due.")
    charge = auditor.meter.heard_by(number, account)
    assert charge is not None
    suite = auditor.keep.suite(charge.suite)
    if suite.terms.meter == "randomised":
        raise DoorError(f"submission {number}: no attestation; under randomised verdicts a bad model passes now and then.")
    now = auditor.clock()
    shown = certificate(auditor.keep, suite, auditor.keep.separation(), now)
    pools = auditor.meter.pools_of(suite, now)
    predicate = {
        "auditor": auditor.keep.public_key.text(),
        "suite": {"name": suite.name, "commitment": suite.commitment, **{k: suite.facts[k] for k in ("generator", "clusters")}},
        "passed": {claim: {"true_mean_at_least": bar} for claim, bar in suite.terms.bars.items()},
        "disclosure": {
            "alphabet": list(ALPHABET),
            "bits": {
                "this_time": ONE_ANSWER, "in_all": shown["bits"]["used"], "budget": shown["bits"]["allowed"], "meter": suite.terms.meter,
            },
            "submissions": {"answered": sum(p.replies for p in pools), "allowed": sum(p.allowance.submissions for p in pools)},
            "ledger": auditor.ledger.checkpoint(auditor.keep.key),
            "certificate": {k: shown[k] for k in ("sentence", "population", "delta", "not_covered")},
            "separation": shown["separation"],
        },
    }  # fmt: skip
    subjects = {f"{suite.name}/submission-{number}": charge.model}
    return seal(statement(subjects, PREDICATE, predicate), auditor.keep.key)
