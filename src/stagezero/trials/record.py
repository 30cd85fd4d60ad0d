"""Writes trials into the ledger in a fixed order.

The order does not depend on the order in which the trials advance. A run that was killed and
continues therefore writes the same chain.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict

from stagezero.ledger import Ledger
from stagezero.trials.state import TrialState


def record_in_order(trials: Sequence[TrialState], ledger: Ledger, max_pairs: int, first: int = 1) -> Iterator[None]:
    """Record pairs by replicate, and within a replicate by trial.

    The decision of a trial directly follows the pair that decided it.

    Args:
        trials: in the order of registration.
        ledger: receives the entries.
        max_pairs: maximum number of pairs of a trial.
        first: number of the first replicate to record; the earlier ones are recorded already.

    Yields:
        None, whenever the next entry is not known yet. When resumed, the generator continues there.
    """
    for s in range(first, max_pairs + 2):  # one more replicate, for a failure after the last pair
        for trial in trials:
            # During the final checks the decision is not known yet. It must follow the last pair
            # directly, so the pair also waits.
            while trial.decision is None and (trial.done < s or (trial.done == s and trial.in_final_checks)):
                yield
            failed = {f.replicate: f for f in trial.failures}
            if s in failed:
                ledger.record("failure", {"hypothesis": trial.key, **asdict(failed[s])})
            elif trial.done >= s:
                index = s - 1 - sum(replicate < s for replicate in failed)
                ledger.record("pair", {"hypothesis": trial.key, "e": trial.e_values[index], **asdict(trial.pairs[index])})
            if trial.decision is not None and trial.decision.decided_at == s:
                ledger.record("decision", trial.decision.entry())
