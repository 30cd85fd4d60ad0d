"""What made a model what it is: every influence, by kind and in bits, back to those who have to be trusted. Read from ledgers alone.

An influence is *weights* (a base, or a model merged in), *data* (examples of people's, or labels of a model's) or an *idea*. Whoever
made weights or data is a root of trust, and so is everybody behind them. An idea is text that was let in: its author, when it is a model
whose own lineage is known, is no root; those who aligned that author are, and whoever let the idea in. A model of unknown lineage is a
root by itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from stagezero.errors import LedgerError
from stagezero.ledger.chain import read

Kind = Literal["weights", "data", "idea"]
RULES = "the rules alone (airlock, trial, audit)"
SAMPLERS = ("optuna", "uniform")
"""Researchers that are programs without an author's intent: no roots, beyond the software that everything stands on."""


@dataclass(frozen=True, slots=True)
class Influence:
    """One thing that reached a model.

    ``bits`` is the most that it can have carried; None where that is not on record. ``let_in`` says who decided that it may come in.
    ``behind`` is the lineage of the model that made it, where a model did and it is known.
    """

    kind: Kind
    what: str
    by: str
    bits: int | None
    let_in: str
    digest: str = ""
    stage: int = 0
    behind: Lineage | None = None


@dataclass(frozen=True, slots=True)
class Lineage:
    """A stage of a run, and all that reached it."""

    run: str
    stage: int
    model: str
    influences: tuple[Influence, ...]
    confined: str
    software: Mapping[str, str] = field(default_factory=dict)
    audited: str = ""

    @property
    def name(self) -> str:
        return f"stage {self.stage} of {self.run}"

    def roots(self) -> dict[str, str]:
        """Who has to be trusted → because of what. In order of appearance, each once."""
        found: dict[str, str] = {}
        for i in self.influences:
            if i.kind != "idea":
                found.setdefault(i.by, f"{i.kind}: {i.what}")
            elif i.behind is None and i.by not in SAMPLERS:
                found.setdefault(i.by, f"idea: {i.what}")
            if i.behind is not None:
                for name, why in i.behind.roots().items():
                    found.setdefault(name, f"{why}, in {i.behind.name}, which made {'the idea' if i.kind == 'idea' else 'the ' + i.kind}")
            if i.kind == "idea" and i.let_in != RULES:
                found.setdefault(i.let_in, f"let in the idea {i.what}")
        return found

    def only_ideas(self) -> bool:
        """Whether nothing of any model but the base's weights and the text of ideas reached it."""
        return all(i.kind == "idea" or i.let_in == "people" for i in self.influences)

    def line(self) -> str:
        """Aligned by whom?"""
        ideas = [i for i in self.influences if i.kind == "idea" and i.digest]
        authors = "; ".join(f"{i.by} ({i.what}, {i.bits:,} bits, let in by {i.let_in})" for i in ideas)
        made = f"people (stage 0) and by the ideas of {authors}" if authors else "people alone (stage 0)"
        crossed = (
            "of models, only ideas crossed"
            if self.only_ideas()
            else "labels or weights crossed: "
            + ", ".join(f"{i.kind} of {i.by}" for i in self.influences if i.kind != "idea" and i.let_in != "people")
        )
        return f"{self.name} was aligned by {made}; {crossed}. Roots of trust: {', '.join(self.roots())}."

    def as_json(self) -> dict[str, Any]:
        """Flat enough for a script."""
        return {
            "run": self.run,
            "stage": self.stage,
            "model": self.model,
            "line": self.line(),
            "only_ideas": self.only_ideas(),
            "confined": self.confined,
            "audited": self.audited,
            "influences": [
                {
                    "kind": i.kind, "what": i.what, "by": i.by, "bits": i.bits, "let_in": i.let_in, "digest": i.digest, "stage": i.stage,
                    "behind": i.behind.as_json() if i.behind is not None else None,
                }
                for i in self.influences
            ],
            "roots": self.roots(),
        }  # fmt: skip


@dataclass
class Record:
    """One campaign's ledger, by what a lineage asks of it."""

    path: Path
    described: Mapping[str, Any]
    stages: dict[int, dict[str, Any]] = field(default_factory=dict)
    ideas: dict[tuple[int, str], dict[str, Any]] = field(default_factory=dict)
    """(stage, idea's digest) → what was registered."""

    @property
    def name(self) -> str:
        return str(self.described["project"]["name"])

    def adopted(self, upto: int) -> Iterator[Mapping[str, Any]]:
        """Stages up to one, those alone that were adopted."""
        return (self.stages[n] for n in sorted(self.stages) if n <= upto and self.stages[n]["adopted"])


def record(path: Path) -> Record:
    """A campaign's ledger, verified.

    Raises:
        LedgerError: it does not verify, or is no campaign's.
    """
    found: Record | None = None
    for entry in read(path):
        body = entry.body
        if entry.kind == "campaign":
            found = Record(path, body)
        elif found is None:
            break
        elif entry.kind == "registration":
            found.ideas |= {(body["stage"], idea["idea"]): idea for idea in body["ideas"]}
        elif entry.kind == "stage":
            found.stages[body["stage"]] = body
    if found is None:
        raise LedgerError(f"{path}: not the ledger of a campaign; give the folder of one.")
    return found


def lineage(records: Sequence[Record], stage: int | None = None) -> Lineage:
    """The lineage of a stage of the first of some records; the others are where models of other runs are looked up.

    Args:
        stage: its number; the last one adopted when None.

    Raises:
        LedgerError: there is no such stage.
    """
    own = records[0]
    if stage is None:
        stage = max((n for n, body in own.stages.items() if body["adopted"]), default=None)
    if stage is None or stage not in own.stages:
        there = ", ".join(str(n) for n in sorted(own.stages)) or "none yet"
        raise LedgerError(f"{own.path}: expected a stage that is there ({there}), got {stage}; choose one of them.")
    known = {body["model"]: (r, n) for r in records for n, body in r.stages.items()}
    return _lineage(own, stage, known, records, frozenset())


def _lineage(r: Record, stage: int, known: Mapping[str, tuple[Record, int]], records: Sequence[Record], above: frozenset[str]) -> Lineage:
    body, described = r.stages[stage], r.described
    above = above | {body["model"]}

    def behind(digest: str) -> Lineage | None:
        if digest not in known or digest in above:
            return None
        other, number = known[digest]
        return _lineage(other, number, known, records, above)

    base, project = described["base"], described["project"]
    first = behind(base)
    by = first.name if first is not None else f"whoever made {project['base']}"
    influences = [
        Influence("weights", f"the base {project['base']}", by, described.get("base_bits"), "people", base, 0, first),
        Influence(
            "data", f"training items of {Path(str(project['suite'])).name}", "people who wrote the suite",
            described.get("training_bits"), "people", described["suite"],
        ),
        Influence("idea", "stage 0's recipe", "people", body_bits(r.stages.get(0, {})), "people", "", 0),
    ]  # fmt: skip
    for adopted in (*r.adopted(stage), *([] if body["adopted"] else [body])):
        for digest in adopted["ideas"]:
            influences.append(_idea(r, adopted["stage"], digest, behind))
    for channel in body.get("channels", ()):
        source = behind(channel["digest"])
        maker = source.name if source is not None else channel["name"]
        if channel["source"] == "self":
            maker = f"{body_name(r, stage)} itself, half made"
        elif channel["source"] == "base":
            maker, source = by, first
        kind: Kind = "data" if channel["step"] == "distil" else "weights"
        influences.append(
            Influence(
                kind, f"{channel['step']} from {channel['name']}", maker, channel["bits"], "a declared channel", channel["digest"], stage,
                source,
            )
        )  # fmt: skip
    sandbox = project.get("sandbox", {}).get("kind", "none")
    runs = any(step["step"] in ("code", "command") for step in body["recipe"]["steps"])
    confined = f"sandbox: {sandbox}" if runs else "typed steps alone; no program was run"
    return Lineage(r.name, stage, body["model"], tuple(influences), confined, described["environment"]["versions"], body["verdict"])


def body_name(r: Record, stage: int) -> str:
    return f"stage {stage} of {r.name}"


def body_bits(body: Mapping[str, Any]) -> int | None:
    """Bits of a stage's recipe, as canonical text."""
    from stagezero.ledger.canonical import canonical

    return 8 * len(canonical(body["recipe"])) if "recipe" in body else None


def _idea(r: Record, stage: int, digest: str, behind: Any) -> Influence:
    idea = r.ideas[stage, digest]
    author = str(idea.get("author") or idea["researcher"])
    lineage: Lineage | None = None
    if idea["researcher"] == "self":
        # "stage N (digest)": the model that proposed it.
        lineage = behind(author.rpartition("(")[2].rstrip(")"))
        author = f"the model of {lineage.name}" if lineage is not None else f"the model of {author}"
    elif idea["researcher"] == author:
        author = str(idea["researcher"])
    else:
        author = f"{idea['researcher']}: {author}"
    let_in = idea.get("let_in")
    gate = f"reviewer {let_in['reviewer']}" if let_in else RULES
    return Influence("idea", f"“{idea['title']}”", author, idea["bits"], gate, digest, stage, lineage)
