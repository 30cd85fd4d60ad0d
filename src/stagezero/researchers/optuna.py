"""Optuna's TPE sampler over the numbers of the current recipe. Its study is rebuilt from the history at every stage,
so it holds nothing that the ledger does not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from stagezero.ideas.brief import Brief
from stagezero.ideas.idea import Idea
from stagezero.researchers.base import Researcher
from stagezero.training.recipes import DPO, SFT, Mix, Recipe

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

_FACTORS = (0.25, 0.5, 1.0, 2.0)


class OptunaResearcher(Researcher):
    """Proposes ``ideas`` patches a stage."""

    name = "optuna"
    repeatable = True

    def __init__(self, ideas: int, seed: int) -> None:
        self.wanted = ideas
        self.seed = seed

    @staticmethod
    def _space(brief: Brief) -> dict[str, BaseDistribution]:
        from optuna.distributions import CategoricalDistribution, IntDistribution

        return {
            "property": CategoricalDistribution(brief.properties), "learning_rate": CategoricalDistribution(_FACTORS),
            "steps": CategoricalDistribution((0.5, 1.0, 1.5)), "twins": IntDistribution(0, 120, step=40),
            "capabilities": IntDistribution(0, 60, step=30),
        }  # fmt: skip

    def propose(self, brief: Brief) -> Sequence[Idea]:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        space = self._space(brief)
        study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=self.seed + brief.stage))
        for outcome in brief.history:
            if outcome.idea.researcher == self.name:
                parameters = _parameters_of(outcome.idea)
                if parameters is not None:
                    study.add_trial(optuna.trial.create_trial(params=parameters, distributions=space, value=outcome.alignment_gain))
        found: dict[str, Idea] = {}
        for _ in range(20 * self.wanted):
            if len(found) == self.wanted:
                break
            trial = study.ask(space)
            patch = _patch(brief.control, trial.params)
            if patch:
                idea = _idea(trial.params, patch)
                found.setdefault(idea.digest(), idea)
        return list(found.values())


def _patch(control: Recipe, chosen: dict[str, Any]) -> list[dict[str, Any]]:
    """The first training step with its numbers scaled, and more kinds of example in the first mix."""
    step = next((s for s in control.steps if isinstance(s, SFT | DPO)), None)
    mix = next((s for s in control.steps if isinstance(s, Mix)), None)
    patch: list[dict[str, Any]] = []
    if step is not None and (chosen["learning_rate"] != 1.0 or chosen["steps"] != 1.0):
        values = {
            "learning_rate": min(1.0, step.learning_rate * chosen["learning_rate"]),
            "steps": max(1, round(step.steps * chosen["steps"])),
        }
        patch.append({"op": "set", "at": step.name, "values": values})
    if mix is not None:
        parts = [
            {"kinds": [kind], "each": chosen[name]}
            for kind, name in (("twin", "twins"), ("capability", "capabilities"))
            if chosen[name] > 0
        ]
        if parts:
            patch.append({"op": "extend", "at": mix.name, "parts": parts})
    return patch


def _idea(chosen: dict[str, Any], patch: list[dict[str, Any]]) -> Idea:
    text = ", ".join(f"{name} {value:g}" for name, value in sorted(chosen.items()) if name != "property")
    return Idea(
        title=f"optuna: {text} for {chosen['property']}", property=chosen["property"], claimed_effect=0.05, reason=f"sampled: {text}",
        patch=tuple(patch), researcher=OptunaResearcher.name,
    )  # fmt: skip


def _parameters_of(idea: Idea) -> dict[str, Any] | None:
    """The sampled numbers, read back from the idea's own reason; they crossed as text, like everything else."""
    try:
        pairs = (part.rsplit(" ", 1) for part in idea.reason.removeprefix("sampled: ").split(", "))
        numbers = {name: float(value) for name, value in pairs}
        return {
            "property": idea.property, "learning_rate": numbers["learning_rate"], "steps": numbers["steps"],
            "twins": int(numbers["twins"]), "capabilities": int(numbers["capabilities"]),
        }  # fmt: skip
    except (ValueError, KeyError):
        return None
