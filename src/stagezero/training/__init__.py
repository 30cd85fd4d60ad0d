"""Training: builds a checkpoint from a base, a recipe and a seed.

Contains the typed recipes, one file per training method, a content-addressed store of builds, and
the worker processes. Builds are hermetic. Decisions about recipes belong to ``trials``, not here.
"""

from stagezero.training.build import build
from stagezero.training.patches import apply_patch, parse_patch
from stagezero.training.recipe_files import load_recipe
from stagezero.training.recipes import Recipe, parse_recipe
from stagezero.training.store import Store

__all__ = ["Recipe", "Store", "apply_patch", "build", "load_recipe", "parse_patch", "parse_recipe"]
