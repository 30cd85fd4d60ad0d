"""recipe → checkpoint: typed recipes, one file per training method, a content-addressed store, worker processes."""

from stagezero.training.build import build
from stagezero.training.patches import apply_patch, parse_patch
from stagezero.training.recipes import Recipe, load_recipe, parse_recipe
from stagezero.training.store import Store

__all__ = ["Recipe", "Store", "apply_patch", "build", "load_recipe", "parse_patch", "parse_recipe"]
