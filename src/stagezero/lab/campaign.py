"""A campaign, top to bottom: propose, admit, try, rebuild, audit, adopt, go on. Read this file first.

    researchers ──idea text──▶ airlock ──recipes──▶ trial ──promoted──▶ tried together ──▶ rebuild from the base ──digest──▶ door
         ▲                                                                                           │ pass
         └────────────────────────────── the next stage's control ◀──────────────────────────────────┘ adopt

The whole campaign is a deterministic function of its project and secret: builds and answers come from the store when they are
there, and the ledger confirms what it already holds. That is all there is to continuing a killed run.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stagezero.door import Opened, Receipt, Status
from stagezero.errors import BuildError, ProjectError, RecipeError
from stagezero.ideas.airlock import Admitted
from stagezero.ideas.brief import Brief, Outcome, Own
from stagezero.ideas.composition import compose
from stagezero.ideas.idea import Idea
from stagezero.ideas.review import Gate
from stagezero.lab.audit_session import NOT_AUDITED, AuditSession, door_entry
from stagezero.lab.resolved_project import ResolvedProject
from stagezero.lab.run_state import check_unchanged, describe, describe_build
from stagezero.lab.stage import Confirmed, Finished, Stage
from stagezero.ledger import Ledger, digest, refuse_if_in_use
from stagezero.measure import ALIGNMENT
from stagezero.models import home
from stagezero.project import Outside
from stagezero.researchers import Researcher, inbox, make
from stagezero.researchers.proposal_cache import proposals
from stagezero.tasks import claims
from stagezero.training import Recipe
from stagezero.training.data import portable
from stagezero.training.executors import LocalPool
from stagezero.trials import prior_attempts
from stagezero.trials.batch import Batch
from stagezero.trials.hypothesis import Entrant, hypothesis
from stagezero.trials.jobs import Bench, Silent, Tell, materialise_base
from stagezero.trials.seeds import draw_of, replicate_seed, secret_of
from stagezero.trials.state import Decision

NO_RECIPE = Recipe()


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
        self.resolved = ResolvedProject(Path(project))
        self.project, self.suite = self.resolved.project, self.resolved.suite
        self.tell: Tell = tell or Silent()
        self._opened = opened
        self.workers = self.project.workers if workers is None else workers
        self.folder = Path(runs) / self.project.name
        self.researchers: list[Researcher] = [make(r, self.resolved.path.parent, self.folder) for r in self.project.researchers]
        self.gate = Gate(self.project.review, self.folder, self.tell.doing)
        self.resolved.check()
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
            described = describe(self.resolved, self.researchers)
            # The auditor takes the terms it is given for good, so a changed project must be refused before it starts.
            check_unchanged(ledger, described)
            with AuditSession(self.resolved, self.folder, self._opened, self.tell) as audit, LocalPool(self.workers) as pool:
                base = materialise_base(pool, self.resolved.base, self.folder, self.tell)
                described |= describe_build(base, pool.environment())
                check_unchanged(ledger, described)
                status = audit.open(base)
                bench = Bench(
                    pool, base, self.resolved.suite_name, self.project.trial.items, home() / "store", self.folder / "costs.json",
                    self.tell, self.resolved.confinement,
                )  # fmt: skip
                try:
                    return Run(self, ledger, audit, bench).stages(described, status)
                finally:
                    bench.save_costs()
        finally:
            ledger.close()


class Run:
    """One campaign with its ledger, its auditor and its workers open: the main path."""

    def __init__(self, campaign: Campaign, ledger: Ledger, audit: AuditSession, bench: Bench) -> None:
        self.campaign, self.resolved, self.project, self.suite = campaign, campaign.resolved, campaign.project, campaign.suite
        self.folder, self.tell = campaign.folder, campaign.tell
        self.ledger, self.audit, self.bench = ledger, audit, bench
        self.secret = secret_of(self.folder, self.project.seed)
        self.decisions: list[Decision] = []
        self.history: list[Outcome] = []

    def stages(self, described: dict[str, Any], status: Status | None) -> Finished:
        """Every stage of the campaign, in order."""
        self.ledger.record("campaign", described)
        if status is not None:
            self.ledger.record("door", door_entry(status))
        self.audit.exchange(self.ledger)
        stage = self._rebuild(0, self.resolved.stage0, NO_RECIPE, ())
        assert stage is not None
        stages: list[Stage] = [stage]
        self._publish()  # whoever comes early finds their name
        for number in range(1, self.project.stages + 1):
            admitted = self._register(number, self._brief(number, stage))
            if not admitted:
                self.tell.say(f"stage {number}: no new idea to try")
                break
            level = self._level(number, len(admitted))
            decided = self._try([a.entrant for a in admitted], stage.recipe, level)
            promoted = [a for a, d in sorted(zip(admitted, decided, strict=True), key=lambda x: (-x[1].gain(), x[1].title)) if d.promoted]
            adopted = None
            if promoted:
                recipe, ideas = self._together(stage.recipe, promoted, level)
                adopted = self._rebuild(number, recipe, stage.recipe, ideas)
            self.history += [_outcome(number, a.idea, d, adopted) for a, d in zip(admitted, decided, strict=True)]
            self._publish()
            if adopted is not None:
                stage = adopted
                stages.append(adopted)
            elif not promoted:
                self.tell.say(f"stage {number}: nothing was promoted; the recipe stays as it was")
        self._publish(ended=True)
        self.ledger.record("end", {"stages": len(stages), "final": stages[-1].confirmed.model})
        return Finished(self.folder, tuple(stages), tuple(self.decisions))

    # --- propose and admit ---------------------------------------------------------------------------------------

    def _brief(self, number: int, stage: Stage) -> Brief:
        scores = {claim: stage.score(claim).mean for claim in (ALIGNMENT, *claims(self.suite))}
        trainable = tuple(sorted({item.property for item in self.suite.train_items()}))
        c = stage.confirmed
        own = Own(stage.number, c.folder, c.model, stage.verdict == "pass")
        return Brief(
            number, stage.recipe, self.suite.properties, self.suite.capabilities, trainable, scores, tuple(self.history),
            tuple(self.project.channels), own,
        )  # fmt: skip

    def _register(self, number: int, brief: Brief) -> list[Admitted]:
        """Collect proposals, pass them through the airlock, and write down what will be tried before anything is built."""
        ideas = proposals(self.campaign.researchers, brief, self.folder)
        admitted, refused = self.resolved.admit(ideas, brief.control, [(d.title, d.hypothesis) for d in self.decisions])
        admitted, held = self.campaign.gate.pass_through(admitted, _unaudited(brief.own), number, self.ledger.entries[0].hash)
        refused += held
        inbox.publish(self.folder, self._outsiders(), brief.history, refused)
        self.tell.say(f"stage {number}: {len(admitted)} ideas registered" + (f", {len(refused)} refused" if refused else ""))
        for a in admitted:
            if a.near:
                self.tell.say(f"stage {number}: {a.idea.title!r} is the same as {' and '.join(a.near)} but for trivial parameters")
        self.ledger.record(
            "registration",
            {
                "stage": number, "control": digest(portable(brief.control.canonical())),
                "level": float(f"{self._level(number, len(admitted)):.6g}") if admitted else None, "margin": self.project.trial.margin,
                "test": self.project.trial.test, "ideas": [a.entry() for a in admitted], "refused": [r.entry() for r in refused],
            },
        )  # fmt: skip
        self._note_prior_attempts(number, admitted)
        self.audit.witnessed(self.ledger)
        return admitted

    def _outsiders(self) -> list[str]:
        return [r.name for r in self.project.researchers if isinstance(r, Outside)]

    def _publish(self, ended: bool = False) -> None:
        """Outside researchers learn what became of all ideas so far."""
        inbox.publish(self.folder, self._outsiders(), self.history, ended=ended)

    def _note_prior_attempts(self, number: int, admitted: Sequence[Admitted]) -> None:
        """Report when other runs on this machine had registered the same hypotheses: this is then not their first chance."""
        before = prior_attempts.note(home() / "tried", self.secret, self.ledger.entries[0], [a.hypothesis.digest() for a in admitted])
        prior_attempts.remember(self.folder, before)
        if before:
            most = max(before.values())
            self.tell.say(
                f"stage {number}: {len(before)} of these hypotheses were registered by other runs before, up to {most} times; "
                "the error stated is this run's alone"
            )

    # --- try -----------------------------------------------------------------------------------------------------

    def _level(self, number: int, ideas: int) -> float:
        """Error that each idea of a stage's batch may spend."""
        promoted = sum(d.promoted for d in self.decisions)
        return self.project.trial.level(number, self.project.stages, ideas, len(self.decisions), promoted)

    def _try(self, entrants: Sequence[Entrant], control: Recipe, level: float) -> list[Decision]:
        """Trials of ideas that are registered, to their decisions."""
        decided = Batch(entrants, control, self.bench, self.project.trial, level, self.secret, self.ledger).run()
        self.decisions += decided
        return decided

    def _together(self, control: Recipe, promoted: Sequence[Admitted], level: float) -> tuple[Recipe, tuple[Idea, ...]]:
        """What to adopt of the promoted ideas, best first: all that go together if they hold up together, else the best alone.

        Tried together they are one more hypothesis (the alignment score improves, nothing is lost), on seeds that chose none of them,
        with the share of the error that was kept for it.
        """
        lead = promoted[0]
        alone = lead.hypothesis.candidate, (lead.idea,)
        composite = compose(promoted, self.resolved.channels, self.project.sandbox.seconds)
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
                "hypothesis": combined.digest(), "title": entrant.title, "parts": [p.hypothesis.digest() for p in composite.parts],
                "left_out": [{"title": title, "why": why} for title, why in composite.left_out], "level": float(f"{level:.6g}"),
                "candidate": portable(composite.recipe.canonical()),
            },
        )  # fmt: skip
        (decision,) = self._try([entrant], control, level)
        return (composite.recipe, tuple(p.idea for p in composite.parts)) if decision.promoted else alone

    # --- rebuild and audit ---------------------------------------------------------------------------------------

    def _rebuild(self, number: int, recipe: Recipe, before: Recipe, ideas: tuple[Idea, ...]) -> Stage | None:
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
        verdict = self.audit.verdict(number, handed_in)
        stands = number == 0 or verdict in ("pass", NOT_AUDITED)
        stage = Stage(number, recipe, confirmed, verdict, ideas)
        self.ledger.record("stage", stage.entry(stands, self.bench.base, self.suite))
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
        handed_in = self.audit.hand_in(number, model.digest, model.folder, self.ledger)
        scores = [r.scores[0] for r in self.bench.gather(jobs, what)]
        return Confirmed(tuple(seeds), tuple(scores[0::2]), tuple(scores[1::2]), model.digest, model.folder), handed_in


def _outcome(number: int, idea: Idea, decision: Decision, adopted: Stage | None) -> Outcome:
    own = [p.difference(idea.property) for p in decision.pairs]
    effect = sum(own) / len(own) if own else 0.0
    fate = "adopted" if adopted is not None and idea in adopted.ideas else str(decision.fate)
    return Outcome(number, idea, fate, len(own), effect, decision.gain())


def _unaudited(own: Own | None) -> str | None:
    """Why the ideas of a stage's own model wait for review, where they do."""
    return None if own is None or own.passed else f"the model of stage {own.stage} proposed it, and has not passed audit"
