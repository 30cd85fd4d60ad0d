"""The project file: what a campaign is, as data. Frozen, typed, unknown keys refused, hashed into the ledger."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, ValidationError, model_validator

from stagezero.errors import ProjectError, explain
from stagezero.evidence import Test, e_lond_level, idea_level, stage_level
from stagezero.files import read_text

Positive = Annotated[int, Field(gt=0)]
Share = Annotated[float, Field(gt=0, lt=1)]


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class People(_Frozen):
    """Ideas that people wrote: a folder of idea files."""

    kind: Literal["people"]
    ideas: str


class Optuna(_Frozen):
    """Optuna's TPE sampler over the numbers of the current recipe."""

    kind: Literal["optuna"]
    ideas: Positive = 2
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0


class Uniform(_Frozen):
    """Draws ideas uniformly from the recipe language: what every other researcher is to be held against."""

    kind: Literal["uniform"]
    ideas: Positive = 2
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0


class SelfProposing(_Frozen):
    """The stage's own model proposes, held to the recipe language. Ideas of a stage that has not passed audit wait for review."""

    kind: Literal["self"]
    ideas: Positive = 2
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    temperature: Annotated[float, Field(gt=0, le=10)] = 1.0


class LLM(_Frozen):
    """Any language model that Inspect's ``get_model`` reaches: ``openai/…``, ``anthropic/…``, ``hf/…``, ``mockllm/model``; and the models
    that are known here by name (``package/smollm2-135m-q4``, ``pocket/262k``, a folder).

    ``attempts`` is how often an invalid reply is returned with the reason, for each idea; ``tokens`` (in and out, over the whole run),
    ``dollars`` and ``seconds`` (a stage) end its turn, and what it has proposed by then counts. ``dollars`` needs the prices, in dollars
    a million tokens, of what goes in and comes out.
    """

    kind: Literal["llm"]
    model: str
    name: str = Field(default="llm", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=60)
    ideas: Positive = 2
    attempts: Annotated[int, Field(ge=1, le=20)] = 3
    seconds: Annotated[float, Field(gt=0)] = 600
    tokens: Positive = 200_000
    dollars: Annotated[float, Field(gt=0)] | None = None
    prices: tuple[Annotated[float, Field(ge=0)], Annotated[float, Field(ge=0)]] | None = None
    answer_tokens: Annotated[int, Field(gt=0, le=100_000)] = 2000
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    arguments: dict[str, str | int | float | bool] = {}

    @model_validator(mode="after")
    def _priced(self) -> LLM:
        if (self.dollars is None) != (self.prices is None):
            raise ValueError("'dollars' and 'prices' (a million tokens in, and out) go together; give both or neither")
        return self


class Outside(_Frozen):
    """A person or agent elsewhere, who submits through a folder, ``stagezero idea submit`` or ``stagezero mcp``.

    A stage's proposals close when ``ideas`` are there, when the researcher says it is done, or after ``seconds``.
    """

    kind: Literal["outside"]
    name: str = Field(default="outside", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=60)
    ideas: Positive = 4
    seconds: Annotated[float, Field(gt=0)] = 86_400


Researcher = Annotated[People | Optuna | Uniform | SelfProposing | LLM | Outside, Field(discriminator="kind")]


class Review(_Frozen):
    """Who may let ideas in by hand. ``keys`` are public keys of reviewers; with ``every`` each idea waits for one of them, without it only
    those that must: the ideas of a model that has not passed audit. ``seconds`` is how long a stage waits for them.
    """

    keys: tuple[str, ...] = Field(min_length=1, max_length=64)
    every: bool = True
    seconds: Annotated[float, Field(gt=0)] = 604_800


class Sandbox(_Frozen):
    """How code ideas and commands are confined. ``landlock`` lets Landlock and seccomp stand in where bubblewrap cannot make a box;
    ``none`` runs people's own commands with the user's rights, and no code idea at all. Limits are of one build: GiB of memory, of files,
    and processes and threads at a time.
    """

    kind: Literal["box", "landlock", "none"] = "box"
    memory: Annotated[float, Field(gt=0, le=4096)] = 8.0
    disk: Annotated[float, Field(gt=0, le=4096)] = 4.0
    processes: Annotated[int, Field(ge=4, le=4096)] = 64
    seconds: Annotated[int, Field(gt=0, le=604_800)] = Field(
        default=3600, description="the most that a program which an idea brings along may take, whatever it asks for"
    )


class Trial(_Frozen):
    """How ideas are decided. The defaults are DESIGN's."""

    alpha: Share = 0.05
    margin: Annotated[float, Field(ge=0, lt=1)] = 0.0
    max_pairs: Annotated[int, Field(ge=10, le=200)] = 25
    guard_pairs: Annotated[int, Field(ge=10, le=200)] = 10
    guard_margin: Share = 0.05
    items: Annotated[int, Field(ge=2, le=10_000)] = 100
    calibration: Annotated[int, Field(ge=3, le=50)] = 5
    confirm: Annotated[int, Field(ge=3, le=50)] = 5
    worth: Annotated[float, Field(ge=0, le=20)] = 2.5
    test: Test = "t"
    spending: Literal["split", "e-lond"] = "split"

    @model_validator(mode="after")
    def _enough(self) -> Trial:
        if self.max_pairs < self.guard_pairs:
            raise ValueError("'max_pairs' must be at least 'guard_pairs'; raise it")
        if self.max_pairs < self.calibration:
            raise ValueError("'max_pairs' must be at least 'calibration'; raise it")
        return self

    def level(self, stage: int, stages: int, ideas: int, tried: int = 0, promoted: int = 0) -> float:
        """Error of each of ``ideas`` registered together, one share kept for trying the promoted ones together.

        Args:
            stage, stages: which stage, of how many declared.
            tried, promoted: hypotheses before this batch; they matter to e-LOND alone.
        """
        shares = ideas + (ideas > 1)
        if self.spending == "e-lond":
            return e_lond_level(self.alpha, tried, shares, promoted)
        return idea_level(stage_level(self.alpha, stage, stages), shares)


class Audit(_Frozen):
    """What an auditor of the run's own must be convinced of. ``sealed`` names the auditor's own file; None uses the atlas generator.

    ``keep`` is the auditor's folder, seen from the project file; left out, it is in the user's own place. The rest is as in ``door.Terms``.
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
    keep: str | None = None


class AuditElsewhere(_Frozen):
    """An auditor that somebody else runs: where it is, which of its suites, and the file that holds this lab's token."""

    address: str
    suite: str
    token_file: str
    ca_file: str | None = None


def _which_audit(value: Any) -> str:
    elsewhere = "address" in value if isinstance(value, dict) else isinstance(value, AuditElsewhere)
    return "elsewhere" if elsewhere else "own"


AnyAudit = Annotated[Annotated[Audit, Tag("own")] | Annotated[AuditElsewhere, Tag("elsewhere")], Discriminator(_which_audit)]


class Project(_Frozen):
    """A whole project file."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    base: str
    suite: str = "atlas"
    stage0: str = Field(description="path of the recipe that people wrote")
    stages: Positive = 2
    researchers: tuple[Researcher, ...] = Field(min_length=1)
    trial: Trial = Trial()
    audit: AnyAudit | None = None
    review: Review | None = None
    channels: tuple[str, ...] = Field(
        default=(),
        max_length=64,
        description="sources of labels or weights that an idea's distil and merge steps may name; none when left out",
    )
    sandbox: Sandbox = Sandbox()
    workers: Annotated[int, Field(ge=1, le=256)] = 2
    seed: Annotated[int, Field(ge=0, lt=2**53)] | None = Field(
        default=None, description="makes the campaign's secret; left out, the secret is drawn at random and seeds cannot be foreseen"
    )

    @model_validator(mode="after")
    def _told_apart(self) -> Project:
        names = [r.name if isinstance(r, LLM | Outside) else r.kind for r in self.researchers]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(
                f"'researchers': expected one of each name, got {', '.join(twice)} twice; give them a 'name' each, or drop one"
            )
        return self


def load_project(path: Path) -> Project:
    """Read a project file.

    Raises:
        ProjectError: no such file, not YAML, or a field is unknown, missing or out of range.
    """
    if not path.is_file():
        raise ProjectError(f"project {str(path)!r}: expected a YAML file, found none; check the path, or write one with: stagezero init")
    try:
        value: Any = yaml.safe_load(read_text(path, ProjectError))
    except yaml.YAMLError as error:
        raise ProjectError(f"{path}: not valid YAML ({' '.join(str(error).split())}); correct it.") from None
    if not isinstance(value, dict):
        raise ProjectError(f"{path}: expected keys and values (name, base, stage0, researchers, …); see: stagezero init")
    try:
        return Project.model_validate(value)
    except ValidationError as error:
        # Which kind of audit it was read as is no part of what a person wrote.
        told = explain(error, str(path))
        raise ProjectError(told.replace("audit.own.", "audit.").replace("audit.elsewhere.", "audit.")) from None
