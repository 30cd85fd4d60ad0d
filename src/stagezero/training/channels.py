"""The models that declared channels (``distil``, ``merge``) name: found, checked and hashed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from stagezero.models import checkpoint_digest
from stagezero.models.loader import check_model, materialise
from stagezero.training.recipes import SELF, Distil, Merge, Recipe

BASE = "base"
"""The name, as a channel's source, of the base."""


def _other_models(recipe: Recipe) -> Iterator[str]:
    """Yield the names of a recipe's channels, without the base and the model so far."""
    return (step.source for step in recipe.channels() if step.source not in (SELF, BASE))


def check_channel_models(recipe: Recipe) -> None:
    """Reject a recipe that names a model which does not exist, before anything is built.

    Raises:
        ModelError: the message names the model.
    """
    for source in _other_models(recipe):
        check_model(source)


def channel_digests(recipe: Recipe) -> dict[str, str]:
    """Return the digest of every folder that a declared channel of a recipe names."""
    return {source: checkpoint_digest(Path(source)) for source in _other_models(recipe) if Path(source).is_dir()}


def channel_folder(step: Distil | Merge, base: Path, so_far: Path) -> Path:
    """Return the checkpoint folder of the model that a declared channel names.

    Args:
        step: the channel.
        base: checkpoint folder of the base.
        so_far: checkpoint folder of the model that the recipe has made so far.

    Raises:
        ModelError: there is no such model.
    """
    return so_far if step.source == SELF else base if step.source == BASE else materialise(step.source)
