"""When answers leave: at times fixed by when things were asked, so that how long an audit took is never seen."""

from __future__ import annotations


def due_time(now: float, slot: float, last: float) -> float:
    """The time at which a submission charged ``now`` is answered, in seconds.

    One slot for each submission: audits are made one after another and none may take longer than a slot, so the answer is there by
    then, whatever the items said and however many are waiting.

    Args:
        now: when it was charged.
        slot: seconds; at least as long as the worst audit.
        last: when the submission before it is answered; 0 for none.
    """
    return max(now, last) + slot
