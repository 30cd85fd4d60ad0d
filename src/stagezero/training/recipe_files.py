"""Recipe files: reads a recipe from YAML and resolves the paths that it contains.

``recipes`` validates the content; only this module reads recipe files.
"""

from __future__ import annotations

from pathlib import Path

from stagezero.errors import RecipeError
from stagezero.files import read_text
from stagezero.parsing import parse_yaml
from stagezero.training.recipes import Command, Distil, Merge, Recipe, Step, parse_recipe


def load_recipe(path: Path) -> Recipe:
    """Read a recipe from YAML. The inputs of command steps are resolved relative to the file.

    Raises:
        RecipeError: the file is missing, is not YAML, or is not a recipe.
    """
    if not path.is_file():
        raise RecipeError(f"recipe {str(path)!r}: expected a YAML file, but there is none; correct the path.")
    value = parse_yaml(read_text(path, RecipeError), str(path), RecipeError)
    return resolve_inputs(parse_recipe(value, str(path)), path.parent)


def resolve_inputs(recipe: Recipe, folder: Path) -> Recipe:
    """Make the paths in a recipe absolute: inputs of command steps, and folders that channels name.

    Args:
        recipe: the recipe.
        folder: the folder that relative paths start from.

    Raises:
        RecipeError: an input of a command step is missing or cannot be read.
    """

    def resolve(step: Step) -> Step:
        if isinstance(step, Command):
            return step.model_copy(update={"inputs": tuple(str((folder / name).absolute()) for name in step.inputs)})
        if isinstance(step, Distil | Merge) and (folder / step.source).is_dir():
            return step.model_copy(update={"source": str((folder / step.source).absolute())})
        return step

    steps = [resolve(step) for step in recipe.steps]
    resolved = Recipe(steps=tuple(steps))
    resolved.inputs_digest()
    return resolved
