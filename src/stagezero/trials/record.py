"""Writes trials into the ledger in a fixed order, whatever order they advance in: a killed run that continues writes the same chain."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict

from stagezero.ledger import Ledger
from stagezero.trials.state import State


def record_in_order(trials: Sequence[State], ledger: Ledger, max_pairs: int) -> Iterator[None]:
    """Record pairs replicate by replicate, and within one, trial by trial; a decision stands behind the pair that decided.

    Yields whenever what comes next is not known yet; resumed, it goes on from there.
    """
    for s in range(1, max_pairs + 2):  # one more, for a failure after the last pair
        for trial in trials:
            # The decision of a trial that is being checked belongs right behind this pair, and is not there yet.
            while trial.decision is None and (len(trial.pairs) < s or (len(trial.pairs) == s and trial.checking)):
                yield
            if len(trial.pairs) >= s:
                ledger.record("pair", {"hypothesis": trial.key, "e": trial.e_values[s - 1], **asdict(trial.pairs[s - 1])})
            if trial.decision is not None and trial.decision.decided_at == s:
                ledger.record("decision", trial.decision.entry())
