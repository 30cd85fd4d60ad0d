"""Pass or fail: every claim's exact lower bound, at a level that pays for all the door may ever disclose."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from stagezero.door.messages import Terms
from stagezero.evidence import claim_level, clopper_pearson_lower
from stagezero.models import Model
from stagezero.tasks import Item, Outcome, score


def passes(right: Mapping[str, tuple[int, int]], terms: Terms, bits: float) -> bool:
    """The verdict rule.

    Args:
        right: claim → (right answers, clusters).
        terms: bars and δ.
        bits: the total allowance of the door, not what was used so far.
    """
    level = claim_level(terms.delta, len(terms.bars), bits)
    return all(clopper_pearson_lower(k, n, level) >= terms.bars[claim] for claim, (k, n) in right.items())


def examine(model: Model, sealed: Mapping[str, Sequence[Item]], instruction: str | None) -> dict[str, tuple[int, int]]:
    """Ask a model every sealed item: claim → (right answers, clusters)."""
    items = [item for chosen in sealed.values() for item in chosen]
    answers = model.answer([item.input for item in items], instruction)
    found = {claim: [0, 0] for claim in sealed}
    owner = [claim for claim, chosen in sealed.items() for _ in chosen]
    for claim, item, answer in zip(owner, items, answers, strict=True):
        found[claim][0] += score(item, answer) is Outcome.RIGHT
        found[claim][1] += 1
    return {claim: (k, n) for claim, (k, n) in found.items()}
