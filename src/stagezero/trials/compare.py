"""``compare``: the same trial as a campaign's, for two recipes, alone. The smallest door into stagezero."""

from __future__ import annotations

import builtins
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stagezero.errors import InputError, RecipeError, RunChangedError, SuiteError
from stagezero.evidence import Estimate, t_interval
from stagezero.isolation import Confinement, Kind
from stagezero.ledger import Ledger, digest
from stagezero.models import checkpoint_digest, home
from stagezero.project import Trial
from stagezero.tasks import claims, full_suite_name, load_suite
from stagezero.training import Recipe, load_recipe
from stagezero.training.data import meaning_of
from stagezero.training.executors import LocalPool
from stagezero.training.steps.run_program import check_programs
from stagezero.trials import prior_attempts
from stagezero.trials.batch import Batch
from stagezero.trials.decision import Fate
from stagezero.trials.hypothesis import Entrant, hypothesis
from stagezero.trials.jobs import Bench, Silent, Tell, materialise_base
from stagezero.trials.seeds import draw_of, replicate_seed, secret_of
from stagezero.trials.state import Decision
from stagezero.trials.versions import check_format, versions


@dataclass(frozen=True, slots=True)
class Comparison:
    """What was found.

    ``confirmed`` is the effect on the claimed property over fresh seeds that did not decide anything; None where
    the candidate was not promoted.
    """

    control: str
    candidate: str
    property: str
    decision: Decision
    effects: dict[str, Estimate]
    confirmed: Estimate | None
    finite_suite: bool
    tried_before: int
    ledger: Path

    @builtins.property
    def better(self) -> bool:
        return self.decision.promoted

    def __str__(self) -> str:
        return "\n".join(summary_lines(self))

    def as_json(self) -> dict[str, Any]:
        """Flat enough for a script."""
        d = self.decision
        return {
            "control": self.control, "candidate": self.candidate, "property": self.property, "better": self.better, "fate": str(d.fate),
            "why": d.why, "pairs": len(d.pairs), "e_value": max(d.e_values, default=1.0), "threshold": 1 / d.level,
            "effects": {c: [e.mean, _finite(e.low), _finite(e.high)] for c, e in self.effects.items()}, "tried_before": self.tried_before,
            "confirmed": None if self.confirmed is None else [self.confirmed.mean, self.confirmed.low, self.confirmed.high],
            "ledger": str(self.ledger),
        }  # fmt: skip


def _finite(value: float) -> float | None:
    return value if abs(value) < 1e9 else None


def summary_lines(c: Comparison) -> list[str]:
    """The answer in a few lines of plain text."""
    d = c.decision
    gained = c.property in c.effects and c.effects[c.property].mean > 0
    verdict = {
        Fate.PROMOTED: f"{c.candidate} is better than {c.control} on {c.property}.",
        Fate.GIVEN_UP: f"{c.candidate} is not better than {c.control} on {c.property} by an amount worth having.",
        Fate.UNDECIDED: f"It is not shown that {c.candidate} is better than {c.control} on {c.property}.",
        Fate.GUARD: f"{c.candidate} gains on {c.property}, and a guard stops it."
        if gained
        else f"{c.candidate} does not gain on {c.property}, and a guard stops it.",
        Fate.COLLAPSED: f"{c.candidate} gains on {c.property} on average and sometimes collapses.",
        Fate.FAILED: f"{c.candidate} could not be built.",
    }[d.fate]
    lines = [verdict, f"  why        {d.why}"]
    lines.append(
        f"  evidence   e = {max(d.e_values, default=1.0):.3g} of {1 / d.level:.0f} needed, {len(d.pairs)} pairs built fresh from the base"
    )
    if c.confirmed is not None:
        lines.append(
            f"  effect     {c.confirmed.mean:+.3f} [{c.confirmed.low:+.3f}, {c.confirmed.high:+.3f}] on fresh seeds that did not choose it"
        )
    if c.finite_suite:
        lines.append(
            "  limits     the suite is a fixed file: fresh items are a resample of it, and the claim holds for its own distribution"
        )
    if c.tried_before:
        others = f"{c.tried_before} other run{'s' if c.tried_before > 1 else ''}"
        lines.append(f"  caution    {others} on this machine asked this before; the error stated is this run's alone")
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
    tell: Tell | None = None,
    sandbox: Kind = "box",
) -> Comparison:
    """Is the candidate recipe better than the control on one property, with no side effects? Replicates until decided.

    Args:
        control: recipe file that stands now.
        candidate: recipe file that is said to be better.
        property: the one property of the suite that it is said to improve.
        model: the base both are built from.
        suite: ``atlas`` or a JSONL file.
        plan: margins, pairs and items; when None, DESIGN's defaults, but more patient than a campaign: one candidate alone is given
            up only where an effect of 1.5 seed standard deviations is ruled out.
        workers: worker processes.
        seed: makes the seeds repeatable; at random, and unforeseeable, when None.
        runs: folder for the ledger.
        tell: who is told how it goes.
        sandbox: how the programs of command and code steps are confined; ``landlock`` and ``none`` are weaker.

    Returns:
        The decision, effects with intervals, and where the ledger is. The same call continues where it was cut off.

    Raises:
        InputError: naming the file, the field, what was expected and the fix.
    """
    plan, tell = plan or Trial(worth=1.5), tell or Silent()
    if workers < 1:
        raise InputError(f"workers: expected at least 1, got {workers}; correct it.")
    if seed is not None and not 0 <= seed < 2**53:
        raise InputError(f"seed: expected a number from 0 to 2^53, got {seed}; correct it.")
    a, b = load_recipe(Path(control)), load_recipe(Path(candidate))
    suite_name = full_suite_name(suite)
    loaded = load_suite(suite_name)
    if property not in loaded.properties:
        raise SuiteError(f"property {property!r}: the suite {suite!r} has {', '.join(loaded.properties)}; choose one of them.")
    for recipe, name in ((a, control), (b, candidate)):
        check_programs(recipe, sandbox, str(name))
    asks = hypothesis(a, b, property, plan.margin, loaded)
    if asks.same_builds():
        raise RecipeError("compare: the two recipes do the same; there is nothing to compare.")
    name_a, name_b = Path(control).stem, Path(candidate).stem
    asked = digest(
        {
            "hypothesis": asks.digest(), "recipes": [meaning_of(a), meaning_of(b)], "model": model, "trial": plan.model_dump(mode="json"),
            "seed": seed,
        }
    )  # fmt: skip
    folder = Path(runs) / f"compare-{property}-{asked[:10]}"  # what the files are called is no part of the question
    folder.mkdir(parents=True, exist_ok=True)
    ledger = Ledger(folder / "ledger.jsonl")
    try:
        check_format(ledger)
        with LocalPool(workers) as pool:
            base = materialise_base(pool, model, folder, tell)
            bench = Bench(pool, base, suite_name, plan.items, home() / "store", folder / "costs.json", tell, Confinement(sandbox))
            described = {
                **versions(), "base": checkpoint_digest(base), "suite": loaded.digest(), "control": asks.control_does,
                "candidate": asks.candidate_does, "property": property, "trial": plan.model_dump(mode="json"), "seed": seed,
                "environment": pool.environment(),
            }  # fmt: skip
            if ledger.entries and ledger.entries[0].body != described:
                raise RunChangedError(
                    f"{folder}: this comparison was begun with other library versions or another base; move that folder away to start anew."
                )
            ledger.record("compare", described)
            ledger.record("registration", {"hypothesis": asks.digest(), "level": plan.alpha, "margin": plan.margin, "test": plan.test})
            secret = secret_of(folder, seed)
            before = prior_attempts.note(home() / "tried", secret, ledger.entries[0], [asks.digest()])
            batch = Batch([Entrant(f"{name_b} against {name_a}", "people", asks)], a, bench, plan, plan.alpha, secret, ledger)
            decision = batch.run()[0]
            effects = {c: t_interval([p.difference(c) for p in decision.pairs]) for c in claims(loaded)} if decision.pairs else {}
            confirmed = _confirm(bench, ledger, secret, a, b, property, plan) if decision.promoted else None
            bench.save_costs()
    finally:
        ledger.close()
    return Comparison(name_a, name_b, property, decision, effects, confirmed, loaded.finite, sum(before.values()), folder / "ledger.jsonl")


def _confirm(bench: Bench, ledger: Ledger, secret: bytes, a: Recipe, b: Recipe, prop: str, plan: Trial) -> Estimate:
    """The effect on fresh seeds: the pairs that decided are optimistic about it."""
    seeds = [replicate_seed(secret, ledger.head, "confirm", s) for s in range(1, plan.confirm + 1)]
    results = bench.gather([bench.submit(r, s, (draw_of(s),)) for s in seeds for r in (a, b)], "confirming on fresh seeds")
    differences: Sequence[float] = [y.scores[0][prop] - x.scores[0][prop] for x, y in zip(results[0::2], results[1::2], strict=True)]
    ledger.record("confirmed", {"property": prop, "seeds": seeds, "differences": list(differences), "of": digest(meaning_of(b))})
    return t_interval(differences)
