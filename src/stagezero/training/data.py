"""Datasets: what the data steps of a recipe make out of a suite's training items.

The draw for each claim and kind comes from a permutation of its own under the build's seed, so that asking for more examples
keeps the ones already drawn and control and candidate of a replicate share all they can.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypedDict

from stagezero.errors import BuildError, RecipeError
from stagezero.ledger import digest, file_digest
from stagezero.models import checkpoint_digest
from stagezero.tasks import Item, Suite
from stagezero.training.patterns import MOST_IN_ALL, steps_at_most
from stagezero.training.recipes import DPO, GRPO, RLHF, Command, Distil, Filter, Merge, Mix, Part, Recipe, Reward, Step


class Example(TypedDict):
    """One rendered example: texts in the model's own chat template, stop token included."""

    prompt: str
    completion: str
    rejected: str | None


def no_rejected_answer(step: DPO | Reward) -> BuildError:
    """The error of a preference step that finds no pair of answers."""
    return BuildError(
        f"{step.step} step {step.name!r}: no example of dataset {step.data!r} has a rejected answer; choose items that have one."
    )


def nothing_to_learn(step: GRPO | RLHF) -> BuildError:
    """The error of a reinforcement step whose rewards never differed within a group."""
    return BuildError(
        f"{step.step} step {step.name!r}: every answer in every group earned the same reward, so there was nothing to learn; "
        "raise 'temperature' or 'group', or train the model first."
    )


def derive_seed(seed: int, *labels: object) -> int:
    """A 48-bit seed for one use of a build's seed."""
    text = "/".join(str(label) for label in (seed, *labels))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big")


Shelves = dict[tuple[str, str], list[Item]]
"""Training items by claim and kind, each in the order of a permutation of its own."""


def _shelves(suite: Suite, seed: int) -> Shelves:
    found: Shelves = {}
    for item in suite.train_items():
        found.setdefault((item.property, item.kind), []).append(item)
    for (claim, kind), members in found.items():
        random.Random(derive_seed(seed, "draw", claim, kind)).shuffle(members)
    return found


def _draw(part: Part, suite: Suite, shelves: Shelves) -> Iterable[Item]:
    known = {claim for claim, _ in shelves}
    for claim in part.claims or ():
        if claim not in known:
            names = ", ".join(sorted(known)) or "none"
            raise RecipeError(f"mix: claim {claim!r} has no training items in suite {suite.name!r}; it has them for: {names}.")
    for (claim, kind), members in sorted(shelves.items()):
        if kind in part.kinds and (part.claims is None or claim in part.claims):
            yield from members[: part.each]


def _mix(step: Mix, suite: Suite, shelves: Shelves, seed: int) -> list[Item]:
    if not shelves:
        raise RecipeError(f"mix: suite {suite.name!r} has no training items; give some items the split 'train'.")
    found = [item for part in step.parts for item in _draw(part, suite, shelves)]
    if not found:
        raise RecipeError(f"mix {step.name!r} selects no training item of suite {suite.name!r}; widen its claims or kinds.")
    random.Random(derive_seed(seed, "shuffle")).shuffle(found)
    return found


def _filter(step: Filter, items: Sequence[Item]) -> list[Item]:
    if step.matching is not None:
        lengths = Counter(len(item.input) for item in items)
        if sum(count * steps_at_most(step.matching, length) for length, count in lengths.items()) >= MOST_IN_ALL:
            raise RecipeError(
                f"filter {step.name!r}: 'matching' could take for ever on {len(items):,} questions of up to {max(lengths):,} characters; "
                "use fewer open repeats (*, +), or filter by something else first."
            )
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


def everything(suite: Suite, seed: int) -> list[Item]:
    """All training items in an order drawn from the seed: what code is shown that names no dataset."""
    found = list(suite.train_items())
    random.Random(derive_seed(seed, "everything")).shuffle(found)
    return found


class Datasets:
    """The datasets that a recipe's data steps make under one seed, each made once."""

    def __init__(self, suite: Suite, seed: int) -> None:
        self._suite = suite
        self._seed = seed
        self._shelves: Shelves | None = None
        self.made: dict[str, list[Item]] = {}

    def take(self, step: Mix | Filter) -> None:
        """Do one data step; a dataset of the same name is replaced."""
        if self._shelves is None:
            self._shelves = _shelves(self._suite, self._seed)
        if isinstance(step, Mix):
            self.made[step.name] = _mix(step, self._suite, self._shelves, self._seed)
        else:
            self.made[step.name] = _filter(step, self.made[step.data])


def datasets_before(recipe: Recipe, position: int, suite: Suite, seed: int) -> dict[str, list[Item]]:
    """Every dataset that exists just before step ``position`` of a recipe, by name."""
    found = Datasets(suite, seed)
    for step in recipe.steps[:position]:
        if isinstance(step, Mix | Filter):
            found.take(step)
    return found.made


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
    judges = used_rewards(recipe)
    draws = [Datasets(suite, seed) for seed in (0, 1)] if suite is not None else []
    for position, step in enumerate(recipe.steps):
        if isinstance(step, Mix | Filter):
            for draw in draws:
                draw.take(step)
            continue
        if isinstance(step, Reward) and position not in judges:
            continue
        does: dict[str, object] = step.model_dump(mode="json", exclude={"name", "timeout"})
        if isinstance(step, Command):
            does["inputs"] = sorted([Path(name).name, file_digest(Path(name))] for name in step.inputs)
        if isinstance(step, Distil | Merge):
            does["source"] = named_model(step.source)
        if step.data is not None and suite is not None:
            does["data"] = [_contents(draw.made[step.data]) for draw in draws]
        elif step.data is not None:
            does["data"] = nameless(definition_of(step.data, recipe.steps[:position]))
        if isinstance(step, Reward):
            place[step.name] = len(found)
        if isinstance(step, RLHF):
            does["reward"] = place[step.reward]
        found.append(does)
    return found


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


def is_there(name: str) -> bool:
    """Is there a file of that name? Not where the name is one that the system cannot take."""
    try:
        return Path(name).is_file()
    except (OSError, ValueError):
        return False


def named_model(source: str) -> Any:
    """A channel's source for records: its name, or what is in it where it is a folder."""
    try:
        folder = Path(source)
        return {"folder": folder.name, "digest": checkpoint_digest(folder)} if folder.is_absolute() and folder.is_dir() else source
    except (OSError, ValueError):
        return source


def portable(value: Any) -> Any:
    """A written recipe or patch with the inputs of command steps by name and digest, not by where they lie: for records. So with folders
    that a channel names."""
    if isinstance(value, dict):
        if value.get("step") in ("distil", "merge") and isinstance(value.get("source"), str):
            value = {**value, "source": named_model(value["source"])}
        return {
            key: {Path(name).name: file_digest(Path(name)) if is_there(name) else "missing" for name in inner}
            if key == "inputs" and isinstance(inner, list | tuple) and all(isinstance(name, str) for name in inner)
            else portable(inner)
            for key, inner in value.items()
        }
    return [portable(inner) for inner in value] if isinstance(value, list | tuple) else value
