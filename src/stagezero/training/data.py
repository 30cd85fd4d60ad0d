"""Datasets: what the data steps of a recipe make out of a suite's training items.

The draw for each claim and kind comes from a permutation of its own under the build's seed, so that asking for more examples
keeps the ones already drawn and control and candidate of a replicate share all they can.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypedDict

from stagezero.errors import RecipeError
from stagezero.ledger import digest, file_digest
from stagezero.tasks import Item, Suite
from stagezero.training.recipes import RLHF, Command, Filter, Mix, Part, Recipe, Reward, Step


class Example(TypedDict):
    """One rendered example: texts in the model's own chat template, stop token included."""

    prompt: str
    completion: str
    rejected: str | None


def derive_seed(seed: int, *labels: object) -> int:
    """A 48-bit seed for one use of a build's seed."""
    text = "/".join(str(label) for label in (seed, *labels))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big")


def _draw(part: Part, suite: Suite, pool: Sequence[Item], seed: int) -> Iterable[Item]:
    known = {(item.property, item.kind) for item in pool}
    if part.claims is not None:
        for claim in part.claims:
            if claim not in {name for name, _ in known}:
                names = ", ".join(sorted({name for name, _ in known})) or "none"
                raise RecipeError(f"mix: claim {claim!r} has no training items in suite {suite.name!r}; it has them for: {names}.")
    for claim, kind in sorted(known):
        if kind not in part.kinds or (part.claims is not None and claim not in part.claims):
            continue
        members = [item for item in pool if item.property == claim and item.kind == kind]
        random.Random(derive_seed(seed, "draw", claim, kind)).shuffle(members)
        yield from members[: part.each]


def _mix(step: Mix, suite: Suite, seed: int) -> list[Item]:
    pool = suite.train_items()
    if not pool:
        raise RecipeError(f"mix: suite {suite.name!r} has no training items; give some items the split 'train'.")
    found = [item for part in step.parts for item in _draw(part, suite, pool, seed)]
    if not found:
        raise RecipeError(f"mix {step.name!r} selects no training item of suite {suite.name!r}; widen its claims or kinds.")
    random.Random(derive_seed(seed, "shuffle")).shuffle(found)
    return found


def _filter(step: Filter, items: Sequence[Item]) -> list[Item]:
    kept: list[Item] = []
    seen: set[tuple[str, str]] = set()
    for item in items:
        if step.claims is not None and item.property not in step.claims:
            continue
        if step.kinds is not None and item.kind not in step.kinds:
            continue
        if step.max_words is not None and len(item.input.split()) > step.max_words:
            continue
        if step.matching is not None and not re.search(step.matching, item.input):
            continue
        if step.deduplicate and (item.input, item.demonstration) in seen:
            continue
        seen.add((item.input, item.demonstration))
        kept.append(item)
    if not kept:
        raise RecipeError(f"filter {step.name!r} keeps no example of dataset {step.data!r}; loosen it.")
    return kept


def datasets_before(recipe: Recipe, position: int, suite: Suite, seed: int) -> dict[str, list[Item]]:
    """Every dataset that exists just before step ``position`` of a recipe, by name."""
    made: dict[str, list[Item]] = {}
    for step in recipe.steps[:position]:
        if isinstance(step, Mix):
            made[step.name] = _mix(step, suite, seed)
        elif isinstance(step, Filter):
            made[step.name] = _filter(step, made[step.data])
    return made


def definition_of(name: str, steps: Sequence[Step]) -> list[dict[str, object]]:
    """The data steps that determine dataset ``name`` among ``steps``: what a build's key must hash."""
    needed: list[dict[str, object]] = []
    for step in reversed(steps):
        if isinstance(step, Mix) and step.name == name:
            return [step.model_dump(mode="json"), *reversed(needed)]
        if isinstance(step, Filter) and step.name == name:
            needed.append(step.model_dump(mode="json"))
            name = step.data
    return list(reversed(needed))


def meaning_of(recipe: Recipe, suite: Suite | None = None) -> list[dict[str, object]]:
    """What a recipe does, with everything left out that changes nothing: names, timeouts, datasets and reward models nobody uses,
    and where a command's files lie (their bytes count).

    Two recipes of one meaning are one hypothesis: from one seed their builds are the same, or differ as another shuffle would.

    Args:
        suite: with it a dataset is known by the examples it holds, so that another way of choosing the same ones, or a filter
            that takes nothing away, is the same meaning; without it, by its definition.
    """
    found: list[dict[str, object]] = []
    place: dict[str, int] = {}  # where the latest reward step of a name stands
    for position, step in enumerate(recipe.steps):
        if isinstance(step, Mix | Filter):
            continue
        does: dict[str, object] = step.model_dump(mode="json", exclude={"name", "timeout"})
        if isinstance(step, Command):
            does["inputs"] = sorted([Path(name).name, file_digest(Path(name))] for name in step.inputs)
        if step.data is not None and suite is not None:
            does["data"] = [_contents(datasets_before(recipe, position, suite, seed)[step.data]) for seed in (0, 1)]
        elif step.data is not None:
            does["data"] = nameless(definition_of(step.data, recipe.steps[:position]))
        if isinstance(step, Reward):
            place[step.name] = len(found)
        if isinstance(step, RLHF):
            does["reward"] = place[step.reward]
        found.append(does)
    used = {does["reward"] for does in found if does["step"] == "rlhf"}
    kept = [i for i, does in enumerate(found) if does["step"] != "reward" or i in used]
    for i in kept:
        if found[i]["step"] == "rlhf":
            found[i]["reward"] = kept.index(int(str(found[i]["reward"])))
    return [found[i] for i in kept]


def _contents(items: Sequence[Item]) -> str:
    """A dataset by what is in it, whatever the order it would be shuffled in."""
    return digest(sorted([item.id, item.input, item.demonstration, item.rejected or ""] for item in items))


def used_rewards(recipe: Recipe) -> frozenset[int]:
    """Positions of the reward steps that some rlhf step learns from."""
    found, latest = set(), {}
    for position, step in enumerate(recipe.steps):
        if isinstance(step, Reward):
            latest[step.name] = position
        elif isinstance(step, RLHF):
            found.add(latest[step.reward])
    return frozenset(found)


def nameless(definition: Sequence[dict[str, object]]) -> list[dict[str, object]]:
    """A dataset's definition without the names it goes by."""
    return [{key: value for key, value in step.items() if key not in ("name", "data")} for step in definition]


def portable(value: Any) -> Any:
    """A written recipe or patch with the inputs of command steps by name and digest, not by where they lie: for records."""
    if isinstance(value, dict):
        return {
            key: {Path(name).name: file_digest(Path(name)) if Path(name).is_file() else "missing" for name in inner}
            if key == "inputs" and isinstance(inner, list | tuple)
            else portable(inner)
            for key, inner in value.items()
        }
    return [portable(inner) for inner in value] if isinstance(value, list | tuple) else value
