"""Datasets: what the data steps of a recipe make from a suite's training items.

Each claim and kind has a permutation of its own under the build's seed, and a draw takes its first
items. A request for more examples therefore retains the examples that were already drawn, and the
control and candidate of a replicate share as many examples as possible.

This module also computes the definitions that enter build keys and hypotheses (``definition_of``,
``meaning_of``); a change of their output changes every digest.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypedDict

from stagezero import patterns
from stagezero.errors import BuildError, RecipeError
from stagezero.ledger import digest_of_texts, file_digest
from stagezero.models import checkpoint_digest
from stagezero.tasks import Item, Suite
from stagezero.training.recipes import DPO, GRPO, RLHF, Command, Distil, Filter, Merge, Mix, Part, Recipe, Reward, Step


class Example(TypedDict):
    """One rendered example: texts in the model's own chat template, with the stop token."""

    prompt: str
    completion: str
    rejected: str | None


def preference_pairs(examples: Sequence[Example]) -> list[tuple[Example, str]]:
    """Return the examples that have a rejected answer, with that answer.

    A rejected answer that equals the answer is none: its gradient is rounding noise.
    """
    return [(e, e["rejected"]) for e in examples if e["rejected"] and e["rejected"] != e["completion"]]


def no_rejected_answer_error(step: DPO | Reward) -> BuildError:
    """Return the error of a preference step whose dataset has no pair of answers."""
    return BuildError(
        f"{step.step} step {step.name!r}: no example of dataset {step.data!r} has a rejected answer that differs from the answer; "
        "choose items that have one."
    )


def equal_rewards_error(step: GRPO | RLHF) -> BuildError:
    """Return the error of a reinforcement step whose rewards never differed within a group."""
    return BuildError(
        f"{step.step} step {step.name!r}: every answer in every group earned the same reward, so there was nothing to learn; "
        "raise 'temperature' or 'group', or train the model first."
    )


def derive_seed(seed: int, *labels: object) -> int:
    """Derive a 48-bit seed from a build's seed.

    Args:
        seed: the build's seed.
        labels: name the use of the derived seed; different labels give independent seeds.
    """
    text = "/".join(str(label) for label in (seed, *labels))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big")


ItemPools = dict[tuple[str, str], list[Item]]
"""Training items by claim and kind, each list in the order of its own permutation."""


def _item_pools(suite: Suite, seed: int) -> ItemPools:
    pools: ItemPools = {}
    for item in suite.train_items():
        pools.setdefault((item.property, item.kind), []).append(item)
    for (claim, kind), members in pools.items():
        random.Random(derive_seed(seed, "draw", claim, kind)).shuffle(members)
    return pools


def _draw(step: Mix, part: Part, suite: Suite, pools: ItemPools) -> Iterable[Item]:
    """Draw the items of one part of a mix.

    Raises:
        RecipeError: the suite has no training items for one of the part's claims.
    """
    available = {claim for claim, _ in pools}
    for claim in part.claims or ():
        if claim not in available:
            names = ", ".join(sorted(available)) or "none"
            raise RecipeError(
                f"mix {step.name!r}: claim {claim!r} has no training items in suite {suite.name!r}; "
                f"expected 'claims' from: {names}; correct it."
            )
    for (claim, kind), members in sorted(pools.items()):
        if kind in part.kinds and (part.claims is None or claim in part.claims):
            yield from members[: part.each]


def _mix(step: Mix, suite: Suite, pools: ItemPools, seed: int) -> list[Item]:
    """Make the dataset of a mix.

    Raises:
        RecipeError: the suite has no training items, or the mix selects none of them.
    """
    if not pools:
        raise RecipeError(f"mix {step.name!r}: suite {suite.name!r} has no training items; give some items the split 'train'.")
    items = [item for part in step.parts for item in _draw(step, part, suite, pools)]
    if not items:
        raise RecipeError(f"mix {step.name!r} selects no training item of suite {suite.name!r}; widen its 'claims' or 'kinds'.")
    random.Random(derive_seed(seed, "shuffle")).shuffle(items)
    return items


def _filter(step: Filter, items: Sequence[Item]) -> list[Item]:
    """Select the items of a filter.

    Raises:
        RecipeError: no item meets the conditions.
    """
    selected: list[Item] = []
    seen: set[tuple[str, str]] = set()
    for item in items:
        if step.claims is not None and item.property not in step.claims:
            continue
        if step.kinds is not None and item.kind not in step.kinds:
            continue
        if step.max_words is not None and len(item.input.split()) > step.max_words:
            continue
        if step.matching is not None and not patterns.matches(step.matching, item.input):
            continue
        if step.deduplicate and (item.input, item.demonstration) in seen:
            continue
        seen.add((item.input, item.demonstration))
        selected.append(item)
    if not selected:
        raise RecipeError(f"filter {step.name!r} selects no example of dataset {step.data!r}; relax its conditions.")
    return selected


def all_training_items(suite: Suite, seed: int) -> list[Item]:
    """Return all training items in an order drawn from the seed.

    A code step that names no dataset trains on these.
    """
    items = list(suite.train_items())
    random.Random(derive_seed(seed, "everything")).shuffle(items)
    return items


class Datasets:
    """The datasets that a recipe's data steps make under one seed, by name. Each is made once."""

    def __init__(self, suite: Suite, seed: int) -> None:
        self._suite = suite
        self._seed = seed
        self._pools: ItemPools | None = None
        self.by_name: dict[str, list[Item]] = {}

    def apply(self, step: Mix | Filter) -> None:
        """Apply one data step. A dataset of the same name is replaced.

        Raises:
            RecipeError: the step selects no item.
        """
        if self._pools is None:
            self._pools = _item_pools(self._suite, self._seed)
        if isinstance(step, Mix):
            self.by_name[step.name] = _mix(step, self._suite, self._pools, self._seed)
        else:
            self.by_name[step.name] = _filter(step, self.by_name[step.data])


def datasets_before(recipe: Recipe, position: int, suite: Suite, seed: int) -> dict[str, list[Item]]:
    """Return every dataset that exists just before step ``position`` of a recipe, by name.

    Raises:
        RecipeError: a data step selects no item.
    """
    datasets = Datasets(suite, seed)
    for step in recipe.steps[:position]:
        if isinstance(step, Mix | Filter):
            datasets.apply(step)
    return datasets.by_name


def definition_of(name: str, steps: Sequence[Step]) -> list[dict[str, object]]:
    """Return the data steps among ``steps`` that determine dataset ``name``.

    A build's key must hash these.
    """
    needed: list[dict[str, object]] = []
    for step in reversed(steps):
        if isinstance(step, Mix) and step.name == name:
            return [step.model_dump(mode="json"), *reversed(needed)]
        if isinstance(step, Filter) and step.name == name:
            needed.append(step.model_dump(mode="json"))
            name = step.data
    return list(reversed(needed))


def meaning_of(recipe: Recipe, suite: Suite | None = None) -> list[dict[str, object]]:
    """Return what a recipe does, without everything that does not affect the result.

    Left out are names, timeouts, unused datasets and reward models, and the folders of a command's
    files (their bytes count). Two recipes with the same meaning are one hypothesis: from one seed,
    their builds are identical or differ only as another shuffle would.

    Args:
        recipe: the recipe.
        suite: if given, a dataset is represented by its examples. Then another way to choose the
            same examples, or a filter that removes none, gives the same meaning. If None, a dataset
            is represented by its definition.

    Raises:
        RecipeError: a data step selects no item of the suite.
    """
    meaning: list[dict[str, object]] = []
    reward_places: dict[str, int] = {}  # place in ``meaning`` of the latest reward step of each name
    used_rewards = used_reward_positions(recipe)
    draws = [Datasets(suite, seed) for seed in (0, 1)] if suite is not None else []
    for position, step in enumerate(recipe.steps):
        if isinstance(step, Mix | Filter):
            for draw in draws:
                draw.apply(step)
            continue
        if isinstance(step, Reward) and position not in used_rewards:
            continue
        content: dict[str, object] = step.model_dump(mode="json", exclude={"name", "timeout"})
        if isinstance(step, Command):
            content["inputs"] = sorted([Path(name).name, file_digest(Path(name))] for name in step.inputs)
        if isinstance(step, Distil | Merge):
            content["source"] = portable_source(step.source)
        if step.data is not None and suite is not None:
            content["data"] = [_content_digest(draw.by_name[step.data]) for draw in draws]
        elif step.data is not None:
            content["data"] = without_names(definition_of(step.data, recipe.steps[:position]))
        if isinstance(step, Reward):
            reward_places[step.name] = len(meaning)
        if isinstance(step, RLHF):
            content["reward"] = reward_places[step.reward]
        meaning.append(content)
    return meaning


def _content_digest(items: Sequence[Item]) -> str:
    """Return the hash of a dataset's examples, independent of their order."""
    return digest_of_texts(sorted([item.id, item.input, item.demonstration, item.rejected or ""] for item in items))


def used_reward_positions(recipe: Recipe) -> frozenset[int]:
    """Return the positions of the reward steps that an rlhf step learns from."""
    used, latest = set(), {}
    for position, step in enumerate(recipe.steps):
        if isinstance(step, Reward):
            latest[step.name] = position
        elif isinstance(step, RLHF):
            used.add(latest[step.reward])
    return frozenset(used)


def without_names(definition: Sequence[dict[str, object]]) -> list[dict[str, object]]:
    """Return a dataset's definition without the names of its datasets."""
    return [{key: value for key, value in step.items() if key not in ("name", "data")} for step in definition]


def is_existing_file(name: str) -> bool:
    """Return True if a file of that name exists; False for a name that the system rejects."""
    try:
        return Path(name).is_file()
    except (OSError, ValueError):
        return False


def portable_source(source: str) -> Any:
    """Return a channel's source for records: its name, or a folder's name and digest."""
    try:
        folder = Path(source)
        return {"folder": folder.name, "digest": checkpoint_digest(folder)} if folder.is_absolute() and folder.is_dir() else source
    except (OSError, ValueError):
        return source


def portable_form(value: Any) -> Any:
    """Return a recipe or patch, as plain data, in the form for records.

    The inputs of command steps, and the folders that channels name, are given by name and digest
    instead of by path.
    """
    if isinstance(value, dict):
        if value.get("step") in ("distil", "merge") and isinstance(value.get("source"), str):
            value = {**value, "source": portable_source(value["source"])}
        return {
            key: {Path(name).name: file_digest(Path(name)) if is_existing_file(name) else "missing" for name in inner}
            if key == "inputs" and isinstance(inner, list | tuple) and all(isinstance(name, str) for name in inner)
            else portable_form(inner)
            for key, inner in value.items()
        }
    return [portable_form(inner) for inner in value] if isinstance(value, list | tuple) else value
