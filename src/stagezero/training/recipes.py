"""Recipes: a recipe is an ordered list of typed steps applied to the base.

The data steps (``mix``, ``filter``) make a dataset and give it a name. The training steps
(``sft``, ``dpo``, ``grpo``, ``reward``, ``rlhf``, ``command``, ``code``) use a dataset by its name.
``distil`` and ``merge`` are declared channels: they name the model whose labels or weights cross.
Unknown keys are rejected. Two recipes that differ only in notation have the same canonical form and
the same digest. This module validates recipes; it builds nothing. Its docstrings are part of the
JSON Schema that researchers receive.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, ValidationError, field_validator, model_validator

from stagezero.errors import RecipeError, explain
from stagezero.ledger import digest, file_digest
from stagezero.schema import Frozen
from stagezero.tasks.items import Kind
from stagezero.training.fields import Names, Pattern, Payoff, Positive, Rate, at_most
from stagezero.training.technique import canonical_source


def _is_none(value: object) -> bool:
    return value is None


class Part(Frozen):
    """A draw from the suite's training items: up to ``each`` of every chosen claim and kind.

    Without ``claims`` or ``each`` the draw takes all; without ``kinds`` it takes traps.
    """

    claims: tuple[str, ...] | None = None
    kinds: tuple[Kind, ...] = ("trap",)
    each: Positive | None = None

    @field_validator("claims", "kinds")
    @classmethod
    def _sort_as_set(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        """Sort the values and remove duplicates: their order has no meaning."""
        return None if value is None else tuple(sorted(set(value)))


class Mix(Frozen):
    """Make a dataset from training items, drawn and shuffled by the build's seed."""

    step: Literal["mix"]
    name: str = "data"
    parts: Annotated[tuple[Part, ...], at_most(64, "parts")] = Field(min_length=1)


class Filter(Frozen):
    """Select examples of a dataset. An example is selected if it meets every given condition."""

    step: Literal["filter"]
    data: str = "data"
    name: str = "data"
    claims: tuple[str, ...] | None = None
    kinds: tuple[Kind, ...] | None = None
    max_words: Positive | None = None
    matching: Pattern | None = Field(default=None, description="regular expression, in the syntax of RE2, that the question must match")
    deduplicate: bool = False


class Lora(Frozen):
    """Low-rank adapters on linear layers, merged after the step."""

    rank: Annotated[Positive, at_most(1024)] = 8
    alpha: Positive = 16
    targets: Names | None = Field(
        default=None,
        min_length=1,
        exclude_if=_is_none,
        description="names of the linear layers that get an adapter, such as [q_proj, v_proj]; by default every linear layer but the head",
    )

    @field_validator("targets")
    @classmethod
    def _sort_as_set(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        """Sort the names and remove duplicates: their order has no meaning."""
        return None if value is None else tuple(sorted(set(value)))


class Trained(Frozen):
    """The fields that all gradient steps share.

    ``dtype``, ``gradient_accumulation`` and ``gradient_checkpointing`` fit a step to a machine's
    speed and memory. The fields of later releases are in a recipe's canonical form only if they are
    set, so that the digests of older recipes stay the same.
    """

    data: str = "data"
    steps: Annotated[Positive, at_most(100_000)]
    batch_size: Annotated[Positive, at_most(4096)] = 16
    learning_rate: Rate
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    warmup: Annotated[int, Field(ge=0), at_most(100_000)] = 0
    weight_decay: Annotated[float, Field(ge=0, le=1)] = 0.0
    lora: Lora | None = None
    dtype: Literal["float32", "bfloat16"] = Field(
        default="float32",
        exclude_if=lambda value: value == "float32",
        description="with bfloat16, matrix products use bfloat16 where the hardware computes in it, and float32 elsewhere; weights, "
        "gradients and optimizer stay in float32",
    )
    gradient_accumulation: Annotated[Positive, at_most(4096)] = Field(
        default=1,
        exclude_if=lambda value: value == 1,
        description="number of equal parts in which a batch is computed, one after the other; less memory, and the same update",
    )
    gradient_checkpointing: bool = Field(
        default=False,
        exclude_if=lambda value: value is False,
        description="compute activations twice instead of storing them; less memory, more time, and the same update",
    )

    @model_validator(mode="after")
    def _validate_accumulation(self) -> Self:
        if self.batch_size % self.gradient_accumulation:
            raise ValueError(
                f"expected 'batch_size' to be a multiple of 'gradient_accumulation' ({self.gradient_accumulation}), got {self.batch_size}; "
                "change one of them"
            )
        return self


MACHINE_FIELDS = ("dtype", "gradient_accumulation", "gradient_checkpointing")
"""Fields of a gradient step that fit it to a machine."""


class SFT(Trained):
    """Supervised fine-tuning on the answers that a person would write."""

    step: Literal["sft"]
    name: str = "sft"


class DPO(Trained):
    """Direct preference optimisation of the answer over the item's ``rejected``.

    The reference is the step's input model.
    """

    step: Literal["dpo"]
    name: str = "dpo"
    beta: Annotated[float, Field(gt=0, le=10)] = 0.1


class Payoffs(Frozen):
    """The reward that the task's checker gives for each outcome."""

    right: Payoff = 1.0
    wrong: Payoff = 0.0
    refused: Payoff = 0.0
    unparseable: Payoff = 0.0


class Sampled(Trained):
    """The fields that the reinforcement steps share.

    A step samples ``batch_size`` answers, in groups of ``group`` answers to one question. ``beta``
    weighs the divergence from the step's input model. ``length`` is the maximum length of an
    answer, in tokens.
    """

    group: Annotated[int, Field(ge=2, le=256)] = 8
    temperature: Annotated[float, Field(gt=0, le=10)] = 1.0
    beta: Annotated[float, Field(ge=0, le=10)] = 0.04
    length: Annotated[int, Field(gt=0, le=1024)] = 24

    @model_validator(mode="after")
    def _validate_group_size(self) -> Self:
        if self.batch_size % self.group:
            raise ValueError(f"expected 'batch_size' to be a multiple of 'group' ({self.group}), got {self.batch_size}; change one of them")
        return self


class GRPO(Sampled):
    """Reinforcement against the task's own checker, on training items."""

    step: Literal["grpo"]
    name: str = "grpo"
    pays: Payoffs = Payoffs()


class Reward(Trained):
    """A reward model from human preference pairs, with their labelling errors.

    Training starts from the step's input model. The step does not change the policy. An ``rlhf``
    step uses the reward model by its name.
    """

    step: Literal["reward"]
    name: str = "reward"


class RLHF(Sampled):
    """Reinforcement against the reward model that an earlier ``reward`` step made.

    Only the questions of ``data`` are used.
    """

    step: Literal["rlhf"]
    name: str = "rlhf"
    reward: str = "reward"


class Command(Frozen):
    """A team's own trainer: any program that reads a checkpoint folder and writes one.

    It runs in a folder that contains only copies of ``inputs``. Its environment has STAGEZERO_MODEL
    (folder to start from), STAGEZERO_OUT (folder to fill with safetensors), STAGEZERO_SEED and, if
    ``data`` is given, STAGEZERO_DATA (JSON lines: prompt, completion, rejected). Its output must
    have the tensors of its input: same names, shapes and types.
    """

    step: Literal["command"]
    name: str = "command"
    run: Names = Field(min_length=1)
    inputs: Names = ()
    data: str | None = None
    timeout: Annotated[Positive, at_most(604_800, "seconds, which is a week")] = 3600

    @field_validator("inputs")
    @classmethod
    def _validate_file_names(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        """Reject two files of one name, since all are copied into one folder."""
        file_names = [Path(name).name for name in value]
        if len(set(file_names)) < len(file_names):
            raise ValueError(f"expected files of different names, got {', '.join(file_names)}; rename one of them")
        return value


def _canonical(value: str) -> str:
    try:
        return canonical_source(value, "source")
    except RecipeError as error:
        raise ValueError(str(error)) from None


class Code(Frozen):
    """A technique that no typed step expresses: one Python function ``technique(ctx) -> model``.

    The source is stored in its canonical form. It runs in the sandbox. Its input is the model so
    far, the base, the human training data (all of it, or the dataset ``data``) and a seed;
    ``isolation/runner.py`` describes ``ctx``. The returned model must have the tensors of the model
    that it started from.
    """

    step: Literal["code"]
    name: str = "code"
    source: Annotated[str, AfterValidator(_canonical)]
    data: str | None = None
    timeout: Annotated[Positive, at_most(604_800, "seconds, which is a week")] = 3600


SELF = "self"
"""The name, as a channel's source, of the model that the recipe has made so far."""
Source = Annotated[str, Field(min_length=1, max_length=400)]


class Distil(Trained):
    """A declared channel for labels: supervised fine-tuning on another model's answers.

    The model answers the questions of ``data``. ``source`` is its name: ``self`` (the model so far,
    which is self-labelling), ``base``, ``package/…``, ``hf/…`` or a folder.
    """

    step: Literal["distil"]
    name: str = "distil"
    source: Source


class Merge(Frozen):
    """A declared channel for weights: the model so far, moved towards another of the same shape.

    ``weight`` is the share of the distance by which it moves.
    """

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
    def _validate_references(self) -> Recipe:
        """Reject a step that uses a dataset or a reward model which no earlier step makes."""
        datasets: set[str] = set()
        rewards: set[str] = set()
        for number, step in enumerate(self.steps, 1):
            used = None if isinstance(step, Mix) else step.data
            if used is not None and used not in datasets:
                raise ValueError(
                    f"step {number} ({step.step}): 'data' names dataset {used!r}, which no earlier mix or filter makes; add a mix before it"
                )
            if isinstance(step, Mix | Filter):
                datasets.add(step.name)
            if isinstance(step, RLHF) and step.reward not in rewards:
                raise ValueError(
                    f"step {number} (rlhf): 'reward' names reward model {step.reward!r}, which no earlier reward step makes; "
                    "add one before it"
                )
            if isinstance(step, Reward):
                rewards.add(step.name)
        return self

    def channels(self) -> tuple[Channel, ...]:
        """Return the declared channels: steps by which labels or weights of a model cross."""
        return tuple(step for step in self.steps if isinstance(step, Distil | Merge))

    def uses_bfloat16(self) -> bool:
        """Return whether a step trains in bfloat16, if the machine has it."""
        return any(isinstance(step, Trained) and step.dtype == "bfloat16" for step in self.steps)

    def canonical(self) -> dict[str, Any]:
        """Return the canonical form: all defaults written out, numbers normalised."""
        dumped: dict[str, Any] = self.model_dump(mode="json")
        return dumped

    def digest(self) -> str:
        """Return the hash of the canonical form."""
        return digest(self.canonical())

    def inputs_digest(self) -> dict[str, str]:
        """Return the digest of every file that a command step declares, by the file's name.

        Raises:
            RecipeError: a file is missing or cannot be read.
        """
        digests = {}
        for step in self.steps:
            for name in step.inputs if isinstance(step, Command) else ():
                try:
                    digests[name] = file_digest(Path(name))
                except FileNotFoundError:
                    raise RecipeError(
                        f"command step {step.name!r}: 'inputs' names {name!r}, and that file does not exist; correct 'inputs'."
                    ) from None
                except OSError as error:
                    raise RecipeError(
                        f"command step {step.name!r}: 'inputs' names {name!r:.200}, and that file cannot be read ({error.strerror}); "
                        "correct 'inputs'."
                    ) from None
        return digests


def parse_recipe(value: Any, where: str) -> Recipe:
    """Validate a recipe.

    Args:
        value: the recipe as plain data: a mapping with ``steps``, or the list of steps.
        where: the recipe's origin, for error messages.

    Raises:
        RecipeError: the message names the step and field, what was expected and the fix.
    """
    try:
        return Recipe.model_validate({"steps": value} if isinstance(value, list) else value)
    except ValidationError as error:
        raise RecipeError(explain(error, where, Recipe)) from None
