"""A recipe is an ordered list of typed steps applied to the base; a patch changes one recipe into another.

Steps that make data (``mix``, ``filter``) name a dataset; steps that train (``sft``, ``dpo``, ``grpo``, ``reward``, ``rlhf``,
``command``) use one. Unknown keys are refused. Two recipes that differ only in how they were written have the same canonical
form and the same digest.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, field_validator, model_validator

from stagezero.errors import RecipeError, explain
from stagezero.ledger import digest, file_digest
from stagezero.private import read_text
from stagezero.tasks.items import Kind

Positive = Annotated[int, Field(gt=0)]
Rate = Annotated[float, Field(gt=0, le=1)]
Payoff = Annotated[float, Field(ge=-100, le=100)]


class Frozen(BaseModel):
    """Base of everything a person writes: immutable, typed, unknown keys refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Part(Frozen):
    """A draw from the suite's training items: up to ``each`` of every chosen claim and kind (all when left out)."""

    claims: tuple[str, ...] | None = None
    kinds: tuple[Kind, ...] = ("trap",)
    each: Positive | None = None

    @field_validator("claims", "kinds")
    @classmethod
    def _in_one_order(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        """They are sets: how they are listed says nothing."""
        return None if value is None else tuple(sorted(set(value)))


class Mix(Frozen):
    """Make a dataset from training items, drawn by the build's seed and shuffled."""

    step: Literal["mix"]
    name: str = "data"
    parts: tuple[Part, ...] = Field(min_length=1)


class Filter(Frozen):
    """Keep some examples of a dataset. Every condition given must hold."""

    step: Literal["filter"]
    data: str = "data"
    name: str = "data"
    claims: tuple[str, ...] | None = None
    kinds: tuple[Kind, ...] | None = None
    max_words: Positive | None = None
    matching: str | None = Field(default=None, description="regular expression that the question must match")
    deduplicate: bool = False

    @model_validator(mode="after")
    def _pattern(self) -> Filter:
        import re

        if self.matching is not None:
            try:
                re.compile(self.matching)
            except re.error as error:
                raise ValueError(f"not a regular expression ({error}); correct it") from None
        return self


class Lora(Frozen):
    """Low-rank adapters on every linear layer, merged after the step."""

    rank: Positive = 8
    alpha: Positive = 16


class Trained(Frozen):
    """What the gradient steps share."""

    data: str = "data"
    steps: Positive
    batch_size: Positive = 16
    learning_rate: Rate
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    warmup: Annotated[int, Field(ge=0)] = 0
    weight_decay: Annotated[float, Field(ge=0, le=1)] = 0.0
    lora: Lora | None = None


class SFT(Trained):
    """Supervised fine-tuning on the answers a person would write."""

    step: Literal["sft"]
    name: str = "sft"


class DPO(Trained):
    """Direct preference optimisation of the answer over the item's ``rejected``; the reference is the step's input model."""

    step: Literal["dpo"]
    name: str = "dpo"
    beta: Annotated[float, Field(gt=0, le=10)] = 0.1


class Payoffs(Frozen):
    """What the task's checker pays for an answer."""

    right: Payoff = 1.0
    wrong: Payoff = 0.0
    refused: Payoff = 0.0
    unparseable: Payoff = 0.0


class Sampled(Trained):
    """What the reinforcement steps share: ``batch_size`` answers a step, in groups of ``group`` to the same question.

    ``beta`` weighs the divergence from the step's input model; ``length`` is the most tokens an answer may have.
    """

    group: Annotated[int, Field(ge=2, le=256)] = 8
    temperature: Annotated[float, Field(gt=0, le=10)] = 1.0
    beta: Annotated[float, Field(ge=0, le=10)] = 0.04
    length: Annotated[int, Field(gt=0, le=1024)] = 24

    @model_validator(mode="after")
    def _whole_groups(self) -> Self:
        if self.batch_size % self.group:
            raise ValueError(f"'batch_size' ({self.batch_size}) must be a multiple of 'group' ({self.group}); correct one of them")
        return self


class GRPO(Sampled):
    """Reinforcement against the task's own checker, on training items."""

    step: Literal["grpo"]
    name: str = "grpo"
    pays: Payoffs = Payoffs()


class Reward(Trained):
    """A reward model from human preference pairs (labeller's errors included), starting from the step's input model.

    It leaves the policy as it is; an ``rlhf`` step uses it by its name.
    """

    step: Literal["reward"]
    name: str = "reward"


class RLHF(Sampled):
    """Reinforcement against the reward model that an earlier ``reward`` step made; only the questions of ``data`` are used."""

    step: Literal["rlhf"]
    name: str = "rlhf"
    reward: str = "reward"


class Command(Frozen):
    """A team's own trainer: any program that reads a checkpoint folder and writes one.

    It runs in an empty folder holding copies of ``inputs``, with STAGEZERO_MODEL (folder to start from), STAGEZERO_OUT
    (folder to fill with safetensors), STAGEZERO_SEED and, where ``data`` is given, STAGEZERO_DATA (JSON lines: prompt, completion,
    rejected) in its environment. What it writes must have the tensors it was given: same names, shapes and types.
    """

    step: Literal["command"]
    name: str = "command"
    run: tuple[str, ...] = Field(min_length=1)
    inputs: tuple[str, ...] = ()
    data: str | None = None
    timeout: Positive = 3600


Step = Annotated[Mix | Filter | SFT | DPO | GRPO | Reward | RLHF | Command, Field(discriminator="step")]
TrainStep = SFT | DPO | GRPO | Reward | RLHF | Command


class Recipe(Frozen):
    """An ordered list of steps. The empty recipe is the base itself."""

    steps: tuple[Step, ...] = ()

    @model_validator(mode="after")
    def _data_is_made_before_it_is_used(self) -> Recipe:
        made: set[str] = set()
        rewards: set[str] = set()
        for number, step in enumerate(self.steps, 1):
            used = None if isinstance(step, Mix) else step.data
            if used is not None and used not in made:
                raise ValueError(
                    f"step {number} ({step.step}) uses dataset {used!r}, which no earlier mix or filter makes; add a mix before it"
                )
            if isinstance(step, Mix | Filter):
                made.add(step.name)
            if isinstance(step, RLHF) and step.reward not in rewards:
                raise ValueError(
                    f"step {number} (rlhf) uses reward model {step.reward!r}, which no earlier reward step makes; add one before it"
                )
            if isinstance(step, Reward):
                rewards.add(step.name)
        return self

    def canonical(self) -> dict[str, Any]:
        """The one form of this recipe: all defaults written out, numbers normalised."""
        dumped: dict[str, Any] = self.model_dump(mode="json")
        return dumped

    def digest(self) -> str:
        return digest(self.canonical())

    def inputs_digest(self) -> dict[str, str]:
        """Digest of every file a command step declares."""
        found = {}
        for step in self.steps:
            for name in step.inputs if isinstance(step, Command) else ():
                if not Path(name).is_file():
                    raise RecipeError(f"command step {step.name!r}: input {name!r} does not exist; correct 'inputs'.")
                found[name] = file_digest(Path(name))
        return found


class SetOp(Frozen):
    """Change fields of one step, found by its name (``sft``, or ``sft/2`` for the second of that name)."""

    op: Literal["set"]
    at: str
    values: dict[str, Any] = Field(min_length=1)


class AppendOp(Frozen):
    op: Literal["append"]
    step: dict[str, Any]


class InsertOp(Frozen):
    op: Literal["insert"]
    before: str
    step: dict[str, Any]


class RemoveOp(Frozen):
    op: Literal["remove"]
    at: str


class ExtendOp(Frozen):
    """Add parts to a mix, found by its dataset's name."""

    op: Literal["extend"]
    at: str
    parts: tuple[Part, ...] = Field(min_length=1)


Op = Annotated[SetOp | AppendOp | InsertOp | RemoveOp | ExtendOp, Field(discriminator="op")]
Patch = tuple[Op, ...]
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


def parse_recipe(value: Any, where: str) -> Recipe:
    """Check a recipe.

    Raises:
        RecipeError: naming the step and field, what was expected and the fix.
    """
    try:
        return Recipe.model_validate({"steps": value} if isinstance(value, list) else value)
    except ValidationError as error:
        raise RecipeError(explain(error, where)) from None


def load_recipe(path: Path) -> Recipe:
    """Read a recipe from YAML; the inputs of command steps are found relative to the file.

    Raises:
        RecipeError: no such file, not YAML, or not a recipe.
    """
    if not path.is_file():
        raise RecipeError(f"recipe {str(path)!r}: expected a YAML file, found none; check the path.")
    try:
        value = yaml.safe_load(read_text(path, RecipeError))
    except yaml.YAMLError as error:
        raise RecipeError(f"{path}: not valid YAML ({' '.join(str(error).split())}); correct it.") from None
    return resolve_inputs(parse_recipe(value, str(path)), path.parent)


def resolve_inputs(recipe: Recipe, folder: Path) -> Recipe:
    """Make the inputs of command steps absolute and check that they exist."""
    steps = [
        step.model_copy(update={"inputs": tuple(str((folder / name).resolve()) for name in step.inputs)})
        if isinstance(step, Command)
        else step
        for step in recipe.steps
    ]
    found = Recipe(steps=tuple(steps))
    found.inputs_digest()
    return found


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
                mix["parts"] = [*mix.get("parts", []), *(p.model_dump(mode="json") for p in op.parts)]
    return parse_recipe({"steps": steps}, where)
