"""``compare``: one trial of two recipes, without a campaign.

The question is two-sided by default: which recipe is better on one property? An undecided
comparison may be extended. It uses the same decision rule as a campaign and writes its own ledger.
It needs no ideas, no researchers and no auditor.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from stagezero.errors import InputError, RecipeError, RunChangedError, SuiteError
from stagezero.evidence import DIFFERENCE_BOUNDS, Estimate, StoppingRule, describe_test, t_interval
from stagezero.evidence.planning import predict, smallest_effect
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
from stagezero.trials.batch import EXTENSIBLE, RECIPE_ERRORS, Batch
from stagezero.trials.comparison import Comparison
from stagezero.trials.decision import MAX_EXTENDED_PAIRS
from stagezero.trials.hypothesis import Entrant, Question, hypothesis
from stagezero.trials.jobs import BuildQueue, NoProgress, Progress, materialise_base
from stagezero.trials.ruling import Fate
from stagezero.trials.seeds import campaign_secret, draw_for_seed, replicate_seed
from stagezero.trials.versions import check_versions, current_versions

RESERVE = 0.1
"""Share of the level for extensions of a comparison beyond its registered maximum."""


def default_plan(**changes: Any) -> Trial:
    """Return the trial settings of a comparison, with changes.

    A single question can afford more pairs than each of many ideas. So the smallest effect of
    interest is smaller than in a campaign, and the patience is larger.

    Raises:
        pydantic.ValidationError: a setting is out of range.
    """
    return Trial(**{"max_pairs": 25, "worth": 0.75, "patience": 2.0, **changes})


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
    two_sided: bool = True,
    same_within: float | None = None,
    go_on: int | None = None,
    failure_score: float | None = None,
) -> Comparison:
    """Decide which of two recipes is better on one property, and check for side effects.

    Replicates are built until the trial is decided. The same call continues an interrupted
    comparison.

    Args:
        control: recipe file of the control.
        candidate: recipe file of the candidate.
        property: the property of the suite that the candidate is claimed to improve.
        model: the base that both recipes are built from.
        suite: ``atlas`` or a JSONL file.
        plan: margins, pairs and items; ``default_plan()`` if None.
        workers: number of worker processes.
        seed: makes the seeds of the replicates repeatable. If None, they are random and cannot be
            predicted.
        runs: folder of the runs; the ledger is written below it.
        progress: receives reports on the progress.
        sandbox: how the programs of command and code steps are confined; ``landlock`` and ``none``
            are weaker than ``box``.
        answer_tokens: most tokens of an answer; None takes what the suite needs.
        two_sided: False asks only whether the candidate is better; the trial then ends early if it
            is unlikely to be.
        same_within: also ask whether the mean difference lies within plus or minus this.
        go_on: go on with an undecided comparison until this number of pairs. The error over all
            extensions together stays at most ``plan.alpha``.
        failure_score: the score of a build that fails, on every claim. If None, failed builds are
            counted, and an arm that fails more often is never called better.

    Returns:
        The decision, the effects with their intervals, and the path of the ledger.

    Raises:
        InputError: names the file, the field, the expected value and the fix.
        RunChangedError: the stored comparison was begun with other versions or another base.
    """
    plan, progress = plan or default_plan(), progress or NoProgress()
    if workers < 1:
        raise InputError(f"workers: expected at least 1, got {workers}; correct it.")
    if answer_tokens is not None and not 1 <= answer_tokens <= 100_000:
        raise InputError(f"answer_tokens: expected a number from 1 to 100,000, got {answer_tokens}; correct it.")
    if seed is not None and not 0 <= seed < 2**53:
        raise InputError(f"seed: expected a number from 0 to 2^53, got {seed}; correct it.")
    if same_within is not None and not plan.margin < same_within < 1:
        raise InputError(f"same_within: expected a number above the margin ({plan.margin:g}) and below 1, got {same_within}; correct it.")
    if go_on is not None and not plan.max_pairs < go_on <= MAX_EXTENDED_PAIRS:
        raise InputError(
            f"go_on: expected a number of pairs above max_pairs ({plan.max_pairs}), up to {MAX_EXTENDED_PAIRS}, got {go_on}; correct it."
        )
    if failure_score is not None and not 0 <= failure_score <= 1:
        raise InputError(f"failure_score: expected a score from 0 to 1, got {failure_score}; correct it.")
    question_asked = Question(two_sided, same_within, RESERVE, "count", failure_score)
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
            "seed": seed, "question": asdict(question_asked), **({} if answer_tokens is None else {"answer_tokens": answer_tokens}),
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
                "question": asdict(question_asked), "environment": pool.environment(),
            }  # fmt: skip
            if ledger.entries and ledger.entries[0].body != described:
                raise RunChangedError(
                    f"{folder}: this comparison was begun with other library versions or another base; move the folder away."
                )
            ledger.record("compare", described)
            ledger.record("registration", {"hypothesis": tested.digest(), "level": plan.alpha, "margin": plan.margin, "test": plan.test})
            secret = campaign_secret(folder, seed)
            counts = prior_attempts.record_run(home() / "tried", secret, ledger.entries[0], [tested.digest()])
            recorded = [int(entry.body["to"]) for entry in ledger.entries if entry.kind == "extension"]
            entrant = Entrant(f"{name_b} against {name_a}", "people", tested)
            progress.message(f"plan: {_plan_sentence(plan, question_asked)}")
            batch = Batch([entrant], a, queue, plan, plan.alpha, secret, ledger, question_asked)
            decision = batch.run()[0]
            for horizon in [*recorded, *([go_on] if go_on is not None and go_on > max(recorded, default=0) else [])]:
                if decision.fate not in EXTENSIBLE:
                    break
                ledger.record("extension", {"to": horizon})
                decision = batch.extend(horizon)[0]
            if go_on is not None and (decision.fate not in EXTENSIBLE or go_on < max(recorded, default=0)):
                progress.message(f"--go-on {go_on} adds nothing: the comparison has {len(decision.pairs)} pairs and is {decision.fate}")
            rule = batch.decision_rule(batch.trials[0])
            pairs = decision.pairs
            interval = decision.interval
            effects = {c: rule.effect(pairs, c, plan.alpha) for c in claims(loaded)} if pairs else {}
            if interval is not None and two_sided:
                effects[property] = interval
            found = decision.fate in (Fate.PROMOTED, Fate.WORSE)
            confirmed = _confirm(queue, ledger, secret, a, b, property, plan, failure_score) if found else None
            queue.save_costs()
    finally:
        ledger.close()
    more = rule.more_pairs(pairs) if decision.fate in EXTENSIBLE and pairs else None
    effect = smallest_effect(rule.stopping_rule) if pairs else None
    detectable = None if effect is None else plan.margin + effect * rule.paired_sd(pairs)
    return Comparison(
        name_a, name_b, property, two_sided, decision, interval, effects, describe_test(plan.test, rule.cushions), detectable, more,
        confirmed, loaded.finite, sum(counts.values()), folder / "ledger.jsonl",
    )  # fmt: skip


def _plan_sentence(plan: Trial, question: Question) -> str:
    """Return what the comparison can find, and for how many models, in one sentence."""
    rule = StoppingRule(
        plan.alpha, plan.max_pairs, plan.items, plan.margin, plan.worth, plan.patience, plan.test, question.two_sided, question.reserve,
        question.same_within, plan.calibration,
    )  # fmt: skip
    effect, pairs = smallest_effect(rule), predict(rule, 0.0).pairs
    if effect is None:
        return f"no difference is found with probability .8 in {plan.max_pairs} pairs; allow more (--max-pairs)"
    return (
        f"a difference of {effect:.1f} standard deviations of a paired difference is found with probability .8; about "
        f"{round(2 * pairs)} models if there is no difference, and at most {2 * plan.max_pairs}, before the last checks"
    )


def _confirm(
    queue: BuildQueue, ledger: Ledger, secret: bytes, a: Recipe, b: Recipe, prop: str, plan: Trial, failure_score: float | None
) -> Estimate | None:  # fmt: skip
    """Estimate the effect on fresh seeds; None if fewer than two of them have two builds.

    The pairs that decided the trial would give an estimate that is biased away from zero.
    """
    seeds = [replicate_seed(secret, ledger.head, "confirm", s) for s in range(1, plan.confirm + 1)]
    jobs = [queue.submit(r, s, (draw_for_seed(s),)) for s in seeds for r in (a, b)]
    results = queue.gather_successes(jobs, "confirming on fresh seeds", RECIPE_ERRORS)
    scores = [failure_score if result is None else result.scores[0][prop] for result in results]
    differences = [y - x for x, y in zip(scores[0::2], scores[1::2], strict=True) if x is not None and y is not None]
    ledger.record("confirmed", {"property": prop, "seeds": seeds, "differences": differences, "of": digest(meaning_of(b))})
    return t_interval(differences, bounds=DIFFERENCE_BOUNDS) if len(differences) > 1 else None
