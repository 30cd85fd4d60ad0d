"""A patch changes one recipe into another: what an idea is made of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, TypeAdapter, ValidationError

from stagezero.errors import RecipeError, explain
from stagezero.training.fields import Frozen, at_most, plain_names
from stagezero.training.recipes import Part, Recipe, parse_recipe


def _checked_names(step: dict[str, Any]) -> dict[str, Any]:
    """A step as written is checked when it has been applied; the files it names are looked for before that."""
    if "inputs" in step:
        try:
            plain_names(step["inputs"])
        except ValueError as error:
            raise ValueError(f"inputs: {error}") from None
    return step


Written = Annotated[dict[str, Any], AfterValidator(_checked_names)]
At = Annotated[str, Field(max_length=200)]


class SetOp(Frozen):
    """Change fields of one step, found by its name (``sft``, or ``sft/2`` for the second of that name)."""

    op: Literal["set"]
    at: At
    values: Written = Field(min_length=1)


class AppendOp(Frozen):
    op: Literal["append"]
    step: Written


class InsertOp(Frozen):
    op: Literal["insert"]
    before: At
    step: Written


class RemoveOp(Frozen):
    op: Literal["remove"]
    at: At


class ExtendOp(Frozen):
    """Add parts to a mix, found by its dataset's name."""

    op: Literal["extend"]
    at: At
    parts: Annotated[tuple[Part, ...], at_most(64, "parts")] = Field(min_length=1)


Op = Annotated[SetOp | AppendOp | InsertOp | RemoveOp | ExtendOp, Field(discriminator="op")]
Patch = Annotated[tuple[Op, ...], at_most(64, "operations")]
_PATCH: TypeAdapter[Patch] = TypeAdapter(Patch)


def parse_patch(value: Any, where: str) -> Patch:
    """Check a patch.

    Raises:
        RecipeError: naming the operation and field.
    """
    try:
        return _PATCH.validate_python(value)
    except ValidationError as error:
        raise RecipeError(explain(error, where)) from None


def _name_of(step: dict[str, Any]) -> str:
    kind = str(step.get("step", "?"))
    return str(step.get("name") or ("data" if kind in ("mix", "filter") else kind))


def _find(steps: Sequence[dict[str, Any]], at: str, kinds: tuple[str, ...] | None, where: str) -> int:
    name, _, which = at.partition("/")
    hits = [i for i, s in enumerate(steps) if name in (_name_of(s), s.get("step")) and (kinds is None or s.get("step") in kinds)]
    number = int(which) if which.isascii() and which.isdigit() else 1
    if not 1 <= number <= len(hits):
        names = ", ".join(_name_of(s) for s in steps) or "none"
        raise RecipeError(f"{where}: the patch looks for a step {at!r}; the recipe has: {names}; correct 'at'.")
    return hits[number - 1]


def apply_patch(recipe: Recipe, patch: Patch, where: str) -> Recipe:
    """The recipe with a patch applied.

    Raises:
        RecipeError: a step it names is not there, or the result is not a recipe.
    """
    steps: list[dict[str, Any]] = [step.model_dump(mode="json") for step in recipe.steps]
    for op in patch:
        match op:
            case SetOp():
                steps[_find(steps, op.at, None, where)].update(op.values)
            case AppendOp():
                steps.append(op.step)
            case InsertOp():
                steps.insert(_find(steps, op.before, None, where), op.step)
            case RemoveOp():
                del steps[_find(steps, op.at, None, where)]
            case ExtendOp():
                mix = steps[_find(steps, op.at, ("mix",), where)]
                parts = mix.get("parts", [])
                if not isinstance(parts, list):
                    raise RecipeError(f"{where}: the patch extends {op.at!r}, whose 'parts' is not a list but {parts!r:.60}; correct it.")
                mix["parts"] = [*parts, *(p.model_dump(mode="json") for p in op.parts)]
    return parse_recipe({"steps": steps}, where)
