"""Counts how many earlier runs on this machine registered the same hypotheses.

The error that a campaign states is its own. Anyone who starts the campaign again with a new secret
gets new noise and another chance of a false promotion. The ledger of a single run cannot show this.
Every registered hypothesis is therefore recorded in a folder beside the store. A run whose
hypotheses were registered by earlier runs reports it at its start and on its page.

The counts must not be part of the ledger, because the ledger must be the same wherever the same
campaign runs. On another machine, or after the records are deleted, earlier runs are unknown.
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Sequence
from pathlib import Path

from stagezero.files import locked, write_atomic
from stagezero.ledger import Entry, digest

COUNTS_FILE = "tried-before.json"


def run_id(secret: bytes, first_entry: str) -> str:
    """Return an identifier of a run that discloses nothing about its secret.

    The same project with the same secret has the same identifier.

    Args:
        secret: the run's secret.
        first_entry: hash of the ledger's first entry.
    """
    return hmac.digest(secret, f"run/{first_entry}".encode(), "sha256").hex()[:16]


def attempt_key(hypothesis: str, base: str) -> str:
    """Return the key of a record: a hypothesis about one base."""
    return digest({"hypothesis": hypothesis, "base": base})


def record_attempts(folder: Path, run: str, keys: Sequence[str]) -> dict[str, int]:
    """Record that a run registered hypotheses, and count the earlier runs that did.

    Args:
        folder: folder of the records.
        run: identifier of this run.
        keys: one per hypothesis; see ``attempt_key``.

    Returns:
        Key → number of other runs that registered it earlier; only keys with such runs.
    """
    counts = {}
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / ".lock"):
        for key in keys:
            path = folder / f"{key}.json"
            try:
                runs = [str(name) for name in json.loads(path.read_text())]
            except (OSError, ValueError, TypeError):
                runs = []
            earlier = runs[: runs.index(run)] if run in runs else runs
            if earlier:
                counts[key] = len(earlier)
            if run not in runs:
                write_atomic(path, json.dumps([*runs, run]))
    return counts


def record_run(folder: Path, secret: bytes, first: Entry, hypotheses: Sequence[str]) -> dict[str, int]:
    """Record the hypotheses of a run and return the counts of ``record_attempts``.

    The same recipes on another base are another hypothesis, so the base is part of the key.

    Args:
        folder: folder of the records.
        secret: the run's secret.
        first: the first entry of its ledger.
        hypotheses: digests of the hypotheses.
    """
    return record_attempts(folder, run_id(secret, first.hash), [attempt_key(h, first.body["base"]) for h in hypotheses])


def save_prior_run_counts(run_folder: Path, counts: dict[str, int]) -> None:
    """Add counts to the file beside the run's ledger, for the run's page."""
    stored = load_prior_run_counts(run_folder)
    write_atomic(run_folder / COUNTS_FILE, json.dumps({**stored, **counts}, sort_keys=True))


def load_prior_run_counts(run_folder: Path) -> dict[str, int]:
    """Return key → number of other runs that registered the hypothesis before this one.

    The result is empty if the file is missing or damaged.
    """
    try:
        stored = json.loads((run_folder / COUNTS_FILE).read_text())
        return {str(key): int(count) for key, count in stored.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}
