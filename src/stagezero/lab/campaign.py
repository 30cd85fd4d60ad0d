"""Runs a campaign: the main entry point of stagezero. Read this file first.

A campaign improves the alignment of a base model in stages. Stage 0 is a training recipe that
people wrote. Each later stage is an improved recipe, which the campaign finds in seven steps:

    1. propose   Researchers (people, programs and models) propose ideas. An idea is a short text.
                 It names one property (a behaviour that the suite scores), gives a reason, and
                 contains a change to the recipe.
    2. admit     Each idea is validated (in ``ideas/airlock.py``). The ideas that are valid are
                 registered in the ledger, a file to which entries can only be appended.
    3. test      Each idea gets a trial, which trains pairs of models. Both models of a pair have
                 the same seed. One is trained with the current recipe (the control), the other
                 with the changed recipe (the candidate). A sequential test on the scores decides
                 whether the idea is promoted.
    4. combine   If several ideas are promoted, one more trial tests them together.
    5. rebuild   Models are trained from the base with the new recipe, on fresh seeds.
    6. audit     This side (the lab) submits one of these models to the auditor. The auditor tests
                 it on secret ("sealed") items, which the lab never reads.
    7. adopt     If the model passes, the new recipe becomes the control of the next stage.

Every model is trained from the base. No weights, labels or data of a stage's model enter the next
stage: only ideas do, as text. The one exception: a project may list another model under
``channels``, and recipes may then use its labels or weights.

A campaign is a deterministic function of its project file, its secret, the stored proposals, the
reviewers' decisions and the auditor's verdicts. The secret is a random key, or comes from the
project's ``seed``; all training seeds depend on it. To continue an interrupted campaign, the same
code runs again from the beginning. Finished builds and model outputs come from the store. Each
ledger entry is computed again, and must equal the recorded one.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stagezero.door import AuditorEndpoint, Receipt, Status
from stagezero.errors import BuildError, ProjectError, RecipeError
from stagezero.ideas.airlock import Admitted
from stagezero.ideas.brief import Brief, Outcome, OwnModel
from stagezero.ideas.composition import compose
from stagezero.ideas.idea import Idea
from stagezero.ideas.review import ReviewGate
from stagezero.lab.audit_session import NOT_AUDITED, AuditSession, door_entry
from stagezero.lab.plan import report_plan
from stagezero.lab.resolved_project import ResolvedProject
from stagezero.lab.run_state import check_unchanged, describe_build, describe_project
from stagezero.lab.stage import CampaignResult, Confirmation, Stage
from stagezero.ledger import Ledger, digest, refuse_if_in_use
from stagezero.measure import ALIGNMENT
from stagezero.models import home
from stagezero.project import Outside
from stagezero.researchers import inbox, make_researcher
from stagezero.researchers.proposal_cache import collect_proposals
from stagezero.tasks import claims
from stagezero.training import Recipe
from stagezero.training.data import portable_form
from stagezero.training.executors import LocalPool
from stagezero.trials import prior_attempts
from stagezero.trials.batch import Batch
from stagezero.trials.hypothesis import Entrant, hypothesis
from stagezero.trials.jobs import BuildQueue, NoProgress, Progress, materialise_base
from stagezero.trials.seeds import campaign_secret, draw_for_seed, replicate_seed
from stagezero.trials.state import Decision

EMPTY_RECIPE = Recipe()
"""A recipe without steps. Its model is the base, with which stage 0 is compared."""


class Campaign:
    """A campaign that one project file describes."""

    def __init__(
        self,
        project: Path | str,
        runs: Path | str = "runs",
        fresh: bool = False,
        workers: int | None = None,
        progress: Progress | None = None,
        endpoint: AuditorEndpoint | None = None,
    ):
        """Read and validate the project and every file that it names, before anything is built.

        Args:
            project: the project file.
            runs: the folder that contains the folders of all runs.
            fresh: rename an earlier run of the same name, and begin a new one.
            workers: number of worker processes; None for the number in the project.
            progress: displays progress and messages; None for no display.
            endpoint: an auditor that the caller started for this run. If None, the run starts its
                own auditor if the project asks for one.

        Raises:
            InputError: a file is invalid. The message names the file, the field, the expected value
                and the fix.
        """
        self.resolved = ResolvedProject(Path(project))
        self.project, self.suite = self.resolved.project, self.resolved.suite
        self.progress: Progress = progress or NoProgress()
        self._endpoint, self.workers = endpoint, self.project.workers if workers is None else workers
        self.folder, place = Path(runs) / self.project.name, self.resolved.path.parent
        self.researchers = [make_researcher(r, place, self.folder, self.progress.message) for r in self.project.researchers]
        self.gate = ReviewGate(self.project.review, self.folder, self.progress.status)
        self.resolved.validate()
        if workers is not None and workers < 1:
            raise ProjectError(f"workers: expected at least 1, got {workers}; give a positive number.")
        if fresh and self.folder.exists():
            refuse_if_in_use(self.folder / "ledger.jsonl")
            stamp = time.strftime("%Y%m%d-%H%M%S")
            self.folder.rename(self.folder.with_name(f"{self.folder.name}.before-{stamp}"))

    def run(self) -> CampaignResult:
        """Run the campaign to its end, or continue an interrupted run.

        Raises:
            RunChangedError: the project has changed since the run began.
            StagezeroError: an error that the user can correct. Finished work is not lost.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        ledger = Ledger(self.folder / "ledger.jsonl")
        try:
            description = describe_project(self.resolved, self.researchers)
            # A run's own auditor is set up once, from the project, and stays as it is. So a changed
            # project must be refused before the auditor starts.
            check_unchanged(ledger, description)
            with AuditSession(self.resolved, self.folder, self._endpoint, self.progress) as audit, LocalPool(self.workers) as pool:
                base = materialise_base(pool, self.resolved.base, self.folder, self.progress, self.resolved.chat_template)
                description |= describe_build(base, pool.environment())
                check_unchanged(ledger, description)  # again, now with the base's digest and the environment
                status = audit.open(base)
                queue = BuildQueue(
                    pool, base, self.resolved.suite_name, self.project.trial.items, home() / "store", self.folder / "costs.json",
                    self.progress, self.resolved.confinement, max_tokens=self.project.answer_tokens,
                )  # fmt: skip
                report_plan(self.resolved, self.researchers, pool, queue)
                try:
                    return Run(self, ledger, audit, queue).run_stages(description, status)
                finally:
                    queue.save_costs()
        finally:
            ledger.close()


class Run:
    """A running campaign: its ledger, its connection to the auditor, and its queue of builds."""

    def __init__(self, campaign: Campaign, ledger: Ledger, audit: AuditSession, queue: BuildQueue) -> None:
        self.campaign, self.resolved, self.project, self.suite = campaign, campaign.resolved, campaign.project, campaign.suite
        self.folder, self.progress = campaign.folder, campaign.progress
        self.ledger, self.audit, self.queue = ledger, audit, queue
        self.secret = campaign_secret(self.folder, self.project.seed)
        self.outside_names = [r.name for r in self.project.researchers if isinstance(r, Outside)]
        self.decisions: list[Decision] = []
        self.history: list[Outcome] = []

    def run_stages(self, description: dict[str, Any], status: Status | None) -> CampaignResult:
        """Run all stages in order.

        Args:
            description: the body of the ledger's first entry.
            status: the auditor's status; None if the project has no audit.
        """
        self.ledger.record("campaign", description)
        if status is not None:
            self.ledger.record("door", door_entry(status))
        self.audit.exchange_checkpoints(self.ledger)  # lab and auditor store each other's signed ledger state
        stage = self._rebuild_and_audit(0, self.resolved.stage0, EMPTY_RECIPE, ())
        assert stage is not None
        stages: list[Stage] = [stage]
        self._publish_outcomes()  # creates the folders of researchers outside this process, before stage 1 starts
        for number in range(1, self.project.stages + 1):
            admitted = self._register_ideas(number, self._brief(number, stage))
            if not admitted:
                self.progress.message(f"stage {number}: no new idea to test; the campaign ends")
                break
            level = self._error_level(number, len(admitted))
            decisions = self._run_trials([idea.entrant for idea in admitted], stage.recipe, level)
            best_first = sorted(zip(admitted, decisions, strict=True), key=lambda pair: (-pair[1].mean_gain(), pair[1].title))
            promoted = [idea for idea, decision in best_first if decision.promoted]
            adopted = None
            if promoted:
                recipe, ideas = self._choose_recipe(stage.recipe, promoted, level)
                adopted = self._rebuild_and_audit(number, recipe, stage.recipe, ideas)
            self.history += [_outcome(number, a.idea, d, adopted) for a, d in zip(admitted, decisions, strict=True)]
            self._publish_outcomes()
            if adopted is not None:
                stage = adopted
                stages.append(adopted)
            elif not promoted:
                self.progress.message(f"stage {number}: no idea was promoted; the recipe does not change")
        self._publish_outcomes(ended=True)
        self.ledger.record("end", {"stages": len(stages), "final": stages[-1].confirmed.model})
        return CampaignResult(self.folder, tuple(stages), tuple(self.decisions))

    # --- propose and admit ------------------------------------------------------------------------

    def _brief(self, number: int, stage: Stage) -> Brief:
        """Return the brief: what every researcher knows when it proposes ideas."""
        scores = {claim: stage.score(claim).mean for claim in (ALIGNMENT, *claims(self.suite))}
        trainable = tuple(sorted({item.property for item in self.suite.train_items()}))
        own = OwnModel(stage.number, stage.confirmed.folder, stage.confirmed.model, stage.verdict == "pass")
        return Brief(
            number, stage.recipe, self.suite.properties, self.suite.capabilities, trainable, scores, tuple(self.history),
            tuple(self.project.channels), own,
        )  # fmt: skip

    def _register_ideas(self, number: int, brief: Brief) -> list[Admitted]:
        """Collect proposals, admit or refuse them, and register the admitted ones in the ledger."""
        ideas = collect_proposals(self.campaign.researchers, brief, self.folder)
        admitted, refused = self.resolved.admit(ideas, brief.control, [(d.title, d.hypothesis) for d in self.decisions])
        first_entry = self.ledger.entries[0].hash
        admitted, refused_in_review = self.campaign.gate.await_decisions(admitted, _review_reason(brief.own), number, first_entry)
        refused += refused_in_review
        inbox.publish_outcomes(self.folder, self.outside_names, brief.history, refused)
        registered = f"{len(admitted)} idea{'' if len(admitted) == 1 else 's'} registered"
        self.progress.message(f"stage {number}: {registered}" + (f", {len(refused)} rejected" if refused else ""))
        for a in admitted:
            if a.near_duplicates:
                others = " and ".join(a.near_duplicates)
                self.progress.message(f"stage {number}: {a.idea.title!r} differs from {others} only by small changes of numbers")
        self.ledger.record(
            "registration",
            {
                "stage": number, "control": digest(portable_form(brief.control.canonical())),
                "level": float(f"{self._error_level(number, len(admitted)):.6g}") if admitted else None,
                "margin": self.project.trial.margin, "test": self.project.trial.test, "ideas": [a.entry() for a in admitted],
                "refused": [r.entry() for r in refused],
            },
        )  # fmt: skip
        self._report_prior_attempts(number, admitted)
        self.audit.witness_registration(self.ledger)  # the auditor stores the signed ledger state before the first build
        return admitted

    def _publish_outcomes(self, ended: bool = False) -> None:
        """Write the outcomes of all ideas so far to the folders of the outside researchers."""
        inbox.publish_outcomes(self.folder, self.outside_names, self.history, ended=ended)

    def _report_prior_attempts(self, number: int, admitted: Sequence[Admitted]) -> None:
        """Print a message if other runs on this machine have registered the same hypotheses before.

        Each is another chance of a false promotion, which this run's error rate does not include.
        """
        hypotheses = [a.hypothesis.digest() for a in admitted]
        counts = prior_attempts.record_run(home() / "tried", self.secret, self.ledger.entries[0], hypotheses)
        prior_attempts.save_prior_run_counts(self.folder, counts)
        if counts:
            self.progress.message(
                f"stage {number}: other runs on this machine have registered {len(counts)} of these hypotheses before "
                f"(the most frequent one in {max(counts.values())} run{'s' if max(counts.values()) > 1 else ''}); the error rate of this "
                "run does not include those runs"
            )

    # --- test -------------------------------------------------------------------------------------

    def _error_level(self, number: int, ideas: int) -> float:
        """Return the level of each idea: the allowed probability of a false promotion."""
        promoted = sum(d.promoted for d in self.decisions)
        return self.project.trial.level(number, self.project.stages, ideas, len(self.decisions), promoted)

    def _run_trials(self, entrants: Sequence[Entrant], control: Recipe, level: float) -> list[Decision]:
        """Run the trials of registered ideas, and return their decisions in the same order."""
        decisions = Batch(entrants, control, self.queue, self.project.trial, level, self.secret, self.ledger).run()
        self.decisions += decisions
        return decisions

    def _choose_recipe(self, control: Recipe, promoted: Sequence[Admitted], level: float) -> tuple[Recipe, tuple[Idea, ...]]:
        """Return the recipe to rebuild, with its ideas: the combination, or the best idea alone.

        ``promoted`` is sorted, best idea first. The combination contains the promoted ideas that
        fit together. It is tested as one more hypothesis: that it improves the alignment score. Its
        trial uses new seeds and the same ``level``: every stage reserves one share of its error for
        this trial. If it does not promote the combination, the best idea is used alone.
        """
        best = promoted[0]
        best_alone = best.hypothesis.candidate, (best.idea,)
        composite = compose(promoted, self.resolved.channels, self.project.sandbox.seconds)
        if len(composite.parts) == 1:
            return best_alone
        try:
            combined = hypothesis(control, composite.recipe, ALIGNMENT, self.project.trial.margin, self.suite)
        except RecipeError as error:  # each idea gives a valid recipe, and their combination does not
            self.progress.message(f"the promoted ideas cannot be combined ({error}); the best one is used alone")
            return best_alone
        if combined.candidate_does == best.hypothesis.candidate_does:  # both recipes train the same model
            return best_alone
        entrant = Entrant(" + ".join(p.idea.title for p in composite.parts), researcher="together", hypothesis=combined)
        self.ledger.record(
            "composition",
            {
                "hypothesis": combined.digest(), "title": entrant.title, "parts": [p.hypothesis.digest() for p in composite.parts],
                "left_out": [{"title": title, "why": why} for title, why in composite.left_out], "level": float(f"{level:.6g}"),
                "candidate": portable_form(composite.recipe.canonical()),
            },
        )  # fmt: skip
        (decision,) = self._run_trials([entrant], control, level)
        return (composite.recipe, tuple(p.idea for p in composite.parts)) if decision.promoted else best_alone

    # --- rebuild and audit ------------------------------------------------------------------------

    def _rebuild_and_audit(self, number: int, recipe: Recipe, previous: Recipe, ideas: tuple[Idea, ...]) -> Stage | None:
        """Rebuild a recipe and have its model audited. Return the stage; None if it is not adopted.

        ``previous`` is built on the same seeds for comparison. Stage 0 is adopted with any verdict,
        because people wrote it. A later stage must pass, unless the project has no audit.
        """
        try:
            confirmed, submitted = self._rebuild_and_submit(number, recipe, previous)
        except BuildError as error:
            if number == 0:
                raise
            self.ledger.record("not rebuilt", {"stage": number, "ideas": [idea.digest() for idea in ideas], "why": str(error)})
            self.progress.message(f"stage {number}: the recipe cannot be rebuilt on fresh seeds and is not adopted: {error}")
            return None
        verdict = self.audit.wait_for_verdict(number, submitted)
        adopted = number == 0 or verdict in ("pass", NOT_AUDITED)
        stage = Stage(number, recipe, confirmed, verdict, ideas)
        self.ledger.record("stage", stage.entry(adopted, self.queue.base, self.suite, self.queue.max_tokens))
        score = stage.score(ALIGNMENT)
        self.progress.message(f"stage {number}: alignment score {score}, auditor: {verdict}" + ("" if adopted else "; not adopted"))
        return stage if adopted else None

    def _rebuild_and_submit(self, number: int, recipe: Recipe, previous: Recipe) -> tuple[Confirmation, Receipt | str]:
        """Build both recipes on fresh seeds, submit a model to the auditor, and measure all builds.

        The build of ``recipe`` on the first seed is the stage's model. It is submitted as soon as
        it is ready, so that the audit and the other builds run at the same time.
        """
        seeds = [replicate_seed(self.secret, self.ledger.head, f"confirm {number}", s) for s in range(1, self.project.trial.confirm + 1)]
        model_job = self.queue.submit(recipe, seeds[0], (draw_for_seed(seeds[0]),))
        jobs = [self.queue.submit(r, seed, (draw_for_seed(seed),)) for seed in seeds for r in (previous, recipe)]
        activity = f"rebuilding stage {number} from the base"
        (model,) = self.queue.gather([model_job], activity)
        submitted = self.audit.submit(number, model.digest, model.folder, self.ledger)
        scores = [result.scores[0] for result in self.queue.gather(jobs, activity)]
        return Confirmation(tuple(seeds), tuple(scores[0::2]), tuple(scores[1::2]), model.digest, model.folder, model.bfloat16), submitted


def _outcome(number: int, idea: Idea, decision: Decision, adopted: Stage | None) -> Outcome:
    """Return an idea's outcome, for the briefs of later stages."""
    differences = [pair.difference(idea.property) for pair in decision.pairs]
    effect = sum(differences) / len(differences) if differences else 0.0
    fate = "adopted" if adopted is not None and idea in adopted.ideas else str(decision.fate)
    return Outcome(number, idea, fate, len(differences), effect, decision.mean_gain())


def _review_reason(own: OwnModel | None) -> str | None:
    """Return why ideas from the stage's own model need review; None if they need none."""
    return None if own is None or own.passed else f"the model of stage {own.stage} proposed it, and that model has not passed the audit"
