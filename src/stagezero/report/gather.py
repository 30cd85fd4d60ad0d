"""A run, read back from its ledger alone: what a page or a table shows is what the chain says."""

from __future__ import annotations

import builtins
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stagezero.errors import LedgerError
from stagezero.evidence import Estimate, proportion, t_interval
from stagezero.lab.run_state import recall_door
from stagezero.ledger import read
from stagezero.ledger.lineage import Lineage, lineage, record
from stagezero.measure import ALIGNMENT
from stagezero.trials.prior_attempts import recall

PROMOTED = ("adopted", "promoted, failed audit", "promoted, not rebuilt", "promoted")
FATES = (*PROMOTED, "stopped by a guard", "collapsed", "undecided", "given up", "failed to build")


@dataclass(frozen=True)
class StageView:
    """A stage that was rebuilt, whether or not it was adopted."""

    number: int
    title: str
    adopted: bool
    verdict: str
    model: str
    steps: int
    before: tuple[Mapping[str, float], ...]
    after: tuple[Mapping[str, float], ...]

    def score(self, claim: str) -> Estimate:
        return t_interval([s[claim] for s in self.after])

    def effect(self, claim: str) -> Estimate:
        """Paired change against the stage before, on seeds that chose nothing."""
        return t_interval([b[claim] - a[claim] for a, b in zip(self.before, self.after, strict=True)])


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
    threshold: float
    e_values: tuple[float, ...]
    effect: Estimate | None
    guards: tuple[Mapping[str, Any], ...]
    near: tuple[str, ...] = ()
    author: str = ""
    let_in: str = ""
    code: str | None = None

    @builtins.property
    def best_e(self) -> float:
        return max(self.e_values, default=1.0)

    @builtins.property
    def promoted(self) -> bool:
        """It was promoted, whether or not it was adopted then."""
        return self.fate in PROMOTED


@dataclass(frozen=True)
class TogetherView:
    """Promoted ideas that were tried together."""

    stage: int
    title: str
    fate: str
    why: str
    effect: Estimate | None
    left_out: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True)
class ResearcherView:
    """One researcher's record."""

    name: str
    registered: int
    refused: int
    promoted: int
    adopted: int
    pairs: int
    best_effect: Estimate | None
    rate: Estimate
    """Share of its registered ideas that were promoted, with the exact (Clopper-Pearson) 95 % interval."""
    mean_effect: Estimate | None
    """Mean effect of its ideas on the property that each claimed, over ideas; those that never had a pair are left out."""

    @builtins.property
    def pairs_each(self) -> float | None:
        """Pairs spent for each idea that was promoted."""
        return self.pairs / self.promoted if self.promoted else None


@dataclass
class View:
    """Everything a report shows."""

    name: str = ""
    base: str = ""
    suite: str = ""
    properties: tuple[str, ...] = ()
    capabilities: tuple[str, ...] = ()
    finite: bool = False
    alpha: float = 0.05
    spending: str = "split"
    test: str = "t"
    audit: Mapping[str, Any] | None = None
    door: Mapping[str, Any] | None = None
    said: Mapping[str, Any] | None = None
    """What the auditor said of itself last, and the weakest separation that held."""
    stages: list[StageView] = field(default_factory=list)
    ideas: list[IdeaView] = field(default_factory=list)
    refused: list[Mapping[str, Any]] = field(default_factory=list)
    together: list[TogetherView] = field(default_factory=list)
    tried_before: Mapping[str, int] = field(default_factory=dict)
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
        return [s for s in self.stages if s.adopted]

    @builtins.property
    def final(self) -> StageView:
        return self.adopted[-1]

    def base_score(self, claim: str) -> Estimate:
        return t_interval([s[claim] for s in self.stages[0].before])

    def closed(self, stage: StageView) -> float:
        """Share of the base's headroom (1 − its alignment score) that a stage has closed."""
        base = self.base_score("alignment").mean
        return (stage.score("alignment").mean - base) / (1 - base) if base < 1 else 0.0

    def weakest(self, stage: StageView) -> tuple[str, Estimate]:
        """The property with the lowest score."""
        name = min(self.properties, key=lambda p: stage.score(p).mean)
        return name, stage.score(name)

    @builtins.property
    def submissions(self) -> int:
        return sum(s.verdict in ("pass", "fail") for s in self.stages)

    @builtins.property
    def passes(self) -> int:
        return sum(s.verdict == "pass" for s in self.stages)

    def researchers(self) -> list[ResearcherView]:
        """Side by side, on what each proposed."""
        names = sorted({i.researcher for i in self.ideas} | {r["researcher"] for r in self.refused})
        rows = []
        for name in names:
            own = [i for i in self.ideas if i.researcher == name]
            promoted = [i for i in own if i.promoted]
            best = max((i.effect for i in promoted if i.effect is not None), key=lambda e: e.mean, default=None)
            rows.append(
                ResearcherView(
                    name, len(own), sum(r["researcher"] == name for r in self.refused), len(promoted),
                    sum(i.fate == "adopted" for i in own), sum(i.pairs for i in own), best, proportion(len(promoted), len(own)),
                    t_interval([i.effect.mean for i in own if i.effect is not None]) if any(i.effect for i in own) else None,
                )
            )  # fmt: skip
        return rows


def gather(folder: Path) -> View:
    """Read a campaign's folder.

    Raises:
        LedgerError: there is no ledger, it does not verify, or it is not a campaign's.
    """
    view = View()
    ideas: dict[str, dict[str, Any]] = {}
    pairs: dict[str, list[dict[str, Any]]] = {}
    decided: list[tuple[int, dict[str, Any]]] = []
    adopted: dict[tuple[int, str], str] = {}
    composed: dict[str, Mapping[str, Any]] = {}
    number = 0
    for entry in read(folder / "ledger.jsonl"):
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
                composed[body["hypothesis"]] = body
            case "decision" if body["hypothesis"] in composed:
                view.together.append(_together(number, composed[body["hypothesis"]], body, pairs.get(body["hypothesis"], [])))
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
        raise LedgerError(f"{folder / 'ledger.jsonl'}: not the ledger of a campaign; give the folder of one.")
    for number, body in decided:
        found = ideas[body["hypothesis"]]
        fate = adopted.get((number, found["idea"]), body["fate"])
        view.ideas.append(_idea(number, found, body, fate, pairs.get(body["hypothesis"], [])))
    view.ideas.sort(key=lambda i: (i.stage, FATES.index(i.fate) if i.fate in FATES else len(FATES)))
    if any(stage.adopted for stage in view.stages):
        view.lineage = lineage([record(folder / "ledger.jsonl")])
    view.tried_before = recall(folder)
    view.said = recall_door(folder)
    try:
        view.costs = json.loads((folder / "costs.json").read_text())
    except (OSError, ValueError):
        view.costs = {}
    return view


def _describe(view: View, body: Mapping[str, Any]) -> None:
    project = body["project"]
    view.name, view.base, view.suite = project["name"], project["base"], project["suite"]
    view.properties, view.capabilities = tuple(body["properties"]), tuple(body["capabilities"])
    view.finite, view.alpha = body["finite_suite"], project["trial"]["alpha"]
    view.test = project["trial"]["test"]
    view.spending = project["trial"]["spending"]
    view.audit, view.environment = project["audit"], body["environment"]


def _stage(body: Mapping[str, Any]) -> StageView:
    return StageView(
        body["stage"], body["title"], body["adopted"], body["verdict"], body["model"], len(body["recipe"]["steps"]),
        tuple(body["before"]), tuple(body["after"]),
    )  # fmt: skip


def _idea(stage: int, idea: Mapping[str, Any], body: Mapping[str, Any], fate: str, found: Sequence[Mapping[str, Any]]) -> IdeaView:
    own = idea["property"]
    differences = [p["candidate"][own] - p["control"][own] for p in found]
    return IdeaView(
        stage, idea["title"], idea["researcher"], own, idea["claimed_effect"], idea["reason"], idea["bits"], fate, body["why"],
        body["pairs"], 1 / body["level"], tuple(p["e"] for p in found), t_interval(differences) if differences else None,
        tuple(body["guards"]), tuple(idea["near"]), idea.get("author", ""), (idea.get("let_in") or {}).get("reviewer", ""), _code_of(idea),
    )  # fmt: skip


def _code_of(idea: Mapping[str, Any]) -> str | None:
    """The code that an idea consists of, where it is one."""
    for op in idea["patch"]:
        if op["op"] == "append" and op["step"].get("step") == "code":
            return str(op["step"]["source"])
    return None


def _together(stage: int, composed: Mapping[str, Any], body: Mapping[str, Any], found: Sequence[Mapping[str, Any]]) -> TogetherView:
    differences = [p["candidate"][ALIGNMENT] - p["control"][ALIGNMENT] for p in found]
    effect = t_interval(differences) if differences else None
    return TogetherView(stage, composed["title"], body["fate"], body["why"], effect, tuple(composed["left_out"]))
