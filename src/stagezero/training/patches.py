"""Patches: a patch is a list of operations that changes one recipe into another.

Ideas consist of patches. An idea's digest covers the validated operations, so their field names and
defaults must not change.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, TypeAdapter, ValidationError

from stagezero.errors import RecipeError, explain
from stagezero.schema import Frozen
from stagezero.training.fields import at_most, validate_names
from stagezero.training.recipes import Part, Recipe, parse_recipe


def _validate_inputs(step: dict[str, Any]) -> dict[str, Any]:
    """Validate the file names of a step.

    The rest of a step is validated after the patch is applied. The files that it names are looked
    up before that.
    """
    if "inputs" in step:
        try:
            validate_names(step["inputs"])
        except ValueError as error:
            raise ValueError(f"inputs: {error}") from None
    return step


UnparsedStep = Annotated[dict[str, Any], AfterValidator(_validate_inputs)]
StepName = Annotated[str, Field(max_length=200)]


class SetOp(Frozen):
    """Change fields of one step, found by its name (``sft``, or ``sft/2`` for the second one)."""

    op: Literal["set"]
    at: StepName
    values: UnparsedStep = Field(min_length=1)


class AppendOp(Frozen):
    """Add a step at the end."""

    op: Literal["append"]
    step: UnparsedStep


class InsertOp(Frozen):
    """Add a step before another one, found by its name."""

    op: Literal["insert"]
    before: StepName
    step: UnparsedStep


class RemoveOp(Frozen):
    """Remove one step, found by its name."""

    op: Literal["remove"]
    at: StepName


class ExtendOp(Frozen):
    """Add parts to a mix, found by its dataset's name."""

    op: Literal["extend"]
    at: StepName
    parts: Annotated[tuple[Part, ...], at_most(64, "parts")] = Field(min_length=1)


Op = Annotated[SetOp | AppendOp | InsertOp | RemoveOp | ExtendOp, Field(discriminator="op")]
Patch = Annotated[tuple[Op, ...], at_most(64, "operations")]
_PATCH: TypeAdapter[Patch] = TypeAdapter(Patch)


def parse_patch(value: Any, where: str) -> Patch:
    """Validate a patch.

    Args:
        value: the patch as plain data.
        where: the patch's origin, for error messages.

    Raises:
        RecipeError: the message names the operation and the field.
    """
    try:
        return _PATCH.validate_python(value)
    except ValidationError as error:
        raise RecipeError(explain(error, where, Patch)) from None


def _name_of(step: dict[str, Any]) -> str:
    kind = str(step.get("step", "?"))
    return str(step.get("name") or ("data" if kind in ("mix", "filter") else kind))


def _find(steps: Sequence[dict[str, Any]], field: str, target: str, kinds: tuple[str, ...] | None, where: str) -> int:
    """Return the position of the step that an operation names.

    Args:
        steps: the recipe's steps, as plain data.
        field: the operation's field that names the step, for error messages.
        target: a step's name or kind, with ``/2`` for the second match.
        kinds: kinds of steps that may match; None for all.
        where: the patch's origin, for error messages.

    Raises:
        RecipeError: no step matches.
    """
    name, _, ordinal = target.partition("/")
    matches = [i for i, s in enumerate(steps) if name in (_name_of(s), s.get("step")) and (kinds is None or s.get("step") in kinds)]
    number = int(ordinal) if ordinal.isascii() and ordinal.isdigit() else 1
    if not 1 <= number <= len(matches):
        names = ", ".join(_name_of(s) for s in steps) or "none"
        noun = " or ".join(kinds) if kinds else "step"
        raise RecipeError(f"{where}: {field!r} names {noun} {target!r}, which the recipe lacks; its steps are: {names}; correct {field!r}.")
    return matches[number - 1]


def apply_patch(recipe: Recipe, patch: Patch, where: str) -> Recipe:
    """Return the recipe with a patch applied; the original is unchanged.

    Args:
        recipe: the recipe to change.
        patch: the operations, in order.
        where: the patch's origin, for error messages.

    Raises:
        RecipeError: the recipe lacks a step that the patch names, or the result is not a recipe.
    """
    steps: list[dict[str, Any]] = [step.model_dump(mode="json") for step in recipe.steps]
    for op in patch:
        match op:
            case SetOp():
                steps[_find(steps, "at", op.at, None, where)].update(op.values)
            case AppendOp():
                steps.append(op.step)
            case InsertOp():
                steps.insert(_find(steps, "before", op.before, None, where), op.step)
            case RemoveOp():
                del steps[_find(steps, "at", op.at, None, where)]
            case ExtendOp():
                mix = steps[_find(steps, "at", op.at, ("mix",), where)]
                parts = mix.get("parts", [])
                if not isinstance(parts, list):
                    raise RecipeError(
                        f"{where}: 'at' names mix {op.at!r}, whose 'parts' is {parts!r:.60}; expected a list; correct 'parts'."
                    )
                mix["parts"] = [*parts, *(p.model_dump(mode="json") for p in op.parts)]
    return parse_recipe({"steps": steps}, where)
