"""Writes trials into the ledger in a fixed order.

The order does not depend on the order in which the trials advance. A run that was killed and
continues therefore writes the same chain.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict

from stagezero.ledger import Ledger
from stagezero.trials.state import TrialState


def record_in_order(trials: Sequence[TrialState], ledger: Ledger, max_pairs: int) -> Iterator[None]:
    """Record pairs by replicate, and within a replicate by trial.

    The decision of a trial directly follows the pair that decided it.

    Args:
        trials: in the order of registration.
        ledger: receives the entries.
        max_pairs: maximum number of pairs of a trial.

    Yields:
        None, whenever the next entry is not known yet. When resumed, the generator continues there.
    """
    for s in range(1, max_pairs + 2):  # one more replicate, for a failure after the last pair
        for trial in trials:
            # During the final checks the decision is not known yet. It must follow the last pair
            # directly, so the pair also waits.
            while trial.decision is None and (len(trial.pairs) < s or (len(trial.pairs) == s and trial.in_final_checks)):
                yield
            if len(trial.pairs) >= s:
                ledger.record("pair", {"hypothesis": trial.key, "e": trial.e_values[s - 1], **asdict(trial.pairs[s - 1])})
            if trial.decision is not None and trial.decision.decided_at == s:
                ledger.record("decision", trial.decision.entry())
