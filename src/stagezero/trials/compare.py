"""``compare``: one trial of two recipes, without a campaign.

It uses the same decision rule as a campaign and writes its own ledger. It needs no ideas, no
researchers and no auditor.
"""

from __future__ import annotations

import builtins
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stagezero.errors import InputError, RecipeError, RunChangedError, SuiteError
from stagezero.evidence import DIFFERENCE_BOUNDS, Estimate, t_interval
from stagezero.isolation import Confinement, Kind
from stagezero.ledger import Ledger, digest
from stagezero.models import check_model, checkpoint_digest, home
from stagezero.project import Trial
from stagezero.tasks import claims, full_suite_name, load_suite
from stagezero.training import Recipe, load_recipe
from stagezero.training.channels import check_channel_models
from stagezero.training.data import meaning_of
from stagezero.training.executors import LocalPool
from stagezero.training.steps.run_program import check_programs
from stagezero.trials import prior_attempts
from stagezero.trials.batch import Batch
from stagezero.trials.decision import Fate
from stagezero.trials.hypothesis import Entrant, hypothesis
from stagezero.trials.jobs import BuildQueue, NoProgress, Progress, materialise_base
from stagezero.trials.seeds import campaign_secret, draw_for_seed, replicate_seed
from stagezero.trials.state import Decision
from stagezero.trials.versions import check_versions, current_versions


@dataclass(frozen=True, slots=True)
class Comparison:
    """The result of a comparison.

    ``effects`` maps each claim to its mean paired difference over the pairs of the trial.
    ``confirmed`` is the effect on the claimed property, estimated on fresh seeds that the decision
    did not use. It is None if the candidate was not promoted. ``finite_suite`` is True if the suite
    is a fixed file. ``prior_runs`` is the number of other runs on this machine that registered the
    hypothesis earlier.
    """

    control: str
    candidate: str
    property: str
    decision: Decision
    effects: dict[str, Estimate]
    confirmed: Estimate | None
    finite_suite: bool
    prior_runs: int
    ledger: Path

    @builtins.property
    def better(self) -> bool:
        """True if the candidate was promoted."""
        return self.decision.promoted

    def __str__(self) -> str:
        return "\n".join(summary_lines(self))

    def as_json(self) -> dict[str, Any]:
        """Return the result as JSON values; infinite bounds are None."""
        d = self.decision
        return {
            "control": self.control, "candidate": self.candidate, "property": self.property, "better": self.better, "fate": str(d.fate),
            "why": d.why, "pairs": len(d.pairs), "e_value": max(d.e_values, default=1.0), "threshold": 1 / d.level,
            "effects": {c: [e.mean, _finite(e.low), _finite(e.high)] for c, e in self.effects.items()}, "tried_before": self.prior_runs,
            "confirmed": None if self.confirmed is None else [self.confirmed.mean, self.confirmed.low, self.confirmed.high],
            "ledger": str(self.ledger),
        }  # fmt: skip


def _finite(value: float) -> float | None:
    """Return a number, or None if it is infinite."""
    return value if abs(value) < 1e9 else None


def summary_lines(c: Comparison) -> list[str]:
    """Return the result in a few lines of plain text."""
    d = c.decision
    gained = c.property in c.effects and c.effects[c.property].mean > 0
    verdict = {
        Fate.PROMOTED: f"{c.candidate} is better than {c.control} on {c.property}.",
        Fate.GIVEN_UP: f"{c.candidate} does not improve on {c.control} in {c.property} by the smallest effect of interest.",
        Fate.UNDECIDED: f"It is not established that {c.candidate} is better than {c.control} on {c.property}.",
        Fate.GUARD: f"{c.candidate} gains on {c.property}, but a guard stops it."
        if gained
        else f"{c.candidate} does not gain on {c.property}, and a guard stops it.",
        Fate.COLLAPSED: f"{c.candidate} gains on {c.property} on average, but sometimes collapses.",
        Fate.FAILED: f"{c.candidate} could not be built.",
    }[d.fate]
    lines = [verdict, f"  why        {d.why}"]
    pairs = f"{len(d.pairs)} pair{'' if len(d.pairs) == 1 else 's'}"
    lines.append(f"  evidence   e = {max(d.e_values, default=1.0):.3g} ({1 / d.level:.0f} needed), {pairs} built fresh from the base")
    if c.confirmed is not None:
        lines.append(
            f"  effect     {c.confirmed.mean:+.3f} [{c.confirmed.low:+.3f}, {c.confirmed.high:+.3f}] "
            "on fresh seeds that the decision did not use"
        )
    if c.finite_suite:
        lines.append("  limits     the suite is a fixed file: fresh items are resampled from it, and the result applies to it only")
    if c.prior_runs:
        others = f"{c.prior_runs} other run{'s' if c.prior_runs > 1 else ''}"
        lines.append(
            f"  caution    {others} on this machine registered this hypothesis earlier; the error rate of this run does not include it"
        )
    return lines


def compare(
    control: Path | str,
    candidate: Path | str,
    property: str,
    model: str = "pocket/262k",
    suite: str = "atlas",
    plan: Trial | None = None,
    workers: int = 2,
    seed: int | None = None,
    runs: Path | str = "runs",
    progress: Progress | None = None,
    sandbox: Kind = "box",
    answer_tokens: int | None = None,
) -> Comparison:
    """Test whether a candidate is better than a control on one property, without side effects.

    Replicates are built until the trial is decided. The same call continues an interrupted
    comparison.

    Args:
        control: recipe file of the control.
        candidate: recipe file of the candidate.
        property: the property of the suite that the candidate is claimed to improve.
        model: the base that both recipes are built from.
        suite: ``atlas`` or a JSONL file.
        plan: margins, pairs and items. If None, the defaults of a campaign apply, except that the
            smallest effect of interest is 1.5 standard deviations of a paired difference. With a
            single candidate, the additional pairs that this costs are affordable.
        workers: number of worker processes.
        seed: makes the seeds of the replicates repeatable. If None, they are random and cannot be
            predicted.
        runs: folder of the runs; the ledger is written below it.
        progress: receives reports on the progress.
        sandbox: how the programs of command and code steps are confined; ``landlock`` and ``none``
            are weaker than ``box``.
        answer_tokens: most tokens of an answer; None takes what the suite needs.

    Returns:
        The decision, the effects with their intervals, and the path of the ledger.

    Raises:
        InputError: names the file, the field, the expected value and the fix.
        RunChangedError: the stored comparison was begun with other versions or another base.
    """
    plan, progress = plan or Trial(worth=1.5), progress or NoProgress()
    if workers < 1:
        raise InputError(f"workers: expected at least 1, got {workers}; correct it.")
    if answer_tokens is not None and not 1 <= answer_tokens <= 100_000:
        raise InputError(f"answer_tokens: expected a number from 1 to 100,000, got {answer_tokens}; correct it.")
    if seed is not None and not 0 <= seed < 2**53:
        raise InputError(f"seed: expected a number from 0 to 2^53, got {seed}; correct it.")
    a, b = load_recipe(Path(control)), load_recipe(Path(candidate))
    suite_name = full_suite_name(suite)
    loaded = load_suite(suite_name)
    if property not in loaded.properties:
        raise SuiteError(f"property: the suite {suite!r} has no property {property!r}; choose one of {', '.join(loaded.properties)}.")
    for recipe, name in ((a, control), (b, candidate)):
        check_programs(recipe, sandbox, str(name))
        check_channel_models(recipe)
    if any("\ud800" <= c <= "\udfff" for c in model):
        raise InputError(f"model: expected a name in UTF-8, got {model!r:.200}; rename the folder.")
    check_model(model)
    tested = hypothesis(a, b, property, plan.margin, loaded)
    if tested.same_builds():
        raise RecipeError("compare: both recipes train the same model, so there is nothing to compare; change one of them.")
    name_a, name_b = Path(control).stem, Path(candidate).stem
    question = digest(
        {
            "hypothesis": tested.digest(), "recipes": [meaning_of(a), meaning_of(b)], "model": model, "trial": plan.model_dump(mode="json"),
            "seed": seed, **({} if answer_tokens is None else {"answer_tokens": answer_tokens}),
        }
    )  # fmt: skip
    folder = Path(runs) / f"compare-{property}-{question[:10]}"  # file names are not part of the digest
    folder.mkdir(parents=True, exist_ok=True)
    ledger = Ledger(folder / "ledger.jsonl")
    try:
        check_versions(ledger)
        with LocalPool(workers) as pool:
            base = materialise_base(pool, model, folder, progress)
            queue = BuildQueue(
                pool, base, suite_name, plan.items, home() / "store", folder / "costs.json", progress, Confinement(sandbox),
                max_tokens=answer_tokens,
            )  # fmt: skip
            described = {
                **current_versions(), "base": checkpoint_digest(base), "suite": loaded.digest(), "control": tested.control_does,
                "candidate": tested.candidate_does, "property": property, "trial": plan.model_dump(mode="json"), "seed": seed,
                "environment": pool.environment(),
            }  # fmt: skip
            if ledger.entries and ledger.entries[0].body != described:
                raise RunChangedError(
                    f"{folder}: this comparison was begun with other library versions or another base; move the folder away."
                )
            ledger.record("compare", described)
            ledger.record("registration", {"hypothesis": tested.digest(), "level": plan.alpha, "margin": plan.margin, "test": plan.test})
            secret = campaign_secret(folder, seed)
            counts = prior_attempts.record_run(home() / "tried", secret, ledger.entries[0], [tested.digest()])
            batch = Batch([Entrant(f"{name_b} against {name_a}", "people", tested)], a, queue, plan, plan.alpha, secret, ledger)
            decision = batch.run()[0]
            differences = {c: [p.difference(c) for p in decision.pairs] for c in claims(loaded)} if decision.pairs else {}
            effects = {c: t_interval(values, bounds=DIFFERENCE_BOUNDS) for c, values in differences.items()}
            confirmed = _confirm(queue, ledger, secret, a, b, property, plan) if decision.promoted else None
            queue.save_costs()
    finally:
        ledger.close()
    return Comparison(name_a, name_b, property, decision, effects, confirmed, loaded.finite, sum(counts.values()), folder / "ledger.jsonl")


def _confirm(queue: BuildQueue, ledger: Ledger, secret: bytes, a: Recipe, b: Recipe, prop: str, plan: Trial) -> Estimate:
    """Estimate the effect on fresh seeds.

    The pairs that decided the trial would give an estimate that is biased upwards.
    """
    seeds = [replicate_seed(secret, ledger.head, "confirm", s) for s in range(1, plan.confirm + 1)]
    results = queue.gather([queue.submit(r, s, (draw_for_seed(s),)) for s in seeds for r in (a, b)], "confirming on fresh seeds")
    differences: Sequence[float] = [y.scores[0][prop] - x.scores[0][prop] for x, y in zip(results[0::2], results[1::2], strict=True)]
    ledger.record("confirmed", {"property": prop, "seeds": seeds, "differences": list(differences), "of": digest(meaning_of(b))})
    return t_interval(differences, bounds=DIFFERENCE_BOUNDS)
