"""What this machine has tried before: a campaign begun anew is a new lottery ticket, and should not look like the first.

The error that a campaign states is its own. Whoever starts it again with a fresh secret gets fresh noise, as often as they
like; no ledger of a single run can know. So every registered hypothesis leaves a mark beside the store, and a run whose
hypotheses were registered by other runs before says so, on the page and when it starts. It is kept out of the ledger, which must
be the same wherever the same campaign is run; on another machine, or with the marks deleted, nothing is known.
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Sequence
from pathlib import Path

from stagezero.files import locked, write_whole
from stagezero.ledger import Entry, digest

SEEN = "tried-before.json"


def run_name(secret: bytes, first_entry: str) -> str:
    """A name for a run that the same project with the same secret has again, and that gives nothing of the secret away."""
    return hmac.digest(secret, f"run/{first_entry}".encode(), "sha256").hex()[:16]


def name_of(hypothesis: str, base: str) -> str:
    """What a mark is kept under: a hypothesis about one base."""
    return digest({"hypothesis": hypothesis, "base": base})


def mark(folder: Path, run: str, hypotheses: Sequence[str]) -> dict[str, int]:
    """Leave a mark for each hypothesis and return, for those that other runs had registered, how many runs that were.

    Args:
        folder: where the marks are.
        run: this run's name.
        hypotheses: names of hypotheses.
    """
    before = {}
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / ".lock"):
        for key in hypotheses:
            path = folder / f"{key}.json"
            try:
                runs = [str(name) for name in json.loads(path.read_text())]
            except (OSError, ValueError, TypeError):
                runs = []
            earlier = runs[: runs.index(run)] if run in runs else runs
            if earlier:
                before[key] = len(earlier)
            if run not in runs:
                write_whole(path, json.dumps([*runs, run]))
    return before


def note(folder: Path, secret: bytes, first: Entry, hypotheses: Sequence[str]) -> dict[str, int]:
    """Mark the hypotheses of a run, by its secret and first entry, and return what ``mark`` does.

    The same recipes on another base are another question, so the base is part of the name.
    """
    return mark(folder, run_name(secret, first.hash), [name_of(h, first.body["base"]) for h in hypotheses])


def remember(run_folder: Path, before: dict[str, int]) -> None:
    """Keep what was found beside the run's ledger, for its page."""
    known = recall(run_folder)
    write_whole(run_folder / SEEN, json.dumps({**known, **before}, sort_keys=True))


def recall(run_folder: Path) -> dict[str, int]:
    """Hypothesis → number of other runs that had registered it before this one."""
    try:
        found = json.loads((run_folder / SEEN).read_text())
        return {str(key): int(count) for key, count in found.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}
