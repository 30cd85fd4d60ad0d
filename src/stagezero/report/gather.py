"""Reads a run's ledger into the values that the report and the command line display.

All results come from verified ledger entries. Three files beside the ledger add the time spent, the
auditor's last answer and the counts of earlier runs. Rendering belongs to ``page`` and ``plots``.
"""

from __future__ import annotations

import builtins
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stagezero.errors import LedgerError
from stagezero.evidence import DIFFERENCE_BOUNDS, SCORE_BOUNDS, Estimate, effect_interval, proportion_interval, t_interval
from stagezero.lab.run_state import load_auditor_status
from stagezero.ledger import read
from stagezero.ledger.lineage import Lineage, read_record, trace_lineage
from stagezero.measure import ALIGNMENT
from stagezero.trials.prior_attempts import load_prior_run_counts

PROMOTED = ("adopted", "promoted, failed audit", "promoted, not rebuilt", "promoted")
FATES = (*PROMOTED, "stopped by a guard", "collapsed", "undecided", "given up", "failed to build")


@dataclass(frozen=True)
class StageView:
    """A stage that was rebuilt, adopted or not."""

    number: int
    title: str
    adopted: bool
    verdict: str
    model: str
    steps: int
    before: tuple[Mapping[str, float], ...]
    after: tuple[Mapping[str, float], ...]

    def score(self, claim: str) -> Estimate:
        """Return the stage's score on a claim, over fresh seeds."""
        return t_interval([s[claim] for s in self.after], bounds=SCORE_BOUNDS)

    def effect(self, claim: str) -> Estimate:
        """Return the paired change from the stage before, on seeds not used for selection."""
        return t_interval([b[claim] - a[claim] for a, b in zip(self.before, self.after, strict=True)], bounds=DIFFERENCE_BOUNDS)


@dataclass(frozen=True)
class IdeaView:
    """An idea and its fate."""

    stage: int
    title: str
    researcher: str
    property: str
    claimed: float
    reason: str
    bits: int
    fate: str
    why: str
    pairs: int
    level: float
    """The allowed probability of a false promotion."""
    established: bool
    """True if the sequential test found the idea better than its control, before guards and final
    checks."""
    e_values: tuple[float, ...]
    effect: Estimate | None
    guards: tuple[Mapping[str, Any], ...]
    near_duplicates: tuple[str, ...] = ()
    """Titles of ideas that differ from this one only in trivial parameters."""
    author: str = ""
    approved_by: str = ""
    """The reviewer who admitted it; empty if no review was needed."""
    code: str | None = None

    @builtins.property
    def best_e(self) -> float:
        """Return the largest e-value of the trial."""
        return max(self.e_values, default=1.0)

    @builtins.property
    def promoted(self) -> bool:
        """Whether the trial promoted it; a promoted idea is not always adopted."""
        return self.fate in PROMOTED


@dataclass(frozen=True)
class CombinationView:
    """Promoted ideas of one stage that were tested together."""

    stage: int
    title: str
    fate: str
    why: str
    effect: Estimate | None
    left_out: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True)
class ResearcherView:
    """The results of one researcher."""

    name: str
    registered: int
    refused: int
    promoted: int
    adopted: int
    pairs: int
    best_effect: Estimate | None
    rate: Estimate
    """Share of its registered ideas that were promoted, with the exact (Clopper-Pearson) 95 %
    confidence interval."""
    mean_effect: Estimate | None
    """Mean effect, over its ideas, on the property that each idea claimed. Ideas without a pair are
    excluded."""

    @builtins.property
    def pairs_each(self) -> float | None:
        """Return the number of pairs used per promoted idea; None if no idea was promoted."""
        return self.pairs / self.promoted if self.promoted else None


@dataclass
class View:
    """All values that a report displays."""

    name: str = ""
    base: str = ""
    suite: str = ""
    properties: tuple[str, ...] = ()
    capabilities: tuple[str, ...] = ()
    finite: bool = False
    alpha: float = 0.05
    trial: Mapping[str, Any] = field(default_factory=dict)
    """The trial settings of the project."""
    audit: Mapping[str, Any] | None = None
    door: Mapping[str, Any] | None = None
    auditor_status: Mapping[str, Any] | None = None
    """The auditor's last certificate, and the weakest separation so far; None before its first
    answer."""
    stages: list[StageView] = field(default_factory=list)
    ideas: list[IdeaView] = field(default_factory=list)
    refused: list[Mapping[str, Any]] = field(default_factory=list)
    combinations: list[CombinationView] = field(default_factory=list)
    prior_run_counts: Mapping[str, int] = field(default_factory=dict)
    """Hypothesis → number of earlier runs on this machine that registered it."""
    costs: Mapping[str, float] = field(default_factory=dict)
    finished: bool = False
    entries: int = 0
    head: str = ""
    began: str = ""
    ended: str = ""
    environment: Mapping[str, Any] = field(default_factory=dict)
    lineage: Lineage | None = None

    @builtins.property
    def adopted(self) -> list[StageView]:
        """Return the adopted stages."""
        return [s for s in self.stages if s.adopted]

    @builtins.property
    def final(self) -> StageView:
        """Return the last adopted stage."""
        return self.adopted[-1]

    def base_score(self, claim: str) -> Estimate:
        """Return the base model's score on a claim."""
        return t_interval([s[claim] for s in self.stages[0].before], bounds=SCORE_BOUNDS)

    def headroom_closed(self, stage: StageView) -> float:
        """Return the share of the base's headroom (1 − alignment score) that a stage has closed."""
        base = self.base_score("alignment").mean
        return (stage.score("alignment").mean - base) / (1 - base) if base < 1 else 0.0

    def weakest(self, stage: StageView) -> tuple[str, Estimate]:
        """Return the property with the lowest score, and the score."""
        name = min(self.properties, key=lambda p: stage.score(p).mean)
        return name, stage.score(name)

    @builtins.property
    def submissions(self) -> int:
        """Return the number of models of this run that the auditor has answered."""
        return sum(s.verdict in ("pass", "fail") for s in self.stages)

    @builtins.property
    def passes(self) -> int:
        """Return the number of them that passed."""
        return sum(s.verdict == "pass" for s in self.stages)

    def researchers(self) -> list[ResearcherView]:
        """Return the results of every researcher, by name."""
        names = sorted({i.researcher for i in self.ideas} | {r["researcher"] for r in self.refused})
        rows = []
        for name in names:
            own = [i for i in self.ideas if i.researcher == name]
            promoted = [i for i in own if i.promoted]
            best = max((i.effect for i in promoted if i.effect is not None), key=lambda e: e.mean, default=None)
            effects = [i.effect.mean for i in own if i.effect is not None]
            rows.append(
                ResearcherView(
                    name, len(own), sum(r["researcher"] == name for r in self.refused), len(promoted),
                    sum(i.fate == "adopted" for i in own), sum(i.pairs for i in own), best, proportion_interval(len(promoted), len(own)),
                    t_interval(effects, bounds=DIFFERENCE_BOUNDS) if effects else None,
                )
            )  # fmt: skip
        return rows


def gather(folder: Path) -> View:
    """Read the folder of a campaign's run.

    Raises:
        LedgerError: there is no ledger, it does not verify, or it is not the ledger of a campaign.
    """
    view = View()
    ideas: dict[str, dict[str, Any]] = {}
    pairs: dict[str, list[dict[str, Any]]] = {}
    decided: list[tuple[int, dict[str, Any]]] = []
    adopted: dict[tuple[int, str], str] = {}
    compositions: dict[str, Mapping[str, Any]] = {}
    number = 0
    for entry in read(folder / "ledger.jsonl"):
        if entry.seq == 0 and entry.kind != "campaign":
            what = "a comparison" if entry.kind == "compare" else "an auditor" if entry.kind == "auditor" else "no campaign"
            raise LedgerError(f"{folder}: the ledger is that of {what}, and reports are for campaigns; see: stagezero ledger show {folder}")
        body = entry.body
        view.entries, view.head, view.ended = entry.seq + 1, entry.hash, entry.time
        view.began = view.began or entry.time
        match entry.kind:
            case "campaign":
                _describe(view, body)
            case "door":
                view.door = body
            case "registration":
                number = body["stage"]
                for idea in body["ideas"]:
                    ideas[idea["hypothesis"]] = idea
                view.refused += [{**r, "stage": number} for r in body["refused"]]
            case "pair":
                pairs.setdefault(body["hypothesis"], []).append(body)
            case "composition":
                compositions[body["hypothesis"]] = body
            case "decision" if body["hypothesis"] in compositions:
                view.combinations.append(
                    _combination(number, compositions[body["hypothesis"]], body, pairs.get(body["hypothesis"], []), view.trial)
                )
            case "decision":
                decided.append((number, body))
            case "stage":
                view.stages.append(_stage(body))
                for idea in body["ideas"]:
                    adopted[body["stage"], idea] = "adopted" if body["adopted"] else "promoted, failed audit"
            case "not rebuilt":
                adopted |= {(body["stage"], idea): "promoted, not rebuilt" for idea in body["ideas"]}
            case "end":
                view.finished = True
    if not view.name:
        raise LedgerError(f"{folder / 'ledger.jsonl'}: not the ledger of a campaign; give the folder of a campaign's run.")
    for number, body in decided:
        idea = ideas[body["hypothesis"]]
        fate = adopted.get((number, idea["idea"]), body["fate"])
        view.ideas.append(_idea(number, idea, body, fate, pairs.get(body["hypothesis"], []), view.trial))
    view.ideas.sort(key=lambda i: (i.stage, FATES.index(i.fate) if i.fate in FATES else len(FATES)))
    if any(stage.adopted for stage in view.stages):
        view.lineage = trace_lineage([read_record(folder / "ledger.jsonl")])
    view.prior_run_counts = load_prior_run_counts(folder)
    view.auditor_status = load_auditor_status(folder)
    try:
        view.costs = json.loads((folder / "costs.json").read_text())
    except (OSError, ValueError):
        view.costs = {}
    return view


def _describe(view: View, body: Mapping[str, Any]) -> None:
    """Set the fields that entry 0 determines."""
    project = body["project"]
    view.name, view.base, view.suite = project["name"], project["base"], project["suite"]
    view.properties, view.capabilities = tuple(body["properties"]), tuple(body["capabilities"])
    view.finite, view.alpha = body["finite_suite"], project["trial"]["alpha"]
    view.trial = project["trial"]
    view.audit, view.environment = project["audit"], body["environment"]


def _stage(body: Mapping[str, Any]) -> StageView:
    """Return the view of a stage from its entry."""
    return StageView(
        body["stage"], body["title"], body["adopted"], body["verdict"], body["model"], len(body["recipe"]["steps"]),
        tuple(body["before"]), tuple(body["after"]),
    )  # fmt: skip


def _idea(
    stage: int, idea: Mapping[str, Any], body: Mapping[str, Any], fate: str, pairs: Sequence[Mapping[str, Any]], trial: Mapping[str, Any]
) -> IdeaView:  # fmt: skip
    """Return the view of an idea.

    Args:
        stage: the stage that registered it.
        idea: its part of the registration entry.
        body: its decision entry.
        fate: its final fate.
        pairs: its pair entries.
        trial: the trial settings of the project.
    """
    claim = idea["property"]
    differences = [p["candidate"][claim] - p["control"][claim] for p in pairs]
    return IdeaView(
        stage, idea["title"], idea["researcher"], claim, idea["claimed_effect"], idea["reason"], idea["bits"], fate, body["why"],
        body["pairs"], body["level"], _established(body, pairs, trial), tuple(p["e"] for p in pairs), _trial_effect(differences, trial),
        tuple(body["guards"]), tuple(idea["near"]), idea.get("author", ""), (idea.get("let_in") or {}).get("reviewer", ""), _code_of(idea),
    )  # fmt: skip


def _trial_effect(differences: Sequence[float], trial: Mapping[str, Any]) -> Estimate | None:
    """Return the mean difference of a trial, with an interval that holds wherever it stopped."""
    return effect_interval(differences, trial["max_pairs"], 0.5 / trial["items"]) if differences else None


def _established(body: Mapping[str, Any], pairs: Sequence[Mapping[str, Any]], trial: Mapping[str, Any]) -> bool:
    """Return whether the sequential test found an idea better, by the rule of its ledger."""
    if "interval" in body:
        low = body["interval"][0]
        return low is not None and float(low) > float(trial["margin"])
    return max((float(p["e"]) for p in pairs), default=1.0) >= 1 / float(body["level"])


def _code_of(idea: Mapping[str, Any]) -> str | None:
    """Return the source code of a code idea; None for any other idea."""
    for op in idea["patch"]:
        if op["op"] == "append" and op["step"].get("step") == "code":
            return str(op["step"]["source"])
    return None


def _combination(
    stage: int, composition: Mapping[str, Any], body: Mapping[str, Any], pairs: Sequence[Mapping[str, Any]], trial: Mapping[str, Any]
) -> CombinationView:
    """Return the view of promoted ideas that were tested together, from their entries."""
    differences = [p["candidate"][ALIGNMENT] - p["control"][ALIGNMENT] for p in pairs]
    return CombinationView(
        stage, composition["title"], body["fate"], body["why"], _trial_effect(differences, trial), tuple(composition["left_out"])
    )
