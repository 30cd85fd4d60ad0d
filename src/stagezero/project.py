"""The project file: a campaign as data.

The models are frozen and typed, and they reject unknown keys. ``lab/run_state.py`` writes the
validated project into entry 0 of the ledger, so a renamed or added field must leave that dump as it
was. This module reads the file only; it does not open the suites, recipes and folders that the file
names.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AliasChoices, BeforeValidator, Discriminator, Field, Tag, ValidationError, model_validator

from stagezero.errors import ProjectError, explain
from stagezero.evidence import Test, e_lond_level, idea_level, stage_level
from stagezero.files import read_text
from stagezero.parsing import parse_yaml
from stagezero.schema import Frozen

Positive = Annotated[int, Field(gt=0, lt=2**53)]
Share = Annotated[float, Field(gt=0, lt=1)]


def _reject_large(value: Any) -> Any:
    """Reject a whole number that JSON cannot carry exactly."""
    if isinstance(value, int) and abs(value) >= 2**53:
        raise ValueError(f"expected a whole number between -2^53 and 2^53, got {value}; use a smaller one")
    return value


Argument = Annotated[str | int | float | bool, BeforeValidator(_reject_large)]
MAX_SECONDS = 315_360_000
"""The longest time that a stage waits: ten years."""


class People(Frozen):
    """Proposes ideas that people wrote. ``ideas`` is a folder of idea files."""

    kind: Literal["people"]
    ideas: str


class Optuna(Frozen):
    """Proposes changes to the numbers of the current recipe, with Optuna's TPE sampler."""

    kind: Literal["optuna"]
    ideas: Positive = 2
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0


class Uniform(Frozen):
    """Draws ideas uniformly from the recipe language: the baseline for every other researcher."""

    kind: Literal["uniform"]
    ideas: Positive = 2
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0


class SelfProposing(Frozen):
    """Lets the stage's own model propose, with its output constrained to the recipe language.

    Ideas of a stage that has not passed audit wait for review.
    """

    kind: Literal["self"]
    ideas: Positive = 2
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    temperature: Annotated[float, Field(gt=0, le=10)] = 1.0


class LLM(Frozen):
    """Lets a language model propose.

    ``model`` is any model that Inspect's ``get_model`` accepts (``openai/…``, ``anthropic/…``,
    ``hf/…``, ``mockllm/model``), or a local one by name (``package/smollm2-135m-q4``,
    ``pocket/262k``, a folder).

    ``attempts`` is the number of tries for each idea: an invalid reply goes back to the model with
    the reason. Three limits end the model's turn: ``tokens`` (input and output, over the whole
    run), ``dollars`` and ``seconds`` (per stage). Ideas that it has proposed by then count.
    ``dollars`` needs ``prices``: dollars per million input tokens, and per million output tokens.
    """

    kind: Literal["llm"]
    model: str
    name: str = Field(default="llm", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=60)
    ideas: Positive = 2
    attempts: Annotated[int, Field(ge=1, le=20)] = 3
    seconds: Annotated[float, Field(gt=0, le=MAX_SECONDS)] = 600
    tokens: Positive = 200_000
    dollars: Annotated[float, Field(gt=0)] | None = None
    prices: tuple[Annotated[float, Field(ge=0)], Annotated[float, Field(ge=0)]] | None = None
    answer_tokens: Annotated[int, Field(gt=0, le=100_000)] = 2000
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    arguments: dict[str, Argument] = Field(default={})

    @model_validator(mode="after")
    def _check_prices(self) -> LLM:
        if (self.dollars is None) != (self.prices is None):
            raise ValueError(
                "'dollars' needs 'prices' (dollars per million input and output tokens), and the other way round; give both or neither"
            )
        return self


class Outside(Frozen):
    """Accepts ideas from a person or agent outside the run.

    Ideas arrive through a folder, ``stagezero idea submit`` or ``stagezero mcp``. Submissions to a
    stage close when ``ideas`` have arrived, when the researcher reports that it is done, or after
    ``seconds``.
    """

    kind: Literal["outside"]
    name: str = Field(default="outside", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=60)
    ideas: Positive = 4
    seconds: Annotated[float, Field(gt=0, le=MAX_SECONDS)] = 86_400


Researcher = Annotated[People | Optuna | Uniform | SelfProposing | LLM | Outside, Field(discriminator="kind")]


class Review(Frozen):
    """Review by people: who may approve ideas, and which ideas need it.

    ``keys`` are the reviewers' public keys. With ``every``, each idea waits for approval by one
    reviewer. Without it, only the ideas of a model that has not passed audit wait. ``seconds`` is
    the longest time that a stage waits for its reviews.
    """

    keys: tuple[str, ...] = Field(min_length=1, max_length=64)
    every: bool = True
    seconds: Annotated[float, Field(gt=0, le=MAX_SECONDS)] = 604_800


class Sandbox(Frozen):
    """The sandbox for code ideas and commands.

    ``box`` uses bubblewrap. ``landlock`` is weaker: it uses Landlock and seccomp where bubblewrap
    cannot make a sandbox. ``none`` runs people's own commands with the user's rights and refuses
    every code idea. The limits apply to one build: ``memory`` and ``disk`` in GiB, ``processes``
    (threads included) at the same time.
    """

    kind: Literal["box", "landlock", "none"] = "box"
    memory: Annotated[float, Field(gt=0, le=4096)] = 8.0
    disk: Annotated[float, Field(gt=0, le=4096)] = 4.0
    processes: Annotated[int, Field(ge=4, le=4096)] = 64
    seconds: Annotated[int, Field(gt=0, le=604_800)] = Field(
        default=3600, description="longest run time of a program from an idea, in seconds, even if the idea requests more"
    )


class Trial(Frozen):
    """How a trial decides about an idea.

    ``alpha`` is the error of the whole campaign; ``spending`` is how it is split over hypotheses.
    ``test`` is the sequential test; ``auto`` chooses it from the calibration runs. An effect must
    exceed ``margin``. ``max_pairs`` is the largest number of paired replicates. The guards decide
    at ``guard_pairs`` pairs, and at 1.5 and 2.5 times as many; each allows a loss of
    ``guard_margin``, or more where the noise requires it. ``items`` is the number of fresh items of
    each kind, for each property and capability, in every replicate. ``calibration`` is the number
    of replicates of the control that measure the noise. ``confirm`` is the number of fresh pairs
    that estimate the effect of a promoted idea. A trial is given up when the pairs are evidence
    against an effect of ``worth`` standard deviations of a paired difference: when the likelihood
    ratio against it reaches e to the power of ``patience``.
    """

    alpha: Annotated[float, Field(ge=1e-9, le=0.5)] = 0.05
    margin: Annotated[float, Field(ge=0, lt=1)] = 0.0
    max_pairs: Annotated[int, Field(ge=10, le=200)] = 40
    guard_pairs: Annotated[int, Field(ge=10, le=200)] = 10
    guard_margin: Share = 0.05
    items: Annotated[int, Field(ge=2, le=10_000)] = 100
    calibration: Annotated[int, Field(ge=3, le=50)] = 10
    confirm: Annotated[int, Field(ge=3, le=50)] = 5
    worth: Annotated[float, Field(ge=0, le=20)] = 1.0
    patience: Annotated[float, Field(gt=0, le=20)] = 1.5
    test: Test = "auto"
    spending: Literal["split", "e-lond"] = "split"

    @model_validator(mode="after")
    def _check_pairs(self) -> Trial:
        if self.max_pairs < self.guard_pairs:
            raise ValueError("'max_pairs' must be at least 'guard_pairs'; raise it")
        if self.max_pairs < self.calibration:
            raise ValueError("'max_pairs' must be at least 'calibration'; raise it")
        return self

    def level(self, stage: int, stages: int, ideas: int, tested: int = 0, promoted: int = 0) -> float:
        """Return the error level of each of ``ideas`` hypotheses that are registered together.

        With two or more ideas, one equal share is reserved for the trial of the promoted ideas
        together.

        Args:
            stage, stages: the stage's number, and the number of declared stages.
            tested, promoted: hypotheses tested, and of these promoted, before this batch; used by
                e-LOND only.
        """
        shares = ideas + (ideas > 1)
        if self.spending == "e-lond":
            return e_lond_level(self.alpha, tested, shares, promoted)
        return idea_level(stage_level(self.alpha, stage, stages), shares)


class Audit(Frozen):
    """The terms of an auditor that the run starts itself.

    ``sealed`` names the file of sealed items; None draws them from the atlas generator. ``folder``
    is the auditor's folder, relative to the project file; None uses the default folder in the
    user's home. Project files written before the rename call it ``keep``, which is still accepted.
    The other fields are those of ``door.Terms``.
    """

    bars: dict[str, Share] = Field(min_length=1)
    submissions: Annotated[int, Field(ge=1, le=1000)] = 12
    passes: Annotated[int, Field(ge=1, le=1000)] = 3
    delta: Share = 0.05
    items: Annotated[int, Field(ge=50, le=100_000)] = 1000
    sealed: str | None = None
    meter: Literal["counted", "flat", "kraft", "randomised"] = "counted"
    bits: Annotated[float, Field(gt=0)] | None = None
    flip: Annotated[float, Field(ge=0, lt=0.5)] = 0.0
    folder: str | None = Field(default=None, validation_alias=AliasChoices("folder", "keep"))


class AuditElsewhere(Frozen):
    """An auditor that another party runs.

    ``suite`` is the name of the suite there, and ``token_file`` contains this lab's token.
    ``ca_file`` is the certificate of the authority that signed the auditor's certificate, if the
    system does not know that authority.
    """

    address: str
    suite: str
    token_file: str
    ca_file: str | None = None


def _audit_tag(value: Any) -> str:
    """Return the tag of the model that an ``audit`` entry is validated against."""
    elsewhere = "address" in value if isinstance(value, dict) else isinstance(value, AuditElsewhere)
    return "elsewhere" if elsewhere else "own"


AnyAudit = Annotated[Annotated[Audit, Tag("own")] | Annotated[AuditElsewhere, Tag("elsewhere")], Discriminator(_audit_tag)]


class Project(Frozen):
    """A complete project file."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    base: str
    suite: str = "atlas"
    stage0: str = Field(description="path of the recipe of stage 0, which people wrote")
    stages: Annotated[int, Field(gt=0, le=10_000)] = 2
    researchers: tuple[Researcher, ...] = Field(min_length=1)
    trial: Trial = Trial()
    audit: AnyAudit | None = None
    review: Review | None = None
    channels: tuple[str, ...] = Field(
        default=(), max_length=64, description="models whose labels or weights an idea's distil and merge steps may use; none by default"
    )
    sandbox: Sandbox = Sandbox()
    answer_tokens: Annotated[int, Field(ge=1, le=100_000)] | None = Field(
        default=None,
        description="longest answer of a model, in tokens; by default 24 for atlas, and for a file what its longest right answer needs. "
        "An auditor takes what its sealed items need",
    )
    chat_template: str | None = Field(
        default=None, description="file with a chat template (Jinja) that replaces the base's; by default the base's own is used"
    )
    workers: Annotated[int, Field(ge=1, le=256)] = 2
    seed: Annotated[int, Field(ge=0, lt=2**53)] | None = Field(
        default=None,
        description="determines the campaign's secret and with it all seeds; by default the secret is random and seeds are unpredictable",
    )

    @model_validator(mode="after")
    def _check_names(self) -> Project:
        names = [r.name if isinstance(r, LLM | Outside) else r.kind for r in self.researchers]
        duplicates = sorted({name for name in names if names.count(name) > 1})
        if duplicates:
            raise ValueError(
                f"'researchers': expected a different name for each, got {', '.join(duplicates)} twice; set 'name', or remove one"
            )
        return self


def load_project(path: Path) -> Project:
    """Read and validate a project file.

    Raises:
        ProjectError: the file does not exist or is not YAML, or a field is unknown, missing or out
            of range.
    """
    if not path.is_file():
        raise ProjectError(
            f"project {str(path)!r}: expected a YAML file, but there is none; check the path, or write one with: stagezero init"
        )
    value: Any = parse_yaml(read_text(path, ProjectError), str(path), ProjectError)
    if not isinstance(value, dict):
        raise ProjectError(f"{path}: expected keys and values (name, base, stage0, researchers, …); see: stagezero init")
    try:
        return Project.model_validate(value)
    except ValidationError as error:
        # The tag of the union is part of pydantic's location, but not a key of the file.
        message = explain(error, str(path), Project)
        raise ProjectError(re.sub(r"\baudit\.(own|elsewhere)(?=[.:'])", "audit", message)) from None
