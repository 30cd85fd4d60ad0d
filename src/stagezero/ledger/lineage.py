"""The lineage of a model: every influence on it, by kind and in bits, back to the roots of trust.

Reads ledgers only. An influence has one of three kinds. *Weights* are a base, or a model merged in.
*Data* are examples written by people, or labels made by a model. An *idea* is text that was
admitted.

The makers of weights or data are roots of trust, and so are all roots behind those makers. The
author of an idea is a root, except when it is a model with a known lineage: then the roots of that
lineage count instead. A reviewer who admitted an idea is a root. A model of unknown lineage is a
root by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from stagezero.errors import LedgerError
from stagezero.ledger.canonical import canonical
from stagezero.ledger.chain import read

Kind = Literal["weights", "data", "idea"]
RULES = "the rules alone (airlock, trial, audit)"
"""``Influence.admitted_by`` of an idea that needed no reviewer."""
DECLARED_CHANNEL = "a declared channel"
"""``Influence.admitted_by`` of labels or weights that crossed as a declared channel."""
SAMPLERS = ("optuna", "uniform")
"""Researchers that are programs without an author's intent.

They are no roots of trust, beyond the software that everything depends on.
"""


@dataclass(frozen=True, slots=True)
class Influence:
    """One thing that influenced a model.

    Attributes:
        kind: weights, data or idea.
        description: the influence in words.
        by: its maker.
        bits: the most that it can have carried; None if the ledger does not record it.
        admitted_by: the person or the rules that admitted it.
        digest: SHA-256 of the idea, model or suite, as hex; empty for the recipe of stage 0.
        stage: the stage at which it entered.
        maker_lineage: the lineage of the model that made it; None if people made it or the lineage
            is unknown.
    """

    kind: Kind
    description: str
    by: str
    bits: int | None
    admitted_by: str
    digest: str = ""
    stage: int = 0
    maker_lineage: Lineage | None = None


@dataclass(frozen=True, slots=True)
class Lineage:
    """A stage of a run, with every influence on its model."""

    run: str
    stage: int
    model: str
    influences: tuple[Influence, ...]
    confined: str
    software: Mapping[str, str] = field(default_factory=dict)
    audited: str = ""

    @property
    def name(self) -> str:
        """The stage and its run, in words."""
        return f"stage {self.stage} of {self.run}"

    def roots(self) -> dict[str, str]:
        """Map each root of trust to the reason why it must be trusted, in order of appearance."""
        found: dict[str, str] = {}
        for i in self.influences:
            if i.kind != "idea":
                found.setdefault(i.by, f"{i.kind}: {i.description}")
            elif i.maker_lineage is None and i.by not in SAMPLERS:
                found.setdefault(i.by, f"idea: {i.description}")
            if i.maker_lineage is not None:
                for name, reason in i.maker_lineage.roots().items():
                    made = "the idea" if i.kind == "idea" else f"the {i.kind}"
                    found.setdefault(name, f"{reason}, in {i.maker_lineage.name}, which made {made}")
            if i.kind == "idea" and i.admitted_by != RULES:
                found.setdefault(i.admitted_by, f"admitted the idea {i.description}")
        return found

    def only_ideas(self) -> bool:
        """Return whether only the base's weights and the text of ideas came from models."""
        return all(i.kind == "idea" or i.admitted_by == "people" for i in self.influences)

    def summary(self) -> str:
        """Summarise who made the recipe, what came from other models, and who must be trusted."""
        ideas = [i for i in self.influences if i.kind == "idea" and i.digest]
        authors = "; ".join(f"{i.by} ({i.description}, {i.bits:,} bits, admitted by {i.admitted_by})" for i in ideas)
        made = f"people made the recipe of stage 0; the ideas of {authors} changed it" if authors else "people alone made the recipe"
        used = [f"{i.kind} of {i.by}" for i in self.influences if i.kind != "idea" and i.admitted_by != "people"]
        roots = ", ".join("people who wrote recipes or ideas" if name == "people" else name for name in self.roots())
        others = f"Labels or weights of other models were used: {', '.join(used)}."
        return (
            f"Stage {self.stage} of the run “{self.run}”: {made}. "
            f"{'No labels or weights of other models were used.' if self.only_ideas() else others} "
            f"Roots of trust, whose work the software cannot verify: {roots}."
        )

    def as_json(self) -> dict[str, Any]:
        """Return the lineage as plain JSON data, for scripts."""
        return {
            "run": self.run,
            "stage": self.stage,
            "model": self.model,
            "line": self.summary(),
            "only_ideas": self.only_ideas(),
            "confined": self.confined,
            "audited": self.audited,
            "influences": [
                {
                    "kind": i.kind, "what": i.description, "by": i.by, "bits": i.bits, "let_in": i.admitted_by, "digest": i.digest,
                    "stage": i.stage, "behind": i.maker_lineage.as_json() if i.maker_lineage is not None else None,
                }
                for i in self.influences
            ],
            "roots": self.roots(),
        }  # fmt: skip


@dataclass
class CampaignRecord:
    """The entries of one campaign's ledger that a lineage is made from.

    Attributes:
        path: the ledger.
        campaign: body of the ``campaign`` entry, which describes the project.
        stages: bodies of the ``stage`` entries, by number.
        ideas: registered ideas, by stage and the idea's digest.
    """

    path: Path
    campaign: Mapping[str, Any]
    stages: dict[int, dict[str, Any]] = field(default_factory=dict)
    ideas: dict[tuple[int, str], dict[str, Any]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The project's name."""
        return str(self.campaign["project"]["name"])

    def stage_name(self, stage: int) -> str:
        """The name of one of its stages, in words."""
        return f"stage {stage} of {self.name}"

    def adopted(self, upto: int) -> Iterator[Mapping[str, Any]]:
        """Iterate over the adopted stages up to number ``upto``, which is included."""
        return (self.stages[n] for n in sorted(self.stages) if n <= upto and self.stages[n]["adopted"])


def read_record(path: Path) -> CampaignRecord:
    """Verify a campaign's ledger and read its record.

    Raises:
        LedgerError: the ledger does not verify, or does not belong to a campaign.
    """
    record: CampaignRecord | None = None
    for entry in read(path):
        body = entry.body
        if entry.kind == "campaign":
            record = CampaignRecord(path, body)
        elif record is None:
            break
        elif entry.kind == "registration":
            record.ideas |= {(body["stage"], idea["idea"]): idea for idea in body["ideas"]}
        elif entry.kind == "stage":
            record.stages[body["stage"]] = body
    if record is None:
        raise LedgerError(f"{path}: expected the ledger of a campaign, got another one; give the folder of a campaign.")
    return record


def trace_lineage(records: Sequence[CampaignRecord], stage: int | None = None) -> Lineage:
    """Trace the lineage of a stage.

    Args:
        records: the first one contains the stage; models of other runs are looked up in all of
            them.
        stage: number of the stage; None takes the last one adopted.

    Raises:
        LedgerError: there is no such stage.
    """
    own = records[0]
    if stage is None:
        stage = max((n for n, body in own.stages.items() if body["adopted"]), default=None)
    if stage is None or stage not in own.stages:
        available = ", ".join(str(n) for n in sorted(own.stages))
        if not available:
            raise LedgerError("the run has no stage yet; let it continue with the same command.")
        raise LedgerError(f"{own.path}: expected one of the stages {available}, got {stage}; choose one of them.")
    models = {body["model"]: (record, n) for record in records for n, body in record.stages.items()}
    return _trace(own, stage, models, frozenset())


def _trace(record: CampaignRecord, stage: int, models: Mapping[str, tuple[CampaignRecord, int]], visited: frozenset[str]) -> Lineage:
    """Trace one stage.

    Args:
        models: record and stage of every known model, by its digest.
        visited: digests of the models whose lineages contain this one; they end the recursion.
    """
    body, campaign = record.stages[stage], record.campaign
    visited = visited | {body["model"]}

    def lineage_of(digest: str) -> Lineage | None:
        if digest not in models or digest in visited:
            return None
        other, number = models[digest]
        return _trace(other, number, models, visited)

    base, project = campaign["base"], campaign["project"]
    base_lineage = lineage_of(base)
    base_maker = base_lineage.name if base_lineage is not None else f"the makers of {project['base']}"
    influences = [
        Influence("weights", f"the base {project['base']}", base_maker, campaign.get("base_bits"), "people", base, 0, base_lineage),
        Influence(
            "data", f"training items of {Path(str(project['suite'])).name}", "people who wrote the suite",
            campaign.get("training_bits"), "people", campaign["suite"],
        ),
        Influence("idea", "stage 0's recipe", "people", _recipe_bits(record.stages.get(0, {})), "people", "", 0),
    ]  # fmt: skip
    for adopted in (*record.adopted(stage), *([] if body["adopted"] else [body])):
        influences.extend(_idea(record, adopted["stage"], digest, lineage_of) for digest in adopted["ideas"])
    for channel in body.get("channels", ()):
        source = lineage_of(channel["digest"])
        maker = source.name if source is not None else channel["name"]
        if channel["source"] == "self":
            maker = f"{record.stage_name(stage)} itself, half made"
        elif channel["source"] == "base":
            maker, source = base_maker, base_lineage
        kind: Kind = "data" if channel["step"] == "distil" else "weights"
        influences.append(
            Influence(
                kind, f"{channel['step']} from {channel['name']}", maker, channel["bits"], DECLARED_CHANNEL, channel["digest"], stage,
                source,
            )
        )  # fmt: skip
    sandbox = project.get("sandbox", {}).get("kind", "none")
    runs_programs = any(step["step"] in ("code", "command") for step in body["recipe"]["steps"])
    confined = (
        f"sandbox: {sandbox}"
        if runs_programs
        else "all training steps are stagezero's own; no program that came with an idea or from a person was run"
    )
    return Lineage(record.name, stage, body["model"], tuple(influences), confined, campaign["environment"]["versions"], body["verdict"])


def _recipe_bits(body: Mapping[str, Any]) -> int | None:
    """Bits of a stage's recipe as canonical text; None for a stage without a recipe."""
    return 8 * len(canonical(body["recipe"])) if "recipe" in body else None


def _idea(record: CampaignRecord, stage: int, digest: str, lineage_of: Callable[[str], Lineage | None]) -> Influence:
    """The influence of one registered idea."""
    idea = record.ideas[stage, digest]
    author = str(idea.get("author") or idea["researcher"])
    author_lineage: Lineage | None = None
    if idea["researcher"] == "self":
        # The author reads "stage N (digest)": the model that proposed the idea.
        author_lineage = lineage_of(author.rpartition("(")[2].rstrip(")"))
        author = f"the model of {author_lineage.name}" if author_lineage is not None else f"the model of {author}"
    elif idea["researcher"] == author:
        author = str(idea["researcher"])
    else:
        author = f"{idea['researcher']}: {author}"
    review = idea.get("let_in")
    admitted_by = f"reviewer {review['reviewer']}" if review else RULES
    return Influence("idea", f"“{idea['title']}”", author, idea["bits"], admitted_by, digest, stage, author_lineage)
