"""A campaign, top to bottom: propose, admit, try, rebuild, audit, adopt, go on. Read this file first.

    researchers ──idea text──▶ airlock ──recipes──▶ trial ──promoted──▶ tried together ──▶ rebuild from the base ──digest──▶ door
         ▲                                                                                           │ pass
         └────────────────────────────── the next stage's control ◀──────────────────────────────────┘ adopt

The whole campaign is a deterministic function of its project and secret: builds and answers come from the store when they are
there, and the ledger confirms what it already holds. That is all there is to continuing a killed run.
"""

from __future__ import annotations

import importlib.metadata
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stagezero.door import Opened, Receipt, Status
from stagezero.errors import BuildError, ProjectError, RecipeError
from stagezero.evidence import Estimate, t_interval
from stagezero.ideas import airlock
from stagezero.ideas.brief import Brief, Outcome, Own
from stagezero.ideas.composition import compose
from stagezero.ideas.idea import Idea
from stagezero.ideas.review import Gate
from stagezero.isolation import Confinement, Limits, why_not
from stagezero.lab.audit_session import NOT_AUDITED, Audited, check_audit, door_entry
from stagezero.lab.provenance_inputs import channel_entry, texts_of, training_bits, weights_bits
from stagezero.lab.run_state import check_unchanged
from stagezero.ledger import Ledger, digest, refuse_if_in_use
from stagezero.measure import ALIGNMENT
from stagezero.models import checkpoint_digest, home
from stagezero.project import Outside, Project, load_project
from stagezero.researchers import Researcher, inbox, make
from stagezero.researchers.proposal_cache import proposals
from stagezero.tasks import claims, load_suite
from stagezero.training import Recipe, load_recipe
from stagezero.training.data import portable
from stagezero.training.executors import LocalPool
from stagezero.training.steps.run_program import check_programs
from stagezero.trials import prior_attempts
from stagezero.trials.batch import Batch
from stagezero.trials.hypothesis import Entrant, hypothesis
from stagezero.trials.jobs import Bench, Silent, Tell, follow
from stagezero.trials.seeds import draw_of, replicate_seed, secret_of
from stagezero.trials.state import Decision

NO_RECIPE = Recipe()


@dataclass(frozen=True, slots=True)
class Confirmed:
    """A recipe against the one before it, on fresh seeds that chose nothing."""

    seeds: tuple[int, ...]
    before: tuple[dict[str, float], ...]
    after: tuple[dict[str, float], ...]
    model: str
    folder: Path

    def effect(self, claim: str) -> Estimate:
        """Mean paired difference with its 95 % interval over seeds."""
        return t_interval([b[claim] - a[claim] for a, b in zip(self.before, self.after, strict=True)])


@dataclass(frozen=True, slots=True)
class Stage:
    """An adopted recipe and its rebuilt model."""

    number: int
    recipe: Recipe
    confirmed: Confirmed
    verdict: str
    ideas: tuple[Idea, ...]
    """What was adopted with it; none for stage 0."""

    @property
    def title(self) -> str:
        return " + ".join(idea.title for idea in self.ideas) or "stage 0, written by people"

    def score(self, claim: str) -> Estimate:
        return t_interval([s[claim] for s in self.confirmed.after])


@dataclass(frozen=True, slots=True)
class Finished:
    """What a campaign leaves behind; everything in it can be read again from the ledger."""

    folder: Path
    stages: tuple[Stage, ...]
    decisions: tuple[Decision, ...]


class Campaign:
    """The loop over stages, from one project file."""

    def __init__(
        self,
        project: Path | str,
        runs: Path | str = "runs",
        fresh: bool = False,
        workers: int | None = None,
        tell: Tell | None = None,
        opened: Opened | None = None,
    ):
        """Read and check everything a person wrote, before anything is built.

        Args:
            project: the project file.
            runs: folder under which this run keeps its own.
            fresh: set an earlier run of the same name aside and begin anew.
            workers: overrides the project's number of worker processes.
            tell: who is told how it goes.
            opened: an auditor that was started for this run; with None the run starts its own, where its project wants one.

        Raises:
            InputError: naming the file, the field, what was expected and the fix.
        """
        self.path = Path(project)
        self.project: Project = load_project(self.path)
        here = self.path.parent
        self.tell: Tell = tell or Silent()
        self._opened = opened
        self.workers = self.project.workers if workers is None else workers
        suite_name = self.project.suite
        self.suite_name = str(self.project.resolve(suite_name, here)) if suite_name.endswith(".jsonl") else suite_name
        self.suite = load_suite(self.suite_name)
        self.stage0 = load_recipe(self.project.resolve(self.project.stage0, here))
        self.folder = Path(runs) / self.project.name
        self.researchers: list[Researcher] = [make(r, here, self.folder) for r in self.project.researchers]
        self.gate = Gate(self.project.review, self.folder, self.tell.doing)
        self.confinement = confinement_of(self.project)
        self.channels = {name: str(path) if (path := self.project.resolve(name, here)).is_dir() else name for name in self.project.channels}
        beside = self.project.resolve(self.project.base, here)
        self.base_name = str(beside) if beside.is_dir() else self.project.base
        check_audit(self.project, self.path, self.suite_name, self.suite)
        check_programs(self.stage0, self.confinement.kind, "stage0")
        if workers is not None and workers < 1:
            raise ProjectError(f"workers: expected at least 1, got {workers}; correct it.")
        if fresh and self.folder.exists():
            refuse_if_in_use(self.folder / "ledger.jsonl")
            stamp = time.strftime("%Y%m%d-%H%M%S")
            self.folder.rename(self.folder.with_name(f"{self.folder.name}.before-{stamp}"))

    def run(self) -> Finished:
        """Run, or continue, to the end.

        Raises:
            RunChangedError: the project changed under a half-finished run.
            StagezeroError: anything a user can mend; nothing that was finished is lost.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        ledger = Ledger(self.folder / "ledger.jsonl")
        try:
            # The auditor takes the terms it is given for good, so a changed project must be refused before it starts.
            check_unchanged(ledger, self._written())
            with (
                Audited(self.project, self.path, self.suite_name, self.folder, self._opened, self.tell) as self.audited,
                LocalPool(self.workers) as pool,
            ):
                base = self._base(pool)
                described = {
                    **self._written(),
                    "base": checkpoint_digest(base),
                    "base_bits": weights_bits(base),
                    "environment": pool.environment(),
                }
                check_unchanged(ledger, described)
                status = self.audited.open(base)
                self.bench = Bench(
                    pool, base, self.suite_name, self.project.trial.items, home() / "store", self.folder / "costs.json", self.tell,
                    self.confinement,
                )  # fmt: skip
                try:
                    return self._stages(ledger, described, status)
                finally:
                    self.bench.save_costs()
        finally:
            ledger.close()

    def _base(self, pool: LocalPool) -> Path:
        """The base's folder; a pocket base is trained in a worker, with its progress shown."""
        future = pool.materialise(self.base_name, self.folder / "base-progress")
        return follow(future, self.folder / "base-progress", self.project.base, self.tell)

    # --- the main path -------------------------------------------------------------------------------------------

    def _stages(self, ledger: Ledger, described: dict[str, Any], status: Status | None) -> Finished:
        self.ledger, self.secret = ledger, secret_of(self.folder, self.project.seed)
        ledger.record("campaign", described)
        if status is not None:
            ledger.record("door", door_entry(status))
        self.audited.exchange(ledger)
        stage = self._found(0, self.stage0, NO_RECIPE, ())
        assert stage is not None
        stages: list[Stage] = [stage]
        decisions: list[Decision] = []
        history: list[Outcome] = []
        inbox.publish(self.folder, self._outsiders(), [])  # whoever comes early finds their name
        for number in range(1, self.project.stages + 1):
            brief = self._brief(number, stage, history)
            admitted = self._register(number, brief, decisions)
            if not admitted:
                self.tell.say(f"stage {number}: no new idea to try")
                break
            level = self._level(number, len(admitted), decisions)
            batch = Batch([a.entrant for a in admitted], stage.recipe, self.bench, self.project.trial, level, self.secret, ledger)
            found = batch.run()
            decisions += found
            promoted = [a for a, d in sorted(zip(admitted, found, strict=True), key=lambda x: (-x[1].gain(), x[1].title)) if d.promoted]
            adopted = None
            if promoted:
                recipe, ideas = self._together(stage.recipe, promoted, level, decisions)
                adopted = self._found(number, recipe, stage.recipe, ideas)
            history += [self._outcome(number, a.idea, d, adopted) for a, d in zip(admitted, found, strict=True)]
            inbox.publish(self.folder, self._outsiders(), history)
            if adopted is not None:
                stage = adopted
                stages.append(adopted)
            elif not promoted:
                self.tell.say(f"stage {number}: nothing was promoted; the recipe stays as it was")
        inbox.publish(self.folder, self._outsiders(), history, ended=True)
        ledger.record("end", {"stages": len(stages), "final": stages[-1].confirmed.model})
        return Finished(self.folder, tuple(stages), tuple(decisions))

    def _register(self, number: int, brief: Brief, decisions: Sequence[Decision]) -> list[airlock.Admitted]:
        """Collect proposals, pass them through the airlock, and write down what will be tried before anything is built."""
        ideas = proposals(self.researchers, brief, self.folder)
        decided = [(d.title, d.hypothesis) for d in decisions]
        admitted, refused = airlock.admit(
            ideas, brief.control, self.suite, self.project.trial.margin, decided, self.channels, self._no_code(),
            self.project.sandbox.seconds,
        )  # fmt: skip
        admitted, held = self.gate.pass_through(admitted, _unaudited(brief.own), number, self.ledger.entries[0].hash)
        refused += held
        inbox.publish(self.folder, self._outsiders(), brief.history, refused)
        self.tell.say(f"stage {number}: {len(admitted)} ideas registered" + (f", {len(refused)} refused" if refused else ""))
        for a in admitted:
            if a.near:
                self.tell.say(f"stage {number}: {a.idea.title!r} is the same as {' and '.join(a.near)} but for trivial parameters")
        self.ledger.record(
            "registration",
            {
                "stage": number,
                "control": digest(portable(brief.control.canonical())),
                "level": float(f"{self._level(number, len(admitted), decisions):.6g}") if admitted else None,
                "margin": self.project.trial.margin,
                "test": self.project.trial.test,
                "ideas": [a.entry() for a in admitted],
                "refused": [r.entry() for r in refused],
            },
        )
        self._mark(number, [a.hypothesis.digest() for a in admitted])
        self.audited.witnessed(self.ledger)
        return admitted

    def _outsiders(self) -> list[str]:
        return [r.name for r in self.project.researchers if isinstance(r, Outside)]

    def _no_code(self) -> str | None:
        """Why programs that ideas bring along are not run here, where they are not."""
        if self.confinement.kind == "none":
            return "the project's sandbox.kind is none"
        return why_not(self.confinement.kind)

    def _mark(self, number: int, hypotheses: Sequence[str]) -> None:
        """Say it when other runs on this machine had registered the same hypotheses: this is then not their first chance."""
        run = prior_attempts.run_name(self.secret, self.ledger.entries[0].hash)
        # The same recipes on another base are another question, so the base is part of the mark.
        names = [prior_attempts.name_of(h, self.ledger.entries[0].body["base"]) for h in hypotheses]
        before = prior_attempts.mark(home() / "tried", run, names)
        prior_attempts.remember(self.folder, before)
        if before:
            most = max(before.values())
            self.tell.say(
                f"stage {number}: {len(before)} of these hypotheses were registered by other runs before, up to {most} times; "
                "the error stated is this run's alone"
            )

    def _level(self, number: int, ideas: int, decisions: Sequence[Decision]) -> float:
        """Error that each idea of a stage's batch may spend."""
        promoted = sum(d.promoted for d in decisions)
        return self.project.trial.level(number, self.project.stages, ideas, len(decisions), promoted)

    def _together(
        self, control: Recipe, promoted: Sequence[airlock.Admitted], level: float, decisions: list[Decision]
    ) -> tuple[Recipe, tuple[Idea, ...]]:
        """What to adopt of the promoted ideas, best first: all that go together if they hold up together, else the best alone.

        Tried together they are one more hypothesis (the alignment score improves, nothing is lost), on seeds that chose none of them,
        with the share of the error that was kept for it.
        """
        lead = promoted[0]
        alone = lead.hypothesis.candidate, (lead.idea,)
        composite = compose(promoted, self.channels, self.project.sandbox.seconds)
        if len(composite.parts) == 1:
            return alone
        try:
            combined = hypothesis(control, composite.recipe, ALIGNMENT, self.project.trial.margin, self.suite)
        except RecipeError as error:  # each fits the control alone, and together they do not fit each other
            self.tell.say(f"the promoted ideas do not go together ({error}); the best is adopted alone")
            return alone
        if combined.candidate_does == lead.hypothesis.candidate_does:
            return alone
        entrant = Entrant(" + ".join(p.idea.title for p in composite.parts), "together", combined)
        self.ledger.record(
            "composition",
            {
                "hypothesis": combined.digest(),
                "title": entrant.title,
                "parts": [p.hypothesis.digest() for p in composite.parts],
                "left_out": [{"title": title, "why": why} for title, why in composite.left_out],
                "level": float(f"{level:.6g}"),
                "candidate": portable(composite.recipe.canonical()),
            },
        )
        decision = Batch([entrant], control, self.bench, self.project.trial, level, self.secret, self.ledger).run()[0]
        decisions.append(decision)
        return (composite.recipe, tuple(p.idea for p in composite.parts)) if decision.promoted else alone

    def _found(self, number: int, recipe: Recipe, before: Recipe, ideas: tuple[Idea, ...]) -> Stage | None:
        """Rebuild a recipe from the base on fresh seeds, measure it beside the recipe before it, and have it audited.

        Stage 0 stands whatever the verdict, since people wrote it; a later stage needs a pass.
        """
        try:
            confirmed, handed_in = self._confirm(number, recipe, before)
        except BuildError as error:
            if number == 0:
                raise
            self.ledger.record("not rebuilt", {"stage": number, "ideas": [idea.digest() for idea in ideas], "why": str(error)})
            self.tell.say(f"stage {number}: it could not be rebuilt on fresh seeds and is not adopted: {error}")
            return None
        verdict = self.audited.verdict(number, handed_in)
        stands = number == 0 or verdict in ("pass", NOT_AUDITED)
        stage = Stage(number, recipe, confirmed, verdict, ideas)
        self.ledger.record("stage", self._stage_entry(stage, stands))
        score = stage.score(ALIGNMENT)
        self.tell.say(f"stage {number}: alignment score {score}, auditor: {verdict}" + ("" if stands else "; not adopted"))
        return stage if stands else None

    def _confirm(self, number: int, recipe: Recipe, before: Recipe) -> tuple[Confirmed, Receipt | str]:
        """Build and measure on fresh seeds; the first of the new builds is the stage's model, and is with the auditor meanwhile."""
        head = self.ledger.head
        seeds = [replicate_seed(self.secret, head, f"confirm {number}", s) for s in range(1, self.project.trial.confirm + 1)]
        built = self.bench.submit(recipe, seeds[0], (draw_of(seeds[0]),))
        jobs = [self.bench.submit(r, seed, (draw_of(seed),)) for seed in seeds for r in (before, recipe)]
        what = f"rebuilding stage {number} from the base"
        (model,) = self.bench.gather([built], what)
        handed_in = self.audited.hand_in(number, model.digest, model.folder, self.ledger)
        scores = [r.scores[0] for r in self.bench.gather(jobs, what)]
        return Confirmed(tuple(seeds), tuple(scores[0::2]), tuple(scores[1::2]), model.digest, model.folder), handed_in

    # --- small parts ---------------------------------------------------------------------------------------------

    def _written(self) -> dict[str, Any]:
        """What people wrote, for entry 0: the resolved project, and the digests of the files it names."""
        return {
            # How many work, and where the auditor and its papers lie, is no part of what is found.
            "project": self.project.model_dump(mode="json", exclude={"workers": True, "audit": {"keep", "token_file", "ca_file"}}),
            "suite": self.suite.digest(),
            "properties": list(self.suite.properties),
            "capabilities": list(self.suite.capabilities),
            "finite_suite": self.suite.finite,
            "stage0": portable(self.stage0.canonical()),
            "ideas": self._on_file(),
            "training_bits": training_bits(self.suite),
            "stagezero": importlib.metadata.version("stagezero"),
        }

    def _on_file(self) -> dict[str, str]:
        """Researcher and title → digest of the idea file; of several with one title, all of them."""
        found: dict[str, list[str]] = {}
        for researcher in self.researchers:
            for idea in researcher.ideas_on_file:
                found.setdefault(f"{researcher.name}: {idea.title}", []).append(idea.digest())
        return {title: " ".join(sorted(digests)) for title, digests in found.items()}

    def _brief(self, number: int, stage: Stage, history: Sequence[Outcome]) -> Brief:
        scores = {claim: stage.score(claim).mean for claim in (ALIGNMENT, *claims(self.suite))}
        trainable = tuple(sorted({item.property for item in self.suite.train_items()}))
        c = stage.confirmed
        own = Own(stage.number, c.folder, c.model, stage.verdict == "pass")
        channels = tuple(self.project.channels)
        return Brief(
            number, stage.recipe, self.suite.properties, self.suite.capabilities, trainable, scores, tuple(history), channels, own
        )  # fmt: skip

    def _outcome(self, number: int, idea: Idea, decision: Decision, adopted: Stage | None) -> Outcome:
        own = [p.difference(idea.property) for p in decision.pairs]
        effect = sum(own) / len(own) if own else 0.0
        fate = "adopted" if adopted is not None and idea in adopted.ideas else str(decision.fate)
        return Outcome(number, idea, fate, len(own), effect, decision.gain())

    def _stage_entry(self, stage: Stage, stands: bool) -> dict[str, Any]:
        c = stage.confirmed
        return {
            "stage": stage.number,
            "adopted": stands,
            "ideas": [idea.digest() for idea in stage.ideas],
            "title": stage.title,
            "recipe": portable(stage.recipe.canonical()),
            "files": texts_of(stage.recipe),
            "channels": [channel_entry(step, self.bench.base, self.suite) for step in stage.recipe.channels()],
            "model": c.model,
            "seeds": list(c.seeds),
            "before": list(c.before),
            "after": list(c.after),
            "verdict": stage.verdict,
        }


def _unaudited(own: Own | None) -> str | None:
    """Why the ideas of a stage's own model wait for review, where they do."""
    return None if own is None or own.passed else f"the model of stage {own.stage} proposed it, and has not passed audit"


def confinement_of(project: Project) -> Confinement:
    """How a project confines the programs it builds with."""
    s = project.sandbox
    return Confinement(s.kind, Limits(int(s.memory * 2**30), int(s.disk * 2**30), s.processes))
