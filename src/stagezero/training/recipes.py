"""A recipe is an ordered list of typed steps applied to the base.

Steps that make data (``mix``, ``filter``) name a dataset; steps that train (``sft``, ``dpo``, ``grpo``, ``reward``, ``rlhf``,
``command``, ``code``) use one. ``distil`` and ``merge`` are declared channels: they name the model whose labels or weights cross.
Unknown keys are refused. Two recipes that differ only in how they were written have the same canonical
form and the same digest.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import AfterValidator, Field, ValidationError, field_validator, model_validator

from stagezero.errors import RecipeError, explain
from stagezero.files import read_text
from stagezero.ledger import digest, file_digest
from stagezero.tasks.items import Kind
from stagezero.training.fields import Frozen, Names, Payoff, Positive, Rate, at_most
from stagezero.training.patterns import check_pattern
from stagezero.training.technique import canonical_source


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
    parts: Annotated[tuple[Part, ...], at_most(64, "parts")] = Field(min_length=1)


class Filter(Frozen):
    """Keep some examples of a dataset. Every condition given must hold."""

    step: Literal["filter"]
    data: str = "data"
    name: str = "data"
    claims: tuple[str, ...] | None = None
    kinds: tuple[Kind, ...] | None = None
    max_words: Positive | None = None
    matching: Annotated[str, AfterValidator(check_pattern)] | None = Field(
        default=None, description="regular expression that the question must match"
    )
    deduplicate: bool = False


class Lora(Frozen):
    """Low-rank adapters on every linear layer, merged after the step."""

    rank: Annotated[Positive, at_most(1024)] = 8
    alpha: Positive = 16


class Trained(Frozen):
    """What the gradient steps share."""

    data: str = "data"
    steps: Annotated[Positive, at_most(100_000)]
    batch_size: Annotated[Positive, at_most(4096)] = 16
    learning_rate: Rate
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    warmup: Annotated[int, Field(ge=0), at_most(100_000)] = 0
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

    It runs in a folder that holds copies of ``inputs`` and nothing else, with STAGEZERO_MODEL (folder to start from), STAGEZERO_OUT
    (folder to fill with safetensors), STAGEZERO_SEED and, where ``data`` is given, STAGEZERO_DATA (JSON lines: prompt, completion,
    rejected) in its environment. What it writes must have the tensors it was given: same names, shapes and types.
    """

    step: Literal["command"]
    name: str = "command"
    run: Names = Field(min_length=1)
    inputs: Names = ()
    data: str | None = None
    timeout: Annotated[Positive, at_most(604_800, "seconds, which is a week")] = 3600

    @field_validator("inputs")
    @classmethod
    def _told_apart(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        """They are copied into one folder."""
        bare = [Path(name).name for name in value]
        if len(set(bare)) < len(bare):
            raise ValueError(f"expected files of different names, got {', '.join(bare)}; rename one of them")
        return value


def _canonical(value: str) -> str:
    try:
        return canonical_source(value, "source")
    except RecipeError as error:
        raise ValueError(str(error)) from None


class Code(Frozen):
    """A technique that no typed step expresses: one Python function ``technique(ctx) -> model``, in its canonical form.

    It runs in the sandbox and is given the model so far, the base, the human training data (all of it, or the dataset ``data``) and a
    seed; see ``isolation/runner.py`` for what ``ctx`` offers. What it returns must have the tensors it was given.
    """

    step: Literal["code"]
    name: str = "code"
    source: Annotated[str, AfterValidator(_canonical)]
    data: str | None = None
    timeout: Annotated[Positive, at_most(604_800, "seconds, which is a week")] = 3600


SELF = "self"
"""As a channel's source: the model that the recipe has made so far."""
Source = Annotated[str, Field(min_length=1, max_length=400)]


class Distil(Trained):
    """A declared channel for labels: supervised fine-tuning on the answers that another model gives to the questions of ``data``.

    ``source`` is that model's name: ``self`` (the model so far, which is self-labelling), ``base``, ``package/…``, ``hf/…`` or a folder.
    """

    step: Literal["distil"]
    name: str = "distil"
    source: Source


class Merge(Frozen):
    """A declared channel for weights: the model so far, moved by the share ``weight`` towards another of the same shape."""

    step: Literal["merge"]
    name: str = "merge"
    source: Source
    weight: Annotated[float, Field(gt=0, le=1)]
    data: None = None


Step = Annotated[Mix | Filter | SFT | DPO | GRPO | Reward | RLHF | Command | Code | Distil | Merge, Field(discriminator="step")]
TrainStep = SFT | DPO | GRPO | Reward | RLHF | Command | Code | Distil | Merge
Channel = Distil | Merge


class Recipe(Frozen):
    """An ordered list of steps. The empty recipe is the base itself."""

    steps: Annotated[tuple[Step, ...], at_most(64, "steps")] = ()

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

    def channels(self) -> tuple[Channel, ...]:
        """The declared channels: steps by which something of another model crosses that is no idea."""
        return tuple(step for step in self.steps if isinstance(step, Distil | Merge))

    def canonical(self) -> dict[str, Any]:
        """The one form of this recipe: all defaults written out, numbers normalised."""
        dumped: dict[str, Any] = self.model_dump(mode="json")
        return dumped

    def digest(self) -> str:
        return digest(self.canonical())

    def inputs_digest(self) -> dict[str, str]:
        """Digest of every file a command step declares.

        Raises:
            RecipeError: one of them is not there or cannot be read.
        """
        found = {}
        for step in self.steps:
            for name in step.inputs if isinstance(step, Command) else ():
                try:
                    found[name] = file_digest(Path(name))
                except FileNotFoundError:
                    raise RecipeError(f"command step {step.name!r}: input {name!r} does not exist; correct 'inputs'.") from None
                except OSError as error:
                    raise RecipeError(
                        f"command step {step.name!r}: input {name!r:.200} cannot be read ({error.strerror}); correct 'inputs'."
                    ) from None
        return found


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
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # a date that does not exist is a ValueError
        raise RecipeError(f"{path}: not valid YAML ({' '.join(str(error).split())}); correct it.") from None
    return resolve_inputs(parse_recipe(value, str(path)), path.parent)


def resolve_inputs(recipe: Recipe, folder: Path) -> Recipe:
    """Make the inputs of command steps, and the folders that channels name, absolute, and check that the inputs exist."""

    def placed(step: Step) -> Step:
        if isinstance(step, Command):
            return step.model_copy(update={"inputs": tuple(str((folder / name).absolute()) for name in step.inputs)})
        if isinstance(step, Distil | Merge) and (folder / step.source).is_dir():
            return step.model_copy(update={"source": str((folder / step.source).absolute())})
        return step

    steps = [placed(step) for step in recipe.steps]
    found = Recipe(steps=tuple(steps))
    found.inputs_digest()
    return found
