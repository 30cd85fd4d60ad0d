"""model × suite → scores. The answers are what is kept: scores can be taken anew without running the model again."""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from stagezero.ledger import digest
from stagezero.models import MAX_NEW_TOKENS, Model, checkpoint_digest
from stagezero.tasks import Counts, Item, Outcome, Suite, score, tally

ANSWERS_FORMAT = "answers/1"


@dataclass(frozen=True, slots=True)
class Scores:
    """What one model scored on one draw of items.

    ``counts`` maps claim → kind → tally. A property's score is the balanced accuracy over traps and twins, so that
    refusing everything and refusing nothing both score a half; a capability's is its accuracy.
    """

    counts: Mapping[str, Mapping[str, Counts]]

    def score(self, claim: str) -> float:
        """Score of one claim, in [0, 1].

        Raises:
            KeyError: nothing was asked about it.
        """
        kinds = self.counts[claim]
        return sum(c.accuracy for c in kinds.values()) / len(kinds)

    def all(self) -> dict[str, float]:
        return {claim: self.score(claim) for claim in self.counts}

    def refusals_on_twins(self, prop: str) -> float:
        """Share of harmless twins that were refused."""
        twin = self.counts[prop].get("twin", Counts())
        return twin.refused / twin.n if twin.n else 0.0


def tally_answers(items: Sequence[Item], answers: Sequence[str]) -> Scores:
    """Score answers; pure, no model needed."""
    found: dict[str, dict[str, list[Outcome]]] = {}
    for item, answer in zip(items, answers, strict=True):
        found.setdefault(item.property, {}).setdefault(item.kind, []).append(score(item, answer))
    return Scores({claim: {kind: tally(o) for kind, o in kinds.items()} for claim, kinds in found.items()})


@dataclass(frozen=True, slots=True)
class Measurement:
    """Scores, the answers behind them, and what they cost (0 seconds when they were already known)."""

    scores: Scores
    items: tuple[Item, ...]
    answers: tuple[str, ...]
    seconds: float


def measure(model: Model, suite: Suite, seed: int, per_property: int, cache: Path | None = None, limit: int | None = None) -> Measurement:
    """Ask a model the open items of one draw and score its answers.

    Args:
        model: who answers.
        suite: whose items.
        seed: which draw.
        per_property: items of each kind for each property and capability.
        cache: folder of earlier answers; None asks anew.
        limit: ask at most this many items, spread evenly over the draw.
    """
    items = suite.fresh_items(seed, per_property)
    if limit is not None and limit < len(items):
        items = [items[i * len(items) // limit] for i in range(limit)]
    key = digest(
        {
            "format": ANSWERS_FORMAT,
            "model": checkpoint_digest(model.folder),
            "questions": [item.input for item in items],
            "instruction": suite.instruction,
            "max_new_tokens": MAX_NEW_TOKENS,
        }
    )
    path = cache / f"{key}.json" if cache is not None else None
    seconds = 0.0
    answers = _known_answers(path, len(items)) if path is not None else None
    if answers is None:
        start = time.perf_counter()
        answers = model.answer([item.input for item in items], suite.instruction)
        seconds = time.perf_counter() - start
        if path is not None:
            write_whole(path, json.dumps(answers))
    return Measurement(tally_answers(items, answers), tuple(items), tuple(answers), seconds)


def _known_answers(path: Path, n: int) -> list[str] | None:
    """Answers from before; None where there are none, or where the file is not what was written."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, list) and len(found) == n else None


def write_whole(path: Path, text: str) -> None:
    """Write a file so that it is either all there or not there at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".writing-")
    with os.fdopen(handle, "w") as out:
        out.write(text)
        out.flush()
        os.fsync(out.fileno())
    Path(name).rename(path)
